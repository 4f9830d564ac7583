// `/_platform/…`: what the platform tells about itself, its page, and the few things that can be changed there.
// Who may do what is the guard's.

import { readFileSync } from "node:fs";
import type { IncomingMessage, ServerResponse } from "node:http";
import { protectionHeaders } from "../shared/protection.js";
import { visibleLines } from "../shared/visible.js";
import { followLog, LiveFeed } from "./live-feed.js";
import { writeRecord, type LogFormat } from "./log-record.js";
import type { Guard } from "./own-guard.js";
import { Query, QueryError } from "./own-query.js";
import { answerProblem, type Problem } from "./problem.js";
import {
  viewBill,
  viewInstances,
  viewInvocations,
  viewRules,
  type SeenInstance,
} from "./watch-views.js";
import type { Watch } from "./watch.js";

/** An instance that can be ended at once. */
type Controlled = SeenInstance & { kill(): void };

export interface OwnApiOptions<Instance extends Controlled> {
  readonly watch: Watch;
  readonly guard: Guard;
  instances(): readonly Instance[];
  /** Replaces an instance in good order. */
  recycle(instance: Instance): void;
}

type Handler = (
  req: IncomingMessage,
  res: ServerResponse,
  query: Query,
) => void;

const LOG_RECORDS = 2_000;
const MAX_LIMIT = 100_000;

/** Files of the page: nothing from elsewhere, nothing inline. */
const CONTENT_SECURITY_POLICY = [
  "default-src 'none'",
  "script-src 'self'",
  "style-src 'self'",
  "connect-src 'self'",
  "img-src 'self' data:",
  "base-uri 'none'",
  "form-action 'none'",
  "frame-ancestors 'none'",
].join("; ");

/** Answers a request under `/_platform/`. */
export function createOwnApi<Instance extends Controlled>({
  watch,
  guard,
  instances,
  recycle,
}: OwnApiOptions<Instance>) {
  const feed = new LiveFeed(watch, instances);

  const reads = new Map<string, Handler>([
    [
      "/_platform/invocations",
      (req, res, query) => {
        const filter = {
          functionName: query.text("functionName"),
          instanceId: query.text("instanceId"),
          requestId: query.text("requestId"),
          status: query.matching("status", /^(running|failed|[1-5]\d\d)$/),
          limit: query.number("limit", 1, MAX_LIMIT),
        };
        query.end();
        answerJson(req, res, viewInvocations(watch, filter));
      },
    ],
    [
      "/_platform/instances",
      (req, res, query) => {
        query.end();
        answerJson(req, res, viewInstances(watch, instances()));
      },
    ],
    [
      "/_platform/billing",
      (req, res, query) => {
        const memoryMb = query.number("memoryMb", 64, 3_072);
        const idleSeconds = query.number("idleTimeoutSeconds", 1, 7_200);
        query.end();
        const hasWish = memoryMb !== undefined || idleSeconds !== undefined;
        const wish = {
          ...(memoryMb !== undefined && { memoryMb }),
          ...(idleSeconds !== undefined && { idleSeconds }),
        };
        answerJson(req, res, viewBill(watch, hasWish ? wish : undefined));
      },
    ],
    [
      "/_platform/rules",
      (req, res, query) => {
        query.end();
        answerJson(req, res, viewRules(watch));
      },
    ],
    ["/_platform/logs", answerLogs],
    [
      "/_platform/events",
      (req, res, query) => {
        query.end();
        if (req.method === "HEAD") res.end();
        else feed.serve(res);
      },
    ],
  ]);

  function answerLogs(
    req: IncomingMessage,
    res: ServerResponse,
    query: Query,
  ): void {
    const filter = {
      functionName: query.text("functionName"),
      instanceId: query.text("instanceId"),
      requestId: query.text("requestId"),
    };
    const follows = query.matching("follow", /^(|0|1|true|false)$/);
    const format = (query.matching("format", /^(text|json|scf)$/) ??
      formatFor(req)) as LogFormat;
    const limit = query.number("limit", 1, MAX_LIMIT) ?? LOG_RECORDS;
    query.end();
    const past = watch.logs.records(filter, watch.book.all(), limit);
    const type = format === "text" ? "text/plain; charset=utf-8" : NDJSON;
    res.setHeader("Content-Type", type);
    res.setHeader("Cache-Control", "no-store");
    const isOnce = follows === undefined || /^(0|false)$/.test(follows);
    if (isOnce || req.method === "HEAD")
      res.end(
        past.map((record) => `${writeRecord(record, format)}\n`).join(""),
      );
    else followLog(watch.logs, filter, format, past, res);
  }

  const changes: [RegExp, (instance: Instance) => void][] = [
    [/^\/_platform\/instances\/([0-9a-f]+)\/recycle$/, recycle],
    [
      /^\/_platform\/instances\/([0-9a-f]+)\/kill$/,
      (instance) => instance.kill(),
    ],
  ];

  function change(
    req: IncomingMessage,
    res: ServerResponse,
    id: string,
    act: (instance: Instance) => void,
  ): void {
    if (req.method !== "POST")
      return answerProblem(res, notAllowed("POST", "This changes something."));
    const instance = instances().find((one) => one.id === id);
    if (instance === undefined)
      return answerProblem(res, {
        code: "not_found",
        detail: `There is no instance ${id}.`,
      });
    act(instance);
    res.writeHead(202, { "Cache-Control": "no-store" }).end();
  }

  return (req: IncomingMessage, res: ServerResponse): void => {
    for (const [name, value] of Object.entries(protectionHeaders(false)))
      res.setHeader(name, value);
    const visitor = guard.admit(req);
    if ("code" in visitor) return answerProblem(res, visitor);
    const path = (req.url ?? "").replace(/\?.*$/s, "");
    for (const [pattern, act] of changes) {
      const id = pattern.exec(path)?.[1];
      if (id === undefined) continue;
      const forbidden = guard.whyNoChange(req, visitor);
      if (forbidden) return answerProblem(res, forbidden);
      return change(req, res, id, act);
    }
    const file = pageFiles.get(path);
    const read = reads.get(path);
    if (file === undefined && read === undefined)
      return answerProblem(res, {
        code: "not_found",
        detail: `There are ${["/_platform/", ...reads.keys()].join(", ")}.`,
      });
    if (req.method !== "GET" && req.method !== "HEAD")
      return answerProblem(
        res,
        notAllowed("GET, HEAD", "This can only be read."),
      );
    if (file !== undefined) {
      const cookie = guard.cookieFor(req);
      if (cookie !== undefined) {
        // The token leaves the address bar, the history and what the page could tell others.
        res.writeHead(303, {
          Location: "/_platform/",
          "Set-Cookie": cookie,
          "Cache-Control": "no-store",
          "Referrer-Policy": "no-referrer",
        });
        return void res.end();
      }
      const forbidden = guard.whyNoPage(visitor);
      if (forbidden) return answerProblem(res, forbidden);
      return answerFile(req, res, file);
    }
    const forbidden = guard.whyNotRead(visitor);
    if (forbidden) return answerProblem(res, forbidden);
    try {
      read?.(req, res, new Query(req.url ?? ""));
    } catch (error) {
      if (!(error instanceof QueryError)) throw error;
      answerProblem(res, { code: error.code, detail: error.message });
    }
  };
}

const NDJSON = "application/x-ndjson";

/** Lines for a person, unless JSON is asked for. */
function formatFor(req: IncomingMessage): LogFormat {
  const wantsJson = /json/i.test(req.headers.accept ?? "");
  return wantsJson ? "json" : "text";
}

function notAllowed(allow: string, detail: string): Problem {
  return { code: "method_not_allowed", detail, headers: { Allow: allow } };
}

function answerJson(
  req: IncomingMessage,
  res: ServerResponse,
  value: unknown,
): void {
  const body = `${visibleLines(JSON.stringify(value, null, 2))}\n`;
  res.writeHead(200, {
    "Content-Type": "application/json",
    "Content-Length": Buffer.byteLength(body),
    "Cache-Control": "no-store",
  });
  res.end(req.method === "HEAD" ? undefined : body);
}

interface PageFile {
  readonly type: string;
  readonly name: string;
}

const types = {
  html: "text/html; charset=utf-8",
  css: "text/css; charset=utf-8",
  js: "text/javascript; charset=utf-8",
};

const pageFiles = new Map<string, PageFile>([
  ["/_platform", { type: types.html, name: "page.html" }],
  ["/_platform/", { type: types.html, name: "page.html" }],
  ["/_platform/page.css", { type: types.css, name: "page.css" }],
  ...[
    "page.js",
    "page-bill.js",
    "page-facts.js",
    "page-parts.js",
    "page-rules.js",
  ].map((name) => [`/_platform/${name}`, { type: types.js, name }] as const),
]);

function answerFile(
  req: IncomingMessage,
  res: ServerResponse,
  { type, name }: PageFile,
): void {
  const body = readFileSync(new URL(`./${name}`, import.meta.url));
  res.writeHead(200, {
    "Content-Type": type,
    "Content-Length": body.length,
    "Cache-Control": "no-store",
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
  });
  res.end(req.method === "HEAD" ? undefined : body);
}
