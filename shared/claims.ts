/**
 * What others say of a client, by schema: the claims of tokens, and the backend's answer to `connect`. Nothing of it goes
 * further before it was read here.
 */
import {
  Ajv2020,
  type ErrorObject,
  type ValidateFunction,
} from "ajv/dist/2020.js";

/** Groups of one connection; also the maximum of `groups` in openapi.yaml. */
export const groupsMax = 100;

/** What is wrong with them, in one sentence that a person can act upon. */
export class ClaimError extends Error {
  constructor(words: string) {
    super(words);
    this.name = "ClaimError";
  }
}

/** The claims that we read; all others are the issuer's own. */
export interface Claims {
  sub?: string;
  groups?: string[];
  permissions?: string[];
  jti?: string;
  iss?: string;
  aud?: string | string[];
  /** Seconds since 1970. */
  exp?: number;
  /** Seconds since 1970. */
  iat?: number;
}

/** What a token of ours says besides: the connection it is for, and as a resume token the session it was given in. */
export interface OwnClaims extends Claims {
  cid: string;
  /** The epoch of the socket that it was given to. */
  epc?: number;
  /** When the first token of this client runs out, seconds since 1970. */
  lim?: number;
  /** That first token: its key, its `jti` as `tokenTag`, its `iat`, its user. */
  org?: [kid: string, token: string, issuedAt: number, userId: string];
}

/** What the backend may say of a client; what it leaves out stays as it was. */
export interface Granted {
  userId?: string;
  groups?: string[];
  permissions?: string[];
  labels?: Record<string, string>;
}

// The same as in openapi.yaml; a test compares them.
const userId = {
  type: "string",
  minLength: 1,
  maxLength: 128,
  pattern: "^(?!\\.{1,2}$)[^\\p{Cc}\\p{Cs}]+$",
  words:
    "is no user ID: 1 to 128 characters without control characters, not . or ..",
};
const group = {
  type: "string",
  minLength: 1,
  maxLength: 128,
  pattern: "^(?!\\.{1,2}$)[0-9A-Za-z_.~@+=-]+$",
  words:
    "is no name of a group: 1 to 128 letters, digits and _ . ~ @ + = -, not . or ..",
};
const permission = {
  type: "string",
  minLength: 1,
  maxLength: 160,
  pattern: "^(join|publish):([0-9A-Za-z_.~@+=-]+|[*])$",
  words: "is no permission: join:<group> or publish:<group>, * for every group",
};
/** The permissions in an identity provider's tokens are for many applications: those of other verbs say nothing to us. */
const foreignPermission = {
  ...permission,
  maxLength: 1_024,
  pattern: `^(?!(join|publish):)|${permission.pattern}`,
};
/** Of those that a token may hold: one that says something to us. */
export const isPermission = (text: string): boolean =>
  /^(join|publish):/.test(text);

const list = (items: object, of: string) => ({
  type: "array",
  maxItems: groupsMax,
  items,
  words: `is no list of ${groupsMax} ${of} at most`,
});
const time = {
  type: "number",
  minimum: 0,
  maximum: Number.MAX_SAFE_INTEGER,
  words: "is no time in seconds since 1970",
};

const claims = {
  sub: userId,
  groups: list(group, "names of groups"),
  permissions: list(permission, "permissions"),
  jti: {
    type: "string",
    minLength: 1,
    maxLength: 256,
    words: "is no token ID: a text of 1 to 256 characters",
  },
  exp: time,
  iat: time,
};
const foreignSchema = {
  type: "object",
  properties: {
    ...claims,
    permissions: {
      ...list(foreignPermission, "permissions"),
      maxItems: 1_000,
      words: "is no list of 1,000 permissions at most",
    },
  },
};
const ownSchema = {
  type: "object",
  required: ["cid"],
  properties: {
    ...claims,
    cid: {
      type: "string",
      pattern: "^c_[0-9A-Za-z]{22}$",
      words: "is no connection ID",
    },
    epc: {
      type: "integer",
      minimum: 0,
      maximum: Number.MAX_SAFE_INTEGER,
      words: "is no epoch",
    },
    lim: time,
    org: {
      type: "array",
      minItems: 4,
      maxItems: 4,
      prefixItems: [
        { type: "string" },
        { type: "string" },
        { type: "number" },
        { type: "string" },
      ],
      words: "is no origin",
    },
  },
};
const grantedSchema = {
  type: "object",
  additionalProperties: false,
  properties: {
    userId,
    groups: list(group, "names of groups"),
    permissions: list(permission, "permissions"),
    labels: {
      type: "object",
      maxProperties: 32,
      propertyNames: {
        type: "string",
        maxLength: 64,
        pattern: "^[A-Za-z][0-9A-Za-z_.-]*$",
      },
      additionalProperties: { type: "string", maxLength: 256 },
      words:
        "are no labels: 32 names at most, a letter and then letters, digits and _ . -, with texts of 256 characters at most",
    },
  },
  words: "is no object",
};

const ajv = new Ajv2020({ strict: true, verbose: true });
ajv.addKeyword("words");

/** For the test that compares them with openapi.yaml. */
export const grantedJsonSchema: object = grantedSchema;

/** The outermost part whose words say what it must be. */
function sentence(error: ErrorObject | undefined): string {
  const [, name = "", item] = error?.instancePath.split("/") ?? [];
  if (error?.keyword === "required")
    return `there is no ${String(error.params["missingProperty"])}`;
  if (error?.keyword === "additionalProperties" && name === "")
    return `there is no "${String(error.params["additionalProperty"]).slice(0, 40)}"`;
  const parent = (error?.parentSchema ?? {}) as { words?: string };
  const words = parent.words ?? wordsOf(error) ?? "is not valid";
  if (name === "") return `it ${words}`;
  const at = item !== undefined && /^\d+$/.test(item) ? `[${item}]` : "";
  return `${name}${at} ${words}`;
}

/** Parts without words of their own are told in those of the claim that they belong to. */
function wordsOf(error: ErrorObject | undefined): string | undefined {
  const [, name = ""] = error?.instancePath.split("/") ?? [];
  const properties = { ...grantedSchema.properties, ...ownSchema.properties };
  return (properties as Record<string, { words?: string }>)[name]?.words;
}

function reader<T>(schema: object): (value: unknown) => T {
  // Compiled at the first use: a process that never reads one need not.
  let validate: ValidateFunction<T> | undefined;
  return (value) => {
    validate ??= ajv.compile<T>(schema);
    if (validate(value)) return value;
    throw new ClaimError(sentence(validate.errors?.[0]));
  };
}

/** The payload of a token that somebody else made. Throws ClaimError. */
export const readClaims = reader<Claims>(foreignSchema);
/** The payload of a token of ours. Throws ClaimError. */
export const readOwnClaims = reader<OwnClaims>(ownSchema);
const readGranted = reader<Granted>(grantedSchema);

const once = (items: string[]): string[] => [...new Set(items)];

/** The backend's answer to `connect`, as in openapi.yaml (`ConnectGranted`). Throws ClaimError. */
export function grantedOf(value: unknown): Granted {
  const granted = readGranted(value);
  return {
    ...granted,
    ...(granted.groups ? { groups: once(granted.groups) } : {}),
    ...(granted.permissions ? { permissions: once(granted.permissions) } : {}),
  };
}
