// What the platform says about itself to a function: the documented environment variables and request headers.

import type { FunctionDescription } from "./function-description.js";

/** This machine as a place of the platform. */
const REGION = "local";
const NAMESPACE = "default";
const VERSION = "$LATEST";
const APP_ID = "1250000000";
const UIN = "100000000001";
/** Of the proxy inside a real instance; nothing listens there here. */
const SERVER_PORT = "28902";

/**
 * The built-in variables, without those that only make sense inside the platform's own container (HOME, USER, LANG,
 * NODE_PATH, credentials).
 */
export function scfEnvironment(
  { name }: FunctionDescription,
  directory: string,
): Record<string, string> {
  return {
    TENCENTCLOUD_RUNENV: "SCF",
    TENCENTCLOUD_REGION: REGION,
    TENCENTCLOUD_APPID: APP_ID,
    TENCENTCLOUD_UIN: UIN,
    TENCENTCLOUD_TZ: "UTC",
    SCF_RUNTIME: "CustomRuntime",
    SCF_NAMESPACE: NAMESPACE,
    SCF_FUNCTIONNAME: name,
    SCF_FUNCTIONVERSION: VERSION,
    USER_CODE_ROOT: directory.endsWith("/") ? directory : `${directory}/`,
    _SCF_SERVER_PORT: SERVER_PORT,
  };
}

/** Name, value, name, value; a client cannot set any of them. */
export function scfHeaders(
  { name, memoryMb, timeoutSeconds }: FunctionDescription,
  requestId: string,
): string[] {
  return [
    ...["X-Scf-Request-Id", requestId],
    ...["X-Scf-Memory", String(memoryMb)],
    ...["X-Scf-Timeout", String(timeoutSeconds)],
    ...["X-Scf-Version", VERSION],
    ...["X-Scf-Name", name],
    ...["X-Scf-Namespace", NAMESPACE],
    ...["X-Scf-Region", REGION],
    ...["X-Scf-Appid", APP_ID],
    ...["X-Scf-Uin", UIN],
  ];
}
