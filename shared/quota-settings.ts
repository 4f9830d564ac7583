/**
 * Quotas in words: which there are, what they are by default, and how they are written in `KEY_QUOTAS`, `USER_QUOTAS`,
 * `CONNECTION_QUOTAS` and behind a key of `API_KEYS`: `messages=1000/10+scheduled=500+bytes=off`, 1,000 in 10 seconds and 500 at
 * a time.
 *
 * A rate is a token bucket: at most `limit` at once, and as much again in `windowSeconds`; so in any stretch of that
 * length at most twice the limit. How that bounds what lives says allowance.ts.
 */

/** `limit` in `windowSeconds`, or of what lives `limit` at a time; Infinity is no limit. */
export interface Quota {
  readonly limit: number;
  /** Of what lives: for how long it counts at least, also where it goes earlier. */
  readonly windowSeconds: number;
  readonly lives?: boolean;
  /** Instead of a limit: an equal share of Redis's memory for each key, once that runs short (key-quotas.ts). */
  readonly isFair?: boolean;
}

/** The quotas of one kind of subject, all of them. */
export type Quotas<Name extends string = string> = Readonly<
  Record<Name, Quota>
>;

const per = (windowSeconds: number, limit: number): Quota => ({
  limit,
  windowSeconds,
});
const alive = (windowSeconds: number, limit: number): Quota => ({
  limit,
  windowSeconds,
  lives: true,
});

/** The lengths of life that are told apart: a minute, ten, two hours, a day, a week. Nothing of ours lives longer. */
export const livesSeconds = [60, 600, 7_200, 86_400, 604_800] as const;
const windowSecondsMax = 604_800;
const limitMax = Number.MAX_SAFE_INTEGER;

/**
 * What an API key may do. The first four are rates, several times what one bridge takes on a busy machine. The others
 * are what may live of it: `stored` bytes, `names` of groups that begin to exist, prepared `connections`, `scheduled` messages
 * and `idempotency` keys.
 */
export const keyQuotas = {
  requests: per(10, 500_000),
  messages: per(10, 1_000_000),
  bytes: per(10, 2_147_483_648),
  connects: per(10, 100_000),
  stored: { ...alive(60, Infinity), isFair: true },
  // A name that nobody hears goes with its receipts, an hour and five minutes after it.
  names: alive(7_200, 500_000),
  connections: alive(600, 500_000),
  scheduled: alive(60, 500_000),
  idempotency: alive(60, 20_000_000),
} satisfies Quotas;
export type KeyQuota = keyof typeof keyQuotas;

/** What one user may do, over all connections: many devices, or many pages with one name. */
export const userQuotas = {
  connects: per(60, 10_000),
  connections: per(3_600, 20_000),
  publishes: per(60, 6_000),
  bytes: per(300, 67_108_864),
  names: per(3_600, 2_000),
} satisfies Quotas;
export type UserQuota = keyof typeof userQuotas;

/** What one connection may do, whoever has it. `bytes` live as long as a group's history. */
export const connectionQuotas = {
  publishes: per(60, 600),
  bytes: per(300, 16_777_216),
  names: per(3_600, 200),
} satisfies Quotas;
export type ConnectionQuota = keyof typeof connectionQuotas;

const limitWord = ({ limit, isFair }: Quota): string =>
  isFair ? "fair" : limit === Infinity ? "off" : String(limit);

/** Reads `name=limit/seconds+…`, without seconds for what lives; throws a sentence. What is not named is not in the answer. */
export function parseQuotas<Name extends string>(
  text: string,
  known: Quotas<Name>,
): Partial<Quotas<Name>> {
  const quotas: Partial<Record<Name, Quota>> = {};
  for (const part of text.split("+")) {
    if (part === "") continue;
    const [, name = "", limit, seconds] =
      /^([a-z]+)=(off|fair|\d{1,16})(?:\/(\d{1,6}))?$/.exec(part.trim()) ?? [];
    if (limit === undefined)
      throw new Error(
        `"${part}" is no quota such as messages=1000/10 (1,000 in 10 seconds) or messages=off`,
      );
    if (!Object.hasOwn(known, name))
      throw new Error(
        `there is no quota "${name}"; there are ${Object.keys(known).join(", ")}`,
      );
    if (Object.hasOwn(quotas, name))
      throw new Error(`the quota "${name}" is given twice`);
    const usual: Quota = known[name as Name];
    if (usual.lives && seconds !== undefined)
      throw new Error(
        `the quota "${name}" is of what lives at a time and has no seconds`,
      );
    const windowSeconds =
      seconds === undefined ? usual.windowSeconds : Number(seconds);
    if (windowSeconds < 1 || windowSeconds > windowSecondsMax)
      throw new Error(
        `the quota "${name}" needs a window of 1 to ${windowSecondsMax} seconds`,
      );
    const isFair = limit === "fair";
    if (isFair && !usual.isFair)
      throw new Error(`the quota "${name}" cannot be "fair"`);
    const number = isFair || limit === "off" ? Infinity : Number(limit);
    if (number !== Infinity && (number < 1 || number > limitMax))
      throw new Error(
        `the quota "${name}" needs a limit of 1 to ${limitMax}, or "off"`,
      );
    quotas[name as Name] = {
      limit: number,
      windowSeconds,
      ...(usual.lives && { lives: true }),
      ...(isFair && { isFair }),
    };
  }
  return quotas;
}

/** The same text again. */
export const showQuotas = (quotas: Partial<Quotas>): string =>
  Object.entries(quotas)
    .flatMap(([name, quota]) =>
      quota === undefined
        ? []
        : [
            `${name}=${limitWord(quota)}${quota.lives ? "" : `/${quota.windowSeconds}`}`,
          ],
    )
    .join("+");
