// What the page is put together from: elements, and numbers as people read them.

const { document, Intl } = globalThis;

/** The element of that ID, which the page has. */
export const at = (id) => document.getElementById(id);

/** An element; children are other elements or text. */
export function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes))
    made.setAttribute(name, value);
  made.append(...children);
  return made;
}

const numbers = new Intl.NumberFormat("en");
export const count = (value) => numbers.format(value);

/** The first characters of an id are enough for eyes. */
export const short = (id) => id.slice(0, 8);

/** `1.2 s`, `3 min 20 s`: two units at most. */
export function duration(ms) {
  const value = Math.max(0, ms);
  if (value < 1000) return `${Math.round(value)} ms`;
  const seconds = value / 1000;
  if (seconds < 10) return `${Number(seconds.toFixed(1))} s`;
  if (seconds < 60) return `${Math.floor(seconds)} s`;
  const whole = Math.floor(seconds);
  const [big, bigName, small, smallName] =
    whole < 3600
      ? [Math.floor(whole / 60), "min", whole % 60, "s"]
      : [Math.floor(whole / 3600), "h", Math.floor((whole % 3600) / 60), "min"];
  return small === 0
    ? `${big} ${bigName}`
    : `${big} ${bigName} ${small} ${smallName}`;
}

export function bytes(value) {
  if (value < 1024) return `${value} B`;
  if (value < 1048576) return `${(value / 1024).toFixed(1)} KB`;
  return `${(value / 1048576).toFixed(1)} MB`;
}

/** Two digits that matter, however small it is. */
export function money(text) {
  const value = Number(text ?? 0);
  if (value === 0) return "0";
  if (value >= 0.1) return value.toFixed(2);
  const places = Math.min(10, 1 - Math.floor(Math.log10(value)));
  return value.toFixed(places);
}

/** Time of day with tenths, as the log has it. */
export function clockTime(iso) {
  const time = new Date(iso);
  const two = (value) => String(value).padStart(2, "0");
  const tenths = Math.floor(time.getMilliseconds() / 100);
  return `${two(time.getHours())}:${two(time.getMinutes())}:${two(time.getSeconds())}.${tenths}`;
}
