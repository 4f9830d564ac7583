// The room, in Redis: members may sit in any number of instances.
//
//   chat:member:<id>   who it is; lives by a lease, because an instance may be killed, or frozen at the very moment its
//                      connection ends, and then nobody is left to clean up
//   chat:members       the IDs; one whose member is gone is taken out by whoever notices, who tells the others
//   chat:all           channel to everybody
//   chat:to:<id>       channel to one

import { performance } from "node:perf_hooks";
import { clearInterval, setInterval } from "node:timers";
import { Redis } from "ioredis";

const MEMBERS = "chat:members";
const ALL = "chat:all";
const memberKey = (id) => `chat:member:${id}`;
const channelTo = (id) => `chat:to:${id}`;

/** How long a member outlives their instance. */
const LEASE_MS = Number(process.env.CHAT_LEASE_MS ?? 15_000);

/** In one step, because an instance may be frozen between any two: off the list, and the others are told, once. */
const DISMISS = `
  if ARGV[3] == 'leaves' then redis.call('DEL', KEYS[2]) end
  if redis.call('EXISTS', KEYS[2]) == 0 and redis.call('SREM', KEYS[1], ARGV[1]) == 1 then
    redis.call('PUBLISH', '${ALL}', ARGV[2])
  end`;

const redis = connect();

/** Fails soon instead of waiting: a client would rather hear that the chat is down. */
function connect() {
  const client = new Redis(process.env.REDIS_URL ?? "redis://127.0.0.1:6379", {
    maxRetriesPerRequest: 1,
    commandTimeout: 5_000,
  });
  client.on("error", (error) => console.error(`Redis: ${error.message}`));
  return client;
}

/** Lets somebody in, who then hears everything. Resolves with the seat. */
export async function enter({ id, name }, socket) {
  // A connection of its own for each ear: on the platform a process has just one socket.
  const ear = connect();
  const early = [];
  let hear = (text) => early.push(text);
  ear.on("message", (channel, text) => hear(text));
  let timer;
  let renewedAt = performance.now();

  try {
    // First the ears, then the name on the list: whoever is listed can be spoken to.
    await ear.subscribe(ALL, channelTo(id));
    await register(id, name);
    timer = setInterval(() => void renew(), LEASE_MS / 3);
    send(socket, { type: "welcome", id, members: await listMembers() });
    early.forEach((text) => socket.send(text));
    hear = (text) => socket.send(text);
    await publish(ALL, { type: "joined", id, name });
  } catch (error) {
    stop();
    throw error; // the lease takes care of the rest
  }

  async function renew() {
    try {
      if ((await redis.pexpire(memberKey(id), LEASE_MS)) === 0)
        return socket.close(1011, "the registration has expired");
      renewedAt = performance.now();
      await listMembers();
    } catch {
      // Redis is away; it may come back before the lease is over.
      if (performance.now() - renewedAt > LEASE_MS)
        socket.close(1011, "the chat cannot be reached");
    }
  }

  function stop() {
    clearInterval(timer);
    ear.disconnect();
  }

  return {
    /** To all, or to the one with the ID `to`; false when there is nobody of that ID. */
    async say(text, to) {
      const said = { type: "said", from: { id, name }, text };
      if (to === undefined) {
        await publish(ALL, { ...said, private: false });
        return true;
      }
      return (await publish(channelTo(to), { ...said, private: true })) > 0;
    },
    members: listMembers,
    /** Good manners, not safety: the instance may be frozen before this runs. */
    async leave() {
      stop();
      await dismiss(id, "leaves");
    },
  };
}

async function register(id, name) {
  const member = JSON.stringify({ id, name });
  const [[, isNew]] = await redis
    .multi()
    .set(memberKey(id), member, "PX", LEASE_MS, "NX")
    .sadd(MEMBERS, id)
    .exec();
  if (isNew !== "OK") throw new Error("this ID is taken");
}

/** Who is there. Whoever turns out to be gone is taken off the list and, by the one who did that, announced. */
async function listMembers() {
  const ids = await redis.smembers(MEMBERS);
  if (ids.length === 0) return [];
  const members = await redis.mget(ids.map(memberKey));
  for (const [index, id] of ids.entries()) {
    if (members[index] === null) await dismiss(id, "is gone");
  }
  return members
    .filter((member) => member !== null)
    .map((member) => JSON.parse(member));
}

function dismiss(id, why) {
  const left = JSON.stringify({ type: "left", id });
  return redis.eval(DISMISS, 2, MEMBERS, memberKey(id), id, left, why);
}

function publish(channel, message) {
  return redis.publish(channel, JSON.stringify(message));
}

function send(socket, message) {
  socket.send(JSON.stringify(message));
}
