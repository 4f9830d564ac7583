/** H3, H4, M2, M3: what a client says of itself is bounded by what it was given. */
import { newConnectionId } from "../../../shared/ids.js";
import { call, prepare, tokenOf, type Target } from "../target.js";
import { row, type Run } from "../row.js";
import { Refused, said, Wire } from "../wire.js";

type Frame = Record<string, unknown>;

/** Dials; undefined when it was refused. */
async function dial(
  target: Target,
  query: Readonly<Record<string, string>>,
): Promise<Wire | undefined> {
  try {
    return await Wire.dial({
      port: target.wsPort,
      path: `/ws?${String(new URLSearchParams(query))}`,
    });
  } catch (error) {
    if (error instanceof Refused) return undefined;
    throw error;
  }
}

async function welcomed(wire: Wire | undefined): Promise<Frame> {
  const welcome = await wire?.hears(({ type }) => type === "welcome");
  if (!wire || !welcome) throw new Error("no welcome");
  return welcome;
}

async function send(target: Target, path: string, body: string) {
  const { status, body: answer } = await call(target, "POST", path, {
    body,
    headers: { "content-type": "text/plain" },
  });
  if (status !== 202) throw new Error(`${path}: ${status}`);
  return JSON.parse(answer.toString()) as { id: string };
}

/** What somebody who came later hears when it resumes with positions of before; `marker` is the last that is its own. */
async function overheard(
  run: Run,
  group: string,
  publish: (text: string) => Promise<unknown>,
  join: (connectionId: string) => Promise<unknown>,
  odd: readonly string[],
): Promise<number> {
  // Somebody else is a member: what nobody can hear need not be kept.
  const other = await prepare(run.target);
  const listening = await dial(run.target, { token: other.token });
  await welcomed(listening);
  await join(other.connectionId);
  run.scope.teardown(() => listening?.cut());
  for (let n = 0; n < 5; n += 1) await publish(`before ${n}`);
  let heard = 0;
  for (const offset of odd) {
    const { connectionId, token } = await prepare(run.target);
    const first = await dial(run.target, { token });
    const { resumeToken } = await welcomed(first);
    await join(connectionId);
    const place = (await first?.hears(
      ({ type, group: name }) => type === "group" && name === group,
      group === "$all" ? 1 : 10_000,
    )) as { epoch?: string } | undefined;
    first?.cut();
    const epoch = place?.epoch ?? "1";
    const at = offset === "epoch" ? epoch : offset;
    const again = await dial(run.target, {
      resume: String(resumeToken),
      seq: "0",
      groups: `${group}:${at}`,
    });
    // Refused is as good as bounded.
    if (!again) continue;
    await welcomed(again);
    const marker = `after ${connectionId}`;
    await publish(marker);
    await again.hears(({ data }) => data === marker);
    heard += again.said.filter(({ data }) =>
      String(data).startsWith("before"),
    ).length;
    again.cut();
  }
  return heard;
}

export const beforeMembership = row<{ odd: string[] }>({
  id: "H3a",
  title: "resumes with a group's position of before its membership",
  sizes: {
    short: { odd: ["epoch", "0"] },
    long: { odd: ["epoch", "0", "1", "999"] },
  },
  attack: async (run, { odd }) => {
    const path = (rest: string) => `/v1/groups/secrets/${rest}`;
    const heard = await overheard(
      run,
      "secrets",
      (text) => send(run.world.owner, path("messages"), text),
      (id) => call(run.world.owner, "PUT", path(`connections/${id}`)),
      odd,
    );
    run.atMost("heard from before", heard, 0);
  },
});

export const beforeConnection = row<{ odd: string[] }>({
  id: "H3b",
  title: "resumes with a position of $all of before its connection",
  sizes: {
    short: { odd: ["0", "1"] },
    long: { odd: ["0", "1", "999"] },
  },
  attack: async (run, { odd }) => {
    const { owner } = run.world;
    // The epoch of $all is in every welcome.
    const looking = await dial(run.target, {
      token: (await prepare(run.target)).token,
    });
    const { groups } = await welcomed(looking);
    looking?.cut();
    const all = (groups as Record<string, { epoch?: string }>)["$all"];
    const heard = await overheard(
      run,
      "$all",
      (text) => send(owner, "/v1/broadcast", text),
      () => Promise.resolve(),
      all?.epoch === undefined ? odd : [all.epoch, ...odd],
    );
    run.atMost("heard from before", heard, 0);
  },
});

export const foreignNames = row<{ scheduled: number }>({
  id: "H4",
  title:
    "tokens of the application that name a key of ours, or another's connection",
  sizes: { short: { scheduled: 5 }, long: { scheduled: 100 } },
  attack: async (run, { scheduled }) => {
    const { owner } = run.world;
    const { connectionId } = await prepare(owner);
    const path = `/v1/connections/${connectionId}/messages`;
    const ids: string[] = [];
    for (let n = 0; n < scheduled; n += 1)
      ids.push((await send(owner, `${path}?delay=600`, "later")).id);
    let opened = 0;
    for (const cid of [
      "schedule",
      "webhooks",
      "events",
      "g:$all",
      "g:room",
      "u:0000000000000000000000",
      "c_short",
      `${newConnectionId()}}`,
      `x{${newConnectionId()}}`,
      "",
      "*",
    ]) {
      const wire = await dial(run.target, {
        // As the application itself would sign it: only what the name is stands between it and Redis.
        token: tokenOf(
          run.target,
          { cid, sub: "mallory" },
          "bridge-connection+jwt",
        ),
      });
      if (!wire) continue;
      const welcome = await wire.hears(({ type }) => type === "welcome", 2_000);
      // One that gets an ID of ours instead of the name is no harm.
      if (
        welcome &&
        /^c_[0-9A-Za-z]{22}$/.test(String(welcome["connectionId"]))
      )
        opened += welcome["connectionId"] === cid ? 1 : 0;
      else opened += 1;
      wire.cut();
    }
    run.atMost("names of ours that opened a connection", opened, 0);
    let gone = 0;
    for (const id of ids) {
      const { status, body } = await call(owner, "GET", `/v1/messages/${id}`);
      if (status !== 200 || !body.includes('"scheduled"')) gone += 1;
    }
    run.atMost("scheduled messages gone", gone, 0);
  },
});

export const oldTokens = row<object>({
  id: "M2",
  title: "a resume token that was used up takes the connection from its owner",
  sizes: { short: {}, long: {} },
  attack: async (run) => {
    const { token } = await prepare(run.target);
    const first = await dial(run.target, { token });
    const stolen = String((await welcomed(first))["resumeToken"]);
    first?.cut();
    const second = await dial(run.target, { resume: stolen, seq: "0" });
    const next = String((await welcomed(second))["resumeToken"]);
    second?.cut();
    const victim = await dial(run.target, { resume: next, seq: "0" });
    await welcomed(victim);
    const thief = await dial(run.target, { resume: stolen, seq: "0" });
    run.check(!thief, "a resume token of two sockets ago opens it again");
    if (thief) {
      await victim?.ends(5_000);
      run.figure("the victim ends with", victim?.closeCode ?? "nothing");
      thief.cut();
    }
    victim?.cut();
    const endless = await dial(run.target, {
      token: tokenOf(run.target, { sub: "mallory", exp: 1 }),
    });
    run.check(!endless, "a token whose time is over opens a connection");
  },
});

export const aheadOfTime = row<{ messages: number }>({
  id: "M3",
  title: "a position 23 h ahead acks what was never sent",
  sizes: { short: { messages: 3 }, long: { messages: 30 } },
  attack: async (run, { messages }) => {
    const { connectionId, token } = await prepare(run.target);
    const first = await dial(run.target, { token });
    const resume = String((await welcomed(first))["resumeToken"]);
    first?.cut();
    const ids: string[] = [];
    const path = `/v1/connections/${connectionId}/messages`;
    for (let n = 0; n < messages; n += 1)
      ids.push((await send(run.target, path, `waits ${n}`)).id);
    const seq = String((Date.now() + 23 * 3_600_000) * 1_000);
    const second = await dial(run.target, { resume, seq });
    let handed = 0;
    if (second) {
      await welcomed(second);
      await second.hears(({ data }) => data === `waits ${messages - 1}`, 1_000);
      handed = second.said.filter(({ type }) => type === "message").length;
      // Likewise in a frame: nothing above what was sent.
      second.write(said({ type: "ack", seq: Number(seq) }));
      await second.ends(2_000);
      run.figure("an ack ahead ends with", second.closeCode ?? "nothing");
    }
    let delivered = 0;
    for (const id of ids) {
      const { body } = await call(run.target, "GET", `/v1/messages/${id}`);
      if (body.includes('"delivered"')) delivered += 1;
    }
    run.figure("handed over", handed);
    run.atMost("delivered and never sent", delivered - handed, 0);
  },
});
