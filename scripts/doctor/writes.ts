// Files that are written outside of /tmp, where their path stands in the code.

import ts from "typescript";
import type { Report } from "./report.js";
import { methodCall, nodesOf, type Sources } from "./sources.js";
import type { Values } from "./values.js";

/** Position of the path that is written. */
const WRITERS: Record<string, number> = {
  writeFile: 0,
  appendFile: 0,
  createWriteStream: 0,
  mkdir: 0,
  mkdtemp: 0,
  truncate: 0,
  copyFile: 1,
  cp: 1,
  rename: 1,
  symlink: 1,
  link: 1,
};

export function checkWrites(
  sources: Sources,
  values: Values,
  report: Report,
): void {
  for (const file of sources.files) {
    const names = namesOfFs(sources, file);
    for (const node of nodesOf(file)) {
      if (!ts.isCallExpression(node)) continue;
      const method = methodCall(node);
      const isFs = method
        ? /^(fs|fsp|fsPromises|promises)$/.test(lastName(method.on)) ||
          names.has(method.on.getText())
        : names.has(node.expression.getText());
      const name = method?.name ?? node.expression.getText();
      const position = WRITERS[name.replace(/Sync$/, "")];
      if (!isFs || position === undefined) continue;
      const path = pathOf(values, node.arguments[position]);
      if (path !== undefined && !/^\/tmp(\/|$)/.test(path))
        report("write-outside-tmp", node, `${name} ${path}`);
    }
  }
}

function lastName(node: ts.Expression): string {
  return ts.isPropertyAccessExpression(node) ? node.name.text : node.getText();
}

/** Local names that stand for `fs` or one of its functions. */
function namesOfFs(sources: Sources, file: ts.SourceFile): Set<string> {
  const names = new Set<string>();
  for (const { literal, from } of sources.imports) {
    if (from !== file || !/^(node:)?fs(\/promises)?$/.test(literal.text))
      continue;
    let node: ts.Node = literal;
    while (
      !ts.isImportDeclaration(node) &&
      !ts.isVariableDeclaration(node) &&
      !ts.isSourceFile(node)
    )
      node = node.parent;
    if (ts.isSourceFile(node)) continue;
    for (const below of nodesOf(node))
      if (ts.isIdentifier(below)) names.add(below.text);
  }
  return names;
}

/** A path, or how it begins; undefined where that cannot be told. */
function pathOf(
  values: Values,
  node: ts.Expression | undefined,
): string | undefined {
  const value = values.of(node);
  if (typeof value === "string") return value;
  const given = values.initializer(node);
  if (given) return pathOf(values, given);
  if (node && ts.isTemplateExpression(node)) {
    if (node.head.text !== "") return `${node.head.text}…`;
    const [span] = node.templateSpans;
    return span && isOwnFolder(span.expression.getText())
      ? node.getText()
      : undefined;
  }
  const { name, call } = (node && methodCall(node)) ?? {};
  if (call && (name === "join" || name === "resolve")) {
    const [first] = call.arguments;
    if (first && isOwnFolder(first.getText())) return node?.getText();
    return pathOf(values, first);
  }
  return undefined;
}

function isOwnFolder(text: string): boolean {
  return /^(__dirname|import\.meta\.dirname|process\.cwd\(\))$/.test(text);
}
