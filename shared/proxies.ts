/**
 * Which proxies stand in front of us (`TRUST_PROXY`), and so who a client is: anybody can send `X-Forwarded-For`, and only
 * what a proxy of ours has added to it is true.
 */
import type { IncomingHttpHeaders } from "node:http";
import { BlockList, isIP } from "node:net";
import { networkOf } from "./webhook-settings.js";

/** Hops that are looked at, from ours outwards. No chain of proxies is longer; a header may be. */
const hopsMax = 32;

/** A request, as far as it says where it comes from. */
export interface Sender {
  socket: { remoteAddress?: string | undefined };
  headers: IncomingHttpHeaders;
}

export interface Proxies {
  /** Whether the peer at this address is one of our proxies, whose headers are its own. */
  isTrusted(address: string | undefined): boolean;
  /**
   * The client's address: the peer's, or where that is a proxy of ours the last one in `X-Forwarded-For` that is none. "" when
   * the peer has left.
   */
  clientOf(request: Sender): string;
}

/** Reads `TRUST_PROXY`. Throws a sentence that names the part that is no network. */
export const parseProxies = (text: string): readonly string[] =>
  text
    .split(",")
    .map((part) => part.trim())
    .filter((part) => part !== "")
    .map((part) => {
      if (!networkOf(part))
        throw new Error(
          `"${part}" is no address and no network such as 10.0.0.0/8`,
        );
      return part;
    });

/** `networks`: addresses and networks as `parseProxies` gives them; none: nobody is trusted. */
export function proxiesOf(networks: readonly string[]): Proxies {
  const list = new BlockList();
  for (const text of networks) {
    const network = networkOf(text);
    if (network) list.addSubnet(network.address, network.bits, network.family);
  }
  const isTrusted = (address: string | undefined): boolean => {
    if (networks.length === 0 || address === undefined) return false;
    const plain = plainAddress(address);
    const version = isIP(plain);
    return version !== 0 && list.check(plain, version === 4 ? "ipv4" : "ipv6");
  };
  return {
    isTrusted,
    clientOf({ socket, headers }) {
      let client = plainAddress(socket.remoteAddress ?? "");
      if (!isTrusted(client)) return client;
      const said = headers["x-forwarded-for"];
      const hops = (Array.isArray(said) ? said.join(",") : (said ?? ""))
        .split(",")
        .slice(-hopsMax)
        .reverse();
      for (const hop of hops) {
        const address = plainAddress(withoutPort(hop.trim()));
        // What is no address says nothing of those behind it either.
        if (isIP(address) === 0) break;
        client = address;
        if (!isTrusted(address)) break;
      }
      return client;
    },
  };
}

/** Some proxies add the port: `192.0.2.1:4711`, `[2001:db8::1]:4711`. */
function withoutPort(text: string): string {
  return (
    /^\[([^\]]+)\](?::\d+)?$/.exec(text)?.[1] ??
    /^(\d+\.\d+\.\d+\.\d+):\d+$/.exec(text)?.[1] ??
    text
  );
}

/** An IPv4 address that a socket of both families tells as `::ffff:192.0.2.1`, as it is; of others without their zone. */
function plainAddress(address: string): string {
  const mapped = /^::ffff:(\d+\.\d+\.\d+\.\d+)$/i.exec(address);
  return mapped?.[1] ?? address.split("%", 1)[0] ?? "";
}

/** What counts as one client: an IPv4 address, of IPv6 the /64, which is what one line gets. */
export function clientNetwork(address: string): string {
  if (isIP(address) !== 6) return address;
  const [head = "", tail] = address.split("::", 2);
  const groups = (text = "") => text.split(":").filter((part) => part !== "");
  const first = groups(head);
  const last = groups(tail);
  const zeros =
    tail === undefined ? 0 : Math.max(0, 8 - first.length - last.length);
  return [...first, ...Array<string>(zeros).fill("0"), ...last]
    .slice(0, 4)
    .map((group) => parseInt(group, 16).toString(16))
    .join(":");
}

/** The machine itself. */
export const isLoopback = (address: string): boolean =>
  address === "::1" || (isIP(address) === 4 && address.startsWith("127."));
