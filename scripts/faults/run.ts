/** One row in one world: what `inject` may call, and the check at the end. */
import type { Receipt } from "../../shared/api.js";
import { until } from "../lab/until.js";
import { startClient, type Client } from "./clients.js";
import { faultsOf, Ledger, type Sent, type Verdict } from "./ledger.js";
import { post, startLoad, type Load } from "./load.js";
import type { Row, Run } from "./row.js";
import type { RunScope } from "./scope.js";
import type { World } from "./world.js";

export type Form = "short" | "long";

/** What is not here so long after the last answer is lost, ms. */
const PATIENCE_MS = 60_000;
/** Between two probes of one client, ms: the resolution of a recovery time. */
const PROBE_EVERY_MS = 25;
const RECOVERY_MS = 60_000;
const RECEIPTS_EVERY_MS = 1_000;
/** So many clients come at once; more would only queue up. */
const CLIENTS_AT_ONCE = 100;
/** So many lost messages are named, with what their receipts say. */
const LOST_SHOWN = 3;

export interface Result {
  readonly row: Row;
  readonly form: Form;
  readonly faults: number;
  readonly verdict: Verdict;
  /** Seconds from heal to the next message handed over, one for each client and heal. */
  readonly recoveries: readonly number[];
  readonly figures: readonly (readonly [string, number | string])[];
  /** Checks that failed, the ledger's and the row's own; empty is sound. */
  readonly wrong: readonly string[];
  /** Why it could not be shown on this machine. */
  readonly skipped?: string | undefined;
  readonly seconds: number;
}

/** Runs `inject` and the check. What throws is wrong, too: there is always a result. */
export async function runRow(
  row: Row,
  form: Form,
  world: World,
  scope: RunScope,
  isBroken: boolean,
): Promise<Result> {
  const began = performance.now();
  const ledger = new Ledger();
  const all: Client[] = [];
  const loads: Load[] = [];
  const recoveries: number[] = [];
  const figures: [string, number | string][] = [];
  const wrong: string[] = [];
  let skipped: string | undefined;
  let faults = 0;

  const run: Run = {
    world,
    ledger,
    isBroken,
    clients: async (count, { first = 0, together = false } = {}) => {
      const one = async (index: number) => {
        const { connectionId, token } =
          await world.backends[index % 2 === 0 ? 0 : 1].prepare();
        const turn = first + (together ? 0 : index);
        const client = startClient(scope, ledger, {
          connection: connectionId,
          token,
          to: (dial) => world.address(turn + dial),
        });
        await client.application.bridge.ready;
        return client;
      };
      const started: Client[] = [];
      while (started.length < count) {
        const from = started.length;
        const length = Math.min(CLIENTS_AT_ONCE, count - from);
        const some = Array.from({ length }, (_, index) => one(from + index));
        started.push(...(await Promise.all(some)));
      }
      all.push(...started);
      return started;
    },
    load: (clients, options) => {
      const load = startLoad(
        world.backends,
        ledger,
        () => clients.map(({ connection }) => connection),
        options,
      );
      loads.push(load);
      return load;
    },
    fault: (count = 1) => {
      faults += count;
    },
    healed: async (clients, since = performance.now()) => {
      const times = await Promise.all(
        clients.map((client) => recover(world, ledger, client, since)),
      );
      recoveries.push(...times.map((ms) => ms / 1_000));
    },
    check: (isSo, what) => {
      if (!isSo) wrong.push(what);
    },
    skip: (why) => {
      skipped = why;
    },
    figure: (name, value) => void figures.push([name, value]),
  };

  try {
    await row.inject(run, row.sizes[form]);
    for (const load of loads) await load.stop();
    await settle(world, ledger, all, PATIENCE_MS);
    for (const sent of ledger.missing().slice(0, LOST_SHOWN)) {
      wrong.push(`lost: ${sent.text}, ${await receiptOf(world, sent)}`);
    }
    let said = 0;
    for (const { application, mayEnd } of all) {
      said += application.losses.length;
      if (mayEnd) continue;
      for (const error of application.errors) {
        // What Redis forgot is said in a frame where the socket lives, in the next welcome where it does not.
        if (ledger.hasForgotten && error.problem?.code === "outcome_unknown")
          said += 1;
        // The end of a connection that the row ended is its own business; these are the library's complaints.
        else if (error.code !== "closed")
          wrong.push(`client: ${error.message}`);
      }
    }
    if (said > 0) figures.push(["clients told of a loss", said]);
  } catch (error) {
    wrong.push(error instanceof Error ? error.message : String(error));
  }
  for (const load of loads) void load.stop().catch(() => undefined);
  const verdict = ledger.verdict();
  const poisoned = verdict.excused["poison"] ?? 0;
  if (poisoned > 0 && row.isPoisonous !== true) {
    wrong.push(`${poisoned} given up as poison`);
  }
  return {
    row,
    form,
    faults,
    verdict,
    recoveries,
    figures,
    wrong: [...faultsOf(verdict), ...wrong],
    skipped,
    seconds: (performance.now() - began) / 1_000,
  };
}

/** What both sides say of a client that gets nothing, for whoever has to find out why. */
async function stateOf(world: World, client: Client): Promise<string> {
  const { application, connection, ends } = client;
  const path = `/v1/connections/${connection}`;
  const [inspected, pending] = await Promise.all(
    [path, `${path}/messages`].map((of) =>
      world.backends[0]?.ask("GET", of).then(
        ({ text }) => text.trim(),
        (error: unknown) => String(error),
      ),
    ),
  );
  const { bridge, dials } = application;
  return [
    `${connection} is ${bridge.state} after ${dials} dials`,
    `its sockets ended with ${ends.map(({ code }) => code).join() || "nothing"}`,
    `its errors: ${application.errors.map(String).join("; ") || "none"}`,
    `http-fn says ${inspected} and ${pending}`,
  ].join("; ");
}

/** Milliseconds from `since` until a client is handed a message again, whichever that is. */
async function recover(
  world: World,
  ledger: Ledger,
  client: Client,
  since: number,
): Promise<number> {
  const deadline = performance.now() + RECOVERY_MS;
  const probing: Promise<unknown>[] = [];
  let probe: Sent | undefined;
  while (client.lastAt <= since) {
    if (probe?.outcome === "refused") {
      throw new Error("A client's connection is gone");
    }
    if (performance.now() > deadline) {
      throw new Error(
        `A client was handed nothing for ${RECOVERY_MS} ms: ${await stateOf(world, client)}`,
      );
    }
    // One probe at a time: the next only once this one is accepted, and then the message itself is waited for.
    if (probing.length === 0) {
      probe = ledger.invoke(client.connection, "probe");
      probing.push(post(world.backends, probe, { everyMs: PROBE_EVERY_MS }));
    }
    await handed(client, Math.min(1_000, deadline - performance.now()));
  }
  await Promise.all(probing);
  return client.lastAt - since;
}

/** The next message handed over, or `ms` gone by. */
function handed(client: Client, ms: number): Promise<void> {
  return new Promise((resolve) => {
    const done = () => {
      clearTimeout(timer);
      client.onMessage = undefined;
      resolve();
    };
    const timer = setTimeout(done, Math.max(0, ms));
    client.onMessage = done;
  });
}

/**
 * Waits until nothing is missing that was answered 2xx, or its receipt says why, or the patience is over. A last
 * message to each connection comes first: what is handed over after it would be out of order, so nothing follows.
 */
async function settle(
  world: World,
  ledger: Ledger,
  clients: readonly Client[],
  patienceMs: number,
): Promise<void> {
  await Promise.all(
    clients.map(({ connection }) =>
      post(world.backends, ledger.invoke(connection, "last")),
    ),
  );
  let askAt = performance.now() + RECEIPTS_EVERY_MS;
  await until(
    async () => {
      const missing = ledger.missing();
      if (missing.length > 0 && performance.now() >= askAt) {
        askAt = performance.now() + RECEIPTS_EVERY_MS;
        for (const sent of missing) await readReceipt(world, ledger, sent);
      }
      return ledger.missing().length === 0;
    },
    { ms: patienceMs, message: "nothing is missing" },
  ).catch(() => undefined);
}

async function readReceipt(
  world: World,
  ledger: Ledger,
  sent: Sent,
): Promise<void> {
  const answer = await world.backends[0]
    .ask("GET", `/v1/messages/${sent.id ?? ""}`)
    .catch(() => undefined);
  if (answer?.status === 404) sent.isForgotten = ledger.mayBeForgotten(sent);
  if (answer?.status !== 200) return;
  const { status, reason } = answer.json<Receipt>();
  const isFinal = ["undeliverable", "expired", "recalled", "replaced"].includes(
    status,
  );
  if (isFinal) sent.excuse = reason ?? status;
}

async function receiptOf(world: World, { id = "" }: Sent): Promise<string> {
  const path = `/v1/messages/${id}`;
  const answer = await world.backends[0].ask("GET", path).catch(String);
  return typeof answer === "string"
    ? answer
    : `receipt ${answer.status}: ${answer.text.trim()}`;
}
