/** Where an attack goes, and what its attacker has: an API key and tokens of the application, both honestly come by. */
import { createHmac } from "node:crypto";
import http from "node:http";

export interface Target {
  readonly httpPort: number;
  readonly wsPort: number;
  /** The attacker's API key: every scope but `admin`. */
  readonly key: string;
  /** Signs tokens as the application does. */
  readonly secret: string;
}

/** What the application's key is called in TOKEN_KEYS. */
export const APPLICATION_KID = "app";
const TOKEN_SECONDS = 600;
const ANSWER_MS = 30_000;

const part = (value: object): string =>
  Buffer.from(JSON.stringify(value)).toString("base64url");

/** A token as the application signs them (RFC 7515, HS256), good for ten minutes unless `claims` say otherwise. */
export function tokenOf(
  { secret }: Pick<Target, "secret">,
  claims: Readonly<Record<string, unknown>>,
  type = "JWT",
): string {
  const iat = Math.floor(Date.now() / 1_000);
  const head = part({ alg: "HS256", typ: type, kid: APPLICATION_KID });
  const body = part({ iat, exp: iat + TOKEN_SECONDS, ...claims });
  const signed = `${head}.${body}`;
  const hmac = createHmac("sha256", Buffer.from(secret, "base64"));
  return `${signed}.${hmac.update(signed).digest("base64url")}`;
}

export interface Answer {
  readonly status: number;
  readonly headers: http.IncomingHttpHeaders;
  readonly body: Buffer;
}

export interface Call {
  readonly body?: string | Buffer;
  readonly headers?: Readonly<Record<string, string>>;
  /** Default: the target's. Null: none. */
  readonly key?: string | null;
  readonly agent?: http.Agent;
}

/** One request to http-fn, with the attacker's key. */
export function call(
  { httpPort, key: own }: Target,
  method: string,
  path: string,
  { body, headers = {}, key = own, agent }: Call = {},
): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const request = http.request(
      {
        host: "127.0.0.1",
        port: httpPort,
        method,
        path,
        timeout: ANSWER_MS,
        ...(agent && { agent }),
        headers: {
          ...(key !== null && { authorization: `Bearer ${key}` }),
          ...(body !== undefined && {
            "content-length": String(Buffer.byteLength(body)),
          }),
          ...headers,
        },
      },
      (response) => {
        const chunks: Buffer[] = [];
        response.on("data", (chunk: Buffer) => chunks.push(chunk));
        response.on("error", reject);
        response.on("end", () =>
          resolve({
            status: response.statusCode ?? 0,
            headers: response.headers,
            body: Buffer.concat(chunks),
          }),
        );
      },
    );
    request.on("timeout", () => request.destroy(new Error("no answer")));
    request.on("error", reject);
    request.end(body);
  });
}

/** A prepared connection and what opens it. */
export async function prepare(
  target: Target,
  wish: Readonly<Record<string, unknown>> = {},
): Promise<{ connectionId: string; token: string }> {
  const answer = await call(target, "POST", "/v1/connections", {
    body: JSON.stringify(wish),
    headers: { "content-type": "application/json" },
  });
  if (answer.status !== 201)
    throw new Error(`prepared: ${answer.status} ${answer.body.toString()}`);
  return JSON.parse(answer.body.toString()) as {
    connectionId: string;
    token: string;
  };
}
