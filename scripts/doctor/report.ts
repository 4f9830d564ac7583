// How a check says what it has found.

import type ts from "typescript";
import type { RuleName } from "../../platform/doctor/finding.js";

/** Notes what was seen at a node. */
export type Report = (name: RuleName, node: ts.Node, seen: string) => void;
