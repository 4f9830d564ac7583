/**
 * Runs inside an instance's own network: the way from outside to its port 9000, over a socket of the file system, which
 * no network separates. There is no socket before something listens; from then on it is the instance's readiness.
 * node network-relay.mjs <socket> <address>
 */
import { connect, createServer } from "node:net";
import process from "node:process";
import { setTimeout } from "node:timers";

const [, , socket, host] = process.argv;
const PORT = 9_000;
const LOOK_MS = 15;

function look() {
  const probe = connect(PORT, host);
  probe.once("error", () => setTimeout(look, LOOK_MS));
  probe.once("connect", () => {
    probe.destroy();
    serve();
  });
}

function serve() {
  const server = createServer({ allowHalfOpen: true }, (outside) => {
    const inside = connect({ port: PORT, host, allowHalfOpen: true });
    for (const [from, to] of [
      [outside, inside],
      [inside, outside],
    ]) {
      from.setNoDelay(true);
      from.on("error", () => to.destroy());
      from.on("close", () => to.destroySoon());
      from.pipe(to);
    }
  });
  server.listen(socket);
}

look();
