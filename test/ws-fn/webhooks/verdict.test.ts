/** What answers mean, and what is permission. */
import t from "tap";
import type { Sent } from "../../../ws-fn/webhooks/sender.js";
import { permissionOf, verdictOf } from "../../../ws-fn/webhooks/verdict.js";

const now = Date.UTC(2026, 10, 26);
const answer = (
  status: number,
  headers: Record<string, string> = {},
): Sent => ({
  kind: "answer",
  status,
  headers,
  contentType: undefined,
  body: Buffer.alloc(0),
  truncated: false,
});
const verdict = (sent: Sent, type = "connected") => verdictOf(sent, type, now);

t.test("what becomes of a connection is tried until it is taken", async (t) => {
  for (const status of [200, 201, 202, 204, 299])
    t.same(verdict(answer(status)), { kind: "taken" }, String(status));
  for (const status of [400, 401, 403, 404, 405, 408, 415, 422, 500, 502, 503])
    t.match(verdict(answer(status)), {
      kind: "again",
      scope: "any",
      why: `answered ${status}`,
      wantedMs: 0,
    });
  for (const failure of [
    "address",
    "name",
    "network",
    "tls",
    "timeout",
    "redirect",
  ] as const)
    t.match(verdict({ kind: "failure", failure, reason: "so" }), {
      kind: "again",
      scope: "any",
      why: `${failure}: so`,
    });
});

t.test("a client's event can be refused", async (t) => {
  for (const status of [400, 401, 403, 404, 405, 415, 422])
    t.same(
      verdict(answer(status), "event"),
      { kind: "refused" },
      String(status),
    );
  for (const status of [408, 410, 425, 429, 500, 503])
    t.match(
      verdict(answer(status), "event"),
      { kind: "again" },
      String(status),
    );
});

t.test("what the receiver asks for", async (t) => {
  t.match(verdict(answer(410)), { scope: "gone", wantedMs: 3_600_000 });
  for (const [value, wantedMs] of [
    ["7", 7_000],
    ["0", 0],
    ["99999999", 3_600_000],
    [new Date(now + 30_000).toUTCString(), 30_000],
    [new Date(now - 30_000).toUTCString(), 0],
    ["soon", 0],
    ["-5", 0],
  ] as const)
    t.match(
      verdict(answer(429, { "retry-after": value })),
      { scope: "throttled", wantedMs },
      value,
    );
  t.match(verdict(answer(503, { "retry-after": "7" })), {
    scope: "throttled",
    wantedMs: 7_000,
  });
});

t.test("permission", async (t) => {
  const asked = (headers: Record<string, string>, status = 200) =>
    permissionOf(answer(status, headers), "me.example");
  const allowed = "webhook-allowed-origin";
  const rate = "webhook-allowed-rate";
  t.same(asked({ [allowed]: "*" }), { granted: true, rate: 0 });
  t.same(asked({ [allowed]: "Me.Example", [rate]: "*" }), {
    granted: true,
    rate: 0,
  });
  t.same(asked({ [allowed]: "*", [rate]: "120" }), {
    granted: true,
    rate: 120,
  });
  t.same(asked({ [allowed]: "*", [rate]: "-1" }), { granted: true, rate: 0 });
  t.same(
    asked({ [allowed]: "*" }, 405),
    { granted: true, rate: 0 },
    "statuses say nothing",
  );
  for (const headers of [{}, { [allowed]: "other.example" }, { allow: "POST" }])
    t.match(asked(headers), { granted: false, scope: "unproven" });
  t.match(asked({}, 502), { granted: false, scope: "any" });
  t.match(
    permissionOf(
      { kind: "failure", failure: "timeout", reason: "so" },
      "me.example",
    ),
    { granted: false, scope: "any", why: "timeout: so" },
  );
});
