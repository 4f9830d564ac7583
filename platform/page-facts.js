// What is behind one invocation when its line on the page is opened: counters, how near it came to the limits, its bill.

import { bytes, clockTime, count, duration, el, money } from "./page-parts.js";

/** Fills the list anew. `followRequest` shows the log of a request. */
export function fillFacts(list, one, { rules }, followRequest) {
  const from = one.establishedAt ?? one.startedAt;
  const end = one.endedAt ?? new Date().toISOString();
  const seconds = Math.max(1, (Date.parse(end) - Date.parse(from)) / 1000);
  const { counters, billing } = one;
  const log = el("button", { type: "button" }, "Show its log");
  log.addEventListener("click", () => followRequest(one.requestId));
  list.replaceChildren(
    fact("request", el("code", {}, one.requestId)),
    fact(
      "instance",
      el("code", {}, one.instanceId ?? "none"),
      one.coldStart ? " (cold start)" : "",
    ),
    fact("status", `${one.statusCode} ${one.statusMessage}`),
    fact(
      "time",
      `started ${clockTime(one.startedAt)}`,
      one.establishedAt ? `, established ${clockTime(one.establishedAt)}` : "",
      one.endedAt ? `, ended ${clockTime(one.endedAt)}` : "",
    ),
    fact(
      "from the client",
      `${count(counters.clientMessages)} messages, ${bytes(counters.clientBytes)}`,
    ),
    fact(
      "from the function",
      `${count(counters.serverMessages)} messages, ${bytes(counters.serverBytes)}`,
    ),
    ...(one.establishedAt === null
      ? []
      : [
          gauge(
            "client's messages a second, on average",
            counters.clientMessages / seconds,
            rules.messagesPerSecond,
            (value) => value.toFixed(1),
          ),
          gauge(
            "client's bytes a second, on average",
            counters.clientBytes / seconds,
            rules.bytesPerSecond,
            bytesRounded,
          ),
        ]),
    fact(
      "bill",
      billing
        ? `${billing.memoryMb} MB × ${duration(billing.billedMs)} = ${billing.gbSeconds} GB·s, ` +
            `${bytes(billing.egressBytes)} sent: ${money(billing.cost)} ${billing.currency}`
        : "not executed, so not billed",
    ),
    ...one.warnings.map((text) => wide("warning", text)),
    wide("", log),
  );
}

const bytesRounded = (value) => bytes(Math.round(value));

function fact(name, ...value) {
  return el("div", {}, el("dt", {}, name), el("dd", {}, ...value));
}

function wide(name, ...value) {
  const made = fact(name, ...value);
  made.className = "wide";
  return made;
}

/** How much of a limit was used. */
function gauge(name, value, limit, words) {
  const meter = el("meter", {
    min: 0,
    max: limit,
    high: limit * 0.8,
    optimum: 0,
    value: Math.min(value, limit),
  });
  meter.setAttribute("aria-label", name);
  return fact(name, meter, ` ${words(value)} of ${words(limit)}`);
}
