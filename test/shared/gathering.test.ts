/** Pushes that leave together: each has its own outcome, and each connection its order. */
import t, { type Test } from "tap";
import type { BridgeError } from "../../shared/errors.js";
import { Gathering } from "../../shared/gathering.js";
import { keys } from "../../shared/keys.js";
import type { Appended } from "../../shared/log.js";
import { clusterRedis, singleRedis } from "../../scripts/lab/redis.js";
import { until } from "../../scripts/lab/until.js";
import {
  altered,
  connect,
  patience,
  prepare,
  push,
  pushAll,
  startWorld,
  type World,
} from "../fixtures/world.js";

const single = await singleRedis(t);
const cluster = await clusterRedis(t);

/** A gathering that counts its calls. */
function gatheringOf(world: World) {
  const calls: number[][] = [];
  const log = altered(world.log, {
    append(one) {
      calls.push([1]);
      return world.log.append(one);
    },
    appendMany(connections) {
      calls.push(connections.map((some) => some.length));
      return world.log.appendMany(connections);
    },
  });
  return { gathering: new Gathering(log, world.redis), calls };
}

const code = ({ code }: BridgeError): string => code;
const outcomes = (all: Promise<Appended>[]): Promise<string[]> =>
  Promise.all(all.map((one) => one.then(({ status }) => status, code)));

async function bodies(world: World, id: string): Promise<string[]> {
  const { epoch } = await world.registry.claim(id, {
    owner: "test",
    protocol: "raw",
  });
  const page = await world.log.read(id, epoch, 0);
  return page.kind === "rows" ? page.rows.map(({ body }) => String(body)) : [];
}

for (const [name, { url }] of Object.entries({ single, cluster })) {
  t.test(`on a ${name}`, async (t) => {
    const world = await startWorld(t, url, { maxMessages: 40 });
    const ids = await Promise.all([1, 2, 3].map(() => prepare(world)));
    const [a = "", b = "", c = ""] = ids;

    t.test("order for each connection, whatever comes between", async (t) => {
      const { gathering, calls } = gatheringOf(world);
      const answers = await Promise.all(
        Array.from({ length: 90 }, (_, n) =>
          gathering.append(push(ids[n % 3] ?? "", `${n}`)),
        ),
      );
      for (const [index, id] of ids.entries()) {
        const its = answers.filter((_, n) => n % 3 === index);
        t.same(
          its.map(({ place }) => "seq" in place && place.seq),
          its
            .map(({ place }) => ("seq" in place ? place.seq : 0))
            .sort((x, y) => x - y),
        );
        t.same(
          await bodies(world, id),
          Array.from({ length: 30 }, (_, n) => `${3 * n + index}`),
        );
      }
      t.same(
        calls,
        name === "single"
          ? [
              [22, 21, 21],
              [9, 9, 8],
            ]
          : [[30], [30], [30]],
        "few calls, one slot each",
      );
    });

    t.test("each has its own outcome", async (t) => {
      const { gathering } = gatheringOf(world);
      await world.registry.end(c, {
        reason: "closed_by_backend",
        code: 4510,
        words: "",
      });
      const nobody = `c_${"0".repeat(22)}`;
      const full = Array.from({ length: 12 }, () => a);
      t.same(
        await outcomes(
          [nobody, b, c, ...full, b].map((id) =>
            gathering.append(push(id, "x")),
          ),
        ),
        [
          "connection_not_found",
          "queued",
          "connection_ended",
          ...full.map((_, n) => (n < 10 ? "queued" : "log_full")),
          "queued",
        ],
      );
    });

    t.test("a connection that is found to be over", async (t) => {
      const short = await startWorld(t, url, { preparedMs: 1 });
      const { gathering } = gatheringOf(short);
      const over = await prepare(short);
      const until1 = Date.now() + 2;
      await until(() => Date.now() > until1);
      t.same(
        await outcomes(
          [over, b, over].map((id) => gathering.append(push(id, "x"))),
        ),
        ["connection_ended", "queued", "connection_ended"],
      );
    });

    t.test("what ran out makes room", async (t) => {
      const { gathering } = gatheringOf(world);
      const id = await prepare(world);
      const first = await Promise.all(
        Array.from({ length: 40 }, () =>
          gathering.append(push(id, "short", { ttlSeconds: 0.05 })),
        ),
      );
      const last = first.at(-1)?.expiresAtMs ?? 0;
      await until(() => Date.now() > last, patience);
      t.same(
        await outcomes([
          gathering.append(push(id, "1", { overtaken: () => true })),
          gathering.append(push(id, "2")),
        ]),
        ["log_full", "queued"],
        "but not for one that was overtaken",
      );
    });

    t.test("one that Redis finds fault with harms no other", async (t) => {
      const { gathering } = gatheringOf(world);
      const [bad, good] = [await prepare(world), await prepare(world)];
      // Its stream is ahead of everything: nothing can be added.
      const far = `${Number.MAX_SAFE_INTEGER}-0`;
      await world.redis.command("XADD", keys.log(bad), far, "h", "", "b", "");
      const [first, ...rest] = await outcomes(
        [bad, good, bad, good].map((id) => gathering.append(push(id, "x"))),
      );
      t.same(rest[0], "queued");
      t.same(rest[2], "queued");
      t.not(first, "queued");
      t.not(rest[1], "queued");
    });

    t.test("whoever listens gets them, binary and text", async (t) => {
      const id = await prepare(world);
      const client = await connect(t, world, id);
      const { gathering } = gatheringOf(world);
      const bytes = Buffer.from([0xff, 0, 1]);
      const answers = await Promise.all([
        gathering.append(push(id, "ä")),
        gathering.append({
          ...push(id, ""),
          body: bytes,
          binary: true,
          contentType: "application/octet-stream",
        }),
        gathering.append(push(b, "other")),
        gathering.append(push(id, "z")),
      ]);
      t.same(
        answers.map(({ online }) => online),
        [true, true, false, true],
      );
      await pushAll(world, id, "last");
      await until(() => client.socket.messages.at(-1) === "last", patience);
      t.equal(client.socket.messages.length, 4);
      t.equal(client.socket.messages[0], "ä");
      t.equal(client.socket.messages[2], "z");
    });
  });
}

t.test("a call is bounded in bytes", async (t: Test) => {
  const world = await startWorld(t, single.url);
  const { gathering, calls } = gatheringOf(world);
  const [a, b] = [await prepare(world), await prepare(world)];
  const large = "x".repeat(60_000);
  await Promise.all(
    [a, b, a, b].map((id) => gathering.append(push(id, large))),
  );
  t.same(calls, [
    [1, 1],
    [1, 1],
  ]);
});

t.test("what goes another way does not overtake", async (t) => {
  const world = await startWorld(t, single.url);
  const { gathering } = gatheringOf(world);
  const id = await prepare(world);
  const first = [1, 2].map((n) => gathering.append(push(id, `${n}`)));
  gathering.flush();
  const next = world.log.append(push(id, "3", { topic: "t" }));
  await Promise.all([...first, next]);
  t.same(await bodies(world, id), ["1", "2", "3"]);
});
