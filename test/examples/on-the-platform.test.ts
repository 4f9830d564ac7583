// The examples behind the local platform: one instance for each connection.

import t, { type Test } from "tap";
import { WebSocket } from "ws";

import { join } from "../fixtures/chat-member.js";
import {
  startOn,
  startOnPlatform,
  type Example,
  type Host,
} from "../fixtures/examples.js";
import { ask } from "../fixtures/functions/platform.js";
import { singleRedis } from "../../scripts/lab/redis.js";
import { until } from "../../scripts/lab/until.js";

void t.test(
  "WS-BOOT-1, WS-BOOT-4: a stranger's echo server runs as it is",
  async (t) => {
    const { url } = await startOn(t, "platform", "echo");
    const socket = new WebSocket(url);
    t.teardown(() => socket.terminate());
    const answer = await new Promise<string>((resolve, reject) => {
      socket.on("error", reject);
      socket.on("open", () => socket.send("hello"));
      socket.on("message", (data: Buffer) => resolve(data.toString()));
    });
    t.equal(answer, "hello");
  },
);

/** Ann and Bob join, and each says something. What Bob has heard by then, of whom. */
async function conversation(
  t: Test,
  host: Host,
  example: Example,
  env: Record<string, string> = {},
) {
  const { url } = await startOn(t, host, example, {
    CHAT_TOKEN: "",
    ...env,
  });
  const ann = await join(t, url, "Ann");
  const bob = await join(t, url, "Bob");
  await ann.says("hello");
  await bob.says("good day"); // whatever was on its way to Bob has come before this
  return {
    ann,
    bob,
    members: await bob.members(),
    heardByBob: bob.heard.flatMap((message) =>
      message.type === "said" ? [`${message.from.name}: ${message.text}`] : [],
    ),
  };
}

void t.test(
  "SCN-CHAT-4: a chat in memory works on plain Node, and its members are alone on the platform",
  async (t) => {
    const onNode = await conversation(t, "node", "chat-in-memory");
    t.same(onNode.members, ["Ann", "Bob"]);
    t.same(onNode.heardByBob, ["Ann: hello", "Bob: good day"]);

    const alone = await conversation(t, "platform", "chat-in-memory");
    t.same(alone.members, ["Bob"]);
    t.same(alone.heardByBob, ["Bob: good day"]);
  },
);

void t.test(
  "SCN-CHAT-1, SCN-CHAT-2: the same chat over Redis works on the platform",
  async (t) => {
    const redis = await singleRedis(t);
    const { members, heardByBob, ann, bob } = await conversation(
      t,
      "platform",
      "chat-over-redis",
      { REDIS_URL: redis.url },
    );
    t.same(members, ["Ann", "Bob"]);
    t.same(heardByBob, ["Ann: hello", "Bob: good day"]);
    bob.send({ type: "say", text: "psst", to: ann.id });
    t.ok((await ann.hears("said", ({ text }) => text === "psst")).private);
  },
);

void t.test(
  "SCN-CHAT-3: killed, or frozen as its line drops, a member's instance cleans nothing up, and its lease does",
  async (t) => {
    const redis = await singleRedis(t);
    const env = { REDIS_URL: redis.url, CHAT_TOKEN: "", CHAT_LEASE_MS: "4000" };
    const { url, port } = await startOnPlatform(t, "chat-over-redis", env);
    const instances = () =>
      ask<{ instanceId: string; pid: number; state: string }[]>(
        port,
        "instances",
      );
    const ann = await join(t, url, "Ann");
    const before = await instances();
    const bob = await join(t, url, "Bob");
    const his = (await instances()).find(
      ({ instanceId }) => !before.some((one) => one.instanceId === instanceId),
    );
    t.ok(his, "an instance of his own [WS-LIFE-3]");
    process.kill(his?.pid ?? 0, "SIGKILL");
    t.equal(await bob.closed, 1006);
    await ann.hears("left", ({ id }) => id === bob.id);

    const cid = await join(t, url, "Cid");
    cid.socket.terminate();
    await until(
      async () => (await instances()).some(({ state }) => state === "frozen"),
      { ms: 20_000, message: "Cid's instance is frozen" },
    );
    await ann.hears("left", ({ id }) => id === cid.id);
    t.same(await ann.members(), ["Ann"]);
  },
);
