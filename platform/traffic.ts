// What an invocation's record says of the traffic of a connection: rates, and in plain sentences what was too much.

import { NO_CODE } from "./frames.js";
import type { Lane, LaneLimits } from "./lane.js";
import type { Side } from "./relay.js";

/** Of one direction. The present second, and the busiest one so far. */
export interface Rates {
  readonly messagesPerSecond: number;
  readonly bytesPerSecond: number;
  readonly peakMessagesPerSecond: number;
  readonly peakBytesPerSecond: number;
}

export interface Meter {
  readonly client: Rates;
  readonly server: Rates;
}

/** Asked whenever a record is shown, so that the page shows what happens now. */
export interface Traffic {
  meter(): Meter;
  warnings(): readonly string[];
}

export interface TrafficSource {
  readonly lanes: Readonly<Record<Side, Lane>>;
  readonly limits: Readonly<Record<Side, LaneLimits>>;
  now(): number;
}

export function liveTraffic({ lanes, limits, now }: TrafficSource): Traffic {
  const rates = (lane: Lane): Rates => ({
    messagesPerSecond: lane.messages.sum(now()),
    bytesPerSecond: lane.bytes.sum(now()),
    peakMessagesPerSecond: lane.messages.peak,
    peakBytesPerSecond: lane.bytes.peak,
  });
  return {
    meter: () => ({
      client: rates(lanes.client),
      server: rates(lanes.server),
    }),
    warnings: () => [
      ...excessOf("client", lanes.client, limits.client),
      ...excessOf("function", lanes.server, limits.server),
      ...closesOf(lanes),
    ],
  };
}

/** The same for good, without what it was taken from. */
export function frozenTraffic(traffic: Traffic): Traffic {
  const meter = traffic.meter();
  const warnings = traffic.warnings();
  return { meter: () => meter, warnings: () => warnings };
}

function excessOf(who: string, lane: Lane, limits: LaneLimits): string[] {
  const { excess, dropped } = lane;
  const warnings: string[] = [];
  if (excess.bytes > 0)
    warnings.push(
      `The ${who} sent more than ${limits.bytesPerSecond} bytes in a second, ${times(excess.bytes)} [WS-LIM-2].`,
    );
  if (excess.messages > 0)
    warnings.push(
      `The ${who} sent more than ${limits.messagesPerSecond} messages in a second, ${times(excess.messages)} [WS-LIM-3].`,
    );
  if (dropped > 0)
    warnings.push(
      `The platform dropped ${dropped} of the ${who}'s messages [WS-LIM-4].`,
    );
  return warnings;
}

function times(messages: number): string {
  return messages === 1 ? "with one message" : `with ${messages} messages`;
}

function closesOf(lanes: Readonly<Record<Side, Lane>>): string[] {
  const client = lanes.client.reader.closeCode;
  const server = lanes.server.reader.closeCode;
  const warnings: string[] = [];
  if (client === NO_CODE || server === NO_CODE)
    warnings.push(
      "A side closed without a code: close with an explicit 1000 [WS-CLOSE-8].",
    );
  // An answer repeats the code it answers.
  if (client !== undefined && server !== undefined && client !== server)
    warnings.push(
      `Both sides closed, the client with ${client} and the function with ${server}: the first Close frame at the gateway counts [WS-CLOSE-6].`,
    );
  return warnings;
}
