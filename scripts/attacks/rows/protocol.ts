/** M8 and the low ones: empty messages, foreign paths and Hosts, framing that no proxy agrees on. */
import { connect } from "node:net";

import { call, prepare, tokenOf, type Target } from "../target.js";
import { row } from "../row.js";
import { Wire } from "../wire.js";

export const empty = row<object>({
  id: "M8",
  title: "empty messages that wait for a user: recalled, replaced, delivered",
  sizes: { short: {}, long: {} },
  attack: async (run) => {
    const { target } = run;
    const statuses: number[] = [];
    const ask = async (method: string, path: string) => {
      const answer = await call(
        target,
        method,
        path,
        method === "POST" ? { body: "" } : {},
      );
      statuses.push(answer.status);
      return JSON.parse(answer.body.toString() || "{}") as {
        id?: string;
        status?: string;
      };
    };
    const push = (user: string, query = "") =>
      ask("POST", `/v1/users/${user}/messages?ttl=60${query}`);
    const recalled = await push("empty-1");
    await ask("DELETE", `/v1/messages/${recalled.id}`);
    await push("empty-2", "&topic=t");
    await push("empty-2", "&topic=t");
    const waits = await push("empty-3");
    const wire = await Wire.dial({
      port: target.wsPort,
      path: `/ws?token=${tokenOf(target, { sub: "empty-3" })}`,
      protocol: null,
    });
    run.scope.teardown(() => wire.cut());
    await wire.hears(() => wire.frames.length >= 2, 3_000);
    const received = wire.frames.length - 1;
    run.check(received === 1, `${received} messages for the user, one waits`);
    let status: string | undefined;
    for (let n = 0; n < 50 && status !== "delivered"; n += 1) {
      ({ status } = await ask("GET", `/v1/messages/${waits.id}`));
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    run.figure("receipt", status ?? "none");
    run.check(status === "delivered", "its receipt never says delivered");
    const broken = statuses.filter((one) => one >= 500);
    run.atMost("5xx", broken.length, 0);
  },
});

/** What a server answers to bytes, until it closes or is silent for a moment. */
function answered(port: number, bytes: string, ms = 500): Promise<string> {
  return new Promise((resolve) => {
    const socket = connect(port, "127.0.0.1");
    let answer = "";
    let timer = setTimeout(() => socket.destroy(), 5_000);
    socket.on("data", (chunk: Buffer) => {
      answer += chunk.toString("latin1");
      clearTimeout(timer);
      timer = setTimeout(() => socket.destroy(), ms);
    });
    socket.on("error", () => undefined);
    socket.on("close", () => {
      clearTimeout(timer);
      resolve(answer);
    });
    socket.write(bytes);
  });
}

const statusOf = (answer: string): number => Number(answer.slice(9, 12));

const upgrade = (
  { wsPort }: Target,
  path: string,
  lines: readonly string[] = [],
) =>
  answered(
    wsPort,
    [
      `GET ${path} HTTP/1.1`,
      ...(lines.some((line) => /^Host:/i.test(line))
        ? []
        : ["Host: 127.0.0.1"]),
      "Connection: Upgrade",
      "Upgrade: websocket",
      "Sec-WebSocket-Version: 13",
      "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
      ...lines,
      "",
      "",
    ].join("\r\n"),
  );

export const manners = row<object>({
  id: "low",
  title:
    "foreign paths, own origin by Host, two Hosts, HTTP/1.0 chunked, heads",
  sizes: { short: {}, long: {} },
  attack: async (run) => {
    const { target } = run;
    const { token } = await prepare(target);
    for (const path of ["/elsewhere/ws", "/v1/ws", "/a/b/", "/..;/ws"]) {
      const status = statusOf(await upgrade(target, `${path}?token=${token}`));
      run.check(status >= 400, `${path} opens a socket (${status})`);
    }
    const pretends = await upgrade(target, `/ws?token=${token}`, [
      "Host: evil.example",
      "Origin: https://evil.example",
    ]);
    run.check(
      statusOf(pretends) === 403,
      `a page is of the own origin because it says so in Host (${statusOf(pretends)})`,
    );
    const two = await upgrade(target, `/ws?token=${token}`, [
      "Host: 127.0.0.1",
      "Host: evil.example",
    ]);
    run.check(statusOf(two) === 400, `two Hosts: ${statusOf(two)}`);
    const auth = `Authorization: Bearer ${target.key}`;
    const twoOfHttp = await answered(
      target.httpPort,
      `GET /v1/connections HTTP/1.1\r\nHost: a\r\nHost: b\r\n${auth}\r\n\r\n`,
    );
    run.check(
      statusOf(twoOfHttp) === 400,
      `two Hosts at http-fn: ${statusOf(twoOfHttp)}`,
    );
    const old = await answered(
      target.httpPort,
      `POST /v1/connections HTTP/1.0\r\nHost: a\r\n${auth}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n`,
    );
    run.check(statusOf(old) === 400, `HTTP/1.0 chunked: ${statusOf(old)}`);
    const malformed = await answered(target.wsPort, "NONSENSE\r\n\r\n");
    run.check(
      malformed.includes("application/problem+json"),
      "ws-fn refuses what is malformed without a problem body",
    );
    const list = await call(target, "GET", "/v1/connections");
    run.check(
      list.headers["x-content-type-options"] === "nosniff",
      "no nosniff on /v1",
    );
  },
});
