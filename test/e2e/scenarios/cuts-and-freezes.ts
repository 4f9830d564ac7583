/** Order and no loss where each socket has an instance of its own: the line is cut, and the instance is frozen with it. */
import type { Test } from "tap";
import { startApplication } from "../../../scripts/lab/application.js";
import type { Pair } from "../../../scripts/lab/pair.js";
import { startProxy } from "../../../scripts/lab/proxy.js";
import { publish, randomPoints, tally } from "../../fixtures/publishers.js";
import { until } from "../../../scripts/lab/until.js";

const TOTAL = 1_000;
/** Publishers may run this far ahead of the next cut. */
const AHEAD = 100;

/** Runs it as a test of `t`. */
export function cutsAndFreezes(t: Test, { backend, wsFns }: Pair): void {
  void t.test("ten cuts at random moments, nothing lost", async (t) => {
    const proxy = await startProxy(t, wsFns[0].port);
    const { connectionId, token } = await backend.prepare();
    const application = startApplication(t, {
      token,
      to: () => `ws://127.0.0.1:${proxy.port}`,
    });
    await application.bridge.ready;
    const load = publish(backend, connectionId, { total: TOTAL, keyed: true });
    for (const point of randomPoints(10, TOTAL - AHEAD)) {
      load.upTo(point + AHEAD);
      await load.reached(point);
      proxy.cutAll();
      await until(() => application.bridge.state === "open", { ms: 30_000 });
    }
    load.upTo(TOTAL);
    await load.done;
    await application.has(TOTAL, 30_000);
    t.same(tally(application.texts, TOTAL), {
      lost: 0,
      disordered: 0,
      repeated: 0,
    });
    t.same(application.losses, []);
  });

  void t.test(
    "ended by the client with 1000, a connection is gone for the backend",
    async (t) => {
      const { connectionId, token } = await backend.prepare();
      const application = startApplication(t, {
        token,
        to: () => wsFns[0].url,
      });
      await backend.accepted(connectionId, "one");
      await application.has(1);
      await application.bridge.close();
      await until(
        async () => (await backend.push(connectionId, "late")).status === 410,
        { ms: 60_000, every: 200, message: "the connection has ended" },
      );
    },
  );
}
