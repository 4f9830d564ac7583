/** Logging: one JSON object a line, and no secret in any of them. */
import t from "tap";
import { startProcess } from "../../scripts/lab/processes.js";
import { loggableUrl } from "../../shared/logging.js";

t.test("a URL says which of ours it is, and nothing else", async (t) => {
  for (const [url, shown] of [
    ["/", "/"],
    ["/ws", "/ws"],
    ["/stage/ws/", "…/ws"],
    ["/ws?token=abc", "/ws?token=***"],
    ["/ws?token=abc&resume=x.y.z&seq=5", "/ws?token=***&resume=***&seq=***"],
    ["/ws?token=a=b", "/ws?token=***"],
    ["/ws?abc", "/ws?(and 1 more)"],
    ["/ws?abc=1&token=x&x%79", "/ws?token=***&(and 2 more)"],
    ["/ws#abc", "/ws"],
    ["/ws/abc", "(another path)"],
    ["/abc/ws", "…/ws"],
    ["abc", "(another path)"],
    ["//abc@host/ws", "…/ws"],
    ["/ws;token=abc", "(another path)"],
    ["/ws%3Ftoken=abc", "(another path)"],
  ] as const) {
    t.equal(loggableUrl(url), shown);
    t.notMatch(shown, "abc");
  }
});

t.test("nothing secret reaches a line", async (t) => {
  const secret = "s3cr3t";
  // As it is deployed: pino writes to the descriptor itself, past what a test could catch in its own process.
  const file = new URL("../../dist/shared/logging.js", import.meta.url).href;
  const script = t.testdir({
    "log.mjs": `
import { createLogger } from ${JSON.stringify(file)};
const secret = ${JSON.stringify(secret)};
const logger = createLogger("test", "info");
logger.info({ authorization: secret, token: secret, resumeToken: secret, apiKey: secret, password: secret }, "top");
logger.info({ a: { authorization: secret, token: secret, resumeToken: secret } }, "nested");
logger.info({ headers: { authorization: secret, cookie: secret, "sec-websocket-protocol": "bearer." + secret } }, "headers");
const error = Object.assign(new Error("WRONGTYPE"), { command: { name: "xadd", args: [secret] } });
logger.info({ err: error }, "error");
logger.info({ reason: "see redis://:" + secret + "@h, Bearer " + secret + ", bearer." + secret }, "by form");
logger.info({ text: "\\u001b[2J\\u009b\\u202e\\u2028\\ud800", more: "a\\nb" }, "odd \\u0085 one");
logger.child({ connectionId: "c_x" }).info("child");
logger.debug({ token: secret }, "too fine");
console.log("end");
`,
  });
  const started = await startProcess(t, {
    name: "logging",
    args: [`${script}/log.mjs`],
  });
  await started.exited;
  t.notMatch(started.logs.join("\n"), secret);
  const lines = started.logs
    .filter((line) => line.startsWith("{"))
    .map((line) => JSON.parse(line) as Record<string, unknown>);
  t.same(
    lines.map(({ msg }) => msg),
    ["top", "nested", "headers", "error", "by form", "odd \u0085 one", "child"],
  );
  t.match(lines[0], {
    name: "test",
    token: "***",
    time: /^\d{4}-\d\d-\d\dT.*Z$/,
  });
  t.match(lines[3], { err: { message: "WRONGTYPE", stack: /Error/ } });
  t.match(lines[5], {
    text: "\u001b[2J\u009b\u202e\u2028\ud800",
    more: "a\nb",
  });
  t.notMatch(started.logs.join("\n"), /[^\n\x20-\x7e]/);
  t.match(lines[6], { connectionId: "c_x" });
});
