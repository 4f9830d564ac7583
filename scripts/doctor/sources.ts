// The JavaScript of a function, read and not run: the started file and everything it imports by path, bound so that a
// name leads to what it stands for, across files.

import { dirname, resolve } from "node:path";
import ts from "typescript";
import { findModule } from "../../platform/doctor/files.js";

export interface Import {
  readonly literal: ts.StringLiteralLike;
  readonly from: ts.SourceFile;
  /** The file it means; undefined for packages, and where there is none. */
  readonly file: string | undefined;
}

export interface Sources {
  readonly files: readonly ts.SourceFile[];
  readonly imports: readonly Import[];
  /** What an identifier stands for, behind imports. */
  symbolOf(node: ts.Node): ts.Symbol | undefined;
  /** The first syntax error of each file that has one. */
  readonly broken: readonly ts.DiagnosticWithLocation[];
}

const EXTENSIONS = new Map<string, ts.Extension>([
  [".js", ts.Extension.Js],
  [".mjs", ts.Extension.Mjs],
  [".cjs", ts.Extension.Cjs],
  [".ts", ts.Extension.Ts],
]);

const OPTIONS: ts.CompilerOptions = {
  allowJs: true,
  noLib: true,
  types: [],
  target: ts.ScriptTarget.ESNext,
  module: ts.ModuleKind.ESNext,
  moduleResolution: ts.ModuleResolutionKind.Bundler,
};

export function isByPath(name: string): boolean {
  return /^\.{0,2}\//.test(name) || name === "." || name === "..";
}

export function readSources(entry: string): Sources {
  const imports: Import[] = [];
  const host: ts.CompilerHost = {
    ...ts.createCompilerHost(OPTIONS),
    getSourceFile: (name, options) => {
      const text = ts.sys.readFile(name);
      return text === undefined
        ? undefined
        : ts.createSourceFile(name, text, options, true);
    },
    resolveModuleNameLiterals: (literals, containing, _, __, from) =>
      literals.map((literal) => {
        const file = isByPath(literal.text)
          ? findModule(resolve(dirname(containing), literal.text))
          : undefined;
        imports.push({ literal, from, file });
        const extension = EXTENSIONS.get(/\.\w+$/.exec(file ?? "")?.[0] ?? "");
        return {
          resolvedModule:
            file === undefined || extension === undefined
              ? undefined
              : { resolvedFileName: file, extension },
        };
      }),
  };
  const program = ts.createProgram([entry], OPTIONS, host);
  const checker = program.getTypeChecker();
  const files = program.getSourceFiles();
  return {
    files,
    imports,
    symbolOf: (node) => {
      const symbol =
        ts.isIdentifier(node) &&
        ts.isShorthandPropertyAssignment(node.parent) &&
        node.parent.name === node
          ? checker.getShorthandAssignmentValueSymbol(node.parent)
          : checker.getSymbolAtLocation(node);
      return symbol && symbol.flags & ts.SymbolFlags.Alias
        ? checker.getAliasedSymbol(symbol)
        : symbol;
    },
    broken: files.flatMap((file) =>
      program.getSyntacticDiagnostics(file).slice(0, 1),
    ),
  };
}

/** From 1. */
export function lineOf(node: ts.Node): number {
  const file = node.getSourceFile();
  return file.getLineAndCharacterOfPosition(node.getStart(file)).line + 1;
}

/** Every node below, parents first. */
export function nodesOf(root: ts.Node): ts.Node[] {
  const found: ts.Node[] = [];
  const visit = (node: ts.Node): void => {
    found.push(node);
    ts.forEachChild(node, visit);
  };
  ts.forEachChild(root, visit);
  return found;
}

/** Without parentheses, `!`, `as` and `await`. */
export function bare(node: ts.Expression): ts.Expression {
  return ts.isParenthesizedExpression(node) ||
    ts.isNonNullExpression(node) ||
    ts.isAsExpression(node) ||
    ts.isAwaitExpression(node)
    ? bare(node.expression)
    : node;
}

/** `x.name(…)` or `x?.name(…)`: x and the name. */
export function methodCall(
  node: ts.Node,
): { on: ts.Expression; name: string; call: ts.CallExpression } | undefined {
  if (!ts.isCallExpression(node)) return undefined;
  const callee = bare(node.expression);
  return ts.isPropertyAccessExpression(callee)
    ? { on: bare(callee.expression), name: callee.name.text, call: node }
    : undefined;
}

/** The text of a quoted string. */
export function stringOf(node: ts.Node | undefined): string | undefined {
  return node && ts.isStringLiteralLike(node) ? node.text : undefined;
}

export type AnyFunction =
  | ts.FunctionDeclaration
  | ts.FunctionExpression
  | ts.ArrowFunction
  | ts.MethodDeclaration;

export function isFunction(node: ts.Node | undefined): node is AnyFunction {
  return (
    node !== undefined &&
    (ts.isFunctionDeclaration(node) ||
      ts.isFunctionExpression(node) ||
      ts.isArrowFunction(node) ||
      ts.isMethodDeclaration(node))
  );
}

/** The function an expression stands for: written there, or declared somewhere under this name. */
export function functionOf(
  sources: Sources,
  node: ts.Node | undefined,
): AnyFunction | undefined {
  if (node === undefined || isFunction(node)) return node;
  for (const declaration of sources.symbolOf(node)?.declarations ?? []) {
    if (isFunction(declaration)) return declaration;
    if (
      ts.isVariableDeclaration(declaration) &&
      isFunction(declaration.initializer)
    )
      return declaration.initializer;
  }
  return undefined;
}
