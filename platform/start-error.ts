// Why an invocation got no instance.

import type { StartFailure } from "./verdict.js";

/** An instance did not become ready, or none may start; `status` is the platform's code for it. */
export class StartError extends Error {
  readonly status: StartFailure;
  constructor(status: StartFailure, message: string) {
    super(message);
    this.name = "StartError";
    this.status = status;
  }
}
