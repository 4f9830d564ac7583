/** What a backend answers to `connect` goes by the schema of openapi.yaml; claims of tokens: tokens.test.ts. */
import { readFileSync } from "node:fs";
import t from "tap";
import { parse } from "yaml";
import {
  ClaimError,
  grantedJsonSchema,
  grantedOf,
} from "../../shared/claims.js";

type Json = Record<string, unknown>;
const contract = parse(readFileSync("openapi.yaml", "utf8")) as {
  components: { schemas: Record<string, Json> };
};

/** A schema without words for people, references followed. */
function bare(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(bare);
  if (typeof value !== "object" || value === null) return value;
  const { $ref, ...rest } = value as Json;
  if (typeof $ref === "string")
    return bare(contract.components.schemas[$ref.split("/").at(-1) ?? ""]);
  return Object.fromEntries(
    Object.entries(rest)
      .filter(([name]) => !["description", "x-words", "words"].includes(name))
      .map(([name, part]) => [name, bare(part)]),
  );
}

t.test("it is the schema of the contract", async (t) => {
  const ours = bare(grantedJsonSchema) as {
    properties: { labels: { propertyNames: Json } };
  };
  // Names are texts anyway.
  delete ours.properties.labels.propertyNames["type"];
  t.same(ours, bare(contract.components.schemas["ConnectGranted"]));
});

t.test("what is granted", async (t) => {
  t.same(grantedOf({}), {});
  const all = {
    userId: "ann",
    groups: ["a", "b", "a"],
    permissions: ["join:*", "join:*"],
    labels: { plan: "pro" },
  };
  t.same(grantedOf(all), {
    ...all,
    groups: ["a", "b"],
    permissions: ["join:*"],
  });
});

t.test("what is not, in words", async (t) => {
  for (const [value, words] of [
    [[], /it is no object/],
    [null, /it is no object/],
    [{ user: "ann" }, /there is no "user"/],
    [{ userId: "." }, /userId is no user ID/],
    [{ userId: "a\u0007" }, /userId is no user ID/],
    [{ groups: ["$all"] }, /groups\[0\] is no name of a group/],
    [{ groups: ["a", "b}c"] }, /groups\[1\] is no name of a group/],
    [{ permissions: ["leave:x"] }, /permissions\[0\] is no permission/],
    [{ labels: { plan: 7 } }, /labels are no labels/],
    [{ labels: { "1a": "x" } }, /labels are no labels/],
    [{ labels: [] }, /labels are no labels/],
  ] as const)
    t.throws(
      () => grantedOf(value),
      { name: ClaimError.name, message: words },
      JSON.stringify(value),
    );
});
