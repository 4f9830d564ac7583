// The backend of a chat room on the bridge: registers members, tells the room who came and went, passes on what is said
// to one member alone, and serves the page. It holds no socket and keeps nothing that the bridge does not know: who is in the
// room is asked, not remembered, so it may be restarted while people chat.
//
//   register     POST /api/register  → POST /v1/connections       a name that is free, a token for the page
//   to all       the page itself     → a `publish` frame           no request passes here
//   to one       POST /api/direct    → POST /v1/users/{id}/messages
//   clean up     GET /v1/events      → POST /v1/groups/{room}/messages   joined, left, and who is there

import { createHash, randomBytes, timingSafeEqual } from "node:crypto";
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";

const { fetch, setTimeout, clearTimeout, Buffer, AbortController } = globalThis;
const { AbortSignal, TextDecoderStream } = globalThis;

const env = process.env;
const BRIDGE = new URL(env.BRIDGE_URL ?? "http://127.0.0.1:8080");
/** Where browsers reach the bridge, when that is another address. */
const BRIDGE_FOR_PAGES = new URL(env.BRIDGE_PUBLIC_URL ?? BRIDGE);
/** Needed once the bridge has API_KEYS: the scopes connections, push and read. */
const KEY = env.BRIDGE_KEY;
const ROOM = env.CHAT_ROOM ?? "lobby";
const HOST = env.HOST ?? "127.0.0.1";
const PORT = Number(env.PORT ?? 8090);
/** Who is away for a while is no event of the bridge, so the room is looked at: this often, ms. */
const LOOK_MS = Number(env.CHAT_LOOK_MS ?? 2_000);

const NAME_MAX = 24;
const TEXT_MAX = 2_000;
const MEMBERS_MAX = 200;
/** How long a name is kept for a page that has registered and not connected, seconds. */
const CLAIM_SECONDS = 30;
/** How long a message to one member waits where that one is away, seconds. */
const DIRECT_TTL_SECONDS = 300;
/** The bridge sends an empty line every 15 s; after this much silence the stream is dead, ms. */
const SILENCE_MS = 40_000;
const BODY_MAX = 16_384;

/** An answer that is no success, in words for the person at the page. */
class Refusal extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

// The bridge, as it is used here

const bridgeHeaders = KEY ? { authorization: `Bearer ${KEY}` } : {};

/** Asks the bridge; answers with `{status, body}` where the status is 2xx or among `expected`. */
async function ask(method, path, { json, headers = {}, expected = [] } = {}) {
  const answer = await fetch(new URL(path, BRIDGE), {
    method,
    headers: {
      ...bridgeHeaders,
      ...(json === undefined ? {} : { "content-type": "application/json" }),
      ...headers,
    },
    body: json === undefined ? null : JSON.stringify(json),
    signal: AbortSignal.timeout(10_000),
  });
  const text = await answer.text();
  if (!answer.ok && !expected.includes(answer.status))
    throw new Error(`${method} ${path}: ${answer.status} ${text}`);
  return {
    status: answer.status,
    body: text === "" ? undefined : JSON.parse(text),
  };
}

const inPath = encodeURIComponent;

/** Every connection of the room that has not ended, the ones that are only prepared included. */
async function connectionsInRoom() {
  const connections = [];
  let cursor = "";
  do {
    const next = cursor === "" ? "" : `&cursor=${inPath(cursor)}`;
    const path = `/v1/groups/${inPath(ROOM)}?limit=1000${next}`;
    const { body } = await ask("GET", path);
    connections.push(...body.items);
    cursor = body.next ?? "";
  } while (cursor !== "");
  return connections;
}

/** To all of the room. A message of ours has no `from`, so the page knows it from what a member says. */
const publish = (message, key) =>
  ask("POST", `/v1/groups/${inPath(ROOM)}/messages`, {
    json: message,
    headers: key === undefined ? {} : { "idempotency-key": key },
  });

// Register: screen the visitor, then the bridge remembers them

/** `Ann#x7k2q9` is the user, "Ann" the name: whoever takes the name later is somebody else and gets none of Ann's messages. */
const nameOf = (userId) => String(userId).split("#", 1)[0];

/** "ann", "Ann" and "Ａｎｎ" are one name. */
const folded = (name) => name.normalize("NFKC").toLowerCase();

function screen(given) {
  if (typeof given !== "string") throw new Refusal(400, "Please send a name.");
  const name = given.normalize("NFC").replace(/\s+/gu, " ").trim();
  if (name === "") throw new Refusal(422, "Please enter a name.");
  if ([...name].length > NAME_MAX)
    throw new Refusal(
      422,
      `That name is too long: ${NAME_MAX} characters at most, please.`,
    );
  if (!/^[\p{L}\p{M}\p{N} ._'-]+$/u.test(name))
    throw new Refusal(
      422,
      "Please use letters, digits, spaces and . _ ' - only.",
    );
  return name;
}

const isTaken = (connections, name, own) =>
  connections.some(
    ({ connectionId, userId }) =>
      connectionId !== own && folded(nameOf(userId)) === folded(name),
  );

async function register({ name: given }) {
  const name = screen(given);
  const taken = () =>
    new Refusal(409, `“${name}” is taken at the moment. Another name, please?`);
  const there = await connectionsInRoom();
  if (isTaken(there, name)) throw taken();
  if (there.length >= MEMBERS_MAX)
    throw new Refusal(503, "The room is full at the moment. Please try later.");

  const userId = `${name}#${randomBytes(4).toString("hex")}`;
  const secret = randomBytes(18).toString("base64url");
  const { body } = await ask("POST", "/v1/connections", {
    json: {
      userId,
      groups: [ROOM],
      permissions: [`publish:${ROOM}`],
      // Labels are for backends only: this one knows by it, even after a restart, who a request comes from.
      labels: { secret: sha256(secret).toString("hex") },
      expiresIn: CLAIM_SECONDS,
    },
  });
  const { connectionId, token, url } = body;
  // Another visitor may have asked for the same name at the same moment, of another process of this backend.
  const now = await connectionsInRoom();
  if (isTaken(now, name, connectionId)) {
    await ask("DELETE", `/v1/connections/${connectionId}`, {
      expected: [404, 410],
    });
    throw taken();
  }
  return {
    ...{ room: ROOM, userId, name, connectionId, token, url, secret },
    members: membersOf(now),
  };
}

const sha256 = (text) => createHash("sha256").update(text).digest();

/** The member who asks: `Authorization: Bearer <connectionId>.<secret>`, from `register`. */
async function whoAsks(request) {
  const gone = () => new Refusal(401, "You are not in the room any more.");
  const [, id, secret] =
    /^Bearer (c_\w{1,70})\.([\w-]{1,64})$/.exec(
      request.headers.authorization ?? "",
    ) ?? [];
  if (id === undefined) throw gone();
  const { status, body } = await ask("GET", `/v1/connections/${id}`, {
    expected: [404, 410],
  });
  if (status !== 200 || !body.groups.includes(ROOM)) throw gone();
  const known = Buffer.from(String(body.labels.secret), "hex");
  const given = sha256(secret);
  if (known.length !== given.length || !timingSafeEqual(known, given))
    throw gone();
  return body;
}

// Transmit to one: to all of this person's connections, wherever they are

async function direct(request, { to, text, id }) {
  const { userId } = await whoAsks(request);
  if (typeof to !== "string" || !/^[^#]{1,48}#[0-9a-f]{8}$/.test(to))
    throw new Refusal(400, "To whom?");
  if (typeof text !== "string" || text.trim() === "" || text.length > TEXT_MAX)
    throw new Refusal(422, `Please write 1 to ${TEXT_MAX} characters.`);
  if (typeof id !== "string" || !/^[\w-]{8,64}$/.test(id))
    throw new Refusal(400, "Please send an id, so that nothing comes twice.");

  const { body: presence } = await ask("GET", `/v1/users/${inPath(to)}`);
  if (!presence.connections.some(({ groups }) => groups.includes(ROOM)))
    throw new Refusal(404, `${nameOf(to)} has left.`);
  const { body: receipt } = await ask(
    "POST",
    `/v1/users/${inPath(to)}/messages?ttl=${DIRECT_TTL_SECONDS}&wait=2`,
    {
      json: { type: "direct", userId, text },
      headers: {
        "idempotency-key": sha256(`${userId} ${id}`).toString("hex"),
      },
    },
  );
  return { delivered: receipt.status === "delivered" };
}

// Clean up: the bridge says who came and went, and the room is told

/** Who is here or away, in the order in which they came. */
const membersOf = (connections) =>
  connections
    .filter(({ state }) => state === "open" || state === "away")
    .sort((a, b) => a.createdAt.localeCompare(b.createdAt))
    .map(({ userId, state }) => ({
      userId,
      name: nameOf(userId),
      away: state === "away",
    }));

/** Connection → user of everybody who was seen in the room and whose end was not announced yet. */
const known = new Map();
let lastTold = "";
let looking = Promise.resolve();

/** Looks who is there, and tells the room when that has changed. One look after the other. */
function look() {
  const looked = looking.then(async () => {
    const connections = await connectionsInRoom();
    const members = membersOf(connections);
    for (const { connectionId, userId, state } of connections)
      if (state !== "prepared") known.set(connectionId, userId);
    const now = JSON.stringify(members);
    if (now !== lastTold && members.length > 0)
      await publish({ type: "members", members });
    lastTold = now;
    return connections;
  });
  looking = looked.catch(() => undefined);
  return looked;
}

async function happened({ id, type, subject, data }) {
  // Something happened that is not kept any more: where things stand is all there is to tell.
  if (type === "gap") known.clear();
  if (type === "connected") {
    const connections = await look();
    if (!connections.some(({ connectionId }) => connectionId === subject))
      return; // of another room, or gone already
    // The event's ID as key: told once, even when an event is read again or by two of us.
    await publish({ type: "joined", name: nameOf(data.userId) }, id);
  } else if (type === "disconnected" && known.has(subject)) {
    const was = data.reason === "resume_expired" ? "lost" : "left";
    await publish({ type: was, name: nameOf(data.userId) }, id);
    known.delete(subject);
    await look();
  } else if (type === "gap") await look();
}

/** Follows the events for as long as the process lives; comes back to where it was. */
async function follow() {
  let position;
  let wasReached = true;
  for (;;) {
    const silence = new AbortController();
    let timer;
    const heard = () => {
      clearTimeout(timer);
      timer = setTimeout(() => silence.abort(), SILENCE_MS);
    };
    try {
      heard();
      const events = await fetch(
        new URL("/v1/events?type=connected,disconnected", BRIDGE),
        {
          headers: {
            ...bridgeHeaders,
            accept: "application/x-ndjson",
            ...(position === undefined ? {} : { "last-event-id": position }),
          },
          signal: silence.signal,
        },
      );
      if (!events.ok)
        throw new Error(`${events.status}: ${await events.text()}`);
      if (!wasReached) console.log("the bridge is back");
      wasReached = true;
      // From here on nothing is missed; what was before is looked at.
      await look();
      let rest = "";
      for await (const text of events.body.pipeThrough(
        new TextDecoderStream(),
      )) {
        heard();
        const lines = (rest + text).split("\n");
        rest = lines.pop();
        for (const line of lines) {
          if (line === "") continue; // so that nothing in between takes the stream for dead
          const event = JSON.parse(line);
          await happened(event);
          position = event.position;
        }
      }
    } catch (error) {
      if (wasReached)
        console.error(
          `the bridge does not answer at ${BRIDGE.origin} (${why(error)}); does npm start run?`,
        );
      wasReached = false;
    } finally {
      clearTimeout(timer);
      silence.abort();
    }
    await pause(1_000);
  }
}

async function watch() {
  for (;;) {
    await pause(LOOK_MS);
    await look().catch(() => undefined); // `follow` says when the bridge is away
  }
}

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
const why = (error) => error.cause?.code ?? error.message;

// The page and its requests

const FILES = {
  "/": ["index.html", "text/html; charset=utf-8"],
  "/style.css": ["style.css", "text/css; charset=utf-8"],
  "/chat.js": ["chat.js", "text/javascript; charset=utf-8"],
  "/outbox.js": ["outbox.js", "text/javascript; charset=utf-8"],
  "/view.js": ["view.js", "text/javascript; charset=utf-8"],
};

const bridgeOrigin = BRIDGE_FOR_PAGES.origin;
const HEADERS = {
  "content-security-policy":
    `default-src 'none'; script-src 'self' ${bridgeOrigin}; style-src 'self'; img-src data:; ` +
    `connect-src 'self' ${bridgeOrigin} ${bridgeOrigin.replace(/^http/, "ws")}; ` +
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
  "x-content-type-options": "nosniff",
  "referrer-policy": "no-referrer",
  "cache-control": "no-store",
};

const LOOPBACK = /^(localhost|127\.0\.0\.1|\[::1\])(:\d+)?$/i;

const API = {
  "POST /api/register": async (request) => [
    201,
    await register(await readJson(request)),
  ],
  "POST /api/direct": async (request) => [
    200,
    await direct(request, await readJson(request)),
  ],
  "GET /api/members": async (request) => {
    await whoAsks(request);
    return [200, { members: membersOf(await connectionsInRoom()) }];
  },
};

async function answer(request, response) {
  const path = request.url.split("?", 1)[0];
  // A page elsewhere may point its own name at this machine.
  if (env.HOST === undefined && !LOOPBACK.test(request.headers.host ?? ""))
    throw new Refusal(403, "Please ask for localhost.");
  const file = FILES[path];
  if (file && /^(GET|HEAD)$/.test(request.method)) {
    const text = await readFile(new URL(`page/${file[0]}`, import.meta.url));
    response.writeHead(200, { ...HEADERS, "content-type": file[1] }).end(text);
    return;
  }
  const handle = API[`${request.method} ${path}`];
  if (handle === undefined) throw new Refusal(404, "There is nothing here.");
  say(response, ...(await handle(request)));
}

function say(response, status, body) {
  response
    .writeHead(status, { ...HEADERS, "content-type": "application/json" })
    .end(JSON.stringify(body));
}

async function readJson(request) {
  // A form of another site cannot send this type, and a script of another site is not allowed to.
  if (!/^application\/json\b/.test(request.headers["content-type"] ?? ""))
    throw new Refusal(415, "Please send application/json.");
  let text = "";
  for await (const piece of request.setEncoding("utf8")) {
    text += piece;
    if (text.length > BODY_MAX) throw new Refusal(413, "That is too much.");
  }
  try {
    const body = JSON.parse(text);
    if (typeof body === "object" && body !== null) return body;
  } catch {
    // said below
  }
  throw new Refusal(400, "Please send a JSON object.");
}

const server = createServer((request, response) => {
  answer(request, response).catch((error) => {
    if (!(error instanceof Refusal)) console.error(why(error));
    if (response.headersSent) return response.destroy();
    const status = error.status ?? 503;
    const message =
      error instanceof Refusal
        ? error.message
        : "The chat cannot be reached at the moment. Please try again.";
    return say(response, status, { error: message });
  });
});
server.on("error", (error) => {
  console.error(
    error.code === "EADDRINUSE"
      ? `port ${PORT} is taken: set PORT`
      : error.message,
  );
  process.exit(1);
});
server.listen(PORT, HOST, () => {
  const { port } = server.address();
  console.log(`bridge  ${BRIDGE.origin}`);
  console.log(
    `chat    http://${HOST.includes(":") ? `[${HOST}]` : HOST}:${port}/`,
  );
});
void follow();
void watch();
