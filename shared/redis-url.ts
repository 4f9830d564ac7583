/**
 * `REDIS_URL`, read to the last character: what is not understood is refused, and no error says a piece of it, since any
 * piece may be one of the password.
 */

export interface RedisAddress {
  scheme: "redis" | "rediss" | "redis+sentinel" | "redis+cluster";
  /** "" is none. */
  username: string;
  /** "" is none. */
  password: string;
  nodes: { host: string; port: number }[];
  /** Of the master, for Sentinels. */
  name: string;
  db: number;
}

const reserved =
  "its user name or password has one of @ / ? # [ ] % or a space in it: write each as %40 %2F %3F %23 %5B %5D %25 %20";

/** Throws a sentence. */
export function parseRedisUrl(url: string): RedisAddress {
  const [, scheme, authority = "", rest = ""] =
    /^(rediss?|redis\+sentinel|redis\+cluster):\/\/([^/?#]+)(.*)$/s.exec(url) ??
    [];
  if (scheme === undefined)
    throw new Error(
      "must begin with redis://, rediss://, redis+sentinel:// or redis+cluster:// and name a host",
    );
  // An "@" further on: the authority ended inside of the password.
  if (rest.includes("@") || authority.split("@").length > 2)
    throw new Error(reserved);
  const at = authority.indexOf("@");
  const { username, password } = credentialsOf(
    authority.slice(0, Math.max(at, 0)),
  );
  const isSentinel = scheme === "redis+sentinel";
  const nodes = authority
    .slice(at + 1)
    .split(",")
    .map((node) => nodeOf(node, isSentinel ? 26_379 : 6_379));
  const path = /^(?:\/([^/?#]*))?(?:\/([^/?#]*))?$/.exec(rest);
  if (!path)
    throw new Error(
      `may go on after its hosts with ${isSentinel ? "/<name of the master>/<number of the database>" : "/<number of the database>"} and nothing else`,
    );
  const [, first = "", second = ""] = path;
  const db = isSentinel ? second : first;
  if (!/^\d{0,4}$/.test(db) || (!isSentinel && second !== ""))
    throw new Error("names a database that is no number");
  if (scheme === "redis+cluster" && Number(db) !== 0)
    throw new Error("names a database, and a Cluster has only one");
  if (isSentinel && !/^[A-Za-z0-9._-]*$/.test(first))
    throw new Error("names a master that can be none");
  if (!isSentinel && scheme !== "redis+cluster" && nodes.length > 1)
    throw new Error(
      "names several hosts: that is redis+sentinel:// or redis+cluster://",
    );
  return {
    scheme: scheme as RedisAddress["scheme"],
    username,
    password,
    nodes,
    name: isSentinel ? first || "mymaster" : "",
    db: Number(db),
  };
}

function credentialsOf(text: string): { username: string; password: string } {
  if (/[\s[\]]/.test(text)) throw new Error(reserved);
  // A user name has no ":", a password may (RFC 3986, 3.2.1).
  const cut = text.indexOf(":");
  try {
    return {
      username: decodeURIComponent(cut < 0 ? text : text.slice(0, cut)),
      password: cut < 0 ? "" : decodeURIComponent(text.slice(cut + 1)),
    };
  } catch {
    throw new Error(reserved);
  }
}

function nodeOf(text: string, port: number): { host: string; port: number } {
  const [, six, name, digits] =
    /^(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+))(?::(\d{1,5}))?$/.exec(text) ??
    [];
  const host = six ?? name;
  const given = digits === undefined ? port : Number(digits);
  if (host === undefined || given < 1 || given > 65_535)
    throw new Error(
      "has a host that is not host:port; a password stands before the host: redis://:password@host",
    );
  return { host, port: given };
}

/** As it may be shown: everything but the credentials. Nothing of a URL that is none. */
export function shownRedisUrl(url: string): string {
  try {
    const { username, password } = parseRedisUrl(url);
    return username === "" && password === ""
      ? url
      : url.replace(/\/\/[^/]*@/, "//***@");
  } catch {
    return "***";
  }
}
