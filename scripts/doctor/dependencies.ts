// Whether everything the code imports will be there when the folder is deployed [WS-BOOT-4].

import { existsSync } from "node:fs";
import { builtinModules } from "node:module";
import { dirname, join, relative } from "node:path";
import ts from "typescript";
import { isFile, readJson } from "../../platform/doctor/files.js";
import type { Report } from "./report.js";
import { isByPath, type Import, type Sources } from "./sources.js";

const DECLARED = ["dependencies", "optionalDependencies", "peerDependencies"];

export function checkDependencies(
  folder: string,
  sources: Sources,
  report: Report,
): void {
  const root = packageFolder(folder) ?? folder;
  for (const one of sources.imports) {
    const name = one.literal.text;
    if (isOptional(one.literal)) continue;
    if (isByPath(name)) checkPath(root, one, report);
    else if (!isBuiltin(name) && !name.startsWith("#"))
      checkPackage(folder, one, report);
  }
}

function checkPath(root: string, { literal, file }: Import, report: Report) {
  if (file === undefined)
    report("import-missing", literal, `${literal.text} is not there`);
  else if (relative(root, file).startsWith(".."))
    report("import-missing", literal, `${literal.text} is outside the package`);
}

function checkPackage(
  folder: string,
  { literal, from }: Import,
  report: Report,
): void {
  const [scope = "", rest = ""] = literal.text.split("/");
  const name = scope.startsWith("@") ? `${scope}/${rest}` : scope;
  const home = packageFolder(dirname(from.fileName));
  const manifest = home ? readJson(join(home, "package.json")) : undefined;
  if (manifest?.["name"] === name) return;
  const lists = (list: string): boolean => name in Object(manifest?.[list]);
  const installed = foldersUp(dirname(from.fileName)).find((one) =>
    existsSync(join(one, "node_modules", name)),
  );
  if (DECLARED.some(lists)) {
    if (installed === undefined)
      report("dependency-not-installed", literal, `${name} is not installed`);
    return;
  }
  const isInside =
    installed !== undefined && !relative(folder, installed).startsWith("..");
  if (isInside && !lists("devDependencies")) return; // its modules are deployed with it
  report(
    "dependency-missing",
    literal,
    lists("devDependencies")
      ? `${name} is a devDependency`
      : `${name} is not among the dependencies`,
  );
}

function isBuiltin(name: string): boolean {
  return name.startsWith("node:") || builtinModules.includes(name);
}

/** Imported in a `try`: whoever wrote it can do without. */
function isOptional(literal: ts.Node): boolean {
  for (let node: ts.Node = literal; !ts.isSourceFile(node); node = node.parent)
    if (ts.isTryStatement(node.parent) && node.parent.tryBlock === node)
      return node.parent.catchClause !== undefined;
  return false;
}

function packageFolder(folder: string): string | undefined {
  return foldersUp(folder).find((one) => isFile(join(one, "package.json")));
}

function foldersUp(folder: string): string[] {
  const above = dirname(folder);
  return above === folder ? [folder] : [folder, ...foldersUp(above)];
}
