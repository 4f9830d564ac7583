// Every frame case over a socket of bare bytes: what the server closes with, what it took, what it answered.

import t from "tap";

import { call } from "../../scripts/attacks/target.js";
import { inTurns } from "../../scripts/attacks/weapon.js";
import { OPCODE, Wire } from "../../scripts/attacks/wire.js";
import { startHttpFn, startWsFn } from "../../scripts/lab/processes.js";
import { singleRedis } from "../../scripts/lab/redis.js";
import { until } from "../../scripts/lab/until.js";
import { frameCases } from "./frame-cases.js";

t.setTimeout(300_000);

t.test("frames", async (t) => {
  const redis = await singleRedis(t);
  const env = { REDIS_URL: redis.url, LOG_LEVEL: "error" };
  const [httpFn, wsFn] = await Promise.all([
    startHttpFn(t, env),
    startWsFn(t, env),
  ]);
  const target = {
    httpPort: httpFn.port,
    wsPort: wsFn.port,
    key: "",
    secret: "",
  };
  t.ok(frameCases.length > 140, `${frameCases.length} cases`);
  t.equal(new Set(frameCases.map(({ name }) => name)).size, frameCases.length);

  const connections: { name: string; id: string; messages: number }[] = [];
  await inTurns(frameCases.length, 8, async (index) => {
    const one = frameCases[index];
    if (!one) return;
    const { name, writes, code, messages, pongs } = one;
    const wire = await Wire.dial({
      port: wsFn.port,
      path: "/ws",
      protocol: null,
    });
    const welcome = await wire.hears(({ type }) => type === "welcome");
    for (const bytes of writes) {
      wire.write(bytes);
      // A turn of the event loop: the next one goes into another segment where that is to be had.
      await new Promise(setImmediate);
    }
    await wire.ends(20_000);
    t.equal(wire.closeCode, code, name);
    t.ok(wire.isGone, `${name}: the line ends`);
    if (pongs !== undefined)
      t.same(
        wire.frames
          .filter(({ opcode }) => opcode === OPCODE.pong)
          .map(({ payload }) => payload.toString("hex")),
        pongs.map((payload) => payload.toString("hex")),
        `${name}: its pongs`,
      );
    if (messages !== undefined)
      connections.push({
        name,
        id: String(welcome?.["connectionId"]),
        messages,
      });
  });

  // What was taken is in the stream of events, each under its connection.
  const taken = async () => {
    const { body } = await call(
      target,
      "GET",
      "/v1/events?lastEventId=0&wait=0&type=event",
      { key: null, headers: { accept: "application/x-ndjson" } },
    );
    const counts = new Map<string, number>();
    for (const line of body.toString().split("\n").filter(Boolean)) {
      const { subject } = JSON.parse(line) as { subject: string };
      counts.set(subject, (counts.get(subject) ?? 0) + 1);
    }
    return counts;
  };
  const all = connections.reduce((sum, { messages }) => sum + messages, 0);
  let counts = await taken();
  await until(
    async () => {
      counts = await taken();
      return [...counts.values()].reduce((sum, one) => sum + one, 0) >= all;
    },
    { message: `${all} messages are events` },
  ).catch(() => undefined);
  for (const { name, id, messages } of connections)
    t.equal(counts.get(id) ?? 0, messages, `${name}: ${messages} taken`);
});
