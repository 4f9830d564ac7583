// What `npm test` shows of tap's output (TAP 14): a line per test file, what failed in it and what was skipped, and
// the totals. tap's own reporters keep silent about a file that does not even start, and about processes' last lines.

/** Numbers of assertions, as tap counts them. */
export interface Totals {
  passed: number;
  failed: number;
  skipped: number;
}

/** Parts of a failure's details that only repeat what the stack says. */
const UNINTERESTING = ["at", "source"];
/** What tells how a file's process ended; the rest is its command line. */
const PROCESS_FACTS = /^ {2}(exitCode|signal|expired|error): (?!null)/;

interface Details {
  /** Of the result they belong to. */
  indent: number;
  isShown: boolean;
  /** Whether the entry under way is worth showing. */
  isKeyShown: boolean;
}

/** Takes tap's output line by line and prints what a reader needs of it. */
export class TapOutput {
  readonly #print: (line: string) => void;
  /** Names of the subtests that are under way, by their indentation. */
  readonly #open = new Map<number, string>();
  /** About the file under way: shown when it has failed … */
  #failures: string[] = [];
  /** … and shown anyway. */
  #skips: string[] = [];
  /** The failure whose details are being read. */
  #details: Details | undefined;
  #totals: Totals | undefined;

  constructor(print: (line: string) => void) {
    this.#print = print;
  }

  /** Undefined until tap has said them at its end: before that it has not run through. */
  get totals(): Totals | undefined {
    return this.#totals;
  }

  line(line: string): void {
    const text = line.trimStart();
    const indent = line.length - text.length;
    if (this.#details && this.#takeDetail(line, text, indent)) return;
    const result = /^(ok|not ok) \d+ - (.*?)(?: # time=([\d.]+m?s))?$/.exec(
      text,
    );
    if (result) {
      const [, word, name = "", time = ""] = result;
      this.#takeResult(indent, word === "ok", name, time);
    } else if (text.startsWith("# Subtest: ")) {
      this.#open.set(indent, text.slice("# Subtest: ".length));
    } else if (text.startsWith("# { total: ") && indent === 0) {
      this.#totals = parseTotals(text);
    } else if (text.startsWith("# ") && !text.startsWith("# time=")) {
      this.#failures.push(`    ${text}`);
    }
  }

  #takeResult(indent: number, isOk: boolean, name: string, time: string): void {
    const [, skipped, reason = ""] =
      /^(.*?) # (?:SKIP|TODO)(.*)$/i.exec(name) ?? [];
    const isSubtest = this.#open.get(indent) === name;
    if (isSubtest) this.#open.delete(indent);
    if (indent === 0) {
      this.#takeFile(isOk, name, time);
    } else if (skipped !== undefined) {
      this.#skips.push(`  skipped: ${this.#path(indent, skipped)}${reason}`);
    } else if (!isOk && !isSubtest) {
      this.#failures.push(`  ✖ ${this.#path(indent, name)}`);
      this.#details = { indent, isShown: true, isKeyShown: true };
    } else if (!isOk) {
      // Its parts have said what is wrong.
      this.#details = { indent, isShown: false, isKeyShown: false };
    }
  }

  #takeFile(isOk: boolean, name: string, time: string): void {
    this.#print(`${isOk ? "ok     " : "FAILED "} ${name}  ${time}`);
    if (!isOk) this.#failures.forEach(this.#print);
    this.#skips.forEach(this.#print);
    this.#failures = [];
    this.#skips = [];
    if (!isOk) this.#details = { indent: 0, isShown: true, isKeyShown: true };
  }

  /** One line of a failure's details (YAML between `---` and `...`); false when it is something else. */
  #takeDetail(line: string, text: string, indent: number): boolean {
    const details = this.#details;
    if (!details) return false;
    const base = details.indent + 2;
    if (text === "") return true;
    if (indent < base) {
      this.#details = undefined;
      return false;
    }
    if (indent === base && text === "---") return true;
    if (indent === base && text === "...") {
      this.#details = undefined;
      return true;
    }
    if (details.indent === 0) {
      if (PROCESS_FACTS.test(line)) this.#print(`  ${text}`);
      return true;
    }
    if (indent === base) {
      const key = text.slice(0, text.indexOf(":"));
      details.isKeyShown = !UNINTERESTING.includes(key);
    }
    if (details.isShown && details.isKeyShown) {
      this.#failures.push(`    ${line.slice(base)}`);
    }
    return true;
  }

  /** `outer > inner > name` */
  #path(indent: number, name: string): string {
    const outer = [...this.#open]
      .filter(([depth]) => depth > 0 && depth < indent)
      .sort(([a], [b]) => a - b)
      .map(([, title]) => title);
    return [...outer, name].join(" > ");
  }
}

/** `# { total: 7, pass: 3, fail: 3, skip: 1 }`, without what is zero. */
function parseTotals(text: string): Totals {
  const count = (word: string) =>
    Number(new RegExp(`\\b${word}: (\\d+)`).exec(text)?.[1] ?? 0);
  return {
    passed: count("pass"),
    failed: count("fail"),
    skipped: count("skip") + count("todo"),
  };
}
