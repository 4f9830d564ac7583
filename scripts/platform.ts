// `npm run platform -- <folder>`: the local platform over anybody's functions.

import { hint } from "../shared/output.js";

const usage = `npm run platform -- <folder> [options]

<folder> has an scf_bootstrap (one function, at /), or folders that have one (each at /<its name>).

  --port <n>        port of the gateway; 0 picks a free one (8080)
  --preset <name>   documented, friendly or hostile (documented)
  --set <a=b,c=d>   single rules on top of it; a wrong name lists them all
  --ws, --http      what functions without a serverless.yml are (--http)
  --prewarm <n>     instances of each function kept ready (0)
  --cert, --key     files of a certificate: the port takes wss:// and https:// as well`;

if (process.argv.length < 3 || process.argv.includes("--help")) {
  hint(usage);
  process.exit(process.argv.length < 3 ? 1 : 0);
}
await import("../platform/main.js");
