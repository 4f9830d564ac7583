// Query parameters of the platform's own pages: a misspelt or impossible one is an error, not an answer to another question.

export class QueryError extends Error {
  readonly code: "unknown_parameter" | "invalid_parameter";
  constructor(code: QueryError["code"], message: string) {
    super(message);
    this.name = "QueryError";
    this.code = code;
  }
}

export class Query {
  readonly #given: URLSearchParams;
  readonly #asked = new Set<string>();

  constructor(url: string) {
    this.#given = new URLSearchParams(/\?(.*)$/s.exec(url)?.[1]);
  }

  text(name: string): string | undefined {
    this.#asked.add(name);
    return this.#given.get(name) ?? undefined;
  }

  matching(name: string, pattern: RegExp): string | undefined {
    const value = this.text(name);
    if (value === undefined || pattern.test(value)) return value;
    throw new QueryError(
      "invalid_parameter",
      `${name} must match ${pattern.source}, not "${value}".`,
    );
  }

  number(name: string, min: number, max: number): number | undefined {
    const value = this.text(name);
    if (value === undefined) return undefined;
    const number = Number(value);
    if (/^\d+$/.test(value) && number >= min && number <= max) return number;
    throw new QueryError(
      "invalid_parameter",
      `${name} must be a whole number from ${min} to ${max}, not "${value}".`,
    );
  }

  /** All parameters have been asked for: another one is a mistake. */
  end(): void {
    for (const name of this.#given.keys())
      if (!this.#asked.has(name)) {
        const known = [...this.#asked].join(", ") || "none";
        throw new QueryError(
          "unknown_parameter",
          `There is no parameter ${name}; known here: ${known}.`,
        );
      }
  }
}
