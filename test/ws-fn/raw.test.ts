/** Raw: messages as they were posted, and nothing a ten-line client would have to know. */
import t from "tap";
import { rawSpeaker } from "../../ws-fn/raw.js";

const facts = {
  connectionId: "c_x",
  userId: "u",
  resumeToken: "secret",
  resumed: true,
  lost: true,
  seq: 1,
  heartbeatMs: 1,
  groups: {},
};

t.test("the welcome tells the connection ID and no secret", async (t) => {
  const frame = rawSpeaker({ welcome: true, heartbeat: false }).welcome(facts);
  t.same(JSON.parse(String(frame?.data)), {
    type: "welcome",
    connectionId: "c_x",
  });
  const quiet = rawSpeaker({ welcome: false, heartbeat: false });
  t.equal(quiet.welcome(facts), undefined);
});

t.test("a body is its frame", async (t) => {
  const { message } = rawSpeaker({ welcome: true, heartbeat: false });
  const body = Buffer.from([0, 255, 10]);
  for (const binary of [true, false])
    t.same(
      message(
        {
          seq: 1,
          id: "m",
          total: 0,
          expiresAtMs: 0,
          onlyEpoch: undefined,
          contentType: "x",
          body,
          binary,
        },
        false,
      ),
      [{ data: body, binary }],
    );
});

t.test("it pings when it was asked to, and says nothing else", async (t) => {
  const asked = rawSpeaker({ welcome: true, heartbeat: true });
  t.same(asked.ping(), { data: '{"type":"ping"}', binary: false });
  const raw = rawSpeaker({ welcome: true, heartbeat: false });
  t.equal(raw.ping(), undefined);
  t.equal(raw.drain(1), undefined);
  t.equal(raw.acks, false);
  const problem = {
    type: "",
    title: "",
    status: 400,
    code: "internal",
  } as const;
  t.equal(raw.error(problem), undefined);
  t.equal(raw.result("r", problem), undefined);
});

t.test("whatever a raw client says is the event message", async (t) => {
  const { read } = rawSpeaker({ welcome: true, heartbeat: false });
  for (const text of ["", "hello", '{"type":"ack","seq":1}'])
    t.same(read(Buffer.from(text), false), {
      kind: "event",
      event: "message",
      ref: undefined,
      contentType: "text/plain",
      binary: false,
      body: Buffer.from(text),
    });
  t.match(read(Buffer.of(255), true), {
    contentType: "application/octet-stream",
    binary: true,
  });
});
