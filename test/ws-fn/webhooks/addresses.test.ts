/** Which addresses a webhook may go to, in whatever spelling. */
import t from "tap";
import {
  AddressGuard,
  AddressRefused,
} from "../../../ws-fn/webhooks/addresses.js";

const publicAddresses = [
  "1.1.1.1",
  "9.255.255.255",
  "11.0.0.0",
  "100.63.255.255",
  "100.128.0.0",
  "126.255.255.255",
  "128.0.0.0",
  "168.63.129.15",
  "169.253.255.255",
  "169.255.0.0",
  "172.15.255.255",
  "172.32.0.0",
  "192.0.1.0",
  "192.167.255.255",
  "192.169.0.0",
  "198.17.255.255",
  "198.20.0.0",
  "223.255.255.255",
  "2606:4700:4700::1111",
  "2a00:1450:4001:81b::200e",
  "::ffff:1.1.1.1",
];
const refusedAddresses = [
  "0.0.0.0",
  "0.1.2.3",
  "10.0.0.1",
  "10.255.255.255",
  "100.64.0.1",
  "100.100.100.200",
  "127.0.0.1",
  "127.255.255.254",
  "168.63.129.16",
  "169.254.169.254",
  "169.254.0.23",
  "172.16.0.1",
  "172.31.255.255",
  "192.0.0.192",
  "192.0.2.1",
  "192.88.99.1",
  "192.168.1.1",
  "198.18.0.1",
  "198.19.255.255",
  "198.51.100.7",
  "203.0.113.7",
  "224.0.0.1",
  "239.255.255.250",
  "240.0.0.1",
  "255.255.255.255",
  "::",
  "::1",
  "::127.0.0.1",
  "::ffff:127.0.0.1",
  "::ffff:7f00:1",
  "::ffff:10.0.0.1",
  "0:0:0:0:0:ffff:a9fe:a9fe",
  "64:ff9b::7f00:1",
  "64:ff9b:1::1",
  "100::1",
  "2001::1",
  "2001:10::1",
  "2001:db8::1",
  "2002:7f00:1::",
  "3fff::1",
  "4000::1",
  "5f00::1",
  "fc00::1",
  "fd00:ec2::254",
  "fe80::1",
  "fe80::1%eth0",
  "fec0::1",
  "ff02::1",
  "localhost",
  "",
];

t.test("public addresses only", async (t) => {
  const guard = new AddressGuard([]);
  for (const address of publicAddresses)
    t.ok(guard.permits(address), `${address} is public`);
  for (const address of refusedAddresses)
    t.notOk(guard.permits(address), `${address} is not`);
});

t.test("a host that is an address, in every spelling a URL has", async (t) => {
  const guard = new AddressGuard([]);
  for (const host of [
    "127.0.0.1",
    "2130706433",
    "0x7f000001",
    "0x7f.1",
    "0177.0.0.1",
    "127.1",
    "%31%32%37.0.0.1",
    "１２７.0.0.1",
    "[::1]",
    "[::ffff:127.0.0.1]",
    "[0:0:0:0:0:FFFF:7F00:0001]",
    "[fd00::1]",
  ])
    t.throws(
      () => guard.checkHost(new URL(`http://${host}/`).hostname),
      AddressRefused,
      host,
    );
  t.doesNotThrow(() => guard.checkHost("1.1.1.1"));
  t.doesNotThrow(() => guard.checkHost("backend.example"));
});

t.test("what the operator allows", async (t) => {
  const guard = new AddressGuard(["10.1.0.0/16", "192.168.7.7", "fd12::/16"]);
  for (const address of [
    "10.1.2.3",
    "::ffff:10.1.2.3",
    "192.168.7.7",
    "fd12::1",
  ])
    t.ok(guard.permits(address), address);
  for (const address of ["10.2.0.1", "192.168.7.8", "fd13::1", "127.0.0.1"])
    t.notOk(guard.permits(address), address);
  const local = new AddressGuard([], { local: true });
  for (const address of ["127.0.0.1", "127.8.8.8", "::1", "::ffff:127.0.0.1"])
    t.ok(local.permits(address), address);
  t.notOk(local.permits("10.0.0.1"));
});

t.test("every address of a name is looked at", async (t) => {
  const answers: Record<string, string[]> = {
    "good.example": ["1.1.1.1", "2606:4700:4700::1111"],
    "mixed.example": ["1.1.1.1", "10.0.0.1"],
    "bad.example": ["::ffff:127.0.0.1"],
    "none.example": [],
  };
  const guard = new AddressGuard([], {
    resolve: async (name) =>
      (answers[name] ?? []).map((address) => ({
        address,
        family: address.includes(":") ? 6 : 4,
      })),
  });
  const look = (name: string, all: boolean) =>
    new Promise((resolve, reject) => {
      guard.lookup(name, { all }, (error, ...found) => {
        if (error) reject(error);
        else resolve(found);
      });
    });
  t.same(await look("good.example", true), [
    [
      { address: "1.1.1.1", family: 4 },
      { address: "2606:4700:4700::1111", family: 6 },
    ],
  ]);
  t.same(await look("good.example", false), ["1.1.1.1", 4]);
  await t.rejects(look("mixed.example", true), AddressRefused);
  await t.rejects(look("mixed.example", false), AddressRefused);
  await t.rejects(look("bad.example", true), /::ffff:127\.0\.0\.1/);
  await t.rejects(look("none.example", true), /no address/);
});
