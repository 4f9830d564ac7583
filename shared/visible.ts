/**
 * What may reach a terminal, a line of a log, or an answer in text: nothing that steers a terminal, turns the order of
 * what is read, or hides. Such a character is written as JSON writes it (`\u001b`), so a line of JSON stays the same JSON.
 *
 * Line ends: a value stays on one line, its line feed becomes `\n`. A tab stays a tab. The result is for reading, not for
 * reading back: a backslash that was there before is not doubled.
 */

/** Most texts are plain; for them it is one look. */
const special = /[^\t\x20-\x7e]/;

/**
 * All controls but the tab (ESC, and C1 that some terminals obey like ESC), lone surrogates, line and paragraph separators,
 * marks, embeddings, overrides and isolates of bidirectional text, BOM, and what takes no room: zero width space, invisible
 * operators, annotation, tags. The joiners U+200C and U+200D stay, since Persian words and many emoji are made with them.
 */
const steering =
  /(?!\t)[\p{Cc}\p{Cs}\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\u{e0000}-\u{e007f}]/gu;

const short: Readonly<Record<string, string>> = { "\n": "\\n", "\r": "\\r" };

/** By UTF-16 units, as JSON has it. */
function escape(character: string): string {
  let out = "";
  for (let at = 0; at < character.length; at++)
    out += `\\u${character.charCodeAt(at).toString(16).padStart(4, "0")}`;
  return out;
}

/** `text` on one line, with all that is not for a reader's eyes made visible. */
export function visible(text: string): string {
  if (!special.test(text)) return text;
  return text.replace(steering, (found) => short[found] ?? escape(found));
}

/** The same for a text of several lines that we put together ourselves: its line feeds stay. */
export function visibleLines(text: string): string {
  if (!special.test(text)) return text;
  return text.split("\n").map(visible).join("\n");
}

/** JSON for answers and lines: the same value for a program, and nothing in it for a terminal to obey. */
export const visibleJson = (value: unknown): string =>
  visible(JSON.stringify(value));
