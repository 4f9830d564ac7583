/** Raw: after a first welcome frame every message arrives exactly as it was posted. Made for ten-line clients. */
import type { Speaker } from "./speaker.js";

interface RawOptions {
  welcome: boolean;
  heartbeat: boolean;
}

/** It remembers nothing of a client: one for all who ask for the same. */
export const rawSpeaker = ({ welcome, heartbeat }: RawOptions): Speaker =>
  speakers[welcome ? 1 : 0][heartbeat ? 1 : 0];

function speaker(options: RawOptions): Speaker {
  return {
    protocol: "raw",
    acks: false,
    welcome: ({ connectionId }) =>
      options.welcome
        ? {
            data: JSON.stringify({ type: "welcome", connectionId }),
            binary: false,
          }
        : undefined,
    message: ({ body, binary }) => [{ data: body, binary }],
    groupMessage: ({ body, binary }) => [{ data: body, binary, shared: true }],
    group: () => undefined,
    ping: () =>
      options.heartbeat
        ? { data: '{"type":"ping"}', binary: false }
        : undefined,
    drain: () => undefined,
    error: () => undefined,
    result: () => undefined,
    done: () => undefined,
    answered: () => undefined,
    read: (data, binary) => ({
      kind: "event",
      event: "message",
      ref: undefined,
      contentType: binary ? "application/octet-stream" : "text/plain",
      binary,
      body: data,
    }),
  };
}

const speakers = [
  [
    speaker({ welcome: false, heartbeat: false }),
    speaker({ welcome: false, heartbeat: true }),
  ],
  [
    speaker({ welcome: true, heartbeat: false }),
    speaker({ welcome: true, heartbeat: true }),
  ],
] as const;
