/**
 * Which addresses a webhook may go to: public ones, and those that the operator allows (WEBHOOK_ALLOW). A name is resolved
 * here and every address behind it is looked at; the connection is then made to what was looked at, so that a name that
 * answers differently the next time gains nothing. Refused is what IANA's registries of special-purpose addresses do
 * not call globally reachable, and addresses of clouds that answer with credentials.
 */
import { lookup as resolveName } from "node:dns/promises";
import { BlockList, isIP, type LookupFunction } from "node:net";
import { networkOf } from "../../shared/webhook-settings.js";

/** IPv4: everything but these is public. */
const special4 = [
  "0.0.0.0/8", // this network
  "10.0.0.0/8", // private
  "100.64.0.0/10", // behind a carrier's NAT; 100.100.100.200 is a cloud's metadata
  "127.0.0.0/8", // loopback
  "168.63.129.16/32", // a cloud's own agent, on a public address
  "169.254.0.0/16", // link-local, most clouds' metadata
  "172.16.0.0/12", // private
  "192.0.0.0/24", // protocol assignments
  "192.0.2.0/24", // documentation
  "192.88.99.0/24", // 6to4 relays
  "192.168.0.0/16", // private
  "198.18.0.0/15", // benchmarks
  "198.51.100.0/24", // documentation
  "203.0.113.0/24", // documentation
  "224.0.0.0/4", // multicast
  "240.0.0.0/4", // reserved, broadcast
];
/** IPv6: nothing outside is public (loopback, unique local, link-local, multicast, NAT64, IPv4 in disguise … */
const global6 = ["2000::/3"];
/** … and of what is inside, not these). */
const special6 = [
  "2001::/23", // protocol assignments: Teredo, ORCHID, …
  "2001:db8::/32", // documentation
  "2002::/16", // 6to4: IPv4 in disguise
  "3fff::/20", // documentation
];

const loopback = ["127.0.0.0/8", "::1/128"];

function listOf(networks: readonly string[]): BlockList {
  const list = new BlockList();
  for (const text of networks) {
    const network = networkOf(text);
    if (!network) throw new Error(`"${text}" is no address and no network`);
    list.addSubnet(network.address, network.bits, network.family);
  }
  return list;
}

/** `::ffff:7f00:1` is 127.0.0.1, however it is written. */
function unmapped(address: string): string {
  if (isIP(address) !== 6) return address;
  const [plain = ""] = address.split("%");
  // The URL standard has one spelling for each address.
  const { hostname } = new URL(`http://[${plain}]`);
  const match = /^\[::ffff:([0-9a-f]+):([0-9a-f]+)\]$/.exec(hostname);
  if (!match) return plain;
  const [high = 0, low = 0] = match.slice(1).map((part) => parseInt(part, 16));
  return [high >> 8, high & 255, low >> 8, low & 255].join(".");
}

export type Resolve = (
  name: string,
) => Promise<{ address: string; family: number }[]>;

/** The connection was not made, and nothing was sent. */
export class AddressRefused extends Error {
  constructor(host: string, address: string) {
    super(
      host === address
        ? `${address} is no public address; WEBHOOK_ALLOW may allow it`
        : `${host} is ${address}, no public address; WEBHOOK_ALLOW may allow it`,
    );
    this.name = "AddressRefused";
  }
}

export class AddressGuard {
  readonly #special4 = listOf(special4);
  readonly #global6 = listOf(global6);
  readonly #special6 = listOf(special6);
  readonly #allowed: BlockList;
  readonly #resolve: Resolve;

  /** `allowed`: addresses and networks besides the public ones; `local` adds loopback. */
  constructor(
    allowed: readonly string[],
    {
      local = false,
      resolve = (name) => resolveName(name, { all: true }),
    }: { local?: boolean; resolve?: Resolve } = {},
  ) {
    this.#allowed = listOf([...allowed, ...(local ? loopback : [])]);
    this.#resolve = resolve;
  }

  /** Whether a webhook may go there. What is no address may not. */
  permits(address: string): boolean {
    const plain = unmapped(address);
    if (isIP(plain) === 4)
      return (
        this.#allowed.check(plain, "ipv4") ||
        !this.#special4.check(plain, "ipv4")
      );
    if (isIP(plain) !== 6) return false;
    return (
      this.#allowed.check(plain, "ipv6") ||
      (this.#global6.check(plain, "ipv6") &&
        !this.#special6.check(plain, "ipv6"))
    );
  }

  /** Throws AddressRefused for a URL's host that is an address itself: nobody resolves those. */
  checkHost(hostname: string): void {
    const host = hostname.replace(/^\[|\]$/g, "");
    if (isIP(host) !== 0 && !this.permits(host))
      throw new AddressRefused(host, host);
  }

  /** For `net.connect`: the addresses of a name, all of them permitted, or an error. */
  readonly lookup: LookupFunction = (hostname, options, callback) => {
    this.#permitted(hostname).then(
      (addresses) => {
        const [first] = addresses;
        if (options.all) callback(null, addresses);
        else callback(null, first?.address ?? "", first?.family ?? 4);
      },
      (error: Error) => callback(error, ""),
    );
  };

  async #permitted(name: string) {
    const addresses = await this.#resolve(name);
    // One bad address is enough: who mixes them wants us to try.
    for (const { address } of addresses)
      if (!this.permits(address)) throw new AddressRefused(name, address);
    if (addresses.length === 0) throw new Error(`${name} has no address`);
    return addresses;
  }
}
