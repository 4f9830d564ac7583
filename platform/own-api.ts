// `/_platform/…`: what the platform tells about itself, to programs on this machine only. It shows nothing to a page:
// a browser always sends one of the two headers below, or a foreign Host when its name was rebound to 127.0.0.1.

import type { IncomingMessage, ServerResponse } from "node:http";
import type { Instance } from "./instance.js";
import type { InvocationRecord } from "./invocation.js";
import { answerProblem, type Problem } from "./problem.js";

export interface OwnApiOptions {
  invocations(): InvocationRecord[];
  instances(): Instance[];
}

const localAddresses = new Set(["127.0.0.1", "::1", "::ffff:127.0.0.1"]);
const localHosts = new Set(["localhost", "127.0.0.1", "[::1]"]);

/** Why a request is not from a local program; undefined when it is. */
function whyForbidden(req: IncomingMessage): Problem | undefined {
  if (!localAddresses.has(req.socket.remoteAddress ?? ""))
    return {
      code: "forbidden_host",
      detail: "Only clients on this machine may read this.",
    };
  const { origin, "sec-fetch-site": site, host = "" } = req.headers;
  if (origin !== undefined || site !== undefined)
    return {
      code: "forbidden_origin",
      detail: "Browsers may not read this; use curl.",
    };
  const name = host.replace(/:\d+$/, "").toLowerCase();
  if (!localHosts.has(name))
    return {
      code: "forbidden_host",
      detail: `The Host must be localhost, 127.0.0.1 or [::1], not "${name}".`,
    };
  return undefined;
}

/** Answers a request under `/_platform/`. */
export function createOwnApi(options: OwnApiOptions) {
  const pages = new Map<string, () => unknown>([
    ["/_platform/invocations", () => options.invocations()],
    ["/_platform/instances", () => options.instances().map(describeInstance)],
  ]);

  return (req: IncomingMessage, res: ServerResponse): void => {
    const forbidden = whyForbidden(req);
    if (forbidden !== undefined) return answerProblem(res, forbidden);
    const page = pages.get((req.url ?? "").replace(/\?.*$/, ""));
    if (page === undefined)
      return answerProblem(res, {
        code: "not_found",
        detail: `There are ${[...pages.keys()].join(" and ")}.`,
      });
    if (req.method !== "GET" && req.method !== "HEAD")
      return answerProblem(res, {
        code: "method_not_allowed",
        detail: "This can only be read.",
        headers: { Allow: "GET, HEAD" },
      });
    const body = `${JSON.stringify(page(), null, 2)}\n`;
    res.writeHead(200, {
      "Content-Type": "application/json",
      "Content-Length": Buffer.byteLength(body),
      "Cache-Control": "no-store",
    });
    res.end(req.method === "HEAD" ? undefined : body);
  };
}

function describeInstance(instance: Instance) {
  return {
    functionName: instance.functionName,
    instanceId: instance.id,
    pid: instance.pid ?? null,
    state: instance.state,
    port: instance.port,
    startedAt: new Date(instance.startedAt).toISOString(),
    served: instance.served,
    active: instance.active,
  };
}
