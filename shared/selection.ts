/** Which members of a group a message is for. */

/** All of it must hold, and of a list any one. */
export interface Selection {
  user?: readonly string[];
  groups?: readonly string[];
  labels?: Readonly<Record<string, readonly string[]>>;
  /** Connections it is not for. */
  except?: readonly string[];
}

/** Who a member is, for selections. */
export interface Who {
  readonly id: string;
  readonly userId: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly groups: Pick<ReadonlyMap<string, unknown>, "has">;
}

/** Whether a message is for a member. */
export function isFor(selection: Selection | undefined, who: Who): boolean {
  if (!selection) return true;
  const { user, groups, labels, except } = selection;
  if (except?.includes(who.id)) return false;
  if (user && !user.includes(who.userId)) return false;
  if (groups && !groups.some((name) => who.groups.has(name))) return false;
  for (const [name, values] of Object.entries(labels ?? {}))
    if (!values.includes(who.labels[name] ?? "")) return false;
  return true;
}
