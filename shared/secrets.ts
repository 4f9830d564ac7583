/**
 * Takes secrets out of a text that goes to a terminal or a log. Two ways, since each finds what the other cannot:
 *
 * - by value: what the configuration holds (`keepSecret`), wherever it stands and however it is written: percent-encoded
 *   wholly, partly or twice, escaped for JSON, base64 or base64url at any alignment, hex;
 * - by form: JWTs, `whsec_…`, `Authorization` values, `bearer.<token>`, the user information of a URL.
 *
 * It is the last line. The first is that a secret is not written: who logs names what it knows (a route, a code), and not
 * what it was sent.
 */

const MASK = "***";

/**
 * A shorter value is not looked for: it stands in ordinary words as well, and to black those out would say what it is.
 * It is kept out by whoever shows the variable (redis-url.ts).
 */
export const SECRET_LENGTH_MIN = 8;

interface Known {
  /** One of these in the plainest form of a text means that the secret is there. */
  needles: readonly string[];
  /** Finds it as it is written. Made when it is needed: it hardly ever is. */
  pattern: RegExp | undefined;
  value: string;
}

const known = new Map<string, Known>();

/** Each value will be taken out from now on, as long as the process lives. */
export function keepSecret(...values: readonly string[]): void {
  for (const value of values)
    if (value.length >= SECRET_LENGTH_MIN && !known.has(value))
      known.set(value, {
        value,
        pattern: undefined,
        needles: [
          plainest(value),
          // As a form writes it.
          plainest(value.replaceAll(" ", "+")),
          ...cores(value).map(standard),
        ],
      });
}

/** Bytes as a string of characters below 256, so that percent-encoded and other characters compare. */
const bytesOf = (text: string): string =>
  Buffer.from(text, "utf8").toString("latin1");

/** A text with one level of writing after the other taken off: JSON's escapes, percent-encoding, backslashes. */
function plainest(text: string): string {
  const units = text.includes("\\u")
    ? text.replace(/\\+u([0-9a-f]{4})/gi, (_, hex: string) =>
        String.fromCharCode(Number.parseInt(hex, 16)),
      )
    : text;
  let bytes = bytesOf(units);
  if (bytes.includes("%"))
    bytes = bytes.replace(/%(?:25)*([0-9a-f]{2})/gi, (_, hex: string) =>
      String.fromCharCode(Number.parseInt(hex, 16)),
    );
  return bytes.includes("\\") ? bytes.replaceAll("\\", "") : bytes;
}

/** base64url as base64. */
const standard = (text: string): string =>
  text.replaceAll("-", "+").replaceAll("_", "/");

/** What of a value's base64 does not depend on its neighbours, for the three places it can begin at; and its hex. */
function cores(value: string): string[] {
  const bytes = Buffer.from(value, "utf8");
  const found = [0, 1, 2].map((before) => {
    const padded = Buffer.concat([Buffer.alloc(before), bytes]);
    const whole = Math.floor((padded.length * 8) / 6);
    return padded.toString("base64").slice(Math.ceil((before * 8) / 6), whole);
  });
  return [...found, bytes.toString("hex")];
}

const hex = (byte: number): string => byte.toString(16).padStart(2, "0");
const literal = (text: string): string =>
  text.replace(/[\\^$.*+?()[\]{}|/-]/g, "\\$&");

/** One character however it is written. */
function written(character: string): string {
  const percent = [...Buffer.from(character, "utf8")]
    .map((byte) => `%(?:25)*${hex(byte)}`)
    .join("");
  const units = Array.from({ length: character.length }, (_, at) =>
    character.charCodeAt(at).toString(16).padStart(4, "0"),
  );
  const plain =
    character === "\\"
      ? "\\\\+"
      : character === " "
        ? "[ +]"
        : character === "+" || character === "-"
          ? "\\\\*[+\\-]"
          : character === "/" || character === "_"
            ? "\\\\*[\\/_]"
            : `\\\\*${literal(character)}`;
  return `(?:${plain}|${percent}|${units.map((unit) => `\\\\+u${unit}`).join("")})`;
}

function patternOf(value: string): RegExp {
  const forms = [value, ...cores(value)].map((form) =>
    [...form].map(written).join(""),
  );
  return new RegExp(forms.join("|"), "giu");
}

/** By form. Each needs its neighbours, so that words about tokens stay words. */
const forms: readonly [RegExp, string][] = [
  [/whsec_[A-Za-z0-9+/=_-]+/g, `whsec_${MASK}`],
  [/\b(Bearer|Basic)(\s+|%20|\+)[^\s"',;<>]+/gi, `$1 ${MASK}`],
  [/\bbearer\.[A-Za-z0-9_.%-]+/gi, `bearer.${MASK}`],
];

/** What follows the scheme of a URL, whole: looking on for an "@" from each "//" would take the square of its length. */
const afterScheme = /:\/\/[^\s"'<>]+/g;

const maskUserinfo = (text: string): string =>
  text.replace(afterScheme, (found) => {
    const at = found.lastIndexOf("@");
    return at < 0 ? found : `://${MASK}${found.slice(at)}`;
  });

/** What may hold the head of a JWT or what is left of one, and all that hangs on it. */
const jwt = /e[wy][A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*)*/g;
const headLengthMin = 10;

/** The head begins with base64url of `{"` (RFC 7515, 3.1), with or without space between. */
const isHead = (text: string): boolean =>
  /^\{\s*"/.test(
    Buffer.from(text.slice(0, 24), "base64url").toString("latin1"),
  );

/** It may hang on another word: `they-eyJ…`. */
function maskTokens(text: string): string {
  return text.replace(jwt, (found) => {
    for (const { index } of found.matchAll(/e[wy]/g))
      if (found.length - index >= headLengthMin && isHead(found.slice(index)))
        return found.slice(0, index) + MASK;
    return found;
  });
}

/** Tokens that are (partly) percent-encoded: the whole run of such characters goes, its borders cannot be told. */
function maskEncodedTokens(text: string): string {
  if (!text.includes("%")) return text;
  return text.replace(/[A-Za-z0-9_.%-]{12,}/g, (run) => {
    if (!run.includes("%")) return run;
    const plain = plainest(run);
    return maskTokens(plain) === plain ? run : MASK;
  });
}

/** `text` with `***` for every secret in it. */
export function withoutSecrets(text: string): string {
  let out = text;
  if (known.size > 0) {
    const plain = plainest(text);
    const dense = standard(plain);
    const lower = dense.toLowerCase();
    const isIn = (needle: string) =>
      plain.includes(needle) ||
      dense.includes(needle) ||
      lower.includes(needle);
    for (const secret of known.values()) {
      if (!secret.needles.some(isIn)) continue;
      const { pattern } = secret;
      secret.pattern = pattern ?? patternOf(secret.value);
      const cleaned = out.replace(secret.pattern, MASK);
      // It is there in a way that nobody thought of: then nothing is shown, still as JSON.
      if (cleaned === out && !isGone(out, secret)) return `"${MASK}"`;
      out = cleaned;
    }
  }
  for (const [pattern, mask] of forms) out = out.replace(pattern, mask);
  return maskTokens(maskEncodedTokens(maskUserinfo(out)));
}

function isGone(text: string, { needles }: Known): boolean {
  const plain = plainest(text);
  const dense = standard(plain);
  return !needles.some(
    (needle) => plain.includes(needle) || dense.includes(needle),
  );
}
