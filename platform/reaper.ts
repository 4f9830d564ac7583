// The one who survives the platform: a shell that knows every function's process group and ends them when its input
// ends, which it does even when the platform is killed outright. A frozen function could not notice that by itself.

import { spawn, type ChildProcess } from "node:child_process";

/** Reads `add <group>` and `del <group>`; at the end of its input it kills what is left and removes the folder $1. */
const SCRIPT = `
trap '' INT TERM HUP
groups=' '
while read -r word id; do
  case $word in
    add) groups="$groups$id " ;;
    del) case $groups in *" $id "*) groups="\${groups%% "$id" *} \${groups#* "$id" }" ;; esac ;;
  esac
done
for id in $groups; do kill -9 "-$id" 2>/dev/null; done
rm -rf -- "$1"
`;

export class Reaper {
  readonly #folder: string;
  readonly #groups = new Set<number>();
  #shell: ChildProcess | undefined;
  #gone: Promise<void> = Promise.resolve();
  #closing = false;

  /** `folder` is removed in the end as well. */
  constructor(folder: string) {
    this.#folder = folder;
    this.#start();
  }

  get pid(): number | undefined {
    return this.#shell?.pid;
  }

  add(group: number): void {
    this.#groups.add(group);
    this.#tell(`add ${group}`);
  }

  remove(group: number): void {
    if (this.#groups.delete(group)) this.#tell(`del ${group}`);
  }

  /** Lets it end: what it still knows is killed, the folder removed. Any time, any number of times. */
  close(): Promise<void> {
    this.#closing = true;
    this.#shell?.stdin?.end();
    return this.#gone;
  }

  #start(): void {
    const shell = spawn("/bin/sh", ["-c", SCRIPT, "reaper", this.#folder], {
      detached: true, // out of reach of the terminal's Ctrl-C
      stdio: ["pipe", "ignore", "ignore"],
    });
    this.#shell = shell;
    shell.stdin.on("error", () => {});
    this.#gone = new Promise((resolve) => {
      const over = () => {
        if (!this.#closing && shell.pid !== undefined) this.#start();
        resolve();
      };
      shell.once("exit", over);
      shell.once("error", over);
    });
    for (const group of this.#groups) this.#tell(`add ${group}`);
  }

  #tell(line: string): void {
    this.#shell?.stdin?.write(`${line}\n`);
  }
}
