/** ws-fn's process edge: environment → config → parts → listen → signals. */
import { ConfigError, parseConfig, printConfig } from "../shared/config.js";
import { randomBase62 } from "../shared/ids.js";
import { ConnectionRoom } from "../shared/connection-room.js";
import { createLogger } from "../shared/logging.js";
import { complain, say } from "../shared/output.js";
import { proxiesOf } from "../shared/proxies.js";
import { Revocations } from "../shared/revocations.js";
import { runShutdown } from "../shared/shutdown.js";
import { openStores } from "../shared/stores.js";
import { startChores } from "./chores.js";
import { ClientQuotas } from "./client-quotas.js";
import { Feeds } from "./feeds.js";
import { Keeper } from "./keeper.js";
import { Lease, Pulse } from "./lease.js";
import { BridgeServer } from "./server.js";
import { ConnectHook } from "./webhooks/connect.js";
import { tellClient } from "./webhooks/tell-client.js";
import { startWebhooks } from "./webhooks/webhooks.js";

/** Leases and windows are looked at this often, but not more often than a third of a lease. */
const choresEveryMs = 5_000;

async function main(): Promise<void> {
  if (process.argv.includes("--print-config")) {
    say(printConfig(process.env));
    return;
  }
  const config = parseConfig(process.env);
  const logger = createLogger("ws-fn", config.logLevel);
  const instance = randomBase62(12);
  const stores = openStores(config, logger);
  const { redis, memory, registry, log, fanout, memberships, queues } = stores;
  const { users, events, replies, replication, tokens } = stores;
  const pulse = new Pulse();
  const lease = new Lease(pulse, config.leaseMs, () => registry.live(instance));
  const keeper = new Keeper({ lease, redis, registry, logger, ...config });
  const revocations = new Revocations(redis, logger);
  revocations.onAdded = () => {
    for (const connection of keeper.connections)
      connection.lookForRevoked(revocations);
  };
  const feeds = new Feeds({ fanout, redis, logger, ...config });
  const webhooks =
    config.webhook &&
    startWebhooks({
      stores,
      settings: config.webhook,
      logger,
      onOutcome: tellClient(stores),
    });
  const server = new BridgeServer({
    instance,
    registry,
    memory,
    log,
    fanout,
    memberships,
    feeds,
    quotas: new ClientQuotas({ ...config, redis }),
    keeper,
    room: new ConnectionRoom({
      max: config.maxConnections,
      perAddress: config.maxConnectionsPerAddress,
    }),
    proxies: proxiesOf(config.trustProxy),
    users,
    replies,
    events: {
      append: (...call) => {
        registry.hurry();
        return events.append(...call);
      },
    },
    webhookResults: config.webhook?.events.has("event")
      ? { answers: stores.answers, timeoutMs: config.webhook.timeoutMs }
      : undefined,
    redis,
    tokens,
    revocations,
    lease,
    logger,
    config,
    connectHook:
      config.webhook?.events.has("connect") && webhooks
        ? new ConnectHook({
            sender: webhooks.sender,
            lanes: webhooks.lanes,
            settings: config.webhook,
            logger,
          })
        : undefined,
    ready: () => redis.ready(),
  });
  const stopChores = startChores({
    registry,
    queues,
    log,
    users,
    fanout,
    sweeping: stores.sweeping,
    instance,
    wake: (wakeUp) => keeper.wake(wakeUp),
    replication,
    redis,
    logger,
    everyMs: Math.min(choresEveryMs, config.leaseMs / 3),
  });
  keeper.start();
  revocations.start();
  redis.subscriptions
    .watch(instance, (channel) => {
      redis.publish(channel, "").catch(() => undefined);
    })
    .catch(() => undefined);

  const { host, port } = await server.listen();
  say(`listening ${host}:${port}`);
  logger.info({ host, port, instance }, "ready for sockets");

  let stopping = false;
  const stop = (signal: string) => {
    if (stopping) return;
    stopping = true;
    logger.info({ signal }, "shutting down");
    void runShutdown(
      [
        { name: "drain", run: () => server.drain() },
        { name: "chores", run: stopChores },
        { name: "sockets", run: () => server.close() },
        { name: "groups", run: () => feeds.close() },
        { name: "keeper", run: () => keeper.close() },
        { name: "revocations", run: () => revocations.close() },
        { name: "pulse", run: () => pulse.close() },
        { name: "webhooks", run: () => webhooks?.close() },
        { name: "lease", run: () => registry.retire(instance) },
        { name: "stores", run: () => stores.close() },
      ],
      config.drainMs + 15_000,
      logger,
    ).then((clean) => process.exit(clean ? 0 : 1));
  };
  process.on("SIGTERM", () => stop("SIGTERM"));
  process.on("SIGINT", () => stop("SIGINT"));
  if (config.local) {
    // The local platform holds our standard input: when it is gone, so are we.
    process.stdin.on("end", () => stop("stdin"));
    process.stdin.on("error", () => stop("stdin"));
    process.stdin.resume();
  }
}

function end(error: unknown): never {
  if (error instanceof ConfigError) complain(error.lines.join("\n"));
  else if ((error as NodeJS.ErrnoException).code === "EADDRINUSE")
    complain(
      `port ${(error as { port?: number }).port} is taken: set PORT or stop what uses it`,
    );
  else complain(error);
  process.exit(1);
}

// Node itself would print such an error with all that hangs on it: an ioredis error has its command's arguments.
process.on("uncaughtException", end);

main().catch(end);
