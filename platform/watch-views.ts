// What is known, as JSON for programs and the page: instances, the bill with its projection, the rules in force.

import {
  costOf,
  describeUsage,
  noUsage,
  project,
  sum,
  usageIf,
  type Usage,
  type WhatIf,
} from "./billing.js";
import type { FunctionDescription } from "./function-description.js";
import type { Invocation } from "./invocation.js";
import { presets, type Rules } from "./rules.js";
import type { Watch } from "./watch.js";

/** What is shown of an instance. */
export interface SeenInstance {
  readonly id: string;
  readonly functionName: string;
  readonly pid: number | undefined;
  readonly port: number;
  readonly state: string;
  readonly stateSince?: number;
  readonly startedAt: number;
  readonly served: number;
  readonly active: number;
  readonly isProvisioned?: boolean;
}

export function viewInstances(
  watch: Watch,
  instances: readonly SeenInstance[],
) {
  const requests = new Map<string, string[]>();
  for (const { instanceId, requestId } of watch.book.running)
    if (instanceId !== null)
      requests.set(instanceId, [
        ...(requests.get(instanceId) ?? []),
        requestId,
      ]);
  const memoryMb = new Map(watch.functions.map((f) => [f.name, f.memoryMb]));
  return instances.map((instance) => {
    return {
      functionName: instance.functionName,
      instanceId: instance.id,
      pid: instance.pid ?? null,
      state: instance.state,
      since: iso(instance.stateSince ?? instance.startedAt),
      frozen: instance.state === "frozen",
      provisioned: instance.isProvisioned ?? false,
      memoryMb: memoryMb.get(instance.functionName) ?? null,
      memoryBytes: watch.logs.memoryOf(instance.id),
      port: instance.port,
      startedAt: iso(instance.startedAt),
      served: instance.served,
      active: instance.active,
      requestIds: requests.get(instance.id) ?? [],
    };
  });
}

export interface InvocationFilter {
  readonly functionName?: string | undefined;
  readonly instanceId?: string | undefined;
  readonly requestId?: string | undefined;
  /** `running`, `failed`, or a status code. */
  readonly status?: string | undefined;
  readonly limit?: number | undefined;
}

const SUCCESS = 200;

export function viewInvocations(watch: Watch, filter: InvocationFilter) {
  const { functionName, instanceId, requestId, status, limit } = filter;
  function isWanted(one: Invocation): boolean {
    if (functionName !== undefined && one.functionName !== functionName)
      return false;
    if (instanceId !== undefined && one.instanceId !== instanceId) return false;
    if (requestId !== undefined && one.requestId !== requestId) return false;
    if (status === undefined) return true;
    const isRunning = one.verdict === undefined;
    if (status === "running") return isRunning;
    if (status === "failed") return !isRunning && one.statusCode !== SUCCESS;
    return String(one.statusCode) === status;
  }
  return watch.book
    .all()
    .filter(isWanted)
    .slice(0, limit)
    .map((invocation) => watch.record(invocation));
}

const WHAT_IF_NOTE =
  "The same traffic under other settings. Another memory size changes the price of all time. Another idle timeout " +
  "changes the connections which the idle timeout has ended: each would have ended that much sooner or later.";

export function viewBill(watch: Watch, whatIf?: WhatIf) {
  const { ledger, prices, clock, functions, rules } = watch;
  const elapsedMs = Math.max(0, Math.round(clock.now() - ledger.startedAt));
  const usages = new Map(functions.map((f) => [f, ledger.usage(f.name)]));
  const { name, currency, asOf, sources, notes } = prices;
  return {
    currency,
    entry: rules.entry,
    since: iso(ledger.startedAt),
    elapsedMs,
    ...describeBill(usages),
    ...(whatIf && { whatIf: describeWhatIf(whatIf) }),
    priceBook: { name, asOf, sources, notes },
  };

  function describeBill(usages: Map<FunctionDescription, Usage>) {
    const total = [...usages.values()].reduce(sum, noUsage);
    const cost = costOf(total, prices, rules.entry).total;
    return {
      total: describeUsage(total, prices, rules.entry),
      functions: [...usages].map(([{ name, memoryMb }, usage]) => ({
        functionName: name,
        memoryMb,
        ...describeUsage(usage, prices, rules.entry),
      })),
      projection: project(cost, elapsedMs),
    };
  }

  function describeWhatIf(wish: WhatIf) {
    const changed = new Map(
      [...usages].map(([f, usage]) => [
        { ...f, memoryMb: wish.memoryMb ?? f.memoryMb },
        usageIf(usage, f, wish),
      ]),
    );
    return { ...wish, ...describeBill(changed), note: WHAT_IF_NOTE };
  }
}

export function viewRules({ rules, functions }: Watch) {
  const names = Object.keys(presets) as (keyof typeof presets)[];
  const differs = (from: Rules) =>
    (Object.keys(rules) as (keyof Rules)[]).filter(
      (name) => rules[name] !== from[name],
    );
  return {
    preset: names.find((name) => differs(presets[name]).length === 0) ?? null,
    rules,
    /** Switches that are not as documented, with the documented value. */
    changed: Object.fromEntries(
      differs(presets.documented).map((name) => [
        name,
        presets.documented[name],
      ]),
    ),
    functions: functions.map((one) => ({
      functionName: one.name,
      protocol: one.protocol,
      memoryMb: one.memoryMb,
      concurrency: one.concurrency,
      // Values may be secrets.
      environment: Object.keys(one.environment).sort(),
      timeouts: timeoutChain(one, rules),
    })),
  };
}

/** The timeouts in the order in which a request meets them. */
function timeoutChain({ protocol, ...one }: FunctionDescription, rules: Rules) {
  const over =
    one.timeoutSeconds > rules.maxExecutionSeconds
      ? `Above the ${rules.maxExecutionSeconds} s that an account may set without having asked for more [WS-TIME-4].`
      : null;
  return [
    {
      name: "init",
      seconds: one.initTimeoutSeconds,
      status: 446,
      what: "from the start of a process until it listens",
      note: null,
    },
    ...(protocol === "WS"
      ? [
          {
            name: "idle",
            seconds: one.idleSeconds,
            status: 455,
            what: "from the last message of either side",
            note: null,
          },
        ]
      : []),
    {
      name: "execution",
      seconds: one.timeoutSeconds,
      status: 433,
      what:
        protocol === "WS"
          ? "from the connect request to the disconnect, however busy"
          : "from the request to the end of its answer",
      note: over,
    },
  ];
}

function iso(time: number): string {
  return new Date(time).toISOString();
}
