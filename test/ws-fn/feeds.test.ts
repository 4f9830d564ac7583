/** How a message of a group becomes frames: one for each way to speak, at once or gathered with what follows. */
import t from "tap";
import type { Fanout } from "../../shared/fanout.js";
import type { Subscriptions } from "../../shared/redis.js";
import { bridgeSpeaker } from "../../ws-fn/bridge-v1.js";
import { Feeds, type FeedMember } from "../../ws-fn/feeds.js";
import { rawSpeaker } from "../../ws-fn/raw.js";
import type { Frame, Speaker } from "../../ws-fn/speaker.js";

const epoch = "1000";

/** A feed with one member for each speaker, the bell that it hears, and the frames that its members were offered. */
async function listening(speakers: readonly Speaker[]) {
  let hear: (payload: Buffer) => void = () => undefined;
  const feeds = new Feeds({
    fanout: {
      hold: () => Promise.resolve({ epoch, offset: 1_000 }),
      sent: () => Promise.resolve(),
    } as unknown as Fanout,
    redis: {
      subscriptions: {
        on: () => undefined,
        off: () => undefined,
        unsubscribe: () => Promise.resolve(),
        subscribe: (_channel: string, handler: (payload: Buffer) => void) => {
          hear = handler;
          return Promise.resolve();
        },
      } as unknown as Subscriptions,
    },
    logger: undefined as never,
    leaseMs: 60_000,
  });
  const offered = speakers.map((): Frame[] => []);
  for (const [index, speaker] of speakers.entries()) {
    const member: FeedMember = {
      connectionId: `c${index}`,
      moved: () => undefined,
      offer: (delivery) => {
        offered[index]?.push(...delivery.frames(speaker));
        return true;
      },
    };
    await feeds.enter("g", member);
  }
  let last = 1_000;
  const say = (body: string) => {
    const header = `${Date.now() + 60_000} 0 ${last} - 0 0 text/plain`;
    hear(Buffer.from(`m ${last + 1} ${last} ${epoch} ${header}\n\n${body}`));
    last += 1;
  };
  return { feeds, offered, say };
}

const raw = () => rawSpeaker({ welcome: true, heartbeat: false });

t.test("members that speak alike get the same frame", async (t) => {
  const { feeds, offered, say } = await listening([
    raw(),
    raw(),
    bridgeSpeaker(),
  ]);
  t.teardown(() => feeds.close());
  say("hello");
  const [[one], [same], [json]] = offered as [Frame[], Frame[], Frame[]];
  t.equal(one, same, "the same object, so its bytes are made once");
  t.match(json?.data, /"group":"g","epoch":"1000","offset":1001.*"hello"/);
});

t.test("what comes alone goes at once, a burst is gathered", async (t) => {
  const { feeds, offered, say } = await listening([raw()]);
  t.teardown(() => feeds.close());
  const [frames] = offered as [Frame[]];
  say("alone");
  say("after it");
  say("and after that");
  t.same(
    frames.map(({ now }) => now === true),
    [true, false, false],
    "what follows in the same turn shares a system call",
  );
  await new Promise((resolve) => setImmediate(resolve));
  say("later");
  t.equal(frames[3]?.now, true);
});

t.test("a message in parts is gathered", async (t) => {
  const { feeds, offered, say } = await listening([bridgeSpeaker()]);
  t.teardown(() => feeds.close());
  say("x".repeat(300_000));
  const [frames] = offered as [Frame[]];
  t.equal(frames.length, 2);
  t.same(
    frames.filter(({ now }) => now),
    [],
  );
});
