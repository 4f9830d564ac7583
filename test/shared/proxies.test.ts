/** Who is believed, and what a client's address is. Pure, so tables. */
import t from "tap";
import {
  clientNetwork,
  isLoopback,
  parseProxies,
  proxiesOf,
} from "../../shared/proxies.js";

const client = (trusted: string, remoteAddress: string, forwarded?: string) =>
  proxiesOf(parseProxies(trusted)).clientOf({
    socket: { remoteAddress },
    headers: forwarded === undefined ? {} : { "x-forwarded-for": forwarded },
  });

t.test("a client's address", async (t) => {
  const spoofed = "198.51.100.9, 203.0.113.7";
  const cases: [
    name: string,
    trusted: string,
    peer: string,
    forwarded: string | undefined,
    expected: string,
  ][] = [
    ["nobody is trusted", "", "10.0.0.1", spoofed, "10.0.0.1"],
    ["another one is trusted", "10.0.0.2", "10.0.0.1", spoofed, "10.0.0.1"],
    [
      "the last that is no proxy",
      "10.0.0.1",
      "10.0.0.1",
      spoofed,
      "203.0.113.7",
    ],
    [
      "behind two proxies",
      "10.0.0.0/8",
      "10.0.0.1",
      `${spoofed}, 10.1.1.1`,
      "203.0.113.7",
    ],
    ["all of them are", "0.0.0.0/0,::/0", "10.0.0.1", spoofed, "198.51.100.9"],
    ["no header", "10.0.0.1", "10.0.0.1", undefined, "10.0.0.1"],
    [
      "no address ends the chain",
      "10.0.0.0/8",
      "10.0.0.1",
      "203.0.113.7, unknown, 10.2.2.2",
      "10.2.2.2",
    ],
    ["a port", "10.0.0.1", "10.0.0.1", "203.0.113.7:4711", "203.0.113.7"],
    [
      "an IPv6 address with a port",
      "10.0.0.1",
      "10.0.0.1",
      "[2001:db8::7]:4711",
      "2001:db8::7",
    ],
    [
      "both families",
      "10.0.0.1",
      "::ffff:10.0.0.1",
      "::ffff:1.2.3.4",
      "1.2.3.4",
    ],
    ["IPv6", "fd00::/8", "fd00::1%eth0", "2001:db8::7", "2001:db8::7"],
    [
      "a chain that never ends",
      "10.0.0.0/8",
      "10.0.0.1",
      `203.0.113.7${", 10.0.0.2".repeat(1_000)}`,
      "10.0.0.2",
    ],
  ];
  for (const [name, trusted, peer, forwarded, expected] of cases)
    t.equal(client(trusted, peer, forwarded), expected, name);
});

t.test("trust is by network", async (t) => {
  const { isTrusted } = proxiesOf(["10.1.0.0/16", "::1"]);
  for (const yes of ["10.1.2.3", "::ffff:10.1.2.3", "::1"])
    t.equal(isTrusted(yes), true, yes);
  for (const no of ["10.2.0.1", "::2", "", "x", undefined])
    t.equal(isTrusted(no), false, String(no));
  t.equal(proxiesOf([]).isTrusted("127.0.0.1"), false, "default: nobody");
});

t.test("a mistake is named", async (t) => {
  t.same(parseProxies(" 10.0.0.1 , fd00::/8,"), ["10.0.0.1", "fd00::/8"]);
  for (const wrong of ["proxy.example", "10.0.0.0/33", "10.0.0.1/8/8"])
    t.throws(() => parseProxies(`10.0.0.1,${wrong}`), {
      message: `"${wrong}" is no address and no network such as 10.0.0.0/8`,
    });
});

t.test("one client has a /64 of IPv6", async (t) => {
  t.equal(clientNetwork("192.0.2.1"), "192.0.2.1");
  for (const same of [
    "2001:db8::1",
    "2001:0db8:0:0:ffff::2",
    "2001:db8::a:b:c:d",
  ])
    t.equal(clientNetwork(same), "2001:db8:0:0", same);
  t.equal(clientNetwork("::1"), "0:0:0:0");
  t.equal(clientNetwork("1:2:3:4:5:6:7:8"), "1:2:3:4");
});

t.test("loopback", async (t) => {
  for (const yes of ["127.0.0.1", "127.9.9.9", "::1"]) t.ok(isLoopback(yes));
  for (const no of ["128.0.0.1", "::2", ""]) t.notOk(isLoopback(no));
});
