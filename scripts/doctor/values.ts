// What an expression is worth, as far as it can be told without running it: literals, constants, the environment, and
// the usual ways to fall back to a default.

import ts from "typescript";
import { bare, type Sources } from "./sources.js";

/** A known value; null: nothing sets it; undefined: cannot be told. */
export type Value = string | number | null | undefined;

export class Values {
  readonly #sources: Sources;
  readonly #environment: ReadonlyMap<string, string>;

  constructor(sources: Sources, environment: ReadonlyMap<string, string>) {
    this.#sources = sources;
    this.#environment = environment;
  }

  of(expression: ts.Expression | undefined, depth = 0): Value {
    if (expression === undefined || depth > 8) return undefined;
    const node = bare(expression);
    const again = (next: ts.Expression | undefined) => this.of(next, depth + 1);
    if (ts.isNumericLiteral(node)) return Number(node.text);
    if (ts.isStringLiteralLike(node)) return node.text;
    const variable = this.#environmentName(node);
    if (variable !== undefined) return this.#environment.get(variable) ?? null;
    if (ts.isBinaryExpression(node)) {
      const { kind } = node.operatorToken;
      if (
        kind !== ts.SyntaxKind.BarBarToken &&
        kind !== ts.SyntaxKind.QuestionQuestionToken
      )
        return undefined;
      const left = again(node.left);
      const isOut =
        left === null || (kind === ts.SyntaxKind.BarBarToken && !left);
      return left !== undefined && isOut ? again(node.right) : left;
    }
    if (
      ts.isPrefixUnaryExpression(node) &&
      node.operator === ts.SyntaxKind.PlusToken
    )
      return again(node.operand);
    if (ts.isCallExpression(node)) {
      const callee = node.expression.getText();
      return /^(Number|String|parseInt|Number\.parseInt)$/.test(callee)
        ? again(node.arguments[0])
        : undefined;
    }
    if (ts.isIdentifier(node)) return this.#ofName(node, again);
    return undefined;
  }

  /** Of a constant. What is assigned more than once cannot be told. */
  #ofName(
    node: ts.Identifier,
    again: (next: ts.Expression | undefined) => Value,
  ): Value {
    const declaration = this.#sources.symbolOf(node)?.valueDeclaration;
    if (!declaration || !isConstant(declaration)) return undefined;
    if (ts.isVariableDeclaration(declaration))
      return again(declaration.initializer);
    // const { PORT = 9000 } = process.env
    if (!ts.isBindingElement(declaration)) return undefined;
    const whole = declaration.parent.parent;
    if (
      !ts.isVariableDeclaration(whole) ||
      whole.initializer?.getText() !== "process.env"
    )
      return undefined;
    const name = (declaration.propertyName ?? declaration.name).getText();
    const set = this.#environment.get(name);
    if (set !== undefined) return set;
    return declaration.initializer ? again(declaration.initializer) : null;
  }

  /** What a constant was given. */
  initializer(node: ts.Expression | undefined): ts.Expression | undefined {
    if (node === undefined || !ts.isIdentifier(node)) return undefined;
    const declaration = this.#sources.symbolOf(node)?.valueDeclaration;
    return declaration &&
      ts.isVariableDeclaration(declaration) &&
      isConstant(declaration)
      ? declaration.initializer
      : undefined;
  }

  #environmentName(node: ts.Expression): string | undefined {
    if (
      ts.isPropertyAccessExpression(node) &&
      node.expression.getText() === "process.env"
    )
      return node.name.text;
    if (
      ts.isElementAccessExpression(node) &&
      node.expression.getText() === "process.env" &&
      ts.isStringLiteralLike(node.argumentExpression)
    )
      return node.argumentExpression.text;
    return undefined;
  }
}

function isConstant(declaration: ts.Declaration): boolean {
  let node: ts.Node = declaration;
  while (ts.isBindingElement(node) || ts.isObjectBindingPattern(node))
    node = node.parent;
  return (
    ts.isVariableDeclaration(node) &&
    (ts.getCombinedNodeFlags(node) & ts.NodeFlags.Const) !== 0
  );
}

/** The value of one property in an object literal; undefined where there is none of that name. */
export function propertyOf(
  object: ts.Expression | undefined,
  ...names: string[]
): ts.Expression | undefined {
  if (object === undefined || !ts.isObjectLiteralExpression(object))
    return undefined;
  for (const property of object.properties) {
    const name = property.name?.getText().replace(/["']/g, "") ?? "";
    if (!names.includes(name)) continue;
    if (ts.isPropertyAssignment(property)) return property.initializer;
    if (ts.isShorthandPropertyAssignment(property)) return property.name;
  }
  return undefined;
}
