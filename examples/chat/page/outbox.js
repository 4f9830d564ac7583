// What this member has said and nobody is known to have yet. One message at a time, so that they keep their order, and
// again after a cut, under the same key: whoever gets a key of a member twice shows it once.

const { setTimeout, clearTimeout } = globalThis;

/** A client may send 10 frames a second, and acks are some of them. */
const PACE_MS = 200;
/** What was refused for a while is tried again after this long, ms. */
const AGAIN_MS = 1_000;

/**
 * `publish(message)` resolves once it is accepted; `changed(messages)` is told of every change. A message is
 * `{key, text, failed?, accepted?}`.
 */
export function createOutbox({ publish, changed, stored = [] }) {
  const waiting = stored.map(({ key, text }) => ({ key, text }));
  let busy = false;
  let timer;

  const later = (ms) => {
    clearTimeout(timer);
    timer = setTimeout(run, ms);
  };

  async function run() {
    const next = waiting.find(({ failed, accepted }) => !failed && !accepted);
    if (busy || next === undefined) return;
    busy = true;
    let pause = PACE_MS;
    try {
      await publish(next);
      next.accepted = true;
    } catch (error) {
      // No socket, or it ended before the answer: `run` is called again once there is one.
      if (error.code === "not_open" || error.code === "interrupted") pause = 0;
      else if (error.problem?.status >= 429) pause = AGAIN_MS;
      else next.failed = error.problem?.title ?? error.message;
    }
    busy = false;
    changed(waiting);
    if (pause > 0) later(pause);
  }

  return {
    run: () => later(0),
    add(text) {
      // No randomUUID: it is missing on pages that were not loaded over https or from localhost.
      const bytes = globalThis.crypto.getRandomValues(new Uint8Array(12));
      const key = Array.from(bytes, (byte) =>
        byte.toString(16).padStart(2, "0"),
      ).join("");
      waiting.push({ key, text });
      changed(waiting);
      later(0);
    },
    retry(key) {
      const one = waiting.find((message) => message.key === key);
      if (one) delete one.failed;
      changed(waiting);
      later(0);
    },
    /** It came back from the room, so everybody has it at that place. */
    arrived(key) {
      const at = waiting.findIndex((message) => message.key === key);
      if (at >= 0) waiting.splice(at, 1);
      changed(waiting);
    },
    /** Takes out what is accepted: it will not come back from the room. */
    settle() {
      const accepted = waiting.filter((message) => message.accepted);
      for (const one of accepted) waiting.splice(waiting.indexOf(one), 1);
      changed(waiting);
      return accepted;
    },
    stop: () => clearTimeout(timer),
  };
}
