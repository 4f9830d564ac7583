// Where the server listens: on 9000, and not on loopback [WS-BOOT-2].

import ts from "typescript";
import type { Report } from "./report.js";
import { SERVER_CLASS } from "./sockets.js";
import { bare, methodCall, nodesOf, type Sources } from "./sources.js";
import { propertyOf, type Value, type Values } from "./values.js";

const PORT = 9_000;
const LOOPBACK = /^(localhost|127\..*|\[?::1\]?)$/;

interface Listening {
  readonly node: ts.Node;
  readonly port: Value;
  readonly portText: string;
  readonly host: Value;
}

export function checkListening(
  sources: Sources,
  values: Values,
  report: Report,
): void {
  const all = sources.files.flatMap((file) =>
    nodesOf(file).flatMap((node) => {
      const found =
        readListen(sources, values, node) ?? readServer(values, node);
      return found ? [found] : [];
    }),
  );
  if (all.length === 0) {
    const [entry] = sources.files.slice(-1);
    if (entry) report("listen-nowhere", entry, "nothing listens");
  }
  // A second server beside the right one, for instance for metrics, harms nobody.
  const isRight = all.some(
    ({ port }) => port === undefined || Number(port) === PORT,
  );
  for (const { node, port, portText, host } of all) {
    if (!isRight)
      report(
        "listen-port",
        node,
        port === null
          ? `${portText}, which nothing sets`
          : `port ${String(port)}`,
      );
    const isMain = !isRight || port === undefined || Number(port) === PORT;
    if (isMain && typeof host === "string" && LOOPBACK.test(host))
      report("listen-loopback", node, `address ${host}`);
  }
}

/** `x.listen(9000, "0.0.0.0")`, `x.listen({ port, host })`. */
function readListen(
  sources: Sources,
  values: Values,
  node: ts.Node,
): Listening | undefined {
  const { on, name, call } = methodCall(node) ?? {};
  const [first, second] = call?.arguments ?? [];
  if (name !== "listen" || !on || !first || ts.isFunctionLike(first))
    return undefined;
  if (ts.isObjectLiteralExpression(first)) {
    const address = propertyOf(first, "host", "hostname");
    const host = values.of(address);
    return {
      node,
      ...portOf(values, propertyOf(first, "port")),
      // Fastify alone takes loopback where it is told nothing.
      host: address || !isFastify(sources, on) ? host : "localhost",
    };
  }
  return { node, ...portOf(values, first), host: values.of(second) };
}

/** `new WebSocketServer({ port: 9000 })`. */
function readServer(values: Values, node: ts.Node): Listening | undefined {
  if (!ts.isNewExpression(node)) return undefined;
  if (!SERVER_CLASS.test(bare(node.expression).getText())) return undefined;
  const [options] = node.arguments ?? [];
  const port = propertyOf(options, "port");
  if (!port) return undefined;
  return {
    node,
    ...portOf(values, port),
    host: values.of(propertyOf(options, "host")),
  };
}

function portOf(values: Values, node: ts.Expression | undefined) {
  const value = values.of(node);
  const isPath = typeof value === "string" && !/^\d+$/.test(value);
  return {
    port: isPath ? undefined : value,
    portText: node?.getText() ?? "",
  };
}

function isFastify(sources: Sources, on: ts.Expression): boolean {
  const declaration = sources.symbolOf(on)?.valueDeclaration;
  return (
    declaration !== undefined &&
    ts.isVariableDeclaration(declaration) &&
    declaration.initializer !== undefined &&
    /^(await )?([Ff]astify|require\(["']fastify["']\))\(/.test(
      declaration.initializer.getText(),
    )
  );
}
