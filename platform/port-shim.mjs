// Preloaded into every Node function (NODE_OPTIONS): all instances of one machine can listen "on port 9000", because it
// becomes a port of 127.0.0.1 of their own. What the real platform could not reach is reported [WS-BOOT-2].

import { appendFileSync } from "node:fs";
import net from "node:net";

const PLATFORM_PORT = 9_000;
const ownPort = Number(process.env.LOCAL_PLATFORM_PORT);
const reportFile = process.env.LOCAL_PLATFORM_REPORT;

function isLoopback(host) {
  return host === "localhost" || host === "::1" || /^127\./.test(host ?? "");
}

function report(port, host) {
  try {
    appendFileSync(reportFile, `${JSON.stringify({ port, host })}\n`);
  } catch {
    // The platform is gone, or this is a process it does not wait for.
  }
}

/** The options of a listen call for a port, whichever of its forms was used; undefined for pipes and handles. */
function optionsOf([first, ...rest]) {
  if (typeof first === "object" && first !== null)
    return first.port === undefined ? undefined : first;
  const port = Number(first);
  if (first === undefined || first === null || first === "") return undefined;
  if (!Number.isInteger(port)) return undefined;
  const host = rest.find((one) => typeof one === "string");
  const backlog = rest.find((one) => typeof one === "number");
  return { port, host, backlog };
}

const listen = net.Server.prototype.listen;
net.Server.prototype.listen = function (...args) {
  const options = optionsOf(args);
  const port = Number(options?.port);
  if (!(port > 0)) return listen.apply(this, args);
  const callback = args.findLast((one) => typeof one === "function");
  const at = (where) => {
    const moved = { ...options, ...where };
    delete moved.ipv6Only; // of no meaning for 127.0.0.1, and refused there
    return listen.call(this, moved, callback);
  };
  if (port === ownPort) return at({ host: "127.0.0.1" });
  report(port, options.host);
  if (port !== PLATFORM_PORT) return listen.apply(this, args);
  // Unreachable there, so it is unreachable here; and it must not take the real port 9000 from another instance.
  if (isLoopback(options.host)) return at({ port: 0, host: "127.0.0.1" });
  return at({ port: ownPort, host: "127.0.0.1" });
};
