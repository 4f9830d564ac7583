/** The process edge of the HTTP function: environment, configuration, app, listening, signals. */
import { readFileSync } from "node:fs";
import type { AddressInfo } from "node:net";
import {
  ConfigError,
  parseConfig,
  printConfig,
  type Config,
} from "../shared/config.js";
import { ConnectionRoom } from "../shared/connection-room.js";
import { createLogger } from "../shared/logging.js";
import { complain, say } from "../shared/output.js";
import { proxiesOf } from "../shared/proxies.js";
import { runShutdown } from "../shared/shutdown.js";
import { buildApp, type Asset } from "./app.js";
import { contractOf, type OpenApi } from "./contract.js";
import { KeyQuotas } from "./key-quotas.js";
import { pageHtml, pageScript } from "./page.js";
import { openBridge } from "./redis-bridge.js";

/** How long an orderly end may take, milliseconds; requests in flight answer well within it. */
const SHUTDOWN_MS_MAX = 5_000;

function readConfig(): Config {
  if (process.argv.includes("--print-config")) {
    say(printConfig(process.env));
    process.exit(0);
  }
  return parseConfig(process.env);
}

const SCRIPT_TYPE = "text/javascript; charset=utf-8";

/** The client library stands in the build; without a build there is none to serve. */
function clientScript(): { clientScript: Asset } | undefined {
  try {
    const text = readFileSync(
      new URL("../client/client.js", import.meta.url),
      "utf8",
    );
    return {
      clientScript: { contentType: SCRIPT_TYPE, text },
    };
  } catch {
    return undefined;
  }
}

/** openapi.yaml stands in `dist`, and beside it what the build has read there. */
const read = (name: string) =>
  readFileSync(new URL(`../${name}`, import.meta.url), "utf8");
const contract = () =>
  contractOf(read("openapi.yaml"), JSON.parse(read("openapi.json")) as OpenApi);

async function start(config: Config): Promise<void> {
  const logger = createLogger("http-fn", config.logLevel);
  const { bridge, redis, memory, close } = openBridge(config, logger);
  const app = buildApp({
    ...config,
    bridge,
    quotas: new KeyQuotas({ ...config, redis, memory }),
    logger,
    proxies: proxiesOf(config.trustProxy),
    room: new ConnectionRoom({
      max: config.maxConnections,
      perAddress: config.maxConnectionsPerAddress,
    }),
    contract: contract(),
    assets: {
      page: { contentType: "text/html; charset=utf-8", text: pageHtml },
      pageScript: { contentType: SCRIPT_TYPE, text: pageScript },
      ...clientScript(),
    },
  });

  let stopping = false;
  const stop = async (): Promise<void> => {
    if (stopping) return;
    stopping = true;
    const clean = await runShutdown(
      [
        { name: "http", run: () => app.close() },
        { name: "bridge", run: close },
      ],
      SHUTDOWN_MS_MAX,
      logger,
    );
    process.exit(clean ? 0 : 1);
  };
  process.on("SIGTERM", () => void stop());
  process.on("SIGINT", () => void stop());
  if (config.local) process.stdin.on("end", () => void stop()).resume();

  try {
    await app.listen({ host: config.host, port: config.port });
  } catch (error) {
    await close();
    throw error;
  }
  const { address, family, port } = app.server.address() as AddressInfo;
  say(`listening ${family === "IPv6" ? `[${address}]` : address}:${port}`);
}

function end(error: unknown): never {
  if (error instanceof ConfigError) complain(error.lines.join("\n"));
  else if ((error as NodeJS.ErrnoException).code === "EADDRINUSE")
    complain("The port is taken; PORT names another one, 0 a free one.");
  else
    complain(error instanceof Error && "code" in error ? error.message : error);
  process.exit(1);
}

// Node itself would print such an error with all that hangs on it: an ioredis error has its command's arguments.
process.on("uncaughtException", (error) => {
  complain(error);
  process.exit(1);
});

try {
  await start(readConfig());
} catch (error) {
  end(error);
}
