// A network of its own for an instance (Linux): its port 9000 is its own, whatever language it is written in, and it
// reaches nobody, the price of asking no rights for it. A relay on each side carries connections through.

import { execFile } from "node:child_process";
import { existsSync } from "node:fs";
import { rm } from "node:fs/promises";
import { connect, createServer, type Server } from "node:net";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

const run = promisify(execFile);

/** Not loopback, so that a function that listens there only is as unreachable as it would be. */
const ADDRESS = "10.9.0.1";
const LOOK_MS = 15;
const RELAY = fileURLToPath(new URL("./network-relay.mjs", import.meta.url));
const UNSHARE = ["--user", "--map-root-user", "--net"];

/** Why instances cannot have a network of their own on this machine; undefined when they can. */
export async function whyNoOwnNetwork(): Promise<string | undefined> {
  try {
    await run("unshare", [...UNSHARE, "ip", "link", "set", "lo", "up"]);
    return undefined;
  } catch (error) {
    const [first = ""] = String(error).split("\n");
    return `network=own needs Linux with unshare, ip and user namespaces: ${first}`;
  }
}

export class OwnNetwork {
  /** What is executed in place of the bootstrap, in the same folder. */
  readonly command: readonly [string, readonly string[]];
  readonly #socket: string;
  readonly #port: number;
  #server: Server | undefined;
  #timer: NodeJS.Timeout | undefined;
  #closed = false;

  /** `port` of 127.0.0.1 leads to the instance as soon as it listens; `socket` is a path that nobody else uses. */
  constructor(port: number, socket: string) {
    this.#port = port;
    this.#socket = socket;
    this.command = [
      "unshare",
      [
        ...UNSHARE,
        "--",
        "bash",
        "-c",
        // The relay takes none of what the function is told.
        `ip link set lo up && ip addr add ${ADDRESS}/32 dev lo && { env -i "$1" "$2" "$3" ${ADDRESS} & exec ./scf_bootstrap; }`,
        "instance",
        process.execPath,
        RELAY,
        socket,
      ],
    ];
    this.#look();
  }

  /** Any time, any number of times. */
  close(): void {
    this.#closed = true;
    clearTimeout(this.#timer);
    this.#server?.close();
    rm(this.#socket, { force: true }).catch(() => {});
  }

  #look(): void {
    if (this.#closed) return;
    if (existsSync(this.#socket)) this.#listen();
    else this.#timer = setTimeout(() => this.#look(), LOOK_MS);
  }

  #listen(): void {
    this.#server = createServer({ allowHalfOpen: true }, (outside) => {
      const inside = connect({ path: this.#socket, allowHalfOpen: true });
      outside.setNoDelay(true);
      for (const [from, to] of [
        [outside, inside],
        [inside, outside],
      ] as const) {
        from.on("error", () => to.destroy());
        from.on("close", () => to.destroySoon());
        from.pipe(to);
      }
    });
    this.#server.on("error", () => {}); // then it never becomes ready, and that is said
    this.#server.listen(this.#port, "127.0.0.1");
  }
}
