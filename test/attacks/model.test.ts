// The protocol against a model of what a client may ever see: sequences of valid input that fast-check draws, at two
// instances of the built ws-fn. A client sees what was sent to it and what was said in a group while it was a member; in
// order; nothing again below the place that it names; and all of it in the end. SEED=<n> draws others.

import { randomBytes } from "node:crypto";

import fc from "fast-check";
import t, { type Test } from "tap";

import { call, type Target } from "../../scripts/attacks/target.js";
import { Refused, said, Wire } from "../../scripts/attacks/wire.js";
import { startHttpFn, startWsFn } from "../../scripts/lab/processes.js";
import { singleRedis } from "../../scripts/lab/redis.js";
import { until } from "../../scripts/lab/until.js";

t.setTimeout(240_000);

const seed = Number(process.env["SEED"] ?? 20_261_201);
const RUNS = 12;
const COMMANDS = 16;
/** Frames of one socket; a second takes ten. */
const FRAMES = 8;
const CLIENTS = ["ann", "ben"] as const;
const GROUPS = ["red", "blue"] as const;
type Name = (typeof CLIENTS)[number];
type Group = (typeof GROUPS)[number];

const redis = await singleRedis(t);
const env = { REDIS_URL: redis.url, LOG_LEVEL: "error" };
const [httpFn, ...instances] = await Promise.all([
  startHttpFn(t, env),
  startWsFn(t, env),
  startWsFn(t, env),
]);
const target: Target = {
  httpPort: httpFn.port,
  wsPort: 0,
  key: "",
  secret: "",
};

async function ask(
  method: string,
  path: string,
  body?: string,
  type = "text/plain",
): Promise<Record<string, unknown>> {
  const answer = await call(target, method, path, {
    key: null,
    ...(body !== undefined && { body, headers: { "content-type": type } }),
  });
  if (answer.status >= 300)
    throw new Error(
      `${method} ${path}: ${answer.status} ${String(answer.body)}`,
    );
  return answer.body.length === 0
    ? {}
    : (JSON.parse(String(answer.body)) as Record<string, unknown>);
}

/** What fast-check knows before anything is done: enough to say which command makes sense. */
interface Model {
  readonly clients: Record<
    Name,
    { isOpen: boolean; wasOpen: boolean; frames: number; groups: Set<Group> }
  >;
}

interface Sent {
  readonly id: string;
  readonly text: string;
  /** A socket may have been given it, whether it came or not. */
  isHanded: boolean;
  /** The client said that it came, after it was handed over. */
  isClaimed: boolean;
}

/** A client with all it has seen, and what it may see. */
class Client {
  readonly id: string;
  readonly token: string;
  readonly run: Run;
  wire: Wire | undefined;
  resumeToken: string | undefined;
  /** The last seq that came, and the places in groups; what an honest client names when it comes back. */
  seq = 0;
  readonly places = new Map<string, number>();
  readonly epochs = new Map<string, string>();
  readonly seen = new Set<string>();
  readonly sent: Sent[] = [];
  /** By name in Redis: texts that were said while it was a member. */
  readonly heard = new Map<string, Set<string>>();

  /** An instance takes its socket for open. */
  isOnline = false;

  /** Who named other places than its own may be told of a loss. */
  #wasOdd = false;

  constructor(run: Run, id: string, token: string) {
    this.run = run;
    this.id = id;
    this.token = token;
  }

  mayHear(group: string): Set<string> {
    const texts = this.heard.get(group) ?? new Set();
    this.heard.set(group, texts);
    return texts;
  }

  /** A new socket, first or again; `odd` names other places than its own. False: refused. */
  async dial(instance: number, odd?: Odd): Promise<boolean> {
    const query = new URLSearchParams();
    let floor = { seq: 0, groups: new Map<string, number>() };
    if (this.resumeToken === undefined) query.set("token", this.token);
    else {
      const places = new Map(this.places);
      let seq = this.seq;
      if (odd) {
        seq = Math.max(0, odd.seq(seq));
        for (const [group, place] of places)
          places.set(
            group,
            Math.max(0, odd.offset(place, this.epochs.get(group))),
          );
      } else floor = { seq, groups: places };
      query.set("resume", this.resumeToken);
      query.set("seq", String(seq));
      query.set("groups", [...places].map((pair) => pair.join(":")).join(","));
    }
    const last = { seq: floor.seq, groups: new Map(floor.groups) };
    const before = this.wire;
    const wire = await Wire.dial({
      port: instances[instance]?.port ?? 0,
      path: `/ws?${String(query)}`,
      onFrame: ({ opcode, payload }) => {
        if (opcode === 1)
          this.#frame(
            JSON.parse(String(payload)) as Record<string, unknown>,
            last,
          );
      },
    }).catch((error: unknown) => {
      if (odd && error instanceof Refused && error.status < 500)
        return undefined;
      throw error;
    });
    if (!wire) return false;
    this.wire = wire;
    this.isOnline = true;
    for (const one of this.sent) {
      if (odd?.claims && one.isHanded) one.isClaimed = true;
      one.isHanded = true;
    }
    const welcome = await wire.hears(({ type }) => type === "welcome");
    this.run.check(welcome !== undefined, "a socket begins with a welcome");
    this.run.check(
      welcome?.["connectionId"] === this.id,
      "a welcome of another",
    );
    this.#wasOdd ||= odd !== undefined;
    if (!this.#wasOdd && welcome?.["resumed"] === true)
      this.run.check(
        welcome["lost"] === false,
        "an honest client is told of a loss",
      );
    if (before && !before.isGone) {
      await before.ends();
      this.run.check(
        before.closeCode === 4_509,
        `a socket that was taken over ends with ${before.closeCode}`,
      );
    }
    return true;
  }

  #frame(
    frame: Record<string, unknown>,
    last: { seq: number; groups: Map<string, number> },
  ): void {
    const { type, data, seq, group, offset } = frame;
    if (type === "welcome") {
      this.resumeToken = String(frame["resumeToken"]);
      for (const [name, place] of Object.entries(
        frame["groups"] as Record<string, { offset: number; epoch: string }>,
      ))
        this.#stand(name, place);
    }
    if (type === "group")
      this.#stand(String(group), frame as { offset: number; epoch: string });
    if (type !== "message") return;
    const text = String(data);
    this.seen.add(text);
    if (typeof group === "string") {
      const at = Number(offset);
      this.run.check(
        this.mayHear(group).has(text),
        `hears in ${group} what was said while it was no member: ${text}`,
      );
      this.run.check(
        at > (last.groups.get(group) ?? -1),
        `${group} goes back to ${at}: ${text}`,
      );
      last.groups.set(group, at);
      this.places.set(group, Math.max(at, this.places.get(group) ?? 0));
      return;
    }
    const at = Number(seq);
    this.run.check(
      this.sent.some((one) => one.text === text),
      `sees what was sent to another: ${text}`,
    );
    this.run.check(at > last.seq, `its order goes back to ${at}: ${text}`);
    last.seq = at;
    this.seq = Math.max(this.seq, at);
  }

  #stand(name: string, { offset, epoch }: { offset: number; epoch: string }) {
    this.epochs.set(name, epoch);
    this.places.set(name, Math.max(offset, this.places.get(name) ?? 0));
  }

  /** Says a frame and waits for its result. */
  async says(frame: Record<string, unknown>): Promise<Record<string, unknown>> {
    const ref = randomBytes(6).toString("hex");
    this.wire?.write(said({ ...frame, ref }));
    const result = await this.wire?.hears((one) => one["ref"] === ref);
    if (!result?.["ok"])
      throw new Error(`${JSON.stringify(frame)}: ${JSON.stringify(result)}`);
    const place = JSON.parse(String(result["data"] ?? "{}")) as {
      group?: string;
      offset?: number;
      epoch?: string;
    };
    if (frame["type"] === "join" && place.group !== undefined)
      this.#stand(place.group, {
        offset: Number(place.offset),
        epoch: String(place.epoch),
      });
    return place;
  }

  /** Its line is cut, and the instance has seen it: what is sent now was given to no socket. */
  async cut(): Promise<void> {
    if (!this.wire) return;
    this.wire.cut();
    await this.wire.ends();
    await until(
      async () =>
        (await ask("GET", `/v1/connections/${this.id}`))["state"] !== "open",
      { message: "the instance sees that the line is cut" },
    );
    this.isOnline = false;
  }

  /** It came, or the client said so when it may have come. */
  has({ text, isClaimed }: Sent): boolean {
    return this.seen.has(text) || isClaimed;
  }

  /** All that it must have seen by now has come: what is sent last comes last. */
  async settles(): Promise<void> {
    const marks = [await this.run.push(this)];
    for (const [group, members] of this.run.members)
      if (members.has(this)) marks.push(await this.run.publish(group));
    await until(() => marks.every((text) => this.seen.has(text)), {
      message: "what is sent to an open socket arrives",
    });
    for (const sent of this.sent)
      this.run.check(this.has(sent), `never arrived: ${sent.text}`);
    for (const [group, texts] of this.heard)
      for (const text of texts)
        this.run.check(
          this.seen.has(text) || this.run.excused.has(text),
          `never arrived in ${group}: ${text}`,
        );
  }
}

interface Odd {
  readonly name: string;
  /** It names more than it got. */
  readonly claims?: true;
  seq(own: number): number;
  offset(own: number, epoch: string | undefined): number;
}

/** One drawn sequence: its clients, its groups, and what went wrong. */
class Run {
  readonly #mark = randomBytes(6).toString("hex");
  readonly clients = new Map<Name, Client>();
  /** By name in Redis. */
  readonly members = new Map<string, Set<Client>>();
  /** Said to whom had left before it could come, or who named a place beyond it. */
  readonly excused = new Set<string>();
  readonly wrong: string[] = [];
  #count = 0;

  check(isSo: boolean, what: string): void {
    if (!isSo) this.wrong.push(what);
  }

  group(name: Group): string {
    return `${name}-${this.#mark}`;
  }

  text(): string {
    this.#count += 1;
    return `${this.#mark} ${this.#count}`;
  }

  async begin(): Promise<this> {
    // Said to another before these are members: what nobody can hear need not be kept.
    await ask(
      "POST",
      "/v1/connections",
      JSON.stringify({ groups: GROUPS.map((group) => this.group(group)) }),
      "application/json",
    );
    for (const group of GROUPS) await this.publish(this.group(group));
    await ask("POST", "/v1/broadcast", this.text());
    for (const name of CLIENTS) {
      const { connectionId, token } = await ask(
        "POST",
        "/v1/connections",
        JSON.stringify({ permissions: ["join:*", "publish:*"] }),
        "application/json",
      );
      this.clients.set(
        name,
        new Client(this, String(connectionId), String(token)),
      );
    }
    return this;
  }

  client(name: Name): Client {
    const client = this.clients.get(name);
    if (!client) throw new Error(name);
    return client;
  }

  async push(to: Client): Promise<string> {
    const text = this.text();
    // It may come before its answer.
    const sent = { id: "", text, isHanded: to.isOnline, isClaimed: false };
    to.sent.push(sent);
    const { id } = await ask("POST", `/v1/connections/${to.id}/messages`, text);
    sent.id = String(id);
    return text;
  }

  /** The backend says it, or a client. */
  async publish(group: string, by?: Client): Promise<string> {
    const text = this.text();
    for (const member of this.members.get(group) ?? [])
      member.mayHear(group).add(text);
    if (by) await by.says({ type: "publish", group, data: text });
    else await ask("POST", `/v1/groups/${group}/messages`, text);
    return text;
  }

  /** Whoever is there gets everything, honest receipts included; then all is over. */
  async end(): Promise<void> {
    for (const client of this.clients.values()) {
      // An honest client of before: its own places again.
      await client.dial(0);
      await client.settles();
      for (const sent of client.sent) {
        const { status } = await ask("GET", `/v1/messages/${sent.id}`);
        if (status === "delivered")
          this.check(
            client.has(sent),
            `delivered, and never came: ${sent.text}`,
          );
      }
      await ask("DELETE", `/v1/connections/${client.id}`);
    }
  }
}

type Step = fc.AsyncCommand<Model, Run>;

/** A command of a few lines. */
const step = (
  name: string,
  check: (model: Model) => boolean,
  run: (model: Model, real: Run) => Promise<unknown>,
): Step => ({
  check,
  run: async (model, real) => {
    await run(model, real);
    if (real.wrong.length > 0) throw new Error(real.wrong.join("\n"));
  },
  toString: () => name,
});

const who = fc.constantFrom(...CLIENTS);
const where = fc.constantFrom(...GROUPS);
const instance = fc.nat({ max: 1 });

const connects = (odds?: readonly Odd[]) =>
  fc
    .tuple(
      who,
      instance,
      odds ? fc.constantFrom(...odds) : fc.constant(undefined),
    )
    .map(([name, at, odd]) =>
      step(
        `${name} ${odd ? `comes back with ${odd.name}` : "connects"} at ${at}`,
        ({ clients }) => !odd || clients[name].wasOpen,
        async ({ clients }, real) => {
          const client = real.client(name);
          if (odd) {
            // Something waits for it.
            await client.cut();
            await real.push(client);
          }
          const isOpen = await client.dial(at, odd);
          if (isOpen)
            Object.assign(clients[name], { isOpen, wasOpen: true, frames: 0 });
        },
      ),
    );

/** A frame of a client, as far as its limits go. */
const speaks = (
  verb: string,
  isFit: (groups: ReadonlySet<Group>, group: Group) => boolean,
  run: (
    real: Run,
    client: Client,
    group: Group,
    groups: Set<Group>,
  ) => Promise<unknown>,
) =>
  fc.tuple(who, where).map(([name, group]) =>
    step(
      `${name} ${verb} ${group}`,
      ({ clients }) =>
        clients[name].isOpen &&
        clients[name].frames < FRAMES &&
        isFit(clients[name].groups, group),
      async ({ clients }, real) => {
        clients[name].frames += 1;
        await run(real, real.client(name), group, clients[name].groups);
      },
    ),
  );

const commands = (odds?: readonly Odd[]) => [
  connects(),
  ...(odds ? [connects(odds), connects(odds)] : []),
  who.map((name) =>
    step(
      `${name} is cut`,
      ({ clients }) => clients[name].isOpen,
      async ({ clients }, real) => {
        await real.client(name).cut();
        clients[name].isOpen = false;
      },
    ),
  ),
  who.map((name) =>
    step(
      `a push to ${name}`,
      () => true,
      (_, real) => real.push(real.client(name)),
    ),
  ),
  where.map((group) =>
    step(
      `the backend says something in ${group}`,
      () => true,
      (_, real) => real.publish(real.group(group)),
    ),
  ),
  speaks(
    "joins",
    (groups, group) => !groups.has(group),
    async (real, client, group, groups) => {
      const name = real.group(group);
      await client.says({ type: "join", group: name });
      groups.add(group);
      real.members.set(name, (real.members.get(name) ?? new Set()).add(client));
    },
  ),
  speaks(
    "leaves",
    (groups, group) => groups.has(group),
    async (real, client, group, groups) => {
      const name = real.group(group);
      const heard = client.mayHear(name);
      await client.says({ type: "leave", group: name });
      groups.delete(group);
      real.members.get(name)?.delete(client);
      // What had not come up to the end of the membership does not come.
      for (const text of heard)
        if (!client.seen.has(text)) real.excused.add(text);
      client.places.delete(name);
    },
  ),
  speaks(
    "publishes in",
    () => true,
    (real, client, group) => real.publish(real.group(group), client),
  ),
  who.map((name) =>
    step(
      `${name} acks`,
      ({ clients }) => clients[name].isOpen && clients[name].frames < FRAMES,
      async ({ clients }, real) => {
        clients[name].frames += 1;
        const client = real.client(name);
        client.wire?.write(said({ type: "ack", seq: client.seq }));
        // It is not above what was sent, so the socket stays.
        await client.says({ type: "event", event: "acked" });
        clients[name].frames += 1;
      },
    ),
  ),
];

async function holds(t: Test, odds?: readonly Odd[]): Promise<string> {
  const outcome = await fc.check(
    fc.asyncProperty(
      fc.commands(commands(odds), { maxCommands: COMMANDS, size: "max" }),
      async (drawn) => {
        const fresh = () => ({
          isOpen: false,
          wasOpen: false,
          frames: 0,
          groups: new Set<Group>(),
        });
        const run = await new Run().begin();
        try {
          await fc.asyncModelRun(
            () => ({
              model: { clients: { ann: fresh(), ben: fresh() } },
              real: run,
            }),
            drawn,
          );
          await run.end();
          if (run.wrong.length > 0) throw new Error(run.wrong.join("\n"));
        } finally {
          for (const { wire } of run.clients.values()) wire?.cut();
        }
      },
    ),
    { numRuns: RUNS, seed, endOnFailure: true },
  );
  if (!outcome.failed) return "";
  t.comment(
    `${String(outcome.counterexample)} (SEED=${seed}, path ${outcome.counterexamplePath})`,
  );
  return String(outcome.errorInstance);
}

t.test(`honest clients, seed ${seed}`, async (t) => {
  t.equal(await holds(t), "");
});

const own = (place: number) => place;

t.test("clients that name odd places in their groups", async (t) => {
  const odds: Odd[] = [
    { name: "0 of each group", seq: own, offset: () => 0 },
    {
      name: "the epoch of each group",
      seq: own,
      offset: (_, epoch) => Number(epoch) || 0,
    },
    {
      name: "a second before its own",
      seq: own,
      offset: (place) => place - 1_000_000,
    },
  ];
  t.equal(await holds(t, odds), "");
});

t.test("clients that name a seq of before", async (t) => {
  const odds: Odd[] = [
    { name: "seq 0", seq: () => 0, offset: own },
    { name: "one less", seq: (seq) => seq - 1, offset: own },
  ];
  t.equal(await holds(t, odds), "");
});

t.test("clients that name a seq an hour ahead", async (t) => {
  const seq = () => (Date.now() + 3_600_000) * 1_000;
  const odds: Odd[] = [
    { name: "a seq an hour ahead", claims: true, seq, offset: own },
  ];
  t.equal(await holds(t, odds), "");
});
