// What is behind one invocation when its line on the page is opened: counters, how near it came to the limits, its bill.

import { bytes, clockTime, count, duration, el, money } from "./page-parts.js";

/** Fills the list anew. `followRequest` shows the log of a request. */
export function fillFacts(list, one, { rules }, followRequest) {
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
    ...(one.establishedAt === null ? [] : gauges(one, rules)),
    fact(
      "bill",
      billing
        ? `${billing.memoryMb} MB × ${duration(billing.billedMs)} = ${billing.gbSeconds} GB·s, ` +
            `${bytes(billing.egressBytes)} sent: ${money(billing.cost)} ${billing.currency}`
        : "not executed, so not billed",
    ),
    ...one.warnings.map((text) => wide("warning", text)),
    ...(one.exit?.stderr?.length > 0
      ? [
          wide(
            "last words of the process",
            el("pre", {}, one.exit.stderr.join("\n")),
          ),
        ]
      : []),
    wide("", log),
  );
}

/** The client's rates beside their limits: the busiest second where it was measured, else the average. */
function gauges(one, rules) {
  const from = Date.parse(one.establishedAt);
  const end = one.endedAt === null ? Date.now() : Date.parse(one.endedAt);
  const seconds = Math.max(1, (end - from) / 1000);
  const peak = one.meter?.client;
  const { clientMessages, clientBytes } = one.counters;
  const when = peak ? "in the busiest second" : "a second, on average";
  return [
    gauge(
      `client's messages ${when}`,
      peak?.peakMessagesPerSecond ?? clientMessages / seconds,
      rules.messagesPerSecond,
      (value) => String(Number(value.toFixed(1))),
    ),
    gauge(
      `client's bytes ${when}`,
      peak?.peakBytesPerSecond ?? clientBytes / seconds,
      rules.bytesPerSecond,
      bytesRounded,
    ),
  ];
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
