// Faults by rule, start-up part: instances that a test wants slow, or wants to fail.

import type { StartFailure } from "./verdict.js";

export interface InitFault {
  /** Default: every function. */
  readonly functionName?: string;
  /** Which of a function's instances, counted from 1. Default: all. */
  readonly nth?: number | readonly number[];
  /** The platform takes this long to prepare the instance; beyond the init timeout that is 450. */
  readonly delayMs?: number;
  /** The instance does not start, with this status. */
  readonly fail?: StartFailure;
}

/** The first fault that means the `nth` instance of a function. */
export function faultOf(
  faults: readonly InitFault[],
  functionName: string,
  nth: number,
): InitFault | undefined {
  return faults.find(
    (fault) =>
      (fault.functionName ?? functionName) === functionName &&
      (fault.nth === undefined || [fault.nth].flat().includes(nth)),
  );
}
