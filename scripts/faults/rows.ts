/** Every row there is, in the order in which they run: equal worlds follow one another. */
import { cutAroundAck, keyRepeated, pushedToEnded } from "./rows/clients.js";
import { abandoned } from "./rows/cycles.js";
import { blackHole, lossy, offline, storm } from "./rows/lines.js";
import { memoryFull } from "./rows/memory.js";
import { killed, killedThreeTimes, rolling } from "./rows/owners.js";
import { claimedTwice, logFull, poison, reloaded } from "./rows/sessions.js";
import { blocked, stopped } from "./rows/standstill.js";
import { cluster } from "./rows/cluster.js";
import { diskFull } from "./rows/disk.js";
import { masterKilled, masterKilledWithLag } from "./rows/failover.js";
import { absentAtStart, frozen } from "./rows/frozen.js";
import {
  allCut,
  deaf,
  redisKilled,
  repliesToHttp,
  repliesToWs,
} from "./rows/redis.js";
import type { Row } from "./row.js";

export const rows: readonly Row[] = [
  killed,
  killedThreeTimes,
  redisKilled,
  cutAroundAck,
  rolling,
  keyRepeated,
  pushedToEnded,
  reloaded,
  storm,
  claimedTwice,
  poison,
  abandoned,
  memoryFull,
  stopped,
  blocked,
  blackHole,
  lossy,
  offline,
  logFull,
  repliesToHttp,
  repliesToWs,
  allCut,
  deaf,
  frozen,
  absentAtStart,
  diskFull,
  masterKilled,
  masterKilledWithLag,
  cluster,
];
