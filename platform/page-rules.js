// The rules in force on the page: the timeouts of each function in a row, and every switch.

import { at, duration, el } from "./page-parts.js";

/** Shows the preset, every function with what ends its requests, and the switches. */
export function showRules(rules) {
  const changed = Object.keys(rules.changed);
  at("preset").textContent = rules.preset
    ? `rules: ${rules.preset}`
    : `rules: documented, ${changed.length} changed`;
  at("function").replaceChildren(
    el("option", { value: "" }, "every function"),
    ...rules.functions.map(({ functionName }) =>
      el("option", { value: functionName }, functionName),
    ),
  );
  at("chains").replaceChildren(...rules.functions.map(makeChain));
  at("switches-title").textContent =
    `All switches${changed.length ? `, ${changed.length} not as documented` : ""}`;
  at("switches").replaceChildren(
    ...Object.entries(rules.rules).flatMap(([name, value]) => {
      const isChanged = changed.includes(name);
      const was = isChanged ? ` (documented: ${rules.changed[name]})` : "";
      return [
        el("dt", {}, name),
        el("dd", { class: isChanged ? "changed" : "" }, `${value}${was}`),
      ];
    }),
  );
}

function makeChain({ functionName, timeouts }) {
  return el(
    "div",
    { class: "chain" },
    el("p", {}, el("b", {}, functionName), " ends a request after"),
    el(
      "ol",
      {},
      ...timeouts.map(({ name, seconds, status, what }) =>
        el(
          "li",
          { title: what },
          el("b", {}, duration(seconds * 1000)),
          `${name} → ${status}`,
        ),
      ),
    ),
    ...timeouts
      .filter((one) => one.note)
      .map((one) => el("p", { class: "note" }, `${one.name}: ${one.note}`)),
  );
}
