/** The error and close code tables: complete, documented, and nothing leaks through them. */
import t from "tap";
import { renderDocs } from "../../http-fn/docs.js";
import type { ErrorCode } from "../../shared/api.js";
import * as closeCodes from "../../shared/close-codes.js";
import { BridgeError, ERRORS, toProblem } from "../../shared/errors.js";
import { contract } from "../fixtures/fake-bridge.js";

const { schemas } = contract.document.components;
const docs = renderDocs(contract);

t.test(
  "every error code has its row, its text and its section, and there are no others",
  async (t) => {
    const { enum: codes = [], "x-enumDescriptions": texts = {} } =
      schemas["ErrorCode"] ?? {};
    t.same(Object.keys(ERRORS).sort(), [...codes].sort());
    t.same(Object.keys(texts).sort(), [...codes].sort());
    for (const code of codes)
      t.ok(docs.includes(`<section id="${code}">`), String(code));
  },
);

t.test(
  "every close code has its row, its text, its section and its constant",
  async (t) => {
    const { enum: codes = [], "x-enumDescriptions": texts = {} } =
      schemas["CloseCode"] ?? {};
    const names = codes.map(String).sort();
    t.same(Object.keys(closeCodes.CLOSE_CODES).sort(), names);
    t.same(Object.keys(texts).sort(), names);
    for (const code of names)
      t.ok(docs.includes(`<section id="close-${code}">`), code);
    const constants = Object.values(closeCodes).filter(
      (value) => typeof value === "number",
    );
    t.same(constants.map(String).sort(), names);
  },
);

t.test("the other words have a text for each", async (t) => {
  for (const name of ["Status", "Reason", "ConnectionState"]) {
    const { enum: words = [], "x-enumDescriptions": texts = {} } =
      schemas[name] ?? {};
    t.ok(words.length > 0);
    t.same(Object.keys(texts).sort(), [...words].sort(), name);
  }
});

t.test("every property and every schema is described", async (t) => {
  for (const [name, schema] of Object.entries(schemas)) {
    t.ok(schema.description, name);
    for (const part of [schema, ...(schema.allOf ?? [])])
      for (const [property, value] of Object.entries(part.properties ?? {}))
        t.ok(value.description ?? value.$ref, `${name}.${property}`);
  }
});

t.test("a close reason fits into a close frame", async (t) => {
  for (const { reason } of Object.values(closeCodes.CLOSE_CODES))
    t.ok(Buffer.byteLength(reason) <= 123);
});

t.test("a client comes back exactly where the contract says", async (t) => {
  for (const code of [
    1006, 1011, 1012, 1013, 4000, 4008, 4029, 4499, 1001, 1005,
  ])
    t.equal(closeCodes.mayRetry(code), true, String(code));
  for (const code of [1000, 1008, 1009, 4500, 4501, 4503, 4509, 4510, 4999])
    t.equal(closeCodes.mayRetry(code), false, String(code));
  for (const [code, { retry }] of Object.entries(closeCodes.CLOSE_CODES))
    t.equal(closeCodes.mayRetry(Number(code)), retry, code);
});

t.test("an error becomes the problem object with all its facts", async (t) => {
  const error = new BridgeError("log_full", {
    detail: "d",
    limit: 1,
    actual: 2,
    hint: "h",
    errors: [{ pointer: "/a", message: "m" }],
    endedAt: "2026-01-01T00:00:00.000Z",
    reason: "poison",
    retryAfterSeconds: 3,
    allow: "GET",
  });
  t.same(toProblem(error, "r1"), {
    type: "/docs#log_full",
    title: "Too many messages pending",
    status: 429,
    code: "log_full",
    detail: "d",
    instance: "r1",
    limit: 1,
    actual: 2,
    hint: "h",
    errors: [{ pointer: "/a", message: "m" }],
    endedAt: "2026-01-01T00:00:00.000Z",
    reason: "poison",
  });
  t.equal(error.retryAfterSeconds, 3);
  t.equal(error.message, "d");
});

t.test("every 503 says when to ask again", async (t) => {
  for (const [code, { status }] of Object.entries(ERRORS))
    t.equal(
      new BridgeError(code as ErrorCode).retryAfterSeconds,
      status === 503 ? 1 : undefined,
    );
});

t.test(
  "what is no error of ours is internal, and nothing of it is shown",
  async (t) => {
    for (const thrown of [
      new Error("redis://:secret@10.0.0.1"),
      "secret",
      undefined,
    ])
      t.same(toProblem(thrown), {
        type: "/docs#internal",
        title: "Internal error",
        status: 500,
        code: "internal",
      });
    const cause = new Error("secret");
    const error = new BridgeError("redis_unavailable", {}, cause);
    t.equal(error.cause, cause);
    t.notMatch(JSON.stringify(toProblem(error)), "secret");
  },
);
