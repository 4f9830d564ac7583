/**
 * The page at `/`: a live listener in the browser and the curl line that reaches it. Two strings, one for `/` and one
 * for `/page.js`, because the Content-Security-Policy allows scripts of the own origin and none inside the page.
 */

const STYLE = `
:root {
  color-scheme: light dark;
  --quiet: color-mix(in srgb, CanvasText 62%, Canvas);
  --line: color-mix(in srgb, CanvasText 14%, Canvas);
  --field: color-mix(in srgb, CanvasText 5%, Canvas);
  --accent: light-dark(#0b6e4f, #5fd3a6);
  --busy: light-dark(#9a6700, #e3b341);
  --bad: light-dark(#b3261e, #ff8a80);
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 46rem; padding: 2.5rem 1.25rem 4rem; font: 16px/1.55 system-ui, sans-serif; }
header { display: flex; align-items: baseline; gap: 1rem; flex-wrap: wrap; }
h1 { margin: 0; font-size: 1.35rem; letter-spacing: -.01em; }
h2 { margin: 2.25rem 0 .5rem; font-size: .95rem; font-weight: 600; }
p { margin: .5rem 0; }
.quiet, small { color: var(--quiet); }
code, pre, time { font: .875rem/1.5 ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
#state { margin-left: auto; font-size: .875rem; color: var(--quiet); }
#state::before { content: ""; display: inline-block; width: .6em; height: .6em; margin-right: .5em; border-radius: 50%; background: var(--busy); }
#state[data-state="open"]::before { background: var(--accent); }
#state[data-state="closed"]::before { background: var(--bad); }
.line { display: flex; gap: .5rem; align-items: stretch; }
.line code { flex: 1; min-width: 0; padding: .6rem .75rem; border-radius: .5rem; background: var(--field); white-space: pre-wrap; overflow-wrap: anywhere; }
button { font: inherit; font-size: .875rem; padding: 0 .9rem; border: 1px solid var(--line); border-radius: .5rem; background: transparent; color: inherit; cursor: pointer; }
button:hover { background: var(--field); }
button:disabled { opacity: .5; cursor: default; }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
#note { min-height: 1.55em; font-size: .875rem; color: var(--quiet); }
#messages { list-style: none; margin: 0; padding: 0; border-top: 1px solid var(--line); }
#messages li { padding: .6rem 0 .7rem; border-bottom: 1px solid var(--line); }
#messages pre { margin: .15rem 0 0; max-height: 16rem; overflow: auto; white-space: pre-wrap; overflow-wrap: anywhere; }
#messages .facts { display: flex; gap: 1rem; font-size: .8125rem; color: var(--quiet); }
#messages .facts time { margin-left: auto; font-size: inherit; }
#empty { padding: 1rem 0; color: var(--quiet); }
footer { margin-top: 2.5rem; font-size: .875rem; color: var(--quiet); }
a { color: inherit; }
`.trim();

/** Served at `/` as `text/html; charset=utf-8`. */
export const pageHtml = `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>push-bridge</title>
<link rel="icon" href="data:,">
<style>${STYLE}</style>
<header>
<h1>push-bridge</h1>
<span id="state" role="status" data-state="connecting">connecting</span>
</header>
<main>
<p class="quiet">This page holds a WebSocket. What you POST to its address appears below.</p>
<h2>Connection</h2>
<p><code id="connection">…</code></p>
<h2>Push to it</h2>
<div class="line"><code id="curl" tabindex="0" aria-label="curl command">…</code><button id="copy" type="button" disabled>Copy</button></div>
<p id="note" role="status"></p>
<h2 id="received">Received <small id="count">0</small></h2>
<ol id="messages" role="log" aria-labelledby="received"></ol>
<p id="empty">Nothing yet.</p>
<noscript><p>The listener needs JavaScript; the HTTP interface does not.</p></noscript>
</main>
<footer><a href="/docs">Documentation</a> · <a href="/openapi.yaml">openapi.yaml</a> · <a href="/client.js">client.js</a></footer>
<script type="module" src="/page.js"></script>
</html>
`;

/** Served at `/page.js` as `text/javascript; charset=utf-8`; imports `/client.js`. */
export const pageScript = `import { connect } from "/client.js";

/** Older messages leave the page, or a fast sender would fill the memory. */
const MESSAGES_SHOWN = 200;
/** How much of a binary message is shown. */
const HEX_BYTES = 64;
/** Without a connection for this long the page says what may be the reason. */
const HINT_MS = 4000;

const element = (id) => document.getElementById(id);
const note = (text) => { element("note").textContent = text; };

// A token after # never reaches a server's log.
const token = new URLSearchParams(location.hash.slice(1)).get("token") ?? undefined;
const url = new URL("/ws", location.href.replace(/^http/, "ws"));
url.hash = "";

const hint = setTimeout(() => {
  note("No connection yet, still trying. Where tokens are asked for, open this page as /#token=<token>.");
}, HINT_MS);

const bridge = connect(url.href, {
  token,
  onMessage: show,
  onState(state) {
    element("state").dataset.state = element("state").textContent = state;
    if (state === "open") {
      clearTimeout(hint);
      note("");
      address(bridge.connectionId);
    }
  },
  onError: (error) => note(error.message),
  onLost: () => note("Messages may have been lost on the way."),
});

function address(connectionId) {
  const key = token === undefined ? "" : ' -H "Authorization: Bearer $KEY"';
  element("connection").textContent = connectionId;
  element("curl").textContent =
    "curl" + key + " -d hello " + location.origin + "/v1/connections/" + connectionId + "/messages";
  element("copy").disabled = false;
}

let count = 0;
function show({ contentType, text, bytes, group }) {
  const item = document.createElement("li");
  const facts = item.appendChild(document.createElement("div"));
  facts.className = "facts";
  const type = facts.appendChild(document.createElement("span"));
  const to = group === undefined ? "" : group === "$all" ? ", to everybody" : ", to group " + group;
  type.textContent = contentType + (bytes ? ", " + bytes.length + " bytes" : "") + to;
  const time = facts.appendChild(document.createElement("time"));
  const now = new Date();
  time.dateTime = now.toISOString();
  time.textContent = now.toLocaleTimeString();
  item.appendChild(document.createElement("pre")).textContent = bytes ? hex(bytes) : text;
  element("messages").prepend(item);
  if (element("messages").children.length > MESSAGES_SHOWN) element("messages").lastChild.remove();
  element("count").textContent = ++count;
  element("empty").hidden = true;
}

function hex(bytes) {
  const shown = Array.from(bytes.subarray(0, HEX_BYTES), (byte) => byte.toString(16).padStart(2, "0"));
  return shown.join(" ") + (bytes.length > HEX_BYTES ? " …" : "");
}

element("copy").addEventListener("click", async () => {
  try {
    await navigator.clipboard.writeText(element("curl").textContent);
    element("copy").textContent = "Copied";
    setTimeout(() => { element("copy").textContent = "Copy"; }, 1500);
  } catch {
    // Not allowed here (no https): selected, so that a key press copies it.
    getSelection().selectAllChildren(element("curl"));
  }
});

// A tab that just disappears would be a failed invocation on the platform; and a page from the back-forward cache
// has no connection any more.
addEventListener("pagehide", () => void bridge.close());
addEventListener("pageshow", ({ persisted }) => { if (persisted) location.reload(); });
`;
