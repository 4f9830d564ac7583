// Both chats on plain Node: one process serves everybody, and one conversation drives both.

import { readFileSync } from "node:fs";
import path from "node:path";
import t, { type Test } from "tap";

import { join, Member } from "../fixtures/chat-member.js";
import { folderOf, startOn, type Example } from "../fixtures/examples.js";
import { singleRedis } from "../../scripts/lab/redis.js";

const chats: Example[] = ["chat-in-memory", "chat-over-redis"];

async function start(t: Test, example: Example) {
  const env = { CHAT_TOKEN: "open sesame" };
  if (example === "chat-in-memory") return startOn(t, "node", example, env);
  const { url } = await singleRedis(t);
  return startOn(t, "node", example, { ...env, REDIS_URL: url });
}

for (const example of chats) {
  void t.test(`${example} on plain Node: members meet`, async (t) => {
    const { url } = await start(t, example);
    const token = { token: "open sesame" };
    const ann = await join(t, url, "Ann", token);
    const bob = await join(t, url, "Bob", token);
    const cleo = await join(t, url, "Cleo", token);
    await ann.hears("joined", ({ id }) => id === cleo.id);
    t.same(await bob.members(), ["Ann", "Bob", "Cleo"]);

    await ann.says("to all");
    for (const member of [bob, cleo])
      t.match(await member.hears("said"), {
        from: { id: ann.id, name: "Ann" },
        text: "to all",
        private: false,
      });

    ann.send({ type: "say", text: "to Bob", to: bob.id });
    t.match(await bob.hears("said", ({ text }) => text === "to Bob"), {
      from: { id: ann.id },
      private: true,
    });
    await ann.says("after it"); // what went only to Bob would have come before
    await cleo.hears("said", ({ text }) => text === "after it");
    t.notMatch(JSON.stringify(cleo.heard), "to Bob");
    t.notMatch(JSON.stringify(ann.heard), "to Bob");

    ann.send({ type: "say", text: "anybody?", to: "nobody" });
    t.match(await ann.hears("error"), { reason: /nobody/ });

    cleo.send({ type: "leave" });
    t.equal(await cleo.closed, 1000);
    await ann.hears("left", ({ id }) => id === cleo.id);
    bob.socket.terminate();
    await ann.hears("left", ({ id }) => id === bob.id);
    t.same(await ann.members(), ["Ann"]);
  });

  void t.test(`${example}: nonsense is answered, not obeyed`, async (t) => {
    const { url } = await start(t, example);
    const ann = await join(t, url, "Ann", { token: "open sesame" });
    ann.socket.send("{");
    await ann.hears("error", ({ reason }) => /JSON/.test(reason));
    ann.send({ type: "say" });
    await ann.hears("error", ({ reason }) => /text/.test(reason));
    await ann.says("still here");
    ann.socket.send("x".repeat(17 * 1024));
    t.equal(await ann.closed, 1009);
  });

  void t.test(`${example}: who may not come in is refused`, async (t) => {
    const { url } = await start(t, example);
    const ann = await join(t, url, "Ann", { token: "open sesame" });
    const stranger = new Member(t, url, "Stranger", { token: "open" });
    await stranger.closed;
    t.equal(stranger.refusal, 401);
    const nameless = new Member(t, url, "<b>", { token: "open sesame" });
    await nameless.closed;
    t.equal(nameless.refusal, 400);
    t.same(await ann.members(), ["Ann"]);
  });
}

void t.test("the two chats differ in their room only", (t) => {
  const [one, other] = chats.map((example) =>
    readFileSync(path.join(folderOf(example), "app.js"), "utf8"),
  );
  t.equal(one, other);
  t.end();
});
