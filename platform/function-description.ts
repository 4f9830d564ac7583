// One function as its owner described it, in the documents' units and with their defaults filled in.

export interface FunctionDescription {
  readonly name: string;
  /** Folder with the code and its `scf_bootstrap`. */
  readonly directory: string;
  /** One function, one protocol [WS-CONN-6]. */
  readonly protocol: "HTTP" | "WS";
  /** Execution timeout, s: `timeout`. */
  readonly timeoutSeconds: number;
  /** `initTimeout`, s, 3 to 300; default 60, of an image 90 [WS-BOOT-5]. */
  readonly initTimeoutSeconds: number;
  /** `protocolParams.wsParams.idleTimeOut`, s; of no meaning for HTTP [WS-TIME-1]. */
  readonly idleSeconds: number;
  /** `memorySize`, MB; default 128. It is what is billed, not what is enforced. */
  readonly memoryMb: number;
  /** Invocations one instance takes at the same time, 1 to 100: `instanceConcurrencyConfig`; default 1. */
  readonly concurrency: number;
  /** `environment.variables`. */
  readonly environment: Readonly<Record<string, string>>;
}
