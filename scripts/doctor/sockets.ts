// Which names in the code are a client's WebSocket: what a server's "connection" hands over, and every name, parameter
// and property it is passed on to. Told by the code's form, without types: good enough to warn, not to prove.

import ts from "typescript";
import {
  bare,
  functionOf,
  methodCall,
  nodesOf,
  stringOf,
  type Sources,
} from "./sources.js";

/** What nearly everybody calls it. */
const USUAL_NAME = /^(ws|webSocket|websocket)$/;
/** What the `ws` package calls its server. */
export const SERVER_CLASS = /(^|\.)(WebSocketServer|Server)$/;
const COLLECTION_CLASS = /^(Set|Map|Array)$/;
/** Chains of calls are followed this far. */
const MAX_ROUNDS = 10;

export interface Collection {
  /** Declared at the top of a module, so it outlives a connection. */
  readonly isGlobal: boolean;
  /** Where a socket is put in. */
  readonly stores: ts.Node[];
}

export class Sockets {
  readonly #sources: Sources;
  readonly #nodes: readonly ts.Node[];
  readonly #sockets = new Set<ts.Symbol>();
  /** Objects that hold a socket. */
  readonly #holders = new Set<ts.Symbol>();
  readonly #servers = new Set<ts.Symbol>();
  readonly #properties = new Set<string>();
  readonly #serverProperties = new Set<string>();
  readonly #collections = new Map<string | ts.Symbol, Collection>();

  constructor(sources: Sources) {
    this.#sources = sources;
    this.#nodes = sources.files.flatMap((file) => nodesOf(file));
    for (const node of this.#nodes) this.#learnServer(node);
    for (let round = 0, size = -1; size !== this.#size; round++) {
      if (round === MAX_ROUNDS) break;
      size = this.#size;
      for (const node of this.#nodes) this.#learn(node);
    }
  }

  /** Every node of the sources. */
  get nodes(): readonly ts.Node[] {
    return this.#nodes;
  }

  get collections(): Iterable<Collection> {
    return this.#collections.values();
  }

  isSocket(expression: ts.Node): boolean {
    if (!ts.isExpression(expression)) return false;
    const node = bare(expression);
    if (ts.isPropertyAccessExpression(node))
      return (
        USUAL_NAME.test(node.name.text) || this.#properties.has(node.name.text)
      );
    if (!ts.isIdentifier(node)) return false;
    const symbol = this.#sources.symbolOf(node);
    if (symbol && this.#sockets.has(symbol)) return true;
    return (
      USUAL_NAME.test(node.text) && symbol !== undefined && isLocal(symbol)
    );
  }

  /** All of a server's clients, or a collection that sockets are put into. */
  isManySockets(expression: ts.Expression): boolean {
    const node = bare(expression);
    if (ts.isPropertyAccessExpression(node) && node.name.text === "clients") {
      if (this.#isServer(node.expression)) return true;
    }
    const method = methodCall(node);
    if (method && /^(values|entries)$/.test(method.name))
      return this.isManySockets(method.on);
    if (method?.name === "from" && method.on.getText() === "Array") {
      const [all] = method.call.arguments;
      return all !== undefined && this.isManySockets(all);
    }
    if (ts.isArrayLiteralExpression(node))
      return node.elements.some(
        (one) => ts.isSpreadElement(one) && this.isManySockets(one.expression),
      );
    const key = this.#keyOf(node);
    return key !== undefined && this.#collections.has(key);
  }

  get #size(): number {
    let stores = 0;
    for (const collection of this.collections)
      stores += collection.stores.length;
    return (
      this.#sockets.size + this.#holders.size + this.#properties.size + stores
    );
  }

  #isServer(expression: ts.Expression): boolean {
    const node = bare(expression);
    if (ts.isPropertyAccessExpression(node))
      return this.#serverProperties.has(node.name.text);
    const symbol = this.#sources.symbolOf(node);
    return symbol !== undefined && this.#servers.has(symbol);
  }

  #learnServer(node: ts.Node): void {
    if (!ts.isNewExpression(node)) return;
    if (!SERVER_CLASS.test(bare(node.expression).getText())) return;
    const { parent } = node;
    if (ts.isVariableDeclaration(parent)) {
      const symbol = this.#sources.symbolOf(parent.name);
      if (symbol) this.#servers.add(symbol);
    } else if (ts.isPropertyDeclaration(parent))
      this.#serverProperties.add(parent.name.getText());
    else if (ts.isBinaryExpression(parent)) {
      const target = bare(parent.left);
      if (ts.isPropertyAccessExpression(target))
        this.#serverProperties.add(target.name.text);
      const symbol = this.#sources.symbolOf(target);
      if (symbol) this.#servers.add(symbol);
    }
  }

  #learn(node: ts.Node): void {
    if (ts.isCallExpression(node) || ts.isNewExpression(node))
      this.#learnFromCall(node);
    if (ts.isForOfStatement(node) && this.isManySockets(node.expression)) {
      const { initializer } = node;
      if (ts.isVariableDeclarationList(initializer))
        initializer.declarations.forEach(({ name }) => this.#mark(name));
    }
    if (ts.isBindingElement(node)) {
      const name = (node.propertyName ?? node.name).getText();
      if (this.#properties.has(name)) this.#mark(node.name);
    }
    if (ts.isVariableDeclaration(node) && node.initializer) {
      if (this.isSocket(node.initializer)) this.#mark(node.name);
      else if (this.#holdsSocket(node.initializer)) {
        const symbol = this.#sources.symbolOf(node.name);
        if (symbol) this.#holders.add(symbol);
      }
    }
    if (ts.isPropertyAssignment(node) && this.isSocket(node.initializer))
      this.#properties.add(node.name.getText());
    if (ts.isShorthandPropertyAssignment(node) && this.isSocket(node.name))
      this.#properties.add(node.name.text);
    if (
      ts.isBinaryExpression(node) &&
      node.operatorToken.kind === ts.SyntaxKind.EqualsToken
    )
      this.#learnFromAssignment(node);
  }

  #learnFromAssignment({ left, right }: ts.BinaryExpression): void {
    if (ts.isElementAccessExpression(left) && this.#holdsSocket(right))
      this.#store(left.expression, left);
    else if (ts.isPropertyAccessExpression(left) && this.isSocket(right))
      this.#properties.add(left.name.text);
  }

  #learnFromCall(node: ts.CallExpression | ts.NewExpression): void {
    const method = methodCall(node);
    const args = [...(node.arguments ?? [])];
    const [first, second] = args;
    if (
      method &&
      /^(on|once|addListener)$/.test(method.name) &&
      stringOf(first) === "connection" &&
      this.#isServer(method.on)
    )
      this.#markParameter(second, 0);
    else if (method?.name === "handleUpgrade")
      this.#markParameter(args.at(-1), 0);
    else if (method?.name === "forEach" && this.isManySockets(method.on))
      this.#markParameter(first, 0);
    else if (
      method &&
      /^(add|set|push|unshift)$/.test(method.name) &&
      args.some((one) => this.#holdsSocket(one))
    )
      this.#store(method.on, node);
    if (!ts.isCallExpression(node)) return;
    for (const [index, one] of args.entries())
      if (this.isSocket(one)) this.#markParameter(node.expression, index);
  }

  /** It is a socket, or an object around one. */
  #holdsSocket(expression: ts.Expression): boolean {
    const node = bare(expression);
    if (this.isSocket(node)) return true;
    if (ts.isObjectLiteralExpression(node))
      return node.properties.some(
        (one) =>
          (ts.isPropertyAssignment(one) && this.isSocket(one.initializer)) ||
          (ts.isShorthandPropertyAssignment(one) && this.isSocket(one.name)),
      );
    if (ts.isNewExpression(node))
      return (node.arguments ?? []).some((one) => this.isSocket(one));
    const symbol = this.#sources.symbolOf(node);
    return symbol !== undefined && this.#holders.has(symbol);
  }

  #store(expression: ts.Expression, place: ts.Node): void {
    const node = bare(expression);
    const key = this.#keyOf(node);
    if (key === undefined) return;
    const declaration =
      typeof key === "string" ? undefined : key.valueDeclaration;
    if (declaration && !isCollection(declaration)) return;
    const known = this.#collections.get(key) ?? {
      isGlobal: declaration !== undefined && isAtTop(declaration),
      stores: [],
    };
    if (!known.stores.includes(place)) known.stores.push(place);
    this.#collections.set(key, known);
  }

  /** By symbol for a name, by name for a property. */
  #keyOf(node: ts.Expression): string | ts.Symbol | undefined {
    if (ts.isPropertyAccessExpression(node)) return node.name.text;
    return ts.isIdentifier(node) ? this.#sources.symbolOf(node) : undefined;
  }

  #markParameter(callee: ts.Node | undefined, index: number): void {
    const target = functionOf(this.#sources, callee);
    const parameter = target?.parameters[index];
    if (parameter) this.#mark(parameter.name);
  }

  #mark(name: ts.BindingName): void {
    const symbol = ts.isIdentifier(name)
      ? this.#sources.symbolOf(name)
      : undefined;
    if (symbol) this.#sockets.add(symbol);
  }
}

/** Declared in this code, by other means than an import or `require`. */
function isLocal(symbol: ts.Symbol): boolean {
  const declaration = symbol.valueDeclaration;
  if (!declaration || ts.isClassDeclaration(declaration)) return false;
  if (!ts.isVariableDeclaration(declaration)) return true;
  const from = declaration.initializer?.getText() ?? "";
  return !/^(require\(|await import\(|new )/.test(from);
}

/** A new Set, Map, array or object. A WeakMap cannot be gone through, and a parameter is somebody else's. */
function isCollection(declaration: ts.Declaration): boolean {
  if (!ts.isVariableDeclaration(declaration)) return false;
  const { initializer } = declaration;
  if (!initializer) return false;
  return (
    ts.isArrayLiteralExpression(initializer) ||
    ts.isObjectLiteralExpression(initializer) ||
    (ts.isNewExpression(initializer) &&
      COLLECTION_CLASS.test(initializer.expression.getText()))
  );
}

function isAtTop(declaration: ts.Declaration): boolean {
  return ts.isSourceFile(declaration.parent.parent.parent);
}
