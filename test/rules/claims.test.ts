/**
 * What a client says of itself counts as far as it was given: nothing is acked that was not handed out, and a resume token
 * that was followed by another opens nothing.
 */
import t from "tap";
import { claimScript, releaseScript } from "../../shared/registry-scripts.js";
import type { Script } from "../../shared/redis.js";
import { singleRedis } from "../../scripts/lab/redis.js";
import type { Scope } from "../../scripts/lab/scope.js";
import { until } from "../../scripts/lab/until.js";
import {
  altered,
  changed,
  connect,
  patience,
  prepare,
  push,
  startWorld,
  type World,
} from "../fixtures/world.js";

const redis = await singleRedis(t);

/** Almost a day ahead, in microseconds: a Redis whose clock was ahead may have given it. */
const farAhead = () => (Date.now() + 23 * 3_600_000) * 1_000;

/** The highest position that counts as acked, after all that its owner had to tell. */
async function ackedOf(world: World, id: string): Promise<number> {
  return Number(
    (await world.redis.command("HGET", `bridge:{${id}}:conn`, "acked")) ?? 0,
  );
}

/** A client comes back and says that it has what was pushed while it was away. What is it sent, and what counts as acked? */
async function ahead(t: Scope, scripts: Script[]) {
  const world = await startWorld(t, redis.url, { scripts });
  const id = await prepare(world);
  const first = await connect(t, world, id);
  await world.log.append(push(id, "1"));
  await first.receives("1");
  const seen = Number(first.socket.said.at(-1)?.["seq"]);
  first.ack();
  await until(async () => (await ackedOf(world, id)) === seen, patience);
  await first.connection.onClose(1006);
  await world.log.append(push(id, "2"));
  const said = farAhead();
  const again = await connect(t, world, id, { resumeSeq: said });
  const frame = JSON.stringify({ type: "ack", seq: said });
  again.connection.onMessage(Buffer.from(frame), false);
  const { messages, closedWith } = again.socket;
  const { lost, seq } = again.socket.said[0] ?? {};
  await again.connection.onClose(1006);
  const acked = await ackedOf(world, id);
  return { messages, closedWith, lost, said: seq === said, more: acked > seen };
}

t.test("a seq far ahead of all that was handed out", async (t) => {
  const off = [
    changed(claimScript, "math.min(seen, tonumber(c[9] or 0))", "seen"),
  ];
  t.match(await ahead(t, off), { messages: [], more: true }, "acks it all");
  t.same(
    await ahead(t, []),
    // Redis may have lost history as well: the client is told so, and later messages have a greater seq.
    {
      messages: ["2"],
      closedWith: undefined,
      lost: true,
      said: true,
      more: false,
    },
    "acks nothing",
  );
});

/** A message waits behind a client that does not read; then its line is cut, and it says that it has the message. */
async function unwritten(t: Scope, scripts: Script[]) {
  const world = await startWorld(t, redis.url, { scripts });
  const id = await prepare(world);
  const slow = await connect(t, world, id);
  slow.socket.bufferedBytes = 2_000_000;
  await world.log.append(push(id, "1"));
  await slow.receives("1");
  const { place } = await world.log.append(push(id, "2"));
  if (!("seq" in place)) throw new Error("it is in the log");
  const { seq } = place;
  await slow.connection.onClose(1006);
  const again = await connect(t, world, id, { resumeSeq: seq });
  return again.socket.messages;
}

t.test("a message that its owner heard and did not write", async (t) => {
  const off = [changed(releaseScript, "if ARGV[4] ~= '' and", "if false and")];
  t.same(await unwritten(t, off), [], "counts as seen");
  t.same(await unwritten(t, []), ["2"], "was handed to nobody");
});

t.test("an ack above what was handed out and said", async (t) => {
  const world = await startWorld(t, redis.url);
  const id = await prepare(world);
  const client = await connect(t, world, id);
  const frame = JSON.stringify({ type: "ack", seq: farAhead() });
  client.connection.onMessage(Buffer.from(frame), false);
  t.match(client.socket.closedWith, { code: 1008 });
});

/** A connection is taken with resume tokens, each named by the epoch in which it was given. */
async function resumed(t: Scope, scripts: Script[]) {
  const world = await startWorld(t, redis.url, { scripts });
  const id = await prepare(world);
  const claim = async (resumeEpoch?: number) => {
    const { epoch } = await world.registry.claim(id, {
      owner: world.instance,
      protocol: "bridge.v1.json",
      ...(resumeEpoch === undefined ? {} : { resumeSeq: 0, resumeEpoch }),
    });
    return epoch;
  };
  const isTaken = (resumeEpoch: number) =>
    claim(resumeEpoch).then(
      () => true,
      (error: unknown) => {
        if ((error as { code?: string }).code !== "token_invalid") throw error;
        return false;
      },
    );
  const first = await claim();
  await claim(first);
  const second = await claim(first);
  const third = await claim(second);
  return {
    replaced: await isTaken(first),
    // The welcome that brings the next one may have been lost.
    last: await isTaken(second),
    newest: await isTaken(third),
    // A client that begins anew with its first token ends all that were given before.
    before: (await claim()) > 0 && (await isTaken(third)),
  };
}

t.test("a resume token from before the one that was used last", async (t) => {
  const off = [changed(claimScript, "if ARGV[9] ~= '' and", "if false and")];
  t.match(await resumed(t, off), { replaced: true, before: true });
  t.same(await resumed(t, []), {
    replaced: false,
    last: true,
    newest: true,
    before: false,
  });
});

t.test("a resume token is renewed while its socket is open", async (t) => {
  const world = await startWorld(t, redis.url);
  const tokens = altered(world.deps.tokens, { renewMs: 0 });
  const config = { ...world.deps.config, heartbeatMs: 20 };
  const pings = async (deps: object) => {
    const id = await prepare(world);
    const client = await connect(t, world, id, { deps: { config, ...deps } });
    const isPing = ({ type }: { type?: unknown }) => type === "ping";
    await until(() => client.socket.said.some(isPing), patience);
    return { client, id, ping: client.socket.said.find(isPing) };
  };
  const { ping: usual } = await pings({});
  t.notOk("resumeToken" in (usual ?? {}), "one that is new is not");
  const { client, id, ping } = await pings({ tokens });
  t.match(await tokens.verify(String(ping?.["resumeToken"])), {
    kind: "resume",
    connectionId: id,
    epoch: client.epoch,
  });
});
