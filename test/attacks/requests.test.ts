// 5,000 generated and mutated requests from openapi.yaml at the built http-fn and a real Redis: no answer is a 5xx that the
// request did not ask for, each is as openapi.yaml says, and every refusal is a problem. The seed is fixed; SEED=<n> draws
// others.

import http from "node:http";

import fc, { type Arbitrary } from "fast-check";
import t from "tap";

import {
  METHODS,
  type Method,
  type OperationObject,
  type Parameter,
  type Ref,
} from "../../http-fn/contract.js";
import { call } from "../../scripts/attacks/target.js";
import { startHttpFn } from "../../scripts/lab/processes.js";
import { singleRedis } from "../../scripts/lab/redis.js";
import { contract } from "../fixtures/fake-bridge.js";

t.setTimeout(240_000);

const REQUESTS = 5_000;
/** At once, and what fast-check shrinks together. */
const AT_ONCE = 50;
const seed = Number(process.env["SEED"] ?? 20_261_201);

const { document } = contract;
type Json = Record<string, unknown>;

/** Answers that last are read up to their head; waits are short. */
const STREAMS = new Set(["followReceipt", "followEvents"]);

interface Given {
  readonly id: string;
  readonly method: string;
  /** As in openapi.yaml. */
  readonly path: string;
  readonly url: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: Buffer | undefined;
}

function resolved<T>(value: T | Ref): T {
  const { $ref } = value as Partial<Ref>;
  if ($ref === undefined) return value as T;
  let found: unknown = document;
  for (const part of $ref.slice(2).split("/")) found = (found as Json)[part];
  return resolved(found as T | Ref);
}

/** Texts that have broken something somewhere. */
const odd = fc.constantFrom(
  "",
  "0",
  "-0",
  "-1",
  "1e999",
  "NaN",
  "null",
  "true",
  "[]",
  "{}",
  "__proto__",
  "constructor",
  ".",
  "..",
  "%",
  "%00",
  "%2e%2e",
  "*",
  "$all",
  "{g}",
  "\u0000",
  "\u001b[2J",
  "\u202e",
  "\ud800",
  "\u{1f600}",
  "é".repeat(70),
  "a".repeat(300),
  "9007199254740993",
  "99999999999999999999",
  "c_schedule",
  "2026-02-30T00:00:00Z",
  "2026-01-01T00:00:60Z",
  "+275760-09-13T00:00:00.001Z",
  "1=1; DROP TABLE",
  "\r\nX-Injected: 1",
);
const anything = fc.oneof(
  odd,
  fc.string({ maxLength: 40 }),
  fc.string({ unit: "binary", maxLength: 40 }),
);
const anyJson: Arbitrary<unknown> = fc.oneof(
  odd,
  fc.jsonValue({ maxDepth: 3 }),
  fc.constantFrom(-0, 1e308, -1, 0.5, null, [], {}, [[]], [{}]),
);

/** Few names, so that requests meet what others made. */
const NAMES: Readonly<Record<string, readonly string[]>> = {
  UserId: ["ann", "ben", "zoë 😀", "a/b"],
  GroupName: ["room", "a.b", "=@~+"],
  Permission: ["join:room", "publish:*"],
  Topic: ["t", "u-1"],
  IdempotencyKey: ["key-1", "key 2"],
  DueAt: ["2026-12-01T00:00:00Z", "2020-01-01T00:00:00+01:00"],
};

/** Values of a schema: mostly right, at its edges where it has any. Patterns are taken from names that fit them. */
function valuesOf(given: unknown, ids: Ids): Arbitrary<unknown> {
  const name = /\/schemas\/(\w+)$/.exec(
    (given as Partial<Ref>).$ref ?? "",
  )?.[1];
  if (name === "ConnectionId") return fc.constantFrom(...ids.connections);
  if (name === "MessageId") return fc.constantFrom(...ids.messages);
  const known = NAMES[name ?? ""];
  if (known) return fc.constantFrom(...known);
  const schema = resolved(given as Json);
  const of = (key: string) => schema[key] as number | undefined;
  if (schema["const"] !== undefined) return fc.constant(schema["const"]);
  if (Array.isArray(schema["enum"])) return fc.constantFrom(...schema["enum"]);
  const any = (schema["oneOf"] ?? schema["anyOf"]) as unknown[] | undefined;
  if (any) return fc.oneof(...any.map((one) => valuesOf(one, ids)));
  switch (Array.isArray(schema["type"]) ? schema["type"][0] : schema["type"]) {
    case "integer":
    case "number": {
      const min = of("minimum") ?? 0;
      const max = of("maximum") ?? min + 1_000;
      return fc.oneof(
        fc.constantFrom(min, max),
        schema["type"] === "integer"
          ? fc.integer({ min, max })
          : fc.double({ min, max, noNaN: true }),
      );
    }
    case "boolean":
      return fc.boolean();
    case "null":
      return fc.constant(null);
    case "array":
      return fc.array(valuesOf(schema["items"] ?? {}, ids), {
        minLength: of("minItems") ?? 0,
        maxLength: 3,
      });
    case "object": {
      const properties = Object.entries((schema["properties"] ?? {}) as Json);
      const required = (schema["required"] ?? []) as string[];
      const own = fc.record(
        Object.fromEntries(
          properties.map(([key, value]) => [key, valuesOf(value, ids)]),
        ),
        { requiredKeys: required },
      );
      const free = schema["additionalProperties"];
      return typeof free === "object" && free !== null
        ? fc.dictionary(
            fc.stringMatching(/^[a-z][a-z0-9]{0,8}$/),
            valuesOf(free, ids),
            { maxKeys: 3 },
          )
        : own;
    }
    case "string":
      return schema["pattern"] === undefined
        ? fc.string({ maxLength: Math.min(of("maxLength") ?? 30, 30) })
        : fc.constantFrom(...ids.connections);
    default:
      return anyJson;
  }
}

interface Ids {
  readonly connections: readonly string[];
  readonly messages: readonly string[];
}

/** Somewhere in a JSON value something else. */
const mutated = (value: Arbitrary<unknown>): Arbitrary<unknown> =>
  fc
    .tuple(value, anyJson, fc.nat(), fc.string({ maxLength: 8 }))
    .map(([json, other, at, key]) => {
      if (typeof json !== "object" || json === null) return other;
      const copy = structuredClone(json) as Json;
      const names = [...Object.keys(copy), key];
      const name = names[at % names.length] ?? key;
      Object.defineProperty(copy, name, {
        value: other,
        enumerable: true,
        configurable: true,
        writable: true,
      });
      return copy;
    });

const bodiesOf = (
  { requestBody }: OperationObject,
  ids: Ids,
): Arbitrary<{ type: string | undefined; body: Buffer | undefined }> => {
  const none = fc.constant({ type: undefined, body: undefined });
  if (!requestBody) return none;
  const bytes = fc
    .uint8Array({ maxLength: 200 })
    .map((body) => Buffer.from(body));
  const types = fc.constantFrom(
    undefined,
    "text/plain",
    "text/plain; charset=latin1",
    "application/json",
    "application/x-www-form-urlencoded",
    "application/octet-stream",
    "multipart/form-data; boundary=x",
    "nonsense",
    ";",
    "application/x-ndjson",
  );
  const right = Object.entries(requestBody.content).map(
    ([type, { schema }]) => {
      const json = valuesOf(schema, ids);
      const text = fc
        .oneof({ weight: 3, arbitrary: json }, mutated(json))
        .map((value) => JSON.stringify(value) ?? "");
      const lines = type.endsWith("ndjson")
        ? fc.array(text, { maxLength: 4 }).map((all) => all.join("\n"))
        : text;
      return lines.map((body) => ({
        type: type.includes("*") ? "application/json" : type,
        body: Buffer.from(body),
      }));
    },
  );
  const cut = fc
    .tuple(fc.oneof(...right), fc.nat({ max: 200 }))
    .map(([{ type, body }, at]) => ({ type, body: body.subarray(0, at) }));
  return fc.oneof(
    { weight: 4, arbitrary: fc.oneof(...right) },
    { weight: 1, arbitrary: cut },
    {
      weight: 3,
      arbitrary: fc.record({
        type: types,
        body: fc.oneof(
          bytes,
          anything.map((text) => Buffer.from(text)),
          fc.constant(Buffer.alloc(0)),
        ),
      }),
    },
    none,
  );
};

/** As a header may carry it; what else would be the client's own refusal. */
const headerSafe = (text: string): string =>
  text.replaceAll(/[^\t\u0020-\u007e\u0080-\u00ff]/g, "?");

/** A query that says it once, or often; with names that are not there, now and then. */
function requestsOf(
  method: Method,
  path: string,
  operation: OperationObject,
  shared: readonly (Parameter | Ref)[],
  ids: Ids,
): Arbitrary<Given> {
  const all = [...shared, ...(operation.parameters ?? [])].map((one) =>
    resolved(one),
  );
  const value = (parameter: Parameter, index: number) =>
    fc.oneof(
      {
        weight: 5,
        arbitrary:
          parameter.in === "path"
            ? fc.constantFrom(
                ...(parameter.name === "connectionId"
                  ? // The last one stays open for the others.
                    operation.operationId === "closeConnection"
                    ? ids.connections.slice(0, -1)
                    : ids.connections
                  : parameter.name === "messageId"
                    ? ids.messages
                    : (NAMES[
                        parameter.name === "userId" ? "UserId" : "GroupName"
                      ] ?? ["x"])),
              )
            : valuesOf(parameter.schema, ids).map((one) =>
                typeof one === "string" ? one : JSON.stringify(one),
              ),
      },
      { weight: index >= 0 ? 1 : 0, arbitrary: anything },
    );
  const inPath = all.filter((one) => one.in === "path");
  const others = all.filter((one) => one.in !== "path");
  const some = fc.subarray(others, {
    maxLength: Math.min(4, others.length),
  });
  return fc
    .record({
      pathValues: fc.tuple(...inPath.map(value)),
      parameters: some.chain((chosen) =>
        fc.tuple(
          ...chosen.map((one, index) =>
            value(one, index).map((text) => ({ ...one, text })),
          ),
        ),
      ),
      more: fc.oneof(
        { weight: 9, arbitrary: fc.constant("") },
        fc.tuple(anything, anything).map(([a, b]) => `${a}=${b}`),
        fc.constantFrom("%", "&&", "=", "ttl=1&ttl=2", "wait=0&wait=0"),
      ),
      body: bodiesOf(operation, ids),
      accept: fc.constantFrom(
        undefined,
        "application/json",
        "text/plain",
        "application/x-ndjson",
        "*/*",
        "image/png",
        ";q=",
      ),
    })
    .map(({ pathValues, parameters, more, body, accept }) => {
      let url = path;
      inPath.forEach(({ name }, index) => {
        url = url.replace(`{${name}}`, encoded(String(pathValues[index])));
      });
      const query = parameters
        .filter((one) => one.in === "query")
        .map(({ name, text }) => `${name}=${encoded(shortened(name, text))}`);
      if (more !== "") query.push(encodeURI(wellFormed(more)));
      const headers: Record<string, string> = {};
      for (const { name, text } of parameters.filter(
        (one) => one.in === "header",
      ))
        headers[name] = headerSafe(
          name === "Prefer" ? text.replaceAll(/\d/g, "0") : text,
        );
      // A reply is waited for 10 s by default; few ask, for a second.
      const asks = query.findIndex((part) => part.startsWith("expect="));
      if (asks >= 0)
        if ((body.body?.length ?? 0) % 16 === 0) query.push("wait=1");
        else query.splice(asks, 1);
      if (accept !== undefined) headers["accept"] = accept;
      if (body.type !== undefined) headers["content-type"] = body.type;
      return {
        id: operation.operationId,
        method: method.toUpperCase(),
        path,
        url: query.length > 0 ? `${url}?${query.join("&")}` : url,
        headers,
        body: body.body,
      };
    });
}

/** Without halves of surrogate pairs, which no URL carries. */
const wellFormed = (text: string): string => Buffer.from(text).toString();
const encoded = (text: string): string => encodeURIComponent(wellFormed(text));
/** No test waits for a minute. */
const shortened = (name: string, text: string): string =>
  name === "wait" && Number(text) > 1 ? "0" : text;

t.test(`${REQUESTS} requests, seed ${seed}`, async (t) => {
  const redis = await singleRedis(t);
  const httpFn = await startHttpFn(t, {
    REDIS_URL: redis.url,
    LOG_LEVEL: "error",
  });
  const target = { httpPort: httpFn.port, wsPort: 0, key: "", secret: "" };
  const agent = new http.Agent({ keepAlive: true, maxSockets: AT_ONCE });
  t.teardown(() => agent.destroy());
  const ids = await made(target);

  const operations = Object.entries(document.paths).flatMap(([path, item]) =>
    METHODS.flatMap((method) => {
      const operation = item[method];
      return operation && path !== "/ws"
        ? [requestsOf(method, path, operation, item.parameters ?? [], ids)]
        : [];
    }),
  );
  const statuses = new Map<string, number>();
  let refused = 0;
  const ask = async (given: Given): Promise<string[]> => {
    const { method, url, headers, body, id, path } = given;
    const asked = { headers: { ...headers }, key: null, agent };
    const answer = await (STREAMS.has(id)
      ? headOf(target.httpPort, method, url, headers)
      : call(target, method, url, {
          ...asked,
          ...(body !== undefined && { body }),
        }));
    const { status } = answer;
    const text = answer.body.toString();
    const type = answer.headers["content-type"];
    statuses.set(id, Math.max(statuses.get(id) ?? 0, status < 300 ? 1 : 0));
    const wrong: string[] = [];
    const code = /"code":"(\w+)"|^code +(\w+)$/m.exec(text)?.slice(1).join("");
    // Only what a request asks for in so many words may fail for want of it.
    const wished = { 503: "no_replica", 504: "reply_timeout" }[status];
    if (status >= 500 && (code === undefined || code !== wished))
      wrong.push(`${status} ${text}`);
    if (status >= 400) {
      refused += 1;
      if (!/^(application\/problem\+json|text\/plain)/.test(type ?? ""))
        wrong.push(`${status} as ${type}`);
      // A path that was mutated may be another's, which is checked where it is drawn.
      else if (method !== "HEAD" && type?.includes("json"))
        wrong.push(
          ...contract.checkAnswer({
            method,
            path: undefined,
            status,
            contentType: type,
            body: text,
          }),
        );
    } else if (
      !STREAMS.has(id) &&
      !url.includes("expect=reply") &&
      path === pathOf(url)
    ) {
      // openapi.yaml speaks of lines as text.
      if (type?.includes("ndjson"))
        for (const line of text.split("\n").filter(Boolean)) JSON.parse(line);
      else
        wrong.push(
          ...contract.checkAnswer({
            method,
            path,
            status,
            contentType: type,
            body: text,
          }),
        );
    }
    return wrong.map(
      (one) =>
        `${method} ${url} ${JSON.stringify(headers)} ${JSON.stringify(body?.toString())}: ${one}`,
    );
  };

  const outcome = await fc.check(
    fc.asyncProperty(
      fc.array(fc.oneof(...operations), {
        minLength: AT_ONCE,
        maxLength: AT_ONCE,
      }),
      async (requests) => {
        const wrong = (await Promise.all(requests.map(ask))).flat();
        if (wrong.length > 0) throw new Error(wrong.join("\n"));
      },
    ),
    { numRuns: REQUESTS / AT_ONCE, seed, endOnFailure: true },
  );
  t.equal(
    outcome.failed ? String(outcome.errorInstance) : "",
    "",
    `path ${outcome.counterexamplePath}`,
  );
  t.ok(refused > REQUESTS / 10, `${refused} were refused`);
  for (const [id, isTaken] of statuses)
    t.ok(isTaken, `${id} is taken at least once`);
  const lines = httpFn.logs.filter((line) => line.includes('"level":50'));
  t.same(lines, [], "and the log has no mistake of ours");
});

/** The template that a URL is of, if its names are as they were drawn. */
function pathOf(url: string): string | undefined {
  const path = url.split("?", 1)[0] ?? "";
  return Object.keys(document.paths).find((one) =>
    new RegExp(`^${one.replaceAll(/\{\w+\}/g, "[^/]+")}$`).test(path),
  );
}

/** What requests may name: connections and messages that are there, one that has ended, one that never was. */
async function made(target: Parameters<typeof call>[0]): Promise<Ids> {
  const json = async (method: string, path: string, body = "") => {
    const answer = await call(target, method, path, {
      key: null,
      body,
      headers: { "content-type": "application/json" },
    });
    return JSON.parse(answer.body.toString()) as Record<string, string>;
  };
  const connections = ["c_0000000000000000000000"];
  for (const wish of [
    {},
    { userId: "ann", groups: ["room"] },
    { userId: "ben" },
    { labels: { plan: "pro" } },
  ])
    connections.push(
      (await json("POST", "/v1/connections", JSON.stringify(wish)))[
        "connectionId"
      ] ?? "",
    );
  await json("DELETE", `/v1/connections/${connections[1]}`);
  const messages = ["m_1"];
  for (const path of [
    `connections/${connections[2]}`,
    "users/zed",
    "groups/room",
  ])
    for (const query of ["", "?delay=600"])
      messages.push(
        (await json("POST", `/v1/${path}/messages${query}`, "1"))["id"] ?? "",
      );
  return { connections, messages };
}

/** A stream's head, and its body only where it is a refusal. */
function headOf(
  port: number,
  method: string,
  path: string,
  headers: Readonly<Record<string, string>>,
): Promise<{
  status: number;
  headers: http.IncomingHttpHeaders;
  body: Buffer;
}> {
  return new Promise((resolve, reject) => {
    const request = http.request(
      { host: "127.0.0.1", port, method, path, headers },
      (response) => {
        const status = response.statusCode ?? 0;
        const chunks: Buffer[] = [];
        const done = () => {
          resolve({
            status,
            headers: response.headers,
            body: Buffer.concat(chunks),
          });
          request.destroy();
        };
        response.on("data", (chunk: Buffer) => chunks.push(chunk));
        response.on("error", () => undefined);
        if (status < 300) done();
        else response.on("end", done);
      },
    );
    request.on("error", reject);
    request.end();
  });
}
