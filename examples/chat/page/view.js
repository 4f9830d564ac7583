// What is seen of the chat. Whatever others wrote becomes text and never markup.

const { document, localStorage } = globalThis;

export const at = (id) => document.getElementById(id);

/** Older lines leave the page, or a long evening would fill the memory. */
const LINES_MAX = 500;
/** This near to its end, px, the conversation follows what is new. */
const NEAR_PX = 80;

const element = (name, className, text) => {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
};

/** A name inside a sentence: its direction must not turn the rest around. */
const bdi = (name) => element("bdi", "name", name);

// Which of the two is shown

export function showDoor(message = "", name = "") {
  at("room").hidden = true;
  at("door").hidden = false;
  document.title = "Chat";
  if (name) at("name").value = name;
  refuse(message);
  at("name").focus();
}

export function refuse(message) {
  at("refusal").textContent = message;
  at("name").toggleAttribute("aria-invalid", message !== "");
}

export function showRoom(room, name) {
  at("door").hidden = true;
  at("room").hidden = false;
  at("title").textContent = room;
  document.title = `${name} in ${room}`;
  at("lines").replaceChildren();
  lineBefore = undefined;
  at("pending").replaceChildren();
  at("to").replaceChildren();
  at("people").classList.remove("shown");
  at("text").focus();
}

export function showStatus(state, words) {
  if (at("status").textContent === words) return;
  at("status").dataset.state = state;
  at("status").textContent = words;
}

// The conversation

const isAtEnd = () => {
  const { scrollTop, scrollHeight, clientHeight } = at("scroll");
  return scrollHeight - scrollTop - clientHeight < NEAR_PX;
};

export function toEnd() {
  at("scroll").scrollTop = at("scroll").scrollHeight;
  at("newer").hidden = true;
}

/** Shows what `draw` adds, and follows it where the reader was at the end. */
function following(draw) {
  const follows = isAtEnd();
  draw();
  if (follows) toEnd();
  else at("newer").hidden = false;
}

function clock(when) {
  const date = new Date(when);
  const time = element("time", "", "");
  if (Number.isNaN(date.getTime())) return time;
  time.dateTime = date.toISOString();
  time.textContent = date.toLocaleTimeString([], {
    hour: "2-digit",
    minute: "2-digit",
  });
  time.title = date.toLocaleString();
  return time;
}

/** Who speaks goes without saying when the line before is theirs, too, and not older than this, ms. */
const SAME_BREATH_MS = 60_000;
let lineBefore;

const goesOn = (line) =>
  line.kind === "said" &&
  lineBefore?.kind === "said" &&
  line.own === lineBefore.own &&
  line.name === lineBefore.name &&
  new Date(line.at) - new Date(lineBefore.at) < SAME_BREATH_MS;

/** One line: `{kind: "said" | "direct" | "news", …}`. Answers with what changes its note. */
export function showLine(line) {
  const item = element("li", line.kind);
  const note = element("p", "note", line.note);
  following(() => {
    if (line.kind === "news") {
      const { before = "", name, after = "" } = line;
      item.append(
        before,
        ...(name ? [bdi(name)] : []),
        after,
        " ",
        clock(line.at),
      );
    } else {
      item.classList.toggle("own", line.own === true);
      const head = element("p", goesOn(line) ? "head unseen" : "head");
      head.append(bdi(line.own ? "You" : line.name));
      if (line.kind === "direct") {
        const to = line.own ? bdi(line.to) : "you";
        head.append(element("span", "only", ""));
        head.lastChild.append(" to ", to, " only");
      }
      head.append(" ", clock(line.at));
      const text = element("p", "text", line.text);
      text.dir = "auto";
      item.append(head, text, note);
    }
    item.classList.toggle("goes-on", item.querySelector(".unseen") !== null);
    at("lines").append(item);
    lineBefore = line;
    while (at("lines").children.length > LINES_MAX)
      at("lines").firstChild.remove();
  });
  return (text) => {
    const follows = isAtEnd();
    note.textContent = text;
    if (follows) toEnd();
  };
}

export function showPending(messages, retry) {
  const draw = () =>
    at("pending").replaceChildren(
      ...messages.map(({ key, text, failed }) => {
        const item = element("li", "own said");
        const body = element("p", "text", text);
        body.dir = "auto";
        item.append(body);
        if (failed) {
          const note = element("p", "note", `Not sent: ${failed} `);
          const again = element("button", "", "Try again");
          again.type = "button";
          again.addEventListener("click", () => retry(key));
          note.append(again);
          item.append(note);
        }
        return item;
      }),
    );
  if (messages.length >= at("pending").children.length && messages.length > 0)
    following(draw);
  else draw();
}

// Who is there

export function showMembers(members, own) {
  const chosen = at("to").value;
  const chosenName = at("to").selectedOptions[0]?.dataset.name;
  at("count").textContent = members.length;
  at("members").replaceChildren(
    ...members.map(({ userId, name, away }) => {
      const item = element("li", away ? "away" : "");
      const label = userId === own ? element("span") : element("button");
      label.append(bdi(name));
      if (userId === own) label.append(element("small", "", " you"));
      else {
        label.type = "button";
        label.title = `Write to ${name} only`;
        label.addEventListener("click", () => choose(userId));
      }
      if (away) label.append(element("small", "", " away"));
      item.append(label);
      return item;
    }),
  );
  const others = members.filter(({ userId }) => userId !== own);
  const isGone =
    chosen !== "" && !others.some(({ userId }) => userId === chosen);
  at("to").replaceChildren(
    option("Everybody", ""),
    ...others.map(({ userId, name }) => option(`Only ${name}`, userId, name)),
    // What is meant for one must not go to everybody because that one has left meanwhile.
    ...(isGone
      ? [option(`Only ${chosenName} (gone)`, chosen, chosenName)]
      : []),
  );
  choose(chosen, false);
}

function option(text, value, name = "") {
  const made = element("option", "", text);
  made.value = value;
  made.dataset.name = name;
  return made;
}

/** To whom the next message goes; an empty ID is everybody. */
export function choose(userId, focus = true) {
  at("to").value = userId;
  const isAlone = at("to").value !== "";
  at("mouth").classList.toggle("alone", isAlone);
  at("text").placeholder = isAlone
    ? `Write to ${at("to").selectedOptions[0].dataset.name} only`
    : "Write to everybody";
  if (!focus) return;
  showPeople(false);
  at("text").focus();
}

export function showPeople(shown) {
  at("people").classList.toggle("shown", shown);
  at("who").setAttribute("aria-expanded", String(shown));
}

/** The last name used, offered again. */
export const lastName = {
  get() {
    try {
      return localStorage.getItem("chat-name") ?? "";
    } catch {
      return ""; // the browser keeps nothing for this page
    }
  },
  set(name) {
    try {
      localStorage.setItem("chat-name", name);
    } catch {
      // as above
    }
  },
};
