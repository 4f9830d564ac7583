/** A18, A25, A28: clients that are cut around an ack, backends that repeat themselves, connections that end. */
import { until } from "../../lab/until.js";
import { post } from "../load.js";
import { row } from "../row.js";

export const cutAroundAck = row({
  id: "A18",
  title: "client cut before its ack, or the ack lost",
  world: { redis: "single" },
  sizes: {
    short: { clients: 12, rounds: 4, messages: 40 },
    long: { clients: 200, rounds: 40, messages: 300 },
  },
  async inject(run, { clients: count, rounds, messages }) {
    const clients = await run.clients(count);
    const load = run.load(clients, { rate: 200 });
    for (let round = 0; round < rounds; round += 1) {
      for (const [index, client] of clients.entries()) {
        // A deaf one loses messages on the way, so they have to come again; a mute one its acks, so they must not.
        client.impair((index + round) % 2 === 0 ? "deaf" : "mute");
      }
      await load.more(messages);
      run.fault(clients.length);
      for (const client of clients) client.cut();
      await run.healed(clients);
    }
    await load.stop();
    const { wire } = run.ledger.verdict();
    run.check(wire.flagged > 0, "what was lost on the way came again, flagged");
    run.check(
      wire.unflagged === 0,
      `${wire.unflagged} repeats came without a flag`,
    );
  },
});

export const keyRepeated = row({
  id: "A25",
  title: "each POST three times with the same key",
  world: { redis: "single" },
  sizes: {
    short: { clients: 6, messages: 60 },
    long: { clients: 50, messages: 3_000 },
  },
  guard: { name: "the Idempotency-Key: a new one for each attempt" },
  async inject(run, { clients: count, messages }) {
    const clients = await run.clients(count);
    const { backends } = run.world;
    let mismatches = 0;
    const one = async (index: number) => {
      const client = clients[index % count];
      if (!client) return;
      const sent = run.ledger.invoke(client.connection, `k${index}`);
      const key = (copy: number) =>
        run.isBroken ? `${sent.text} ${copy}` : sent.text;
      // Two at the same moment, one to each http-fn, and one once it was handed over.
      const answers = await Promise.all([
        post(backends, sent, { first: 0, key: key(0) }),
        post(backends, sent, { first: 1, key: key(1) }),
      ]);
      await until(() => run.ledger.hasReceived(sent), {
        ms: 20_000,
        message: "it is handed over",
      });
      answers.push(await post(backends, sent, { first: index, key: key(2) }));
      run.fault(2);
      const ids = new Set(
        answers.map((answer) => answer?.json<{ id: string }>().id),
      );
      run.check(ids.size === 1, "every copy is answered with the same ID");
      const other = await backends[index % 2 === 0 ? 0 : 1].push(
        client.connection,
        "another body",
        { headers: { "idempotency-key": key(0) } },
      );
      if (other.status === 422) mismatches += 1;
    };
    const width = 12;
    await Promise.all(
      Array.from({ length: width }, async (_, lane) => {
        for (let index = lane; index < messages; index += width) {
          await one(index);
        }
      }),
    );
    run.check(
      mismatches === messages,
      `${mismatches} of ${messages} other bodies under a used key were refused with 422`,
    );
  },
});

export const pushedToEnded = row({
  id: "A28",
  title: "pushes to a connection during and after its end",
  world: { redis: "single" },
  sizes: {
    short: { clients: 12, messages: 60 },
    long: { clients: 200, messages: 2_000 },
  },
  async inject(run, { clients: count, messages }) {
    const clients = await run.clients(count);
    const load = run.load(clients, { publishers: 24, rate: 400 });
    await load.more(messages);
    run.fault(count);
    const [backend] = run.world.backends;
    const ended = await Promise.all(
      clients.map(async ({ connection, application }, index) => {
        if (index % 2 === 0) {
          const path = `/v1/connections/${connection}`;
          await until(
            async () => (await backend.ask("DELETE", path)).status < 300,
            { message: "it is ended by the backend" },
          );
        } else await application.bridge.close();
        // The client's own end is Redis' with its Close frame, which it does not wait for.
        if (index % 2 !== 0) {
          await until(
            async () =>
              (await backend.push(connection, "are you there?")).status === 410,
            { message: "it is ended by the client" },
          );
        }
        const after = await Promise.all(
          Array.from({ length: 5 }, (_, turn) =>
            post(run.world.backends, run.ledger.invoke(connection, "after"), {
              first: turn,
            }),
          ),
        );
        return after.every((answer) => answer?.status === 410);
      }),
    );
    await load.stop();
    run.check(
      ended.every(Boolean),
      "everything that is posted after the end is answered 410",
    );
    const { refused } = run.ledger.verdict();
    run.figure("answered 410", refused);
    run.check(refused > 0, "pushes met an ended connection");
  },
});
