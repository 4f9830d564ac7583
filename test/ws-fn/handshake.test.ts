/** The handshake: who may come, with what, and what is refused before the 101. Pure, so tables. */
import t from "tap";
import {
  bridgeProtocol,
  rawProtocol,
  readHandshake,
  type HandshakeRules,
  type UpgradeRequest,
} from "../../ws-fn/handshake.js";

const keyless: HandshakeRules = {
  keyless: true,
  allowedOrigins: [],
  publicWsUrl: "",
};
const keyed: HandshakeRules = {
  keyless: false,
  allowedOrigins: ["https://app.example"],
  publicWsUrl: "",
};

const ask = (
  fields: Partial<UpgradeRequest> = {},
  rules: HandshakeRules = keyless,
) =>
  readHandshake(
    {
      url: "/ws",
      host: "127.0.0.1:9000",
      origin: undefined,
      authorization: undefined,
      protocols: undefined,
      ...fields,
    },
    rules,
  );

/** The code of the refusal, or "" when it is let in. */
function verdict(
  fields: Partial<UpgradeRequest>,
  rules: HandshakeRules = keyless,
): string {
  try {
    ask(fields, rules);
    return "";
  } catch (error) {
    return (error as { code: string }).code;
  }
}

t.test("hosts of a keyless bridge", async (t) => {
  for (const host of ["localhost", "LOCALHOST:9000", "127.0.0.1", "[::1]:80"])
    t.equal(verdict({ host }), "", host);
  for (const host of [
    undefined,
    "",
    "evil.example",
    "localhost.evil.example",
    "127.0.0.1.evil.example:9000",
    "10.0.0.1",
    "[::2]",
  ]) {
    t.equal(verdict({ host }), "forbidden_host", String(host));
    t.equal(verdict({ host }, keyed), "", "with keys any host is served");
  }
});

t.test("origins", async (t) => {
  const cases: [
    origin: string | undefined,
    keylessSays: string,
    keyedSays: string,
  ][] = [
    [undefined, "", ""],
    ["null", "forbidden_origin", "forbidden_origin"],
    ["http://127.0.0.1:9000", "", ""],
    ["https://127.0.0.1:9000", "", ""],
    ["http://localhost:3000", "", "forbidden_origin"],
    ["https://localhost", "", "forbidden_origin"],
    ["http://127.1.2.3", "", "forbidden_origin"],
    ["http://[::1]:8080", "", "forbidden_origin"],
    ["https://app.example", "forbidden_origin", ""],
    ["https://app.example:8443", "forbidden_origin", "forbidden_origin"],
    ["http://app.example", "forbidden_origin", "forbidden_origin"],
    ["https://evil.example", "forbidden_origin", "forbidden_origin"],
    ["http://localhost.evil.example", "forbidden_origin", "forbidden_origin"],
    ["http://127.0.0.1.evil.example", "forbidden_origin", "forbidden_origin"],
    ["file://localhost", "forbidden_origin", "forbidden_origin"],
    ["no origin at all", "forbidden_origin", "forbidden_origin"],
    ["", "forbidden_origin", "forbidden_origin"],
  ];
  for (const [origin, keylessSays, keyedSays] of cases) {
    t.equal(verdict({ origin }), keylessSays, `${origin}, keyless`);
    t.equal(verdict({ origin }, keyed), keyedSays, `${origin}, with keys`);
  }
});

t.test("a name that somebody points at us is not our origin", async (t) => {
  const rebound = { host: "evil.example", origin: "https://evil.example" };
  t.equal(verdict(rebound, keyed), "forbidden_origin");
  const own = { ...keyed, publicWsUrl: "wss://push.example/stage/ws" };
  t.equal(verdict(rebound, own), "forbidden_origin");
  t.equal(verdict({ ...rebound, origin: "https://push.example" }, own), "");
  t.equal(
    verdict({ host: "push.example", origin: "https://push.example" }, keyed),
    "forbidden_origin",
  );
});

t.test("a page opened as a file is told how to serve it", async (t) => {
  try {
    ask({ origin: "null" });
    t.fail("let in");
  } catch (error) {
    t.match(error, { data: { hint: /serve it/ } });
  }
});

t.test("paths", async (t) => {
  for (const url of ["/", "/ws", "/ws?a=b"]) t.equal(verdict({ url }), "", url);
  const wrong = ["/v1/ws", "/stage/ws", "/stage/", "/ws/", "/wss", "/ws/x"];
  for (const url of wrong) t.equal(verdict({ url }), "not_found", url);
  const staged = { ...keyed, publicWsUrl: "wss://push.example/stage/ws" };
  for (const url of ["/stage/ws", "/stage/ws?a=b", "/ws"])
    t.equal(verdict({ url }, staged), "", url);
  for (const url of ["/a/stage/ws", "/stage/", "/stage"])
    t.equal(verdict({ url }, staged), "not_found", url);
  for (const url of ["//[", "http://["])
    t.equal(verdict({ url }), "bad_request", url);
});

t.test("tokens come by query, header or subprotocol", async (t) => {
  const query = { url: "/ws?token=q" };
  const header = { authorization: "bearer  h" };
  const offer = { protocols: "bridge.v1.json, bearer.s" };
  t.equal(ask().token, undefined);
  t.equal(ask(query).token, "q");
  t.equal(ask(header).token, "h");
  t.equal(ask(offer).token, "s");
  t.equal(ask({ ...query, ...header, ...offer }).token, "q");
  t.equal(ask({ ...header, ...offer }).token, "h");
  t.equal(ask({ authorization: "Basic abc" }).token, undefined);
});

t.test("subprotocols", async (t) => {
  const raw = { protocol: "raw" };
  const json = { protocol: bridgeProtocol, subprotocol: bridgeProtocol };
  t.match(ask(), { ...raw, subprotocol: undefined });
  t.match(ask({ protocols: "" }), { ...raw, subprotocol: undefined });
  t.match(ask({ protocols: "bearer.x" }), { ...raw, subprotocol: undefined });
  t.match(ask({ protocols: `${rawProtocol},bearer.x` }), {
    ...raw,
    subprotocol: rawProtocol,
  });
  t.match(ask({ protocols: bridgeProtocol }), json);
  t.match(ask({ protocols: ` other ,${bridgeProtocol}` }), json);
  t.equal(verdict({ protocols: "other" }), "bad_request");
  t.equal(verdict({ protocols: "other, bearer.x" }), "bad_request");
});

t.test("resume", async (t) => {
  t.equal(ask().resume, undefined);
  const offsets = new Map<string, number>();
  t.same(ask({ url: "/ws?resume=r" }).resume, { token: "r", seq: 0, offsets });
  t.same(ask({ url: "/ws?resume=r&seq=1700000000000001" }).resume, {
    token: "r",
    seq: 1_700_000_000_000_001,
    offsets,
  });
  t.same(
    ask({ url: "/ws?resume=r&groups=a%3A7,%24all%3A1700000000000001" }).resume
      ?.offsets,
    new Map([
      ["a", 7],
      ["$all", 1_700_000_000_000_001],
    ]),
  );
  for (const groups of ["a", "a:", "a:x", ":7", "a:7;b:8", `a:${2 ** 53}`])
    t.equal(
      verdict({ url: `/ws?resume=r&groups=${groups}` }),
      "invalid_parameter",
      groups,
    );
  for (const seq of [
    "-1",
    "1.5",
    "x",
    "9007199254740991",
    "9007199254740993",
    "NaN",
    "Infinity",
  ])
    t.equal(
      verdict({ url: `/ws?resume=r&seq=${seq}` }),
      "invalid_parameter",
      seq,
    );
});

t.test("what a raw client asks for", async (t) => {
  t.match(ask(), { welcome: true, heartbeatMs: undefined });
  t.match(ask({ url: "/ws?welcome=0&heartbeat=1.5" }), {
    welcome: false,
    heartbeatMs: 1_500,
  });
  for (const seconds of ["", "0", "0.5", "3601", "x", "-3"])
    t.equal(
      verdict({ url: `/ws?heartbeat=${seconds}` }),
      "invalid_parameter",
      seconds,
    );
});
