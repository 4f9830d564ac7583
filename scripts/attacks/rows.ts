/** Every row there is, in the order of the issue; those of an equal world share it. */
import {
  aheadOfTime,
  beforeConnection,
  beforeMembership,
  foreignNames,
  oldTokens,
} from "./rows/claims.js";
import { badKeys, escapes, printed } from "./rows/outputs.js";
import { empty, manners } from "./rows/protocol.js";
import { allBack, deaf, slow } from "./rows/readers.js";
import {
  brackets,
  deafFollowers,
  idleSockets,
  newConnections,
  newNames,
  pipelined,
} from "./rows/requests.js";
import {
  oneWrite,
  pings,
  pongs,
  publisher,
  sustained,
} from "./rows/senders.js";
import type { Row } from "./row.js";

export const rows: readonly Row[] = [
  deaf,
  slow,
  allBack,
  oneWrite,
  sustained,
  pipelined,
  beforeMembership,
  beforeConnection,
  foreignNames,
  newNames,
  newConnections,
  publisher,
  pongs,
  pings,
  badKeys,
  oldTokens,
  aheadOfTime,
  escapes,
  printed,
  idleSockets,
  brackets,
  deafFollowers,
  empty,
  manners,
];
