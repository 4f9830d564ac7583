/**
 * An owner that is stopped (SIGSTOP) while somebody else takes its connection over, and then wakes: with the built
 * processes and shipped defaults. What it writes is read at its socket, which is kept open for that.
 */
import { setTimeout as sleep } from "node:timers/promises";
import t from "tap";
import { startApplication } from "../../scripts/lab/application.js";
import { backendOf } from "../../scripts/lab/backend.js";
import { startHttpFn, startWsFn } from "../../scripts/lab/processes.js";
import { publish, tally } from "../fixtures/publishers.js";
import { framesOf, startRecorder } from "../../scripts/lab/recorder.js";
import { singleRedis } from "../../scripts/lab/redis.js";
import { until } from "../../scripts/lab/until.js";

const TOTAL = 5_000;
/** How long an owner is stopped, in ms: the situation itself. */
const STOPPED_MS = 3_000;
/** RFC 6455, 5.2. */
const OPCODE_CLOSE = 8;

t.test(
  "an owner that was stopped writes nothing after the takeover",
  async (t) => {
    const rounds = 5;
    let interrupted = 0;
    const redis = await singleRedis(t);
    const env = { REDIS_URL: redis.url, LOG_LEVEL: "warn" };
    const backend = backendOf(t, (await startHttpFn(t, env)).url);
    const { connectionId, token } = await backend.prepare();
    const instances = await Promise.all([startWsFn(t, env), startWsFn(t, env)]);
    const recorders = await Promise.all(
      instances.map(({ port }) => startRecorder(t, () => port)),
    );
    const application = startApplication(t, {
      token,
      to: (dial) => `ws://127.0.0.1:${recorders[dial % 2]?.port ?? 0}`,
    });
    await application.bridge.ready;

    const load = publish(backend, connectionId, { total: TOTAL });
    const share = TOTAL / rounds / 3;
    for (let round = 0; round < rounds; round += 1) {
      const owner = instances[round % 2];
      const link = recorders[round % 2]?.links.at(-1);
      if (!owner || !link) throw new Error("Nobody holds the connection");
      // A third of the round's messages before and around the stop, one while it lasts, one around the wake-up.
      const begin = round * 3 * share;
      load.upTo(begin + share);
      await load.reached(begin + Math.floor(Math.random() * share));
      owner.kill("SIGSTOP");
      const stoppedAt = new Date().toISOString();
      const woken = sleep(STOPPED_MS);
      link.abandon();
      await until(() => application.dials === round + 2);
      await until(() => application.bridge.state === "open", { ms: 20_000 });
      load.upTo(begin + 2 * share);
      await woken;
      const before = link.received.length;
      load.upTo(begin + 3 * share);
      owner.kill("SIGCONT");
      await until(() => link.ended, {
        ms: 20_000,
        message: "the old owner let go of the socket",
      });
      const after = framesOf(link.received).filter(({ at }) => at >= before);
      const data = after.filter(({ opcode }) => opcode !== OPCODE_CLOSE);
      const late = data.filter(
        ({ payload }) => publishedAt(payload) > stoppedAt,
      );
      t.same(late, [], `round ${round + 1}: nothing newer than the stop`);
      if (data.length > 0) interrupted += 1;
      const close = after.slice(data.length);
      t.ok(close.length <= 1, "and then at most the close frame");
      if (close[0]) t.equal(close[0].payload.readUInt16BE(), 4509);
    }
    // Between the fence and the system call there is always a moment in which a process can be stopped.
    t.ok(interrupted <= 1, `${interrupted} stops met a write under way`);
    load.upTo(TOTAL);
    await load.done;
    await application.has(TOTAL);
    t.same(tally(application.texts, TOTAL), {
      lost: 0,
      disordered: 0,
      repeated: 0,
    });
    t.same(application.losses, []);
    t.same(application.errors, []);
  },
);

/** RFC 3339, as the frame says; a frame without it (a ping) counts as new. */
function publishedAt(payload: Buffer): string {
  const match = /"publishedAt":"([^"]+)"/.exec(payload.toString());
  return match?.[1] ?? "9";
}
