// What the doctor can find: every rule once, with its sentence and what to do about it. A finding is a rule, a place
// and what was seen there.

export type Severity = "error" | "warning";

interface Rule {
  readonly severity: Severity;
  /** The requirement it stands for; left out where the documents state it without one. */
  readonly requirement?: string;
  readonly rule: string;
  readonly advice: string;
}

export const RULES = {
  "bootstrap-missing": {
    severity: "error",
    requirement: "WS-BOOT-1",
    rule: "The platform starts a function by the file scf_bootstrap in its folder, exactly so named.",
    advice: "Add scf_bootstrap with the command that starts the server.",
  },
  "bootstrap-mode": {
    severity: "error",
    requirement: "WS-BOOT-1",
    rule: "scf_bootstrap is executed, so it must be executable for everybody.",
    advice:
      "chmod 755 scf_bootstrap, and keep the mode in git and in the zip file.",
  },
  "bootstrap-shebang": {
    severity: "error",
    requirement: "WS-BOOT-3",
    rule: "The first line of scf_bootstrap names its interpreter.",
    advice: "Make #!/bin/bash the first line, with nothing before it.",
  },
  "bootstrap-bom": {
    severity: "error",
    requirement: "WS-BOOT-3",
    rule: "A byte order mark hides the shebang of scf_bootstrap from the kernel.",
    advice: "Save the file as UTF-8 without a byte order mark.",
  },
  "bootstrap-crlf": {
    severity: "error",
    requirement: "WS-BOOT-3",
    rule: "Lines of scf_bootstrap end in LF: a CR becomes a part of the interpreter's or the file's name.",
    advice: "Save the file with LF line ends (git: *.sh eol=lf, or the like).",
  },
  "bootstrap-final-newline": {
    severity: "warning",
    requirement: "WS-BOOT-3",
    rule: "The last line of scf_bootstrap ends in a newline, too.",
    advice: "Add a line end after the last command.",
  },
  "bootstrap-interpreter": {
    severity: "warning",
    requirement: "WS-BOOT-3",
    rule: "The start command names its interpreter by the absolute path, /var/lang/node<N>/bin/node for Node.",
    advice: "Write the whole path: what the PATH holds there is not promised.",
  },
  "bootstrap-runtime": {
    severity: "error",
    requirement: "WS-BOOT-3",
    rule: "There is a Node of the versions 10, 12, 14, 16, 18, 20, 22, 24 and 26 under /var/lang, and no other.",
    advice: "Name one of these.",
  },
  "bootstrap-starts-nothing": {
    severity: "error",
    requirement: "WS-BOOT-1",
    rule: "scf_bootstrap starts the server.",
    advice:
      "Add the command as the last line, e.g. /var/lang/node20/bin/node app.js.",
  },
  "started-file-missing": {
    severity: "error",
    requirement: "WS-BOOT-1",
    rule: "The file that scf_bootstrap starts is in the folder.",
    advice: "Correct the name, or build the file before you deploy.",
  },
  "source-unreadable": {
    severity: "error",
    requirement: "WS-BOOT-1",
    rule: "The code can be parsed.",
    advice: "Correct the syntax error.",
  },
  "listen-port": {
    severity: "error",
    requirement: "WS-BOOT-2",
    rule: "The server listens on port 9000.",
    advice: "Pass 9000, or export PORT=9000 in scf_bootstrap.",
  },
  "listen-loopback": {
    severity: "error",
    requirement: "WS-BOOT-2",
    rule: "The platform reaches the server from outside, so it must not listen on loopback only.",
    advice: "Listen on 0.0.0.0, or leave the address out.",
  },
  "listen-nowhere": {
    severity: "warning",
    requirement: "WS-BOOT-2",
    rule: "The server listens on port 9000.",
    advice:
      "No call that listens was found: check that one of your packages makes it, with 9000.",
  },
  "dependency-missing": {
    severity: "error",
    requirement: "WS-BOOT-4",
    rule: "What the code imports is in the folder when it is deployed.",
    advice: "npm install it, so that it is among the dependencies.",
  },
  "dependency-not-installed": {
    severity: "warning",
    requirement: "WS-BOOT-4",
    rule: "What the code imports is in the folder when it is deployed.",
    advice: "Run npm install before you deploy.",
  },
  "import-missing": {
    severity: "error",
    requirement: "WS-BOOT-4",
    rule: "What the code imports is in the folder when it is deployed.",
    advice: "Correct the path, or put the file into the package.",
  },
  "close-without-code": {
    severity: "warning",
    requirement: "WS-CLOSE-8",
    rule: "A close without a code is not one of 1000, 1010 and 1011: the invocation fails, 439 from the server and 456 from the client.",
    advice: "Close with 1000.",
  },
  "close-with-failing-code": {
    severity: "warning",
    requirement: "WS-CLOSE-4",
    rule: "A server that closes with any other code than 1000 and 1011 makes the invocation fail, 439.",
    advice: "Close with 1000, or with 1011 for an error of yours.",
  },
  "broadcast-in-process": {
    severity: "warning",
    requirement: "WS-LIFE-3",
    rule: "An instance serves one connection: a loop over this process's sockets reaches nobody else (SCN-CHAT-4).",
    advice: "Pass messages through Redis or a queue (SCN-CHAT-2).",
  },
  "sockets-in-memory": {
    severity: "warning",
    requirement: "WS-LIFE-3",
    rule: "An instance serves one connection: a collection of sockets at the top of a module never holds another member's (SCN-CHAT-4).",
    advice: "Register connections in Redis, with a lease (SCN-CHAT-1, -3).",
  },
  "write-outside-tmp": {
    severity: "warning",
    rule: "Only /tmp can be written, and it belongs to one instance.",
    advice: "Write under /tmp, or to a store outside.",
  },
  "settings-missing": {
    severity: "warning",
    requirement: "WS-TIME-4",
    rule: "Without serverless.yml the settings are those of the console, and cannot be checked here.",
    advice:
      "Add serverless.yml: the default execution timeout of 3 s is illegal for a WebSocket function.",
  },
  "settings-unreadable": {
    severity: "error",
    requirement: "WS-CONN-2",
    rule: "serverless.yml describes one Web function (component: scf, inputs with type: web) in YAML.",
    advice: "Correct it.",
  },
  "idle-timeout-range": {
    severity: "error",
    requirement: "WS-TIME-1",
    rule: "The idle timeout is 10 to 7200 seconds.",
    advice: "Set protocolParams.wsParams.idleTimeOut in this range.",
  },
  "timeout-default": {
    severity: "error",
    requirement: "WS-TIME-4",
    rule: "The execution timeout bounds the whole connection; its default of 3 s is illegal for a WebSocket function.",
    advice: "Set timeout, to at least the idle timeout.",
  },
  "timeout-below-idle": {
    severity: "error",
    requirement: "WS-TIME-2",
    rule: "The execution timeout is at least the idle timeout.",
    advice: "Raise timeout, or lower idleTimeOut.",
  },
  "timeout-above-quota": {
    severity: "warning",
    requirement: "WS-TIME-4",
    rule: "An execution timeout above 900 s needs a raised quota.",
    advice: "Ask for it before you deploy, or stay at 900.",
  },
  "init-timeout-range": {
    severity: "error",
    requirement: "WS-BOOT-5",
    rule: "The init timeout is 3 to 300 seconds.",
    advice: "Set initTimeout in this range; 60 is the default.",
  },
  "environment-name": {
    severity: "error",
    rule: "Environment variables start with a letter, and SCF_, QCLOUD_ and TENCENTCLOUD_ are the platform's own.",
    advice: "Choose another name.",
  },
  "environment-size": {
    severity: "error",
    rule: "All environment variables together have at most 4 KB.",
    advice: "Move what is long into a file or a store.",
  },
} as const satisfies Record<string, Rule>;

export type RuleName = keyof typeof RULES;

export interface Finding {
  readonly name: RuleName;
  readonly severity: Severity;
  readonly requirement: string | null;
  /** Relative to the function's folder. */
  readonly file: string;
  /** From 1. */
  readonly line: number;
  /** What is there. */
  readonly seen: string;
  readonly rule: string;
  readonly advice: string;
}

export function finding(
  name: RuleName,
  { file, line, seen }: { file: string; line: number; seen: string },
): Finding {
  const { severity, rule, advice, requirement }: Rule = RULES[name];
  return {
    name,
    severity,
    requirement: requirement ?? null,
    file,
    line,
    seen,
    rule,
    advice,
  };
}
