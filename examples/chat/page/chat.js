// The page of the chat room: registers with its backend, and from then on speaks to the bridge itself. The library of the
// bridge hands every message over once and in order, however often the socket ends; this file says what they mean.

import { createOutbox } from "./outbox.js";
import {
  at,
  choose,
  lastName,
  refuse,
  showDoor,
  showLine,
  showMembers,
  showPending,
  showPeople,
  showRoom,
  showStatus,
  toEnd,
} from "./view.js";

const { document, sessionStorage, fetch, setTimeout, clearTimeout } =
  globalThis;
const { setInterval, clearInterval, location } = globalThis;

/** A socket that moves to another instance is back sooner than this, ms; the person need not know. */
const UNNOTICED_MS = 800;
/** While the line is gone the backend is asked this often, ms, whether the place is still kept: a browser tells no page why a socket was refused. */
const STILL_THERE_MS = 3_000;
/** A first connection that takes longer than a cold start, ms, has a reason. */
const HINT_MS = 6_000;
const LINES_KEPT = 200;
const TEXT_MAX = 2_000;
const STORE = "chat";
const ON_ITS_WAY = "on its way";
const GIVEN_UP = "You were away for too long, so your place was given up.";

/** This member: what `register` answered, the lines and the outbox, kept for a reload of this tab. */
let session;
let bridge;
let outbox;
let members = [];
/** Messages that are shown: after a reload the bridge sends again what it has no ack for. */
let seen = new Set();
let lineGoneAt;
let unread = 0;
const timers = { notice: undefined, still: undefined, hint: undefined };

function stopTimers() {
  clearTimeout(timers.notice);
  clearInterval(timers.still);
  clearTimeout(timers.hint);
}

// In and out

async function api(method, path, json) {
  const headers = session
    ? { authorization: `Bearer ${session.connectionId}.${session.secret}` }
    : {};
  if (json) headers["content-type"] = "application/json";
  const answer = await fetch(path, {
    method,
    headers,
    body: json ? JSON.stringify(json) : null,
  }).catch(() => {
    throw new Error("The chat cannot be reached. Is its server running?");
  });
  const body = await answer.json();
  if (answer.ok) return body;
  throw Object.assign(new Error(body.error), { status: answer.status });
}

async function register(name) {
  const registered = await api("POST", "/api/register", { name });
  lastName.set(registered.name);
  session = { ...registered, lines: [], outbox: [] };
  await enter();
}

async function enter() {
  const { room, name, lines } = session;
  showRoom(room, name);
  for (const line of lines) {
    // The answer came to the page before this one, or not at all.
    if (line.note === ON_ITS_WAY) line.note = "It is not known if this arrived";
    showLine(line);
  }
  seen = new Set(lines.flatMap(({ ids = [] }) => ids));
  setMembers(session.members);
  toEnd();
  outbox = createOutbox({
    stored: session.outbox,
    publish({ key, text }) {
      if (bridge?.state !== "open") return Promise.reject({ code: "not_open" });
      const said = JSON.stringify({ type: "said", key, text });
      return bridge.publish(room, said, "application/json");
    },
    changed(messages) {
      session.outbox = messages;
      save();
      showPending(messages, (key) => outbox.retry(key));
    },
  });
  showPending(session.outbox, (key) => outbox.retry(key));

  await openLine();
}

/** Opens the connection, or takes it back from another tab. */
async function openLine() {
  const { url, token, room, userId } = session;
  at("mouth").inert = false;
  at("here").hidden = true;
  showStatus("connecting", "Connecting…");
  timers.hint = setTimeout(() => {
    showStatus("connecting", "No connection yet, still trying…");
    timers.still = setInterval(stillThere, STILL_THERE_MS);
    // A browser tells no page why a socket was refused.
    console.warn(
      `If this lasts: a bridge with API keys has to allow ${location.origin} in its ALLOWED_ORIGINS.`,
    );
  }, HINT_MS);
  // The library comes from the bridge; the token goes as a subprotocol, which stays out of access logs.
  const address = new URL(url);
  address.searchParams.delete("token");
  const library = new URL("/client.js", url.replace(/^ws/, "http"));
  const { connect } = await import(library).catch(() => {
    throw new Error("The bridge cannot be reached at the moment.");
  });
  bridge = connect(address.href, {
    token,
    onMessage: (message) => heard(message, userId),
    onState,
    onError: ended,
    onLost({ what, group }) {
      // What is said to everybody on the bridge is not shown here.
      if (what === "group" && group !== room) return;
      outbox.settle().forEach(({ text }) => own(text));
      news({ before: "Some messages were missed here." });
      void stillThere();
    },
  });
}

/** Back to the door. What was said goes with the session. */
function leave(message) {
  const name = session?.name;
  stopTimers();
  outbox?.stop();
  void bridge?.close();
  bridge = outbox = session = lineGoneAt = undefined;
  store(undefined);
  showDoor(message, name);
}

/** The connection's state; short absences are not worth a word. */
function onState(state) {
  if (state === "open") {
    stopTimers();
    if (lineGoneAt !== undefined) {
      const seconds = Math.round((Date.now() - lineGoneAt) / 1_000);
      lineGoneAt = undefined;
      if (at("status").dataset.state === "away")
        news({ before: `You are back after ${seconds} s.` });
      void stillThere();
    }
    showStatus("open", `Connected as ${session.name}`);
    outbox.run();
  } else if (state === "resuming") {
    lineGoneAt = Date.now();
    stopTimers();
    timers.notice = setTimeout(
      () => showStatus("away", "Line lost, coming back…"),
      UNNOTICED_MS,
    );
    timers.still = setInterval(stillThere, STILL_THERE_MS);
  }
}

/** Asks the backend who is there, this member included: what told of it may be in a gap. */
async function stillThere() {
  const asked = session;
  try {
    const { members: list } = await api("GET", "/api/members");
    if (session === asked) setMembers(list);
  } catch ({ status }) {
    if (session === asked && status === 401) leave(GIVEN_UP);
  }
}

/** What the library cannot mend. Everything else it has mended already. */
function ended(error) {
  if (error.code === "handler_failed") console.error(error);
  if (session === undefined || bridge?.state !== "closed") return;
  if (error.closeCode === 4509) {
    // Another tab has this session; it is not ours to take out of the store.
    showStatus("closed", "Goes on in another tab");
    at("mouth").inert = true;
    at("here").hidden = false;
  } else if (error.closeCode === 4510) leave("You were taken out of the room.");
  else leave("The line is gone. Please join again.");
}

// What is heard

function heard(message, own) {
  if (seen.has(message.id)) return;
  seen.add(message.id);
  let said;
  try {
    said = JSON.parse(message.text);
  } catch {
    return; // nothing of ours
  }
  if (typeof said !== "object" || said === null) return;
  const when = message.publishedAt;
  const ids = [message.id];
  if (message.group === session.room && message.from) {
    // A member speaks: who it is says the bridge, whatever the message claims.
    const { key, text } = said;
    if (said.type !== "said" || typeof text !== "string") return;
    const { userId } = message.from;
    const name = String(userId).split("#", 1)[0];
    const once = `${userId} ${key}`;
    if (seen.has(once)) return;
    seen.add(once);
    ids.push(once);
    if (userId === own) outbox.arrived(key);
    add({
      ...{ kind: "said", own: userId === own, name, at: when, ids },
      text: text.slice(0, TEXT_MAX),
    });
  } else if (message.group === session.room) fromBackend(said, when, ids);
  else if (message.group === undefined && said.type === "direct") {
    const name = String(said.userId).split("#", 1)[0];
    add({ kind: "direct", name, text: String(said.text), at: when, ids });
  }
}

function fromBackend({ type, name, members: list }, when, ids) {
  if (type === "members" && Array.isArray(list)) setMembers(list);
  const words = {
    joined: " is here",
    left: " has left",
    lost: " has lost the line and is gone",
  };
  if (Object.hasOwn(words, type) && typeof name === "string")
    news({ name, after: words[type], at: when, ids });
}

function setMembers(list) {
  const { userId, name } = session;
  // Registered, not connected yet: the backend counts those who are here.
  const isIn = list.some((member) => member.userId === userId);
  members = isIn ? list : [...list, { userId, name, away: false }];
  session.members = members;
  save();
  showMembers(members, userId);
}

/** Accepted, but its place in the conversation is in a gap. */
const own = (text) =>
  add({ kind: "said", own: true, text, at: new Date().toISOString() });

const news = (line) =>
  add({ kind: "news", at: new Date().toISOString(), ...line });

function add(line) {
  const showNote = showLine(line);
  session.lines.push(line);
  if (session.lines.length > LINES_KEPT) session.lines.shift();
  save();
  if (document.hidden && line.kind !== "news" && !line.own) {
    unread += 1;
    document.title = `(${unread}) ${session.name} in ${session.room}`;
  }
  return showNote;
}

const save = () => store(session);

function store(value) {
  try {
    if (value === undefined) sessionStorage.removeItem(STORE);
    else sessionStorage.setItem(STORE, JSON.stringify(value));
  } catch {
    // Full, or not allowed: a reload will ask for a name again.
  }
}

// What is said

async function sayTo(userId, text) {
  const bytes = globalThis.crypto.getRandomValues(new Uint32Array(4));
  const line = {
    ...{ kind: "direct", own: true, to: userId.split("#", 1)[0], text },
    ...{ at: new Date().toISOString(), note: ON_ITS_WAY },
  };
  const asked = session;
  const showNote = add(line);
  try {
    const { delivered } = await api("POST", "/api/direct", {
      ...{ to: userId, text, id: bytes.join("-") },
    });
    line.note = delivered ? "" : `${line.to} is away; it waits a few minutes`;
  } catch (error) {
    line.note = `Not sent: ${error.message}`;
  }
  if (session !== asked) return;
  showNote(line.note);
  save();
}

function send() {
  const text = at("text").value.trim().slice(0, TEXT_MAX);
  if (text === "" || session === undefined) return;
  at("text").value = "";
  fit();
  toEnd();
  const to = at("to").value;
  if (to === "") outbox.add(text);
  else void sayTo(to, text);
}

/** The field grows with what is written. */
function fit() {
  const field = at("text");
  field.style.height = "auto";
  field.style.height = `${field.scrollHeight + 2}px`;
}

// The page

at("entry").addEventListener("submit", async (event) => {
  event.preventDefault();
  at("enter").disabled = true;
  refuse("");
  try {
    await register(at("name").value);
  } catch (error) {
    if (session) leave(error.message);
    else refuse(error.message);
    at("name").select();
  }
  at("enter").disabled = false;
});
at("mouth").addEventListener("submit", (event) => {
  event.preventDefault();
  send();
});
at("text").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  send();
});
at("text").addEventListener("input", fit);
at("to").addEventListener("change", () => choose(at("to").value));
at("here").addEventListener("click", () => {
  openLine().catch((error) => leave(error.message));
});
at("leave").addEventListener("click", () => leave("You have left."));
at("who").addEventListener("click", () =>
  showPeople(at("who").getAttribute("aria-expanded") !== "true"),
);
at("newer").addEventListener("click", toEnd);
at("scroll").addEventListener("scroll", () => {
  const { scrollTop, scrollHeight, clientHeight } = at("scroll");
  if (scrollHeight - scrollTop - clientHeight < 8) at("newer").hidden = true;
});
document.addEventListener("visibilitychange", () => {
  if (document.hidden || session === undefined) return;
  unread = 0;
  document.title = `${session.name} in ${session.room}`;
});

/**
 * A tab that was loaded anew goes on where it was, unless its place was given up. A tab that is closed says 1001 by itself, so
 * its place is kept for a while, in case it was this; the button says 1000.
 */
async function begin() {
  try {
    session = JSON.parse(sessionStorage.getItem(STORE) ?? "null") ?? undefined;
  } catch {
    session = undefined;
  }
  if (session === undefined) return showDoor("", lastName.get());
  try {
    session.members = (await api("GET", "/api/members")).members;
    await enter();
  } catch (error) {
    leave(error.status === 401 ? GIVEN_UP : error.message);
  }
}

void begin();
