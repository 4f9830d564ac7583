// What this member has said and nobody is known to have yet. One message at a time, so that they keep their order, and
// again after a cut, under the same key: whoever gets a key of a member twice shows it once.

const { setTimeout, clearTimeout, performance, crypto } = globalThis;
const now = () => performance.now();

/** A client may send 10 frames in any second; up to 5 of them are acks, and who is too fast is cut off. */
const PACE_MS = 300;
/** What was refused for a while is tried again after this long, ms. */
const AGAIN_MS = 1_000;

/**
 * `publish(message)` resolves once it is accepted; `changed(messages)` is told of every change. A message is
 * `{key, text, failed?, accepted?}`.
 */
export function createOutbox({ publish, changed: tell, stored = [] }) {
  const waiting = stored.map(({ key, text }) => ({ key, text }));
  let busy = false;
  let isStopped = false;
  let notBefore = 0;
  let timer;

  const changed = () => {
    if (!isStopped) tell(waiting);
  };
  /** Whatever asks for it, the pace is kept. */
  const soon = () => {
    clearTimeout(timer);
    if (!isStopped) timer = setTimeout(run, Math.max(0, notBefore - now()));
  };

  async function run() {
    const next = waiting.find(({ failed, accepted }) => !failed && !accepted);
    if (busy || next === undefined) return;
    busy = true;
    notBefore = now() + PACE_MS;
    let mayGoOn = true;
    try {
      await publish(next);
      next.accepted = true;
    } catch (error) {
      // No socket, or it ended before the answer: `run` is called again once there is one.
      if (/^(not_open|interrupted)$/.test(error.code)) mayGoOn = false;
      else if (error.problem?.status >= 429) notBefore = now() + AGAIN_MS;
      else next.failed = error.problem?.title ?? error.message;
    }
    busy = false;
    changed();
    if (mayGoOn) soon();
  }

  return {
    run: soon,
    add(text) {
      // No randomUUID: it is missing on pages that were not loaded over https or from localhost.
      const bytes = crypto.getRandomValues(new Uint8Array(12));
      const key = Array.from(bytes, (byte) =>
        byte.toString(16).padStart(2, "0"),
      ).join("");
      waiting.push({ key, text });
      changed();
      soon();
    },
    retry(key) {
      const one = waiting.find((message) => message.key === key);
      if (one) delete one.failed;
      changed();
      soon();
    },
    /** It came back from the room, so everybody has it at that place. */
    arrived(key) {
      const at = waiting.findIndex((message) => message.key === key);
      if (at >= 0) waiting.splice(at, 1);
      changed();
    },
    /** Takes out what is accepted: it will not come back from the room. */
    settle() {
      const accepted = waiting.filter((message) => message.accepted);
      for (const one of accepted) waiting.splice(waiting.indexOf(one), 1);
      changed();
      return accepted;
    },
    stop() {
      isStopped = true;
      clearTimeout(timer);
    },
  };
}
