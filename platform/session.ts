// The time in which a client's line and its function's are joined: it passes on, looks on, keeps time, ends what has
// to be ended, and says what ended it.

import type { IncomingMessage } from "node:http";
import { connect, type Socket } from "node:net";
import { realClock, type Clock } from "./clock.js";
import { closeFrame } from "./close-frame.js";
import type { ConnectionFaults } from "./faults.js";
import type { FunctionDescription } from "./function-description.js";
import { requestHead, upgradeHeaders } from "./headers.js";
import type { Instance } from "./instance.js";
import type { Invocation } from "./invocation.js";
import { Lane, type LaneLimits, type LimitName } from "./lane.js";
import type { Limits } from "./limits.js";
import { outcomeUnknown } from "./problem.js";
import { otherSide, Relay, type Side } from "./relay.js";
import { ResponseHead } from "./response-head.js";
import type { Rules } from "./rules.js";
import { refuseOnSocket } from "./start-failure.js";
import { frozenTraffic, liveTraffic } from "./traffic.js";
import type { Ending, PlatformEnding } from "./verdict.js";
import { WireFaults } from "./wire-faults.js";

export interface SessionOptions {
  readonly description: FunctionDescription;
  readonly limits: Limits;
  readonly rules: Rules;
  readonly clock: Clock;
  readonly faults: ConnectionFaults;
}

/** The two Close codes of RFC 6455 section 7.4.1 that say what was wrong [WS-LIM-4]. */
const TOO_LARGE = 1009;
const TOO_FAST = 1008;

const sides = ["client", "server"] as const;

export class Session {
  readonly #req: IncomingMessage;
  readonly #client: Socket;
  readonly #server: Socket;
  readonly #invocation: Invocation;
  readonly #options: SessionOptions;
  readonly #clock: Clock;
  readonly #limits: Readonly<Record<Side, LaneLimits>>;
  readonly #lanes: Readonly<Record<Side, Lane>>;
  readonly #relay: Relay;
  readonly #faults: WireFaults;
  readonly #head = new ResponseHead();
  readonly #timers = new Set<() => void>();
  #ending: Ending | undefined;
  #lastTraffic = 0;
  #resolve: (ending: Ending) => void = () => {};

  constructor(
    req: IncomingMessage,
    client: Socket,
    instance: Instance,
    invocation: Invocation,
    options: SessionOptions,
  ) {
    this.#req = req;
    this.#client = client;
    this.#invocation = invocation;
    this.#options = options;
    this.#clock = {
      now: () => options.clock.now(),
      setTimer: (ms, fire) => this.#timer(ms, fire),
    };
    this.#server = connect({
      host: "127.0.0.1",
      port: instance.port,
      allowHalfOpen: true,
    });
    this.#limits = {
      client: laneLimits(options.rules, true),
      server: laneLimits(options.rules, options.rules.countDownstream),
    };
    this.#lanes = {
      client: this.#lane("client"),
      server: this.#lane("server"),
    };
    this.#relay = new Relay({
      client,
      server: this.#server,
      lingerMs: options.limits.lingerMs,
      clock: realClock,
      isBusy: (from) => this.#faults.isBusy(from),
      onData: (from, chunk) => {
        if (from === "server" && this.#head.status !== 101)
          this.#answered(chunk);
        else this.#watch(from, chunk);
      },
      onEnd: (from) => this.#lanes[from].end(),
      onDropped: (by) => this.#dropped(by),
      onClosed: () => this.#closed(),
    });
    this.#faults = new WireFaults({
      faults: options.faults,
      relay: this.#relay,
      process: instance,
      clock: this.#clock,
      thawed: (from) => this.#lanes[from].proceed(),
    });
  }

  /** Passes the upgrade on and stays until both lines are closed. */
  run(early: Buffer): Promise<Ending> {
    const { rules, description } = this.#options;
    const { timeoutSeconds: seconds } = description;
    const { requestId } = this.#invocation;
    const headers = upgradeHeaders(this.#req, requestId, description);
    this.#server.write(requestHead(this.#req, headers), "latin1");
    const since =
      rules.executionFrom === "request"
        ? this.#invocation.startedAt
        : this.#clock.now();
    // The execution timer starts before the idle timer: in a tie it wins [WS-CLOSE-16].
    this.#timer(since + seconds * 1_000 - this.#clock.now(), () =>
      this.#endFor({ cause: "execution", seconds }, rules.platformClose),
    );
    return new Promise((resolve) => {
      this.#resolve = resolve;
      if (early.length > 0) this.#watch("client", early);
      this.#relay.start();
    });
  }

  #lane(from: Side): Lane {
    const { faults } = this.#options;
    return new Lane({
      limits: this.#limits[from],
      clock: this.#clock,
      send: (bytes) => this.#send(from, bytes),
      hold: (isHolding) => {
        if (isHolding) this.#relay.hold(from, "lane");
        else this.#relay.release(from, "lane");
      },
      exceeded: (limit) => this.#exceeded(from, limit),
      begins: faults.watches(from)
        ? (nth) => this.#faults.begins(from, nth)
        : undefined,
      halved: () => this.#faults.halved(from),
    });
  }

  #send(from: Side, bytes: Buffer): void {
    if (!this.#faults.delays(from, bytes))
      this.#relay.send(otherSide(from), bytes);
  }

  /** The function's answer to the upgrade passes as it is [WS-CONN-3]. */
  #answered(chunk: Buffer): void {
    const rest = this.#head.push(chunk);
    if (this.#head.status !== 101) {
      this.#relay.send("client", chunk);
      this.#refused();
      return;
    }
    this.#relay.send(
      "client",
      rest ? chunk.subarray(0, chunk.length - rest.length) : chunk,
    );
    this.#established();
    if (rest) this.#watch("server", rest);
  }

  #established(): void {
    const { description } = this.#options;
    const now = this.#clock.now();
    const lanes = this.#lanes;
    this.#invocation.frames = {
      client: lanes.client.reader,
      server: lanes.server.reader,
    };
    this.#invocation.traffic = liveTraffic({
      lanes,
      limits: this.#limits,
      now: () => this.#clock.now(),
    });
    this.#invocation.established(now);
    this.#lastTraffic = now;
    this.#timer(description.idleSeconds * 1_000, () => this.#checkIdle());
  }

  /** The function said no: its answer has passed; when it is complete the lines have nothing left to carry. */
  #refused(): void {
    const { status, bodyComplete } = this.#head;
    if (status === undefined) return;
    this.#decide({ cause: "answered", status, toUpgrade: true });
    if (!bodyComplete) return;
    for (const side of sides) this.#relay.finish(side);
  }

  #watch(from: Side, chunk: Buffer): void {
    const { reader } = this.#lanes[from];
    const { dataFrames, controlFrames } = reader;
    this.#lanes[from].push(chunk);
    // Both directions count [WS-CLOSE-12], pings and pongs where the switch says so [WS-CLOSE-13].
    if (
      reader.dataFrames !== dataFrames ||
      (reader.controlFrames !== controlFrames &&
        this.#options.rules.countControlFrames)
    )
      this.#lastTraffic = this.#clock.now();
    if (reader.closeCode === undefined || this.#ending !== undefined) return;
    this.#decide({ cause: "closed", by: from, code: reader.closeCode });
    this.#invocation.closing();
  }

  #dropped(by: Side): void {
    if (this.#ending !== undefined) return;
    const answered = this.#invocation.establishedAt !== undefined;
    if (by === "client" && !answered) this.#decide({ cause: "cancelled" });
    else this.#decide({ cause: "dropped", by });
    if (by === "server" && !this.#head.begun)
      this.#answer(439, "The function ended the line without an answer.");
  }

  #checkIdle(): void {
    const { description, rules } = this.#options;
    const seconds = description.idleSeconds;
    const left = this.#lastTraffic + seconds * 1_000 - this.#clock.now();
    if (left > 0) this.#timer(left, () => this.#checkIdle());
    else this.#endFor({ cause: "idle", seconds }, rules.platformClose);
  }

  #exceeded(by: Side, limit: LimitName): void {
    const { maxMessageBytes, bytesPerSecond, messagesPerSecond } =
      this.#limits[by];
    const allowed = {
      size: maxMessageBytes,
      bytes: bytesPerSecond,
      messages: messagesPerSecond,
    }[limit];
    const closeCode = limit === "size" ? TOO_LARGE : TOO_FAST;
    this.#endFor({ cause: "limit", by, limit, allowed }, closeCode);
  }

  /** The platform ends it: both lines at once, or with a Close frame for each side [WS-CLOSE-15]. */
  #endFor(ending: PlatformEnding, how: "abort" | number): void {
    const isOpen = this.#head.status === 101;
    this.#decide(
      how === "abort" || !isOpen ? ending : { ...ending, closeCode: how },
    );
    if (how === "abort" || !isOpen) {
      if (!this.#head.begun && ending.cause === "execution") {
        this.#answer(433, "The function did not answer in time.");
        this.#relay.drop("server");
      } else this.#relay.cut();
      return;
    }
    this.#relay.linger();
    for (const from of sides)
      this.#lanes[from].stop((mayClose) => {
        const to = otherSide(from);
        if (mayClose) this.#send(from, closeFrame(how, to));
        // What is still on a slow line has `lingerMs` left.
        if (!this.#faults.isBusy(from)) this.#relay.finish(to);
      });
  }

  #answer(status: number, why: string): void {
    const { requestId } = this.#invocation;
    const { rules } = this.#options;
    const problem = outcomeUnknown(why);
    refuseOnSocket(this.#client, status, why, requestId, rules, problem);
  }

  #closed(): void {
    for (const cancel of this.#timers) cancel();
    this.#faults.thaw();
    const { traffic } = this.#invocation;
    if (traffic) this.#invocation.traffic = frozenTraffic(traffic);
    this.#resolve(this.#ending ?? { cause: "cancelled" });
  }

  /** The first cause counts [WS-CLOSE-6]. */
  #decide(ending: Ending): void {
    this.#ending ??= ending;
  }

  /** A timer that ends with the session. */
  #timer(ms: number, fire: () => void): () => void {
    const cancelTimer = this.#options.clock.setTimer(Math.max(0, ms), () => {
      this.#timers.delete(cancel);
      fire();
    });
    const cancel = () => {
      this.#timers.delete(cancel);
      cancelTimer();
    };
    this.#timers.add(cancel);
    return cancel;
  }
}

/** The rates bind requests; responses only where the switch says so [WS-LIM-2, WS-LIM-3]. */
function laneLimits(rules: Rules, hasRates: boolean): LaneLimits {
  if (hasRates) return rules;
  return { ...rules, bytesPerSecond: Infinity, messagesPerSecond: Infinity };
}
