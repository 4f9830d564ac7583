// One line of the log, and the three ways to write it: as the documents show it, as our JSON, and as a record of the
// log service with its fourteen fields.

import { visible, visibleJson } from "../shared/visible.js";

export interface LogRecord {
  readonly time: number;
  readonly functionName: string;
  readonly instanceId: string | null;
  /** Null where a line cannot be told to be of one request: several at once in an instance, or none. */
  readonly requestId: string | null;
  readonly type: "Platform" | "Custom";
  readonly level: "INFO" | "ERROR";
  readonly message: string;
  /** When its request began; of a line without a request, its own time. */
  readonly startTime: number;
  /** The last line of a request knows it; the others have 0, as documented. */
  readonly durationMs: number;
  readonly memoryBytes: number;
  readonly statusCode: number;
}

export type LogFormat = "text" | "json" | "scf";

/** Without its line end. */
export function writeRecord(record: LogRecord, format: LogFormat): string {
  switch (format) {
    case "text":
      return asText(record);
    case "json":
      return visibleJson(asJson(record));
    case "scf":
      return visibleJson(asServiceRecord(record));
  }
}

function asText(record: LogRecord): string {
  const { time, functionName, instanceId, message } = record;
  const when = new Date(time).toISOString();
  return visible(`${when} ${functionName} ${instanceId ?? "-"} ${message}`);
}

export function asJson(record: LogRecord) {
  const { time, functionName, instanceId, requestId } = record;
  const { type, level, message } = record;
  const fields = explode(record);
  return {
    time: new Date(time).toISOString(),
    functionName,
    instanceId,
    requestId,
    type,
    level,
    message,
    ...(fields === undefined ? {} : { fields }),
  };
}

/** The fourteen fields of the log service; what the user printed as JSON stands beside them. */
function asServiceRecord(record: LogRecord): Record<string, unknown> {
  return {
    ...explode(record),
    SCF_FunctionName: record.functionName,
    SCF_Namespace: "default",
    SCF_StartTime: Math.round(record.startTime),
    SCF_LogTime: Math.round(record.time),
    SCF_RequestId: record.requestId ?? "",
    SCF_Duration: record.durationMs,
    SCF_Alias: "$DEFAULT",
    SCF_Qualifier: "$LATEST",
    SCF_MemUsage: record.memoryBytes,
    SCF_Level: record.level,
    SCF_Message: record.message,
    SCF_Type: record.type,
    SCF_StatusCode: record.statusCode,
    SCF_RetryNum: 0,
  };
}

/** One line of JSON becomes fields, one level deep: what lies deeper stays JSON. */
function explode({
  type,
  message,
}: LogRecord): Record<string, unknown> | undefined {
  if (type !== "Custom" || !/^\s*\{.*\}\s*$/s.test(message)) return undefined;
  let value: unknown;
  try {
    value = JSON.parse(message);
  } catch {
    return undefined;
  }
  if (typeof value !== "object" || value === null) return undefined;
  return Object.fromEntries(
    Object.entries(value).map(([name, inner]: [string, unknown]) => [
      name,
      typeof inner === "object" && inner !== null
        ? JSON.stringify(inner)
        : inner,
    ]),
  );
}

const megabyte = 1_048_576;

function megabytes(bytes: number): string {
  return `${(bytes / megabyte).toFixed(2)}MB`;
}

/** The platform's own lines, in the documents' order. */
export const platformLine = {
  start: (requestId: string) => `START RequestId: ${requestId}`,
  init: (
    what: "Init Report" | "Provisioned Report",
    requestId: string | null,
    parts: InitParts,
    memoryMb: number,
  ) => {
    const { pullCodeMs, initRuntimeMs, initFunctionMs, memoryBytes } = parts;
    const total = pullCodeMs + initRuntimeMs + initFunctionMs;
    const whose = requestId === null ? "" : ` RequestId: ${requestId}`;
    return (
      `${what}${whose} Coldstart: ${total}ms (PullCode: ${pullCodeMs}ms InitRuntime: ${initRuntimeMs}ms ` +
      `InitFunction: ${initFunctionMs}ms) Memory: ${memoryMb}MB MemUsage: ${megabytes(memoryBytes)}`
    );
  },
  dropped: (count: number) => `(${count} lines dropped)`,
  error: (
    requestId: string,
    code: number,
    name: string,
    by: string,
    closeCode: number | null,
    why: string,
  ) => {
    const closed = closeCode === null ? "" : `, close code ${closeCode}`;
    return `ERROR RequestId: ${requestId} ${code} ${name} (by ${by}${closed}): ${why}`;
  },
  response: (requestId: string, what: string) =>
    `Response RequestId: ${requestId} RetMsg: ${what}`,
  end: (requestId: string) => `END RequestId: ${requestId}`,
  report: (
    requestId: string,
    durationMs: number,
    memoryMb: number,
    memoryBytes: number,
  ) =>
    `Report RequestId: ${requestId} Duration: ${durationMs}ms Memory: ${memoryMb}MB MemUsage: ${megabytes(memoryBytes)}`,
};

/** What a cold start was made of. */
export interface InitParts {
  readonly pullCodeMs: number;
  readonly initRuntimeMs: number;
  readonly initFunctionMs: number;
  readonly memoryBytes: number;
}
