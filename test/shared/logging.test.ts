/** Logging: one JSON object a line, and no secret in any of them. */
import t from "tap";
import { startProcess } from "../../scripts/lab/processes.js";
import { loggableUrl } from "../../shared/logging.js";

t.test("a URL keeps its path and the names of its query", async (t) => {
  for (const [url, shown] of [
    ["/ws", "/ws"],
    ["/ws?token=abc", "/ws?token=***"],
    ["/ws?token=abc&resume=x.y.z&seq=5", "/ws?token=***&resume=***&seq=***"],
    ["/ws?token=a=b", "/ws?token=***"],
    ["/ws?flag", "/ws?flag"],
  ] as const)
    t.equal(loggableUrl(url), shown);
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
    ["top", "nested", "headers", "error", "child"],
  );
  t.match(lines[0], {
    name: "test",
    token: "***",
    time: /^\d{4}-\d\d-\d\dT.*Z$/,
  });
  t.match(lines[3], { err: { message: "WRONGTYPE", stack: /Error/ } });
  t.match(lines[4], { connectionId: "c_x" });
});
