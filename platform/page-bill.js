// The bill on the page, and the question what it would be with other settings.

import { at, bytes, count, el, money } from "./page-parts.js";

const { fetch, URLSearchParams } = globalThis;

/** Shows what has been used so far, and what that would be in an hour, a day, a month. */
export function showBill(bill) {
  const row = (name, one, kind) =>
    el(
      "tr",
      { class: kind },
      el("td", {}, name),
      el("td", {}, count(one.invocations)),
      el("td", {}, Number(one.gbSeconds).toFixed(3)),
      el("td", {}, bytes(one.egress.response)),
      el("td", {}, money(one.cost.total)),
    );
  at("bill-rows").replaceChildren(
    ...bill.functions.map((one) => row(one.functionName, one, "")),
    row("together", bill.total, "sum"),
  );
  const idle = Number(bill.total.provisionedIdleGbSeconds);
  if (idle > 0)
    at("bill-rows").append(
      el(
        "tr",
        {},
        el(
          "td",
          { colspan: "5" },
          `and ${idle.toFixed(3)} GB·s provisioned, waiting`,
        ),
      ),
    );
  at("projection").replaceChildren(
    ...["hour", "day", "month"].map((name) =>
      el(
        "div",
        {},
        el("dt", {}, name === "hour" ? "an hour" : `a ${name}`),
        el("dd", {}, money(bill.projection[name])),
      ),
    ),
  );
  const { name, asOf, notes } = bill.priceBook;
  at("prices").textContent =
    `${bill.currency}, ${name} (${asOf}). ${notes[0] ?? ""}`;
}

at("what-if").addEventListener("change", async () => {
  const form = at("what-if");
  const wish = new URLSearchParams();
  for (const { name, value } of form.querySelectorAll("select"))
    if (value !== "") wish.set(name, value);
  if (String(wish) === "")
    return void (form.querySelector("output").value = "");
  const answer = await fetch(`/_platform/billing?${wish}`);
  const { whatIf, projection } = await answer.json();
  form.querySelector("output").value = whatIf
    ? `${money(whatIf.projection.month)} a month instead of ${money(projection.month)}. ${whatIf.note}`
    : "No answer.";
});
at("what-if").addEventListener("submit", (event) => event.preventDefault());
