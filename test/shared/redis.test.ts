/** The way to a master by Sentinels, while a failover is under way. */
import { once } from "node:events";
import net, { type AddressInfo } from "node:net";
import { SentinelConnector } from "ioredis";
import t, { type Test } from "tap";
import { MasterRoute } from "../../shared/redis.js";

/**
 * The connection to the old master is gone and the next one is being made, when the watcher of the old one hears of the
 * new master. The sentinel that is asked meanwhile hangs up. Resolves with what connecting ended with.
 */
async function newsWhileConnecting(
  t: Test,
  Route: new (options: never) => SentinelConnector,
): Promise<string> {
  let isWatching = true;
  const sentinel = net.createServer((socket) => {
    if (isWatching) connector.disconnect();
    socket.destroy();
  });
  sentinel.listen(0, "127.0.0.1");
  await once(sentinel, "listening");
  t.teardown(() => sentinel.close());
  const { port } = sentinel.address() as AddressInfo;
  const connector = new Route({
    sentinels: [{ host: "127.0.0.1", port }],
    name: "bridge",
    role: "master",
    disconnectTimeout: 2_000,
    sentinelRetryStrategy: null,
  } as never);
  Object.assign(connector, {
    failoverDetector: {
      cleanup: () => {
        isWatching = false;
      },
    },
  });
  return connector
    .connect(() => undefined)
    .then(
      () => "connected",
      (error: Error) => error.message,
    );
}

t.test("a new master is announced while one is being looked for", async (t) => {
  t.match(
    await newsWhileConnecting(t, SentinelConnector),
    /^Connection is closed/,
    "ends the client for good when the old connection still listens",
  );
  t.match(
    await newsWhileConnecting(t, MasterRoute),
    /^All sentinels are unreachable/,
    "does not stop the search",
  );
});
