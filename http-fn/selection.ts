/** `filter` and `except` of a publish: which members of a group it is for. */
import type { Filter } from "../shared/api.js";
import type { Selection } from "../shared/selection.js";
import { invalidParameter } from "./contract.js";

/** Values of one condition of a filter, and conditions on labels. */
const FILTER_VALUES_MAX = 100;
const FILTER_LABELS_MAX = 32;

/** In a query they are text; in an item of a batch they are what the text says. */
export interface SelectionOptions {
  filter?: string | Filter;
  except?: string | readonly string[];
}

/** Which members a publish is for; undefined: all. Throws invalid_parameter. */
export function selectionOf(
  { filter, except }: SelectionOptions,
  pointer: string,
): Selection | undefined {
  const selection: Selection = {
    ...(filter === undefined ? {} : readFilter(filter, `${pointer}/filter`)),
    ...(except === undefined
      ? {}
      : { except: typeof except === "string" ? except.split(",") : except }),
  };
  return Object.keys(selection).length > 0 ? selection : undefined;
}

/** The schema `Filter` of openapi.yaml: in a query it is text, which no validator of parameters looks into. */
function readFilter(given: string | Filter, where: string): Selection {
  const badFilter = (message: string) => invalidParameter(where, message);
  const valuesOf = (name: string, value: unknown): string[] => {
    const values: unknown[] = Array.isArray(value) ? value : [value];
    if (
      values.length === 0 ||
      values.length > FILTER_VALUES_MAX ||
      !values.every((one) => typeof one === "string")
    )
      throw badFilter(
        `${name} must be a text or a list of at most ${FILTER_VALUES_MAX} of them`,
      );
    return values as string[];
  };
  let filter: unknown = given;
  if (typeof given === "string")
    try {
      filter = JSON.parse(given);
    } catch {
      throw badFilter("must be JSON");
    }
  if (!isRecord(filter)) throw badFilter("must be an object");
  const { user, groups, labels, ...rest } = filter;
  const [unknown] = Object.keys(rest);
  if (unknown !== undefined)
    throw badFilter(`knows user, groups and labels, not ${unknown}`);
  const conditions: Selection = {
    ...(user === undefined ? {} : { user: valuesOf("user", user) }),
    ...(groups === undefined ? {} : { groups: valuesOf("groups", groups) }),
  };
  if (labels === undefined) {
    if (Object.keys(conditions).length === 0)
      throw badFilter("must have a condition");
    return conditions;
  }
  if (!isRecord(labels) || Object.keys(labels).length > FILTER_LABELS_MAX)
    throw badFilter(
      `labels must be an object of at most ${FILTER_LABELS_MAX} names`,
    );
  return {
    ...conditions,
    labels: Object.fromEntries(
      Object.entries(labels).map(([name, value]) => [
        name,
        valuesOf(`labels.${name}`, value),
      ]),
    ),
  };
}

const isRecord = (value: unknown): value is Record<string, unknown> =>
  typeof value === "object" && value !== null && !Array.isArray(value);
