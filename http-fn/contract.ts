/**
 * openapi.yaml at run time: the operations with their validators for parameters, bodies and answers. There is no
 * second schema anywhere; validators are compiled when first used, so that a cold start pays only for what it needs.
 */
import {
  Ajv2020,
  type ErrorObject,
  type ValidateFunction,
} from "ajv/dist/2020.js";
import formats from "ajv-formats";
import type { FieldError, operations } from "../shared/api.js";
import type { Scope } from "../shared/config.js";
import { BridgeError, type ErrorData } from "../shared/errors.js";

export type OperationId = keyof operations;

/** The parameters of an operation after reading: query names, header twins merged in, other headers by their name. */
export type ParametersOf<Id extends OperationId> = NonNullable<
  operations[Id]["parameters"]["query"]
> &
  Omit<
    NonNullable<operations[Id]["parameters"]["header"]>,
    "TTL" | "Topic" | "Delay" | "At" | "Idempotency-Key" | "Durability"
  >;

/** The parts of a request that carry parameters; the target, to see at once that there is no query. */
export interface RawParameters {
  headers: Record<string, string | string[] | undefined>;
  url?: string | undefined;
}

export interface Operation<Id extends OperationId = OperationId> {
  readonly id: Id;
  readonly method: string;
  /** As in openapi.yaml. */
  readonly path: string;
  /** The scope an API key needs; undefined for operations that need no key. */
  readonly scope: Scope | undefined;
  /** Reads and checks header and query parameters. Throws invalid_parameter, unknown_parameter. */
  parameters(raw: RawParameters, query: unknown): ParametersOf<Id>;
  /** Checks a parsed JSON body. Throws invalid_body. */
  body(value: unknown): void;
}

export interface Answer {
  method: string;
  /** As in openapi.yaml; undefined where no path matched. */
  path: string | undefined;
  status: number;
  contentType: string | undefined;
  body: string;
}

export interface Contract {
  readonly yaml: string;
  readonly document: OpenApi;
  operation<Id extends OperationId>(id: Id): Operation<Id>;
  /** Checks values against a schema by name; `where` is a value's JSON pointer. What it returns throws `code`. */
  schema(
    name: string,
    code?: "invalid_body" | "invalid_parameter",
  ): (value: unknown, where: string) => void;
  /** What is wrong with an answer, one sentence each; none when it is as openapi.yaml says. */
  checkAnswer(answer: Answer): string[];
}

/** As much of OpenAPI 3.1 as openapi.yaml uses. */
export interface OpenApi {
  info: {
    title: string;
    version: string;
    summary: string;
    description: string;
  };
  tags: { name: string; description: string }[];
  paths: Record<string, PathItem>;
  /** What goes to the backend; by name, not by path. */
  webhooks: Record<string, PathItem>;
  components: {
    schemas: Record<string, Schema>;
    parameters: Record<string, Parameter>;
    responses: Record<string, Response>;
  };
}
export type PathItem = Partial<Record<Method | "options", OperationObject>> & {
  parameters?: (Parameter | Ref)[];
};
export const METHODS = ["get", "head", "post", "put", "delete"] as const;
export type Method = (typeof METHODS)[number];
export interface OperationObject {
  operationId: string;
  tags: string[];
  summary: string;
  description?: string;
  security?: unknown[];
  "x-scope"?: Scope;
  parameters?: (Parameter | Ref)[];
  requestBody?: { content: Record<string, { schema: Schema }> };
  responses: Record<string, Response | Ref>;
}
export interface Parameter {
  name: string;
  in: "path" | "query" | "header";
  description: string;
  schema: Schema;
  "x-twin"?: string;
}
export interface Response {
  description: string;
  content?: Record<string, { schema: Schema }>;
}
export interface Ref {
  $ref: string;
}
export interface Schema {
  $ref?: string;
  type?: string | string[];
  description?: string;
  enum?: (string | number)[];
  const?: string | boolean;
  properties?: Record<string, Schema>;
  required?: string[];
  items?: Schema;
  anyOf?: Schema[];
  oneOf?: Schema[];
  allOf?: Schema[];
  minimum?: number;
  maximum?: number;
  default?: string | number;
  "x-enumDescriptions"?: Record<string, string>;
}

const escapePointer = (part: string): string =>
  part.replaceAll("~", "~0").replaceAll("/", "~1");
const pointer = (...parts: string[]): string =>
  `#/${parts.map(escapePointer).join("/")}`;

/**
 * `yaml` is the text of openapi.yaml, `document` what it says. The build reads it: that takes as long as all the rest of a
 * cold start together.
 */
export function contractOf(yaml: string, document: OpenApi): Contract {
  // allErrors stays off: a hostile body must not cost more than its first mistake.
  const ajv = new Ajv2020({
    strict: true,
    strictTypes: false,
    strictRequired: false,
    // A mistake brings its schema along, for `x-words`.
    verbose: true,
  });
  formats.default(ajv);
  // The document is no schema, but schemas in it are found by their pointer; its own members mean nothing to ajv.
  ajv.addVocabulary([
    ...Object.keys(document),
    "x-enumDescriptions",
    "x-max-bytes",
    "x-words",
  ]);
  ajv.addSchema(document as object, "contract", false, false);

  const compiled = new Map<string, ValidateFunction>();
  const validator = (where: string): ValidateFunction => {
    let validate = compiled.get(where);
    if (validate === undefined) {
      validate = ajv.compile({ $ref: `contract${encodeURI(where)}` });
      compiled.set(where, validate);
    }
    return validate;
  };
  const deref = (where: string): { where: string; value: unknown } => {
    let value: unknown = document;
    for (const part of where.slice(2).split("/"))
      value = (value as Record<string, unknown>)[
        part.replaceAll("~1", "/").replaceAll("~0", "~")
      ];
    const ref = (value as Ref | undefined)?.$ref;
    return ref !== undefined && Object.keys(value as object).length === 1
      ? deref(ref)
      : { where, value };
  };

  function build(id: OperationId): Operation {
    for (const [path, item] of Object.entries(document.paths))
      for (const method of METHODS) {
        const operation = item[method];
        if (operation?.operationId !== id) continue;
        const at = (...rest: string[]) => pointer("paths", path, ...rest);
        const parameters = (operation.parameters ?? []).map((_, index) => {
          const found = deref(at(method, "parameters", String(index)));
          return readerOf(found.value as Parameter, `${found.where}/schema`);
        });
        const headers = parameters.filter(({ where }) => where === "header");
        const query = new Map(
          parameters
            .filter(({ where }) => where === "query")
            .map((reader) => [reader.name, reader]),
        );
        const json = operation.requestBody?.content["application/json"];
        return {
          id,
          method: method.toUpperCase(),
          path,
          scope:
            operation.security === undefined ? operation["x-scope"] : undefined,
          parameters: (raw, given) =>
            readParameters(headers, query, raw, given) as never,
          body(value) {
            if (json === undefined) return;
            const validate = validator(
              at(
                method,
                "requestBody",
                "content",
                "application/json",
                "schema",
              ),
            );
            if (!validate(value))
              throw invalid("invalid_body", "/body", validate.errors, value);
          },
        };
      }
    throw new Error(`openapi.yaml has no operation ${id}`);
  }

  function readerOf(parameter: Parameter, where: string): Reader {
    let type: unknown;
    return {
      name: parameter.name,
      where: parameter.in,
      twin: parameter["x-twin"],
      lower: parameter.name.toLowerCase(),
      read(text) {
        type ??= (deref(where).value as Schema).type;
        const value = typeof text === "string" ? convert(text, type) : text;
        const validate = validator(where);
        return { value, errors: validate(value) ? undefined : validate.errors };
      },
    };
  }

  const operationsById = new Map<OperationId, Operation>();
  return {
    yaml,
    document,
    operation<Id extends OperationId>(id: Id) {
      let operation = operationsById.get(id);
      if (operation === undefined) {
        operation = build(id);
        operationsById.set(id, operation);
      }
      return operation as unknown as Operation<Id>;
    },
    schema(name, code = "invalid_body") {
      const at = pointer("components", "schemas", name);
      return (value, where) => {
        const validate = validator(at);
        if (!validate(value))
          throw invalid(code, where, validate.errors, value);
      };
    },
    checkAnswer(answer) {
      return checkAnswer(answer);
    },
  };

  function checkAnswer({
    method,
    path,
    status,
    contentType,
    body,
  }: Answer): string[] {
    const name = `${method} ${path ?? "(no path)"} ${status}`;
    let where = pointer("components", "responses", "Problem");
    const item = path === undefined ? undefined : document.paths[path];
    const asked = method.toLowerCase() as Method;
    const known = asked === "head" && item?.head === undefined ? "get" : asked;
    const operation = item?.[known];
    if (path !== undefined && operation !== undefined) {
      const key =
        String(status) in operation.responses ? String(status) : "default";
      if (key === "default" && status < 400)
        return [`${name}: openapi.yaml does not have this status`];
      where = pointer("paths", path, known, "responses", key);
    }
    const response = deref(where);
    if (method === "HEAD")
      return body === "" ? [] : [`${name}: an answer to HEAD has no body`];
    const { content } = response.value as Response;
    if (content === undefined)
      return body === "" ? [] : [`${name}: openapi.yaml has no body here`];
    const type = contentType?.split(";")[0] ?? "";
    if (!(type in content))
      return [`${name}: openapi.yaml does not have the type "${type}"`];
    if (!type.endsWith("json")) return [];
    const validate = validator(
      `${response.where}/content/${escapePointer(type)}/schema`,
    );
    if (validate(JSON.parse(body))) return [];
    return (validate.errors ?? []).map(
      (error) =>
        `${name}: ${error.instancePath} ${error.message ?? error.keyword}`,
    );
  }
}

interface Reader {
  name: string;
  lower: string;
  where: string;
  twin: string | undefined;
  read(text: unknown): {
    value: unknown;
    errors: ErrorObject[] | null | undefined;
  };
}

/** Text to the type the schema wants; what does not look like it stays text and is refused by the schema. */
function convert(text: string, type: unknown): string | number {
  if (type === "integer" && /^-?\d{1,15}$/.test(text)) return Number(text);
  if (type === "number" && /^-?\d{1,15}(\.\d{1,9})?$/.test(text))
    return Number(text);
  return text;
}

const NO_PARAMETERS: Readonly<Record<string, unknown>> = Object.freeze({});

function readParameters(
  headers: readonly Reader[],
  query: ReadonlyMap<string, Reader>,
  raw: RawParameters,
  given: unknown,
): Readonly<Record<string, unknown>> {
  let values: Record<string, unknown> | undefined;
  let mistakes: Mistakes | undefined;
  for (const reader of headers) {
    const text = raw.headers[reader.lower];
    if (text === undefined) continue;
    const { value, errors } = reader.read(text);
    if (errors)
      (mistakes ??= new Mistakes()).add(
        `/header/${reader.name}`,
        errors,
        value,
      );
    (values ??= {})[reader.twin ?? reader.name] = value;
  }
  if (raw.url?.includes("?"))
    for (const [name, text] of Object.entries(given as object)) {
      const reader = query.get(name);
      if (reader === undefined) {
        (mistakes ??= new Mistakes()).unknown(`/query/${escapePointer(name)}`, [
          ...query.keys(),
        ]);
        continue;
      }
      if (Array.isArray(text)) {
        (mistakes ??= new Mistakes()).twice(`/query/${name}`);
        continue;
      }
      const { value, errors } = reader.read(text);
      if (errors)
        (mistakes ??= new Mistakes()).add(`/query/${name}`, errors, value);
      else if (values !== undefined && name in values && values[name] !== value)
        (mistakes ??= new Mistakes()).differs(name, headers);
      (values ??= {})[name] = value;
    }
  if (mistakes !== undefined) throw mistakes.error();
  return values ?? NO_PARAMETERS;
}

/** Collects what is wrong with the parameters of one request. */
class Mistakes {
  readonly #errors: FieldError[] = [];
  #data: ErrorData = {};
  #unknown = false;

  add(where: string, errors: ErrorObject[], value: unknown): void {
    this.#errors.push({ pointer: where, message: sentence(errors) });
    this.#data = { ...this.#data, ...limitOf(errors, value) };
  }

  unknown(where: string, known: string[]): void {
    this.#unknown = true;
    const message =
      known.length === 0
        ? "this operation has no parameters"
        : `known are ${known.join(", ")}`;
    this.#errors.push({ pointer: where, message });
  }

  twice(where: string): void {
    this.#errors.push({ pointer: where, message: "is given more than once" });
  }

  differs(name: string, headers: readonly Reader[]): void {
    const header = headers.find(({ twin }) => twin === name)?.name ?? name;
    this.#errors.push({
      pointer: `/query/${name}`,
      message: `differs from the header ${header}`,
    });
  }

  error(): BridgeError {
    const data: ErrorData = {
      errors: this.#errors,
      detail: summary(this.#errors),
    };
    // One number can be said only of one mistake.
    if (this.#errors.length === 1) Object.assign(data, this.#data);
    return new BridgeError(
      this.#unknown ? "unknown_parameter" : "invalid_parameter",
      data,
    );
  }
}

/** A bad parameter found after the schema, for example two that exclude each other. */
export function invalidParameter(
  where: string,
  message: string,
  data: ErrorData = {},
): BridgeError {
  const errors = [{ pointer: where, message }];
  return new BridgeError("invalid_parameter", {
    ...data,
    errors,
    detail: summary(errors),
  });
}

function invalid(
  code: "invalid_body" | "invalid_parameter",
  prefix: string,
  found: ErrorObject[] | null | undefined,
  value: unknown,
): BridgeError {
  const first = mainOf(found ?? []);
  const extra: unknown =
    first?.propertyName ?? first?.params["additionalProperty"];
  const where = `${prefix}${first?.instancePath ?? ""}${typeof extra === "string" ? `/${escapePointer(extra)}` : ""}`;
  const errors = [{ pointer: where, message: sentence(found ?? []) }];
  return new BridgeError(code, {
    errors,
    detail: summary(errors),
    ...limitOf(found ?? [], value),
  });
}

const summary = (errors: readonly FieldError[]): string =>
  errors.map(({ pointer: where, message }) => `${where} ${message}`).join("; ");

/** What a schema wants, in words; a pattern or a choice says little to people. */
function wordsOf(error: ErrorObject | undefined): string | undefined {
  const words = error?.parentSchema?.["x-words"] as unknown;
  return typeof words === "string" ? words : undefined;
}

/** Of alternatives that have words, what is wrong inside the one that was meant, else the choice itself. */
function mainOf(errors: readonly ErrorObject[]): ErrorObject | undefined {
  const last = errors.at(-1);
  if (!/^(one|any)Of$/.test(last?.keyword ?? "") || wordsOf(last) === undefined)
    return errors[0];
  const depth = last?.instancePath.length ?? 0;
  const inside = errors.find((error) => error.instancePath.length > depth);
  return inside ?? last;
}

function sentence(errors: readonly ErrorObject[]): string {
  const first = mainOf(errors);
  if (first === undefined) return "is invalid";
  const words = wordsOf(first);
  if (words !== undefined && /^(pattern|oneOf|anyOf)$/.test(first.keyword))
    return `must be ${words}`;
  const allowed: unknown = first.params["allowedValues"];
  if (Array.isArray(allowed)) return `must be one of ${allowed.join(", ")}`;
  return first.message ?? "is invalid";
}

/** `limit` and `actual` of the first mistake, where it is about a size. */
function limitOf(errors: readonly ErrorObject[], value: unknown): ErrorData {
  const first = mainOf(errors);
  const limit: unknown = first?.params["limit"];
  if (
    first === undefined ||
    typeof limit !== "number" ||
    first.instancePath !== ""
  )
    return {};
  if (typeof value === "number") return { limit, actual: value };
  return typeof value === "string"
    ? { limit, actual: value.length }
    : { limit };
}
