// The platform's page at work: it hears what changes and shows it. Whatever comes from outside, from a close reason to
// a printed line, becomes text and never markup.

import { showBill } from "./page-bill.js";
import { fillFacts } from "./page-facts.js";
import {
  at,
  clockTime,
  count,
  duration,
  el,
  money,
  short,
} from "./page-parts.js";
import { showRules } from "./page-rules.js";

const { EventSource, fetch, setInterval, setTimeout } = globalThis;
const { clearTimeout, URLSearchParams, getSelection } = globalThis;

const MAX_ROWS = 200;
const MAX_BARS = 80;
const MAX_LINES = 1500;
/** How long a tile stays after its instance has gone. */
const GONE_MS = 4000;
const NOTE_MS = 4000;

/** What is known: by instance, by request, in order. */
const instances = new Map();
const invocations = new Map();
const tiles = new Map();
const rows = new Map();
let rules = { functions: [] };
let bill;
let clockAhead = 0;
let which = "all";
let onlyRequest;
/** Lines that were fetched, as often as they were there: the live feed may bring them once more. */
const fetched = new Map();
let concurrent = new Set();

const now = () => Date.now() + clockAhead;
const isRunning = (one) => one.endedAt === null;
const isBad = (one) => !isRunning(one) && one.statusCode !== 200;

// ---- what comes in

const source = new EventSource("/_platform/events");
source.addEventListener("open", () => live("live"));
source.addEventListener("error", () => live("lost"));
source.addEventListener("picture", ({ data }) => showPicture(JSON.parse(data)));
source.addEventListener("change", ({ data }) => showChange(JSON.parse(data)));

function live(state) {
  at("live").dataset.state = state;
  at("live").textContent = state === "live" ? "live" : "no connection";
}

function showPicture(picture) {
  clockAhead = picture.now - Date.now();
  rules = picture.rules;
  concurrent = new Set(
    rules.functions
      .filter((one) => one.concurrency > 1)
      .map((one) => one.functionName),
  );
  for (const known of [instances, invocations, tiles, rows]) known.clear();
  at("pools").replaceChildren();
  at("rows").replaceChildren();
  at("strip").replaceChildren();
  at("lines").replaceChildren();
  showRules(rules);
  for (const one of picture.instances) showInstance(one);
  for (const one of picture.invocations.reverse()) showInvocation(one);
  showLines(picture.logs, 0);
  bill = picture.bill;
  showBill(bill);
  showFigures();
}

function showChange(change) {
  clockAhead = change.now - Date.now();
  for (const one of change.instances ?? []) showInstance(one);
  for (const id of change.gone ?? []) showGone(id);
  for (const one of change.invocations) showInvocation(one);
  showLines(change.logs.filter(isNew), change.skipped);
  if (change.bill) {
    bill = change.bill;
    showBill(bill);
  }
  showFigures();
}

// ---- figures

function showFigures() {
  const all = [...invocations.values()];
  const open = all.filter(
    (one) => isRunning(one) && one.establishedAt !== null,
  );
  const failed = all.filter(isBad);
  const total = bill?.total;
  const states = Map.groupBy
    ? Map.groupBy(instances.values(), (one) => one.state)
    : new Map();
  const some = (state) => states.get(state)?.length ?? 0;
  at("open").textContent = count(open.length);
  at("open-more").textContent =
    `${count(instances.size)} instances: ${some("serving")} serving, ${some("ready")} ready, ${some("frozen")} frozen`;
  at("count").textContent = count(total?.invocations ?? 0);
  at("count-more").textContent =
    `${count(total?.notBilled ?? 0)} refused before execution, not billed`;
  at("looked-at").textContent = count(all.length);
  at("failed").textContent = count(failed.length);
  at("failed").classList.toggle("some", failed.length > 0);
  const last = failed.at(-1);
  at("failed-more").textContent = last
    ? `last: ${last.statusCode} ${last.statusMessage}`
    : "none";
  at("currency").textContent = bill?.currency ?? "";
  at("cost").textContent = money(total?.cost.total);
  at("cost-more").textContent =
    `${money(bill?.projection.month)} a month at this rate`;
}

// ---- instances

function pool(functionName) {
  const id = `pool-${functionName}`;
  const known = at(id);
  if (known) return known;
  const facts = rules.functions.find(
    (one) => one.functionName === functionName,
  );
  const what = facts
    ? ` · ${facts.protocol} · ${facts.memoryMb} MB · ${facts.concurrency === 1 ? "one connection per instance" : `${facts.concurrency} at once per instance`}`
    : "";
  const made = el("div", { class: "tiles", id });
  at("pools").append(
    el(
      "div",
      { class: "pool" },
      el("p", {}, el("b", {}, functionName), what),
      made,
    ),
  );
  return made;
}

const stateWords = {
  initialising: "starting",
  recycling: "ending",
  provisioning: "starting",
};

function showInstance(one) {
  instances.set(one.instanceId, one);
  let tile = tiles.get(one.instanceId);
  if (tile === undefined) {
    tile = makeTile(one.instanceId);
    tiles.set(one.instanceId, tile);
    pool(one.functionName).append(tile.root);
  }
  const { parts } = tile;
  tile.root.dataset.state = one.state;
  parts.state.textContent = stateWords[one.state] ?? one.state;
  parts.served.textContent = `served ${count(one.served)}${one.provisioned ? ", provisioned" : ""}`;
  parts.pid.textContent = `pid ${one.pid ?? "–"}`;
  const used = one.memoryBytes / 1048576;
  parts.memory.textContent = used
    ? `${used.toFixed(0)} / ${one.memoryMb} MB`
    : `${one.memoryMb} MB`;
  const [first, ...others] = one.requestIds;
  parts.request.hidden = first === undefined;
  parts.request.textContent = first
    ? `${short(first)}${others.length ? ` +${others.length}` : ""}`
    : "";
  parts.request.dataset.request = first ?? "";
  tickTile(tile, one);
}

function tickTile({ parts }, one) {
  parts.since.textContent = `${duration(now() - Date.parse(one.since))}`;
}

function makeTile(id) {
  const parts = {
    state: el("b"),
    since: el("span", { class: "quiet" }),
    request: el("button", {
      class: "link",
      type: "button",
      title: "Show its log",
    }),
    memory: el("span", { class: "quiet" }),
    pid: el("span", { class: "quiet" }),
    served: el("span", { class: "quiet" }),
  };
  const act = (what, label, title) => {
    const button = el("button", { type: "button", title }, label);
    button.addEventListener("click", () => change(id, what));
    button.setAttribute("aria-label", `${label} instance ${id}`);
    return button;
  };
  parts.request.addEventListener("click", () => {
    followRequest(parts.request.dataset.request);
    at("log").scrollIntoView({ block: "nearest" });
  });
  const acts = el(
    "span",
    { class: "acts" },
    act(
      "recycle",
      "Replace",
      "Ends it in good order; a new one starts when needed",
    ),
    act("kill", "Kill", "Ends its process at once, as a crash does: 439"),
  );
  const root = el(
    "article",
    { class: "tile" },
    el("div", {}, parts.state, parts.since),
    el("div", {}, el("code", { class: "quiet" }, id), parts.request),
    el("div", {}, parts.memory, parts.pid),
    el("div", {}, parts.served, acts),
  );
  return { root, parts };
}

function showGone(id) {
  const tile = tiles.get(id);
  instances.delete(id);
  tiles.delete(id);
  if (tile === undefined) return;
  tile.root.dataset.state = "gone";
  tile.parts.state.textContent = "gone";
  tile.parts.since.textContent = "";
  tile.parts.request.hidden = true;
  setTimeout(() => tile.root.remove(), GONE_MS);
}

async function change(id, what) {
  try {
    const answer = await fetch(`/_platform/instances/${id}/${what}`, {
      method: "POST",
    });
    const words = what === "kill" ? "is killed" : "is replaced";
    note(answer.ok ? `${id} ${words}.` : (await answer.json()).detail);
  } catch (error) {
    note(String(error));
  }
}

let noteTimer;
function note(text) {
  at("note").textContent = text;
  clearTimeout(noteTimer);
  noteTimer = setTimeout(() => note(""), NOTE_MS);
}

// ---- invocations

function showInvocation(one) {
  // Newest last, whatever has just changed of an older one.
  invocations.set(one.requestId, one);
  let row = rows.get(one.requestId);
  if (row === undefined) {
    row = makeRow(one);
    rows.set(one.requestId, row);
    at("rows").prepend(row.root);
    at("strip").append(row.bar);
    if (at("strip").childElementCount > MAX_BARS)
      at("strip").firstChild.remove();
    if (rows.size > MAX_ROWS) forgetOldest();
  }
  const { root, parts } = row;
  root.className = isRunning(one) ? "running" : isBad(one) ? "bad" : "good";
  parts.status.textContent = one.statusCode;
  parts.status.title = one.statusMessage;
  parts.why.textContent = isRunning(one)
    ? one.establishedAt === null
      ? "Waiting for the function."
      : "Connected."
    : one.why;
  parts.meta.textContent = [
    one.functionName,
    clockTime(one.startedAt),
    short(one.requestId),
    ...(one.coldStart ? ["cold start"] : []),
    ...(one.counters.clientMessages + one.counters.serverMessages > 0
      ? [
          `↑ ${count(one.counters.clientMessages)} ↓ ${count(one.counters.serverMessages)}`,
        ]
      : []),
    ...(one.warnings.length > 0 ? [`⚠ ${one.warnings.length}`] : []),
  ].join(" · ");
  parts.closed.textContent = closedBy(one);
  showBar(row, one);
  tickRow(row, one);
  if (parts.details.open) fillFacts(parts.facts, one, rules, followRequest);
  root.hidden = !isShown(one);
  at("no-rows").hidden = true;
}

/** Its bar in the strip: from 1 ms to about two hours in equal steps for each factor of ten. */
function showBar({ bar, root }, one) {
  bar.className = root.className;
  bar.title = `${one.statusCode} ${one.functionName}: ${one.why}`;
  const ms = Math.max(1, one.billing?.durationMs ?? 1);
  bar.style.height = `${Math.min(100, 8 + (Math.log10(ms) / 7) * 92)}%`;
}

function closedBy(one) {
  if (isRunning(one)) return "";
  if (one.closeInitiator === "none") return "answered";
  const code = one.closeCode === null ? "" : `, ${one.closeCode}`;
  return `by ${one.closeInitiator}${code}`;
}

function tickRow({ parts }, one) {
  const from = one.establishedAt ?? one.startedAt;
  const to = one.endedAt ? Date.parse(one.endedAt) : now();
  parts.duration.textContent = duration(to - Date.parse(from));
  parts.cost.textContent = one.billing ? money(one.billing.cost) : "free";
}

function makeRow(one) {
  const parts = {
    status: el("span", { class: "status" }),
    why: el("div", { class: "why" }),
    meta: el("div", { class: "meta" }),
    closed: el("span", { class: "closed" }),
    duration: el("b"),
    cost: el("span"),
    facts: el("dl", { class: "facts" }),
  };
  parts.details = el(
    "details",
    {},
    el(
      "summary",
      {},
      parts.status,
      el("div", {}, parts.why, parts.meta),
      parts.closed,
      el("span", { class: "time" }, parts.duration, parts.cost),
    ),
    parts.facts,
  );
  parts.details.addEventListener("toggle", () => {
    if (!parts.details.open) return;
    const known = invocations.get(one.requestId);
    if (known) fillFacts(parts.facts, known, rules, followRequest);
  });
  const bar = el("li");
  bar.addEventListener("click", () => {
    parts.details.open = true;
    parts.details.scrollIntoView({ block: "nearest" });
  });
  return { root: el("li", {}, parts.details), bar, parts };
}

function forgetOldest() {
  for (const [id, one] of invocations) {
    if (isRunning(one)) continue;
    invocations.delete(id);
    rows.get(id)?.root.remove();
    rows.get(id)?.bar.remove();
    rows.delete(id);
    return;
  }
}

function isShown(one) {
  const name = at("function").value;
  if (name !== "" && one.functionName !== name) return false;
  if (which === "running") return isRunning(one);
  return which === "all" || isBad(one);
}

function filterRows() {
  for (const [id, { root }] of rows)
    root.hidden = !isShown(invocations.get(id));
}

at("which").addEventListener("click", ({ target }) => {
  if (!target.dataset.which) return;
  which = target.dataset.which;
  for (const button of at("which").children)
    button.setAttribute("aria-pressed", String(button === target));
  filterRows();
});
at("function").addEventListener("change", filterRows);

// ---- log

function showLines(records, skipped) {
  const list = at("lines");
  for (const record of records) list.append(makeLine(record));
  if (skipped > 0) {
    const message = `(${skipped} lines were too fast to be shown here)`;
    list.append(
      makeLine({
        ...records.at(-1),
        requestId: null,
        type: "Platform",
        level: "INFO",
        message,
      }),
    );
  }
  while (list.childElementCount > MAX_LINES) list.firstChild.remove();
  at("no-lines").hidden = list.childElementCount > 0;
  scrollLog();
}

function makeLine(record) {
  const { type, level, functionName, instanceId, requestId, message } = record;
  const kind =
    level === "ERROR" ? "error" : type === "Platform" ? "platform" : "user";
  const whose =
    requestId ??
    (concurrent.has(functionName)
      ? "several requests at once: nobody can tell whose line this is"
      : "of no request");
  const line = el(
    "li",
    { class: kind, title: whose },
    el("time", {}, clockTime(record.time)),
    el("span", { class: "from" }, `${functionName} ${instanceId ?? ""}`),
    el("span", { class: "what" }, message),
  );
  line.dataset.request = requestId ?? "";
  line.hidden = !isLineShown(line);
  return line;
}

function isLineShown(line) {
  if (onlyRequest !== undefined && line.dataset.request !== onlyRequest)
    return false;
  const text = at("log-text").value.toLowerCase();
  return text === "" || line.textContent.toLowerCase().includes(text);
}

function filterLines() {
  for (const line of at("lines").children) line.hidden = !isLineShown(line);
  scrollLog();
}

function scrollLog() {
  const list = at("lines");
  // Nobody wants the text to run away while it is being copied.
  const isSelecting = list.contains(getSelection()?.anchorNode ?? null);
  if (at("log-follow").checked && !(isSelecting && String(getSelection())))
    list.scrollTop = list.scrollHeight;
}

/** Shows the log of one request only: what is remembered of it, then what comes. */
async function followRequest(requestId) {
  onlyRequest = requestId;
  at("log-request").hidden = false;
  at("log-request").textContent = `only ${short(requestId)}  ✕`;
  at("log-request").title = "Show all lines again";
  filterLines();
  at("log").scrollIntoView({ block: "nearest" });
  const query = new URLSearchParams({ requestId, format: "json" });
  const answer = await fetch(`/_platform/logs?${query}`);
  const text = answer.ok ? (await answer.text()).trim() : "";
  if (text === "" || onlyRequest !== requestId) return;
  for (const line of [...at("lines").children])
    if (line.dataset.request === requestId) line.remove();
  const records = text.split("\n").map((line) => JSON.parse(line));
  fetched.clear();
  for (const record of records) {
    const key = JSON.stringify(record);
    fetched.set(key, (fetched.get(key) ?? 0) + 1);
  }
  showLines(records, 0);
}

/** False for a line of the live feed that was fetched before it came. */
function isNew(record) {
  const key = JSON.stringify(record);
  const times = fetched.get(key) ?? 0;
  if (times > 0) fetched.set(key, times - 1);
  return times === 0;
}

at("log-request").addEventListener("click", () => {
  onlyRequest = undefined;
  at("log-request").hidden = true;
  filterLines();
});
at("log-text").addEventListener("input", filterLines);
at("log-follow").addEventListener("change", scrollLog);

// What runs goes on running between two events.
setInterval(() => {
  for (const [id, tile] of tiles) tickTile(tile, instances.get(id));
  for (const [id, row] of rows) {
    const one = invocations.get(id);
    if (isRunning(one)) tickRow(row, one);
  }
}, 1000);
