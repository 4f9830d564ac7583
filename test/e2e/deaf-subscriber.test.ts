/** Delivery rule 8 with the built functions: a ws-fn that cannot subscribe is woken by the jobs in its deliver queue. */
import t from "tap";
import { startApplication } from "../../scripts/lab/application.js";
import { startPair } from "../../scripts/lab/pair.js";
import { until } from "../../scripts/lab/until.js";

const patience = { ms: 20_000 };

t.test("a push while no subscription stands, and commands work", async (t) => {
  const { backend, redis, wsFns } = await startPair(t);
  const { connectionId, token } = await backend.prepare();
  const client = startApplication(t, { token, to: () => wsFns[0].url });
  await client.bridge.ready;
  await backend.accepted(connectionId, "before");
  await client.has(1);

  await redis.cli("ACL", "SETUSER", "default", "-subscribe", "-ssubscribe");
  await redis.cli("CLIENT", "KILL", "TYPE", "pubsub");
  const bells = () => redis.cli("PUBSUB", "CHANNELS", "bell:*");
  await until(async () => String(await bells()) === "", patience);
  const tookMs: number[] = [];
  let count = 1;
  for (const text of ["1", "2", "3", "4", "5"]) {
    const from = performance.now();
    const { online } = await backend.accepted(connectionId, text);
    t.equal(online, 0, "nobody heard");
    await client.has((count += 1));
    tookMs.push(Math.round(performance.now() - from));
  }
  t.same(client.texts, ["before", "1", "2", "3", "4", "5"]);
  t.equal(client.dials, 1, "its socket stayed open");
  t.comment(`from the POST to the client: ${tookMs.join(", ")} ms`);

  await redis.cli("ACL", "SETUSER", "default", "+subscribe", "+ssubscribe");
  await until(async () => String(await bells()) !== "", patience);
  await until(
    async () => (await backend.accepted(connectionId, "after")).online === 1,
    patience,
  );
});
