/** Room for connections: what descriptors allow, who makes way, what one address gets. */
import { once } from "node:events";
import { PassThrough } from "node:stream";
import t from "tap";
import { ConnectionRoom } from "../../shared/connection-room.js";

const roomOf = (options: {
  max?: number;
  perAddress?: number;
  descriptors?: number;
}) =>
  new ConnectionRoom({
    max: options.max ?? 0,
    perAddress: options.perAddress ?? 0,
    descriptors: () => options.descriptors,
  });

/** So many connections of an address that are served; what the last one was told. */
function fill(room: ConnectionRoom, count: number, address: string) {
  let told: ReturnType<ConnectionRoom["enter"]>;
  for (let n = 0; n < count; n++) {
    const socket = new PassThrough();
    told = room.enter(socket, address);
    room.busy(socket);
  }
  return told;
}

t.test("descriptors are kept for Redis", async (t) => {
  const room = roomOf({ descriptors: 256 });
  t.equal(fill(room, 192, "127.0.0.1"), undefined);
  t.same(fill(room, 1, "127.0.0.1"), { full: "process", limit: 192 });
  const small = roomOf({ descriptors: 256, max: 10 });
  t.same(fill(small, 11, "127.0.0.1"), { full: "process", limit: 10 });
  const large = roomOf({ descriptors: 100, max: 1_000 });
  t.same(fill(large, 51, "127.0.0.1"), { full: "process", limit: 50 });
  const unknown = roomOf({});
  t.equal(fill(unknown, 1_000, "127.0.0.1"), undefined);
});

t.test("who is silent longest makes way", async (t) => {
  const room = roomOf({ max: 3 });
  const [served, asked, silent] = [1, 2, 3].map(() => {
    const socket = new PassThrough();
    t.equal(room.enter(socket, "127.0.0.1"), undefined);
    return socket;
  }) as [PassThrough, PassThrough, PassThrough];
  room.busy(served);
  room.busy(asked);
  room.idle(asked);
  const newcomers = [1, 2].map(() => {
    const socket = new PassThrough();
    t.equal(room.enter(socket, "127.0.0.1"), undefined);
    room.busy(socket);
    return socket;
  });
  t.same(
    [silent, asked, served, ...newcomers].map(({ destroyed }) => destroyed),
    [true, true, false, false, false],
  );
  await Promise.all([silent, asked].map((socket) => once(socket, "close")));
  t.equal(room.open, 3);
  t.match(room.enter(new PassThrough(), "127.0.0.1"), { full: "process" });
  served.destroy();
  await once(served, "close");
  t.equal(room.enter(new PassThrough(), "127.0.0.1"), undefined);
});

t.test("an address gets half, and loopback any number", async (t) => {
  const room = roomOf({ max: 10 });
  t.equal(fill(room, 5, "192.0.2.1"), undefined);
  t.same(fill(room, 1, "192.0.2.1"), { full: "address", limit: 5 });
  t.equal(room.open, 5, "who is refused takes no room");
  t.equal(fill(room, 5, "127.0.0.1"), undefined);
  const strict = roomOf({ max: 10, perAddress: 1 });
  t.equal(fill(strict, 1, "127.0.0.1"), undefined);
  t.same(fill(strict, 1, "127.0.0.1"), { full: "address", limit: 1 });
  t.equal(fill(strict, 1, "2001:db8::1"), undefined);
  t.match(fill(strict, 1, "2001:db8::2"), { full: "address" }, "of one /64");
});

t.test(
  "a proxy's connection counts for its client when that is known",
  async (t) => {
    const room = roomOf({ perAddress: 1 });
    const sockets = [1, 2].map(() => new PassThrough()) as [
      PassThrough,
      PassThrough,
    ];
    for (const socket of sockets)
      t.equal(room.enter(socket, undefined), undefined);
    t.equal(room.enterAddress(sockets[0], "192.0.2.1"), undefined);
    t.match(room.enterAddress(sockets[1], "192.0.2.1"), { full: "address" });
    sockets[0].destroy();
    await once(sockets[0], "close");
    t.equal(room.enterAddress(sockets[1], "192.0.2.1"), undefined);
  },
);
