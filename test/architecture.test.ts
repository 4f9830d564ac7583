/** The house rules of the source tree, as sentences that fail when they stop being true. */
import { existsSync, readdirSync, readFileSync } from "node:fs";
import { dirname, join, normalize } from "node:path";
import t from "tap";
import ts from "typescript";
import { CLOSE_CODES } from "../shared/close-codes.js";
import { ERRORS } from "../shared/errors.js";

const rooms = [
  "http-fn",
  "ws-fn",
  "shared",
  "platform",
  "client",
  "scripts",
] as const;

function filesOf(folder: string): string[] {
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && /\.ts$/.test(entry.name))
    .map((entry) => join(entry.parentPath, entry.name))
    .filter((file) => !file.endsWith(".d.ts"));
}

const sources = new Map<string, string>();
for (const room of rooms)
  for (const file of filesOf(room))
    sources.set(file, readFileSync(file, "utf8"));

/** Every module a file names, type imports and `import()` included. */
function importsOf(file: string): string[] {
  const text = sources.get(file) ?? "";
  return ts.preProcessFile(text, true, true).importedFiles.map((imported) => {
    const name = imported.fileName;
    if (!name.startsWith(".")) return name;
    const path = normalize(join(dirname(file), name)).replace(/\.js$/, ".ts");
    return sources.has(path) ? path : path.replace(/\.ts$/, ".d.ts");
  });
}

const room = (path: string): string => path.split("/")[0] ?? "";
const isLocal = (path: string): boolean =>
  (rooms as readonly string[]).includes(room(path)) && path.includes("/");

/** What a file of a room may import besides its own room. */
const mayImport: Record<(typeof rooms)[number], readonly string[]> = {
  shared: [],
  "http-fn": ["shared"],
  "ws-fn": ["shared"],
  platform: ["shared"],
  client: [],
  scripts: ["shared", "platform", "client"],
};

void t.test("rooms import only the rooms below them", (t) => {
  for (const file of sources.keys())
    for (const imported of importsOf(file).filter(isLocal)) {
      const from = room(file) as (typeof rooms)[number];
      const allowed =
        room(imported) === from ||
        mayImport[from].includes(room(imported)) ||
        (from === "client" && imported === "shared/api.d.ts");
      if (!allowed) t.fail(`${file} imports ${imported}`);
    }
  t.pass("all imports point down");
  t.end();
});

void t.test("inside shared, imports point down line by line", (t) => {
  const lines = [
    ["api.d.ts"],
    [
      "bulk-reads.ts",
      "allowance.ts",
      "claims.ts",
      "config.ts",
      "connection-room.ts",
      "errors.ts",
      "close-codes.ts",
      "deadlines.ts",
      "full.ts",
      "hmac-tokens.ts",
      "http-guard.ts",
      "ids.ts",
      "kept.ts",
      "keys.ts",
      "logging.ts",
      "lua.ts",
      "media.ts",
      "output.ts",
      "protection.ts",
      "redis-url.ts",
      "secrets.ts",
      "proxies.ts",
      "sampled-log.ts",
      "quota-settings.ts",
      "selection.ts",
      "shutdown.ts",
      "slots.ts",
      "time.ts",
      "visible.ts",
      "token-keys.ts",
      "webhook-settings.ts",
    ],
    ["redis.ts"],
    ["lane-scripts.ts", "many.ts", "revocations.ts"],
    ["events.ts"],
    ["event-feed.ts", "lanes.ts", "outbox.ts"],
    [
      "answers.ts",
      "entry.ts",
      "log-scripts.ts",
      "quotas.ts",
      "redis-memory.ts",
      "replies.ts",
      "replication.ts",
      "tokens.ts",
      "user-scripts.ts",
    ],
    ["fanout-scripts.ts", "registry-scripts.ts"],
    ["directory-scripts.ts", "fanout.ts"],
    ["directory.ts", "log.ts", "poison.ts"],
    ["registry.ts"],
    ["gathering.ts", "group-receipts.ts", "membership.ts", "queue.ts"],
    ["users.ts", "webhook-queue.ts"],
    ["receipts.ts"],
    ["stores.ts"],
  ];
  const lineOf = (path: string) =>
    lines.findIndex((line) => line.includes(path.replace("shared/", "")));
  for (const file of sources.keys()) {
    if (room(file) !== "shared") continue;
    t.not(lineOf(file), -1, `${file} has its line in this test`);
    for (const imported of importsOf(file).filter(isLocal))
      if (lineOf(imported) >= lineOf(file) && lineOf(file) !== 1)
        t.fail(`${file} imports ${imported}, which is not below it`);
  }
  t.end();
});

void t.test("there are no import circles, type imports counted", (t) => {
  const done = new Set<string>();
  const visit = (file: string, trail: readonly string[]): void => {
    if (trail.includes(file)) {
      t.fail([...trail.slice(trail.indexOf(file)), file].join(" → "));
      return;
    }
    if (done.has(file)) return;
    for (const next of importsOf(file).filter((path) => sources.has(path)))
      visit(next, [...trail, file]);
    done.add(file);
  };
  for (const file of sources.keys()) visit(file, []);
  t.pass("no circle found");
  t.end();
});

void t.test("each library has one owner", (t) => {
  const owners: Record<string, (file: string) => boolean> = {
    fastify: (file) =>
      room(file) === "http-fn" || file.startsWith("scripts/bench/"),
    ws: (file) => file === "ws-fn/server.ts" || room(file) === "scripts",
    bullmq: (file) =>
      file === "shared/queue.ts" ||
      file === "shared/webhook-queue.ts" ||
      file.startsWith("scripts/bench/"),
    ioredis: (file) =>
      file === "shared/redis.ts" || file.startsWith("scripts/bench"),
    jose: (file) =>
      file === "shared/tokens.ts" || file === "shared/token-keys.ts",
    pino: (file) => file === "shared/logging.ts",
    ajv: (file) =>
      file === "http-fn/contract.ts" || file === "shared/claims.ts",
    "socket.io": (file) => file.startsWith("scripts/bench/"),
    "@socket.io": (file) => file.startsWith("scripts/bench/"),
    typescript: (file) => /^scripts\/(doctor|lab)\//.test(file),
  };
  for (const file of sources.keys())
    for (const imported of importsOf(file)) {
      const library = imported.split("/")[0] ?? "";
      if (isLocal(imported) || !(library in owners)) continue;
      if (!owners[library]?.(file)) t.fail(`${file} imports ${imported}`);
    }
  t.pass("every library is imported by its owner only");
  t.end();
});

void t.test("the client imports nothing at run time", (t) => {
  for (const file of sources.keys()) {
    if (room(file) !== "client") continue;
    for (const imported of importsOf(file))
      if (!imported.startsWith("client/") && imported !== "shared/api.d.ts")
        t.fail(`${file} imports ${imported}`);
  }
  t.pass("a browser can load it as it is");
  t.end();
});

void t.test("an example imports packages and its own files only", (t) => {
  const files = readdirSync("examples", { recursive: true })
    .map((name) => join("examples", String(name)))
    .filter((name) => /\.[mc]?js$/.test(name) && !/node_modules/.test(name));
  t.not(files.length, 0, "there are examples");
  for (const file of files) {
    const home = file.split("/").slice(0, 2).join("/");
    const text = readFileSync(file, "utf8");
    for (const { fileName } of ts.preProcessFile(text, true, true)
      .importedFiles) {
      const path = join(dirname(file), fileName);
      if (fileName.startsWith(".") && !path.startsWith(`${home}/`))
        t.fail(`${file} imports ${fileName}`);
    }
  }
  t.end();
});

void t.test("the process is touched at its edges only", (t) => {
  for (const [file, text] of sources) {
    if (file.endsWith("main.ts") || room(file) === "scripts") continue;
    for (const word of ["process.env", "process.exit", "process.on("])
      if (text.includes(word)) t.fail(`${file} says ${word}`);
  }
  t.pass("environment, signals and exit stand in main.ts");
  t.end();
});

void t.test("every file says at its top what it is", (t) => {
  for (const [file, text] of sources)
    t.match(text, /^(#!.*\n)?\/(\*\*|\/)/, file);
  t.end();
});

void t.test(
  "every error code and close code has its line in PROTOCOL.md",
  (t) => {
    const protocol = readFileSync("PROTOCOL.md", "utf8");
    for (const code of Object.keys(ERRORS))
      t.match(
        protocol,
        new RegExp(`\\| \`${code}\` +\\|`),
        `error code ${code}`,
      );
    for (const code of Object.keys(CLOSE_CODES))
      t.match(protocol, new RegExp(`\\| ${code} +\\|`), `close code ${code}`);
    const written = [
      ...protocol.matchAll(/^\| `([a-z_0-9]+)` +\| \d{3} +\|/gm),
    ];
    for (const [, code] of written)
      t.ok(code !== undefined && code in ERRORS, `${code} exists`);
    t.end();
  },
);

void t.test(
  "every delivery rule that is cited has its place in the book",
  (t) => {
    const book = readFileSync("docs/delivery.md", "utf8");
    const known = new Set(
      [...book.matchAll(/^### Rule (\d+)/gm)].map(([, number]) => number),
    );
    t.ok(known.size >= 16);
    const citing = [
      ...sources.keys(),
      ...filesOf("test"),
      ...["README.md", "PROTOCOL.md"],
      ...readdirSync("docs").map((name) => join("docs", name)),
    ];
    for (const file of citing)
      for (const [cited] of readFileSync(file, "utf8").matchAll(
        /\brules? \d+(?:(?:, | and )\d+)*/gi,
      ))
        for (const [number] of cited.matchAll(/\d+/g))
          t.ok(known.has(number), `${file} cites ${cited}`);
    t.end();
  },
);

void t.test("what the documents name exists", (t) => {
  const documents = [
    ...["README.md", "PROTOCOL.md", "CHANGELOG.md"],
    ...readdirSync("docs").map((name) => join("docs", name)),
  ];
  for (const document of documents) {
    const text = readFileSync(document, "utf8");
    for (const [, link = ""] of text.matchAll(/\]\(([^)#\s]+)[^)]*\)/g))
      if (!/^\w+:/.test(link))
        t.ok(existsSync(join(dirname(document), link)), `${document}: ${link}`);
  }
  const book = readFileSync("docs/delivery.md", "utf8");
  for (const [, file = ""] of book.matchAll(
    /`((?:shared|ws-fn|http-fn|test)\/[\w./-]+)`/g,
  ))
    t.ok(existsSync(file), `docs/delivery.md: ${file}`);
  t.end();
});
