// The log: what the functions print, told to be of the right request, between the lines that the platform itself
// writes about each request [WS-LOG-1, WS-LOG-2]. The platform's lines are made when somebody reads them, not before.

import type { Clock } from "./clock.js";
import type { FunctionDescription } from "./function-description.js";
import type { Invocation } from "./invocation.js";
import type { InvocationListener } from "./invocation-book.js";
import { billedFrom } from "./billing.js";
import { KeptLines, type KeptLine, type LineLimits } from "./log-lines.js";
import { platformLine, type InitParts, type LogRecord } from "./log-record.js";
import type { PrintedLine } from "./logs.js";
import { MemoryGauge } from "./memory-use.js";

export const lineLimits: LineLimits = Object.freeze({
  linesPerFunction: 10_000,
  charactersPerFunction: 8_000_000,
  linesPerRequest: 1_000,
});

/**
 * What a function printed just before the end of its request may reach us just after it; within this time it still
 * counts as of that request. Real time: pipes do not follow the platform's clock.
 */
const LATE_MS = 100;

/** What the log asks of an instance. */
export interface LoggedInstance {
  readonly id: string;
  readonly functionName: string;
  readonly pid: number | undefined;
  readonly startedAt: number;
  readonly spawnedAt?: number | undefined;
  readonly initialisingAt?: number | undefined;
  readonly readyAt: number | undefined;
}

export interface LogFilter {
  readonly requestId?: string | undefined;
  readonly functionName?: string | undefined;
  readonly instanceId?: string | undefined;
}

interface Account {
  readonly instance: LoggedInstance;
  readonly memory: MemoryGauge;
  init: InitParts | undefined;
  dispatches: number;
  /** Its one request, of a function that takes one at a time. */
  current: Invocation | undefined;
  /** The one before, while late lines may come. */
  last: Invocation | undefined;
  /** Writes the last lines of `last` for those who follow. */
  finish: (() => void) | undefined;
  gone: boolean;
}

interface Follower {
  readonly filter: LogFilter;
  readonly hear: (record: LogRecord) => void;
}

export interface LogBookOptions {
  readonly functions: readonly FunctionDescription[];
  readonly clock: Clock;
  readonly limits?: LineLimits;
}

export class LogBook implements InvocationListener {
  readonly #clock: Clock;
  readonly #limits: LineLimits;
  readonly #functions: ReadonlyMap<string, FunctionDescription>;
  readonly #lines = new Map<string, KeptLines>();
  readonly #accounts = new Map<string, Account>();
  readonly #followers = new Set<Follower>();
  #order = 0;

  constructor({ functions, clock, limits = lineLimits }: LogBookOptions) {
    this.#clock = clock;
    this.#limits = limits;
    this.#functions = new Map(functions.map((one) => [one.name, one]));
  }

  instanceCreated(instance: LoggedInstance): void {
    this.#accounts.set(instance.id, {
      instance,
      memory: new MemoryGauge(),
      init: undefined,
      dispatches: 0,
      current: undefined,
      last: undefined,
      finish: undefined,
      gone: false,
    });
  }

  /** It listens. Whoever waits for it gets it before this turn of the event loop is over. */
  instanceReady(instance: LoggedInstance): void {
    const account = this.#accounts.get(instance.id);
    if (account === undefined) return;
    const { startedAt, spawnedAt = startedAt } = instance;
    const { initialisingAt = spawnedAt, readyAt = initialisingAt } = instance;
    account.init = {
      pullCodeMs: Math.round(spawnedAt - startedAt),
      initRuntimeMs: Math.round(initialisingAt - spawnedAt),
      initFunctionMs: Math.round(readyAt - initialisingAt),
      memoryBytes: account.memory.read(instance.pid),
    };
    const { init } = account;
    setImmediate(() => {
      if (account.dispatches > 0) return;
      const text = platformLine.init(
        "Provisioned Report",
        null,
        init,
        this.#memoryMb(instance.functionName),
      );
      this.#keep(instance, "platform", text, undefined);
    });
  }

  instanceGone(instance: LoggedInstance): void {
    const account = this.#accounts.get(instance.id);
    if (account === undefined) return;
    account.gone = true;
    if (account.current === undefined) this.#accounts.delete(instance.id);
  }

  /** Resident memory of an instance, bytes; at most a second old. */
  memoryOf(instanceId: string): number {
    const account = this.#accounts.get(instanceId);
    return account?.memory.read(account.instance.pid) ?? 0;
  }

  printed({ functionName, instanceId, stream, line }: PrintedLine): void {
    const account = this.#accounts.get(instanceId);
    const invocation = account?.current ?? account?.last;
    this.#keep({ id: instanceId, functionName }, stream, line, invocation);
  }

  begun(invocation: Invocation): void {
    invocation.marks.begun = ++this.#order;
    if (this.#followers.size > 0) this.#tell(startRecord(invocation));
  }

  stepped(invocation: Invocation): void {
    if (invocation.state === "dispatched") this.#dispatched(invocation);
    else if (invocation.state === "ended") this.#ended(invocation);
  }

  /** What is remembered, in its order; of more than `limit` records the last ones. */
  records(
    filter: LogFilter,
    invocations: Iterable<Invocation>,
    limit: number,
  ): LogRecord[] {
    const found: { order: number; record: LogRecord }[] = [];
    for (const invocation of invocations) {
      if (!matches(filter, invocation)) continue;
      const { begun, dispatched } = invocation.marks;
      found.push({ order: begun, record: startRecord(invocation) });
      const init = this.#initRecord(invocation);
      if (init) found.push({ order: dispatched, record: init });
      const dropped = this.#droppedRecord(invocation);
      if (dropped) found.push({ order: dispatched + 0.5, record: dropped });
      const order = invocation.marks.ended;
      for (const record of this.#lastRecords(invocation))
        found.push({ order, record });
    }
    for (const lines of this.#lines.values())
      for (const line of lines.all())
        if (matches(filter, line))
          found.push({ order: orderOf(line), record: lineRecord(line) });
    // Records of the same order stay as they are: the last lines of a request belong together.
    return found
      .sort((a, b) => a.order - b.order)
      .slice(-limit)
      .map(({ record }) => record);
  }

  /** Calls `hear` for every matching record from now on; the returned function ends that. */
  follow(filter: LogFilter, hear: (record: LogRecord) => void): () => void {
    const follower = { filter, hear };
    this.#followers.add(follower);
    return () => this.#followers.delete(follower);
  }

  #dispatched(invocation: Invocation): void {
    invocation.marks.dispatched = ++this.#order;
    const account = this.#accountOf(invocation);
    if (account === undefined) return;
    const isFirst = account.dispatches++ === 0;
    const isCold = isFirst && invocation.coldStart;
    if (isCold) invocation.marks.init = account.init;
    // Of several at once nobody can tell which one a line is of.
    if (this.#functions.get(invocation.functionName)?.concurrency === 1) {
      account.finish?.();
      account.last = undefined;
      account.current = invocation;
      if (isCold) this.#claimInitLines(invocation, account.instance);
    }
    if (this.#followers.size === 0) return;
    const init = this.#initRecord(invocation);
    if (init) this.#tell(init);
  }

  #claimInitLines(invocation: Invocation, instance: LoggedInstance): void {
    const lines = this.#lines.get(instance.functionName);
    const claimed = lines?.assignUnclaimed(instance.id, invocation) ?? [];
    for (const { filter, hear } of this.#followers)
      // The others have heard these lines already, when nobody knew whose they are.
      if (filter.requestId === invocation.requestId)
        for (const line of claimed) hear(lineRecord(line));
  }

  #ended(invocation: Invocation): void {
    const { marks } = invocation;
    marks.ended = ++this.#order;
    const account = this.#accountOf(invocation);
    const tellEnd = () => {
      for (const record of this.#lastRecords(invocation)) this.#tell(record);
    };
    if (account === undefined) return tellEnd();
    marks.memoryBytes = account.memory.read(account.instance.pid);
    if (account.current !== invocation) return tellEnd();
    account.current = undefined;
    account.last = invocation;
    const finish = () => {
      clearTimeout(timer);
      if (account.last === invocation) account.last = undefined;
      account.finish = undefined;
      tellEnd();
    };
    const timer = setTimeout(finish, LATE_MS).unref();
    account.finish = finish;
    if (account.gone) this.#accounts.delete(account.instance.id);
  }

  #keep(
    { id, functionName }: { id: string; functionName: string },
    from: KeptLine["from"],
    text: string,
    invocation: Invocation | undefined,
  ): void {
    let lines = this.#lines.get(functionName);
    if (lines === undefined) {
      lines = new KeptLines(this.#limits);
      this.#lines.set(functionName, lines);
    }
    const line: KeptLine = {
      order: ++this.#order,
      at: this.#clock.now(),
      functionName,
      instanceId: id,
      from,
      text,
      invocation,
    };
    lines.add(line);
    if (this.#followers.size > 0) this.#tell(lineRecord(line));
  }

  #tell(record: LogRecord): void {
    for (const { filter, hear } of this.#followers)
      if (matches(filter, record)) hear(record);
  }

  #accountOf({ instanceId }: Invocation): Account | undefined {
    return instanceId === null ? undefined : this.#accounts.get(instanceId);
  }

  #memoryMb(functionName: string): number {
    return this.#functions.get(functionName)?.memoryMb ?? 0;
  }

  #initRecord(invocation: Invocation): LogRecord | undefined {
    const { marks, requestId, functionName, dispatchedAt } = invocation;
    if (marks.init === undefined) return undefined;
    const memoryMb = this.#memoryMb(functionName);
    return platformRecord(invocation, {
      time: dispatchedAt ?? invocation.startedAt,
      message: platformLine.init(
        "Init Report",
        requestId,
        marks.init,
        memoryMb,
      ),
      memoryBytes: marks.init.memoryBytes,
    });
  }

  #droppedRecord(invocation: Invocation): LogRecord | undefined {
    const { printed } = invocation.marks;
    if (printed === 0) return undefined;
    const kept =
      this.#lines.get(invocation.functionName)?.countOf(invocation) ?? 0;
    if (kept === printed) return undefined;
    return platformRecord(invocation, {
      time: invocation.dispatchedAt ?? invocation.startedAt,
      message: platformLine.dropped(printed - kept),
    });
  }

  #lastRecords(invocation: Invocation): LogRecord[] {
    const { verdict, endedAt, requestId, marks } = invocation;
    if (verdict === undefined || endedAt === undefined) return [];
    const { statusCode, statusMessage, closeInitiator, closeCode, why } =
      verdict;
    const say = (message: string, more: Partial<LogRecord> = {}) =>
      platformRecord(invocation, {
        time: endedAt,
        message,
        statusCode,
        ...more,
      });
    const durationMs = Math.round(
      endedAt - (billedFrom(invocation) ?? endedAt),
    );
    const { memoryBytes } = marks;
    const error = platformLine.error(
      requestId,
      statusCode,
      statusMessage,
      closeInitiator,
      closeCode,
      why,
    );
    // What stands there for a connection is not documented: nothing.
    const answer = closeInitiator === "none" ? why : "";
    const report = platformLine.report(
      requestId,
      durationMs,
      this.#memoryMb(invocation.functionName),
      memoryBytes,
    );
    return [
      ...(statusCode === 200 ? [] : [say(error, { level: "ERROR" })]),
      say(platformLine.response(requestId, answer)),
      say(platformLine.end(requestId)),
      say(report, { durationMs, memoryBytes }),
    ];
  }
}

/** After the start and before the last lines of its request, however late or early it was heard. */
function orderOf({ order, invocation }: KeptLine): number {
  if (invocation === undefined) return order;
  const { begun, ended } = invocation.marks;
  const notBefore = Math.max(order, begun + 0.5);
  return ended === 0 ? notBefore : Math.min(notBefore, ended - 0.5);
}

function matches(
  filter: LogFilter,
  one: {
    readonly functionName: string;
    readonly instanceId: string | null;
    readonly requestId?: string | null;
    readonly invocation?: Invocation | undefined;
  },
): boolean {
  const { requestId, functionName, instanceId } = filter;
  if (functionName !== undefined && one.functionName !== functionName)
    return false;
  if (instanceId !== undefined && one.instanceId !== instanceId) return false;
  if (requestId === undefined) return true;
  return (one.requestId ?? one.invocation?.requestId) === requestId;
}

function startRecord(invocation: Invocation): LogRecord {
  return platformRecord(invocation, {
    time: invocation.startedAt,
    message: platformLine.start(invocation.requestId),
  });
}

/** The status of a line is the one at its time: a request that runs shows 202. */
const RUNNING = 202;

function platformRecord(
  invocation: Invocation,
  more: Pick<LogRecord, "time" | "message"> & Partial<LogRecord>,
): LogRecord {
  return {
    functionName: invocation.functionName,
    instanceId: invocation.instanceId,
    requestId: invocation.requestId,
    type: "Platform",
    level: "INFO",
    startTime: invocation.startedAt,
    durationMs: 0,
    memoryBytes: 0,
    statusCode: RUNNING,
    ...more,
  };
}

function lineRecord(line: KeptLine): LogRecord {
  const { at, functionName, instanceId, invocation, from, text } = line;
  return {
    time: at,
    functionName,
    instanceId,
    requestId: invocation?.requestId ?? null,
    type: from === "platform" ? "Platform" : "Custom",
    level: from === "stderr" ? "ERROR" : "INFO",
    message: text,
    startTime: invocation?.startedAt ?? at,
    durationMs: 0,
    memoryBytes: 0,
    statusCode: RUNNING,
  };
}
