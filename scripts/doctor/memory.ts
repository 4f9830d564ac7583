// Two habits of a server that serves everybody, and what they count as where each connection has its own instance:
// sockets kept in the process's memory, and a close that says no code.

import ts from "typescript";
import type { Report } from "./report.js";
import { methodCall, nodesOf } from "./sources.js";
import type { Sockets } from "./sockets.js";
import type { Values } from "./values.js";

/** [WS-LIFE-3, SCN-CHAT-4] */
export function checkMemory(sockets: Sockets, report: Report): void {
  for (const { isGlobal, stores } of sockets.collections) {
    const [first] = stores;
    if (isGlobal && first) report("sockets-in-memory", first, first.getText());
  }
  for (const node of sockets.nodes) {
    const loop = readLoop(node);
    if (
      loop &&
      sockets.isManySockets(loop.over) &&
      nodesOf(loop.body).some((one) => passesOn(sockets, one))
    )
      report(
        "broadcast-in-process",
        node,
        `a loop over ${loop.over.getText()}`,
      );
  }
}

function readLoop(
  node: ts.Node,
): { over: ts.Expression; body: ts.Node } | undefined {
  if (ts.isForOfStatement(node)) return { over: node.expression, body: node };
  const { on, name, call } = methodCall(node) ?? {};
  return on && call && name === "forEach"
    ? { over: on, body: call }
    : undefined;
}

/** `socket.send(…)`, or the socket handed to something else. To close them all is no broadcast. */
function passesOn(sockets: Sockets, node: ts.Node): boolean {
  if (!ts.isCallExpression(node)) return false;
  const method = methodCall(node);
  if (method && sockets.isSocket(method.on)) return method.name === "send";
  return node.arguments.some((one) => sockets.isSocket(one));
}

/** [WS-CLOSE-4, WS-CLOSE-8] */
export function checkClosing(
  sockets: Sockets,
  values: Values,
  report: Report,
): void {
  for (const node of sockets.nodes) {
    const { on, name, call } = methodCall(node) ?? {};
    if (!on || !call || name !== "close" || !sockets.isSocket(on)) continue;
    const [code] = call.arguments;
    const value = values.of(code);
    if (code === undefined) report("close-without-code", node, node.getText());
    else if (typeof value === "number" && value !== 1000 && value !== 1011)
      report("close-with-failing-code", node, node.getText());
  }
}
