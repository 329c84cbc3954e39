// Which slots the configuration chooses. Pure.

/** A rule: all the conditions that are given must hold. At least one is given; the configuration sees to that. */
export interface Selector {
  readonly name?: string;
  /** An SQL LIKE pattern: % any text, _ any one character, \ takes the next character as it is. */
  readonly nameLike?: string;
  readonly plugin?: string;
  readonly database?: string;
}

export interface SelectableSlot {
  readonly name: string;
  readonly plugin: string;
  readonly database: string;
}

export interface Selection {
  readonly selected: boolean;
  /** The flags and the rule that decided, for status and logs. */
  readonly by: readonly string[];
}

type Piece =
  | { readonly kind: "any" }
  | { readonly kind: "one" }
  | { readonly kind: "char"; readonly char: string };

function piecesOf(pattern: string): Piece[] {
  const pieces: Piece[] = [];
  const chars = [...pattern];
  for (let at = 0; at < chars.length; at++) {
    const char = chars[at] ?? "";
    if (char === "%") pieces.push({ kind: "any" });
    else if (char === "_") pieces.push({ kind: "one" });
    else if (char === "\\" && at + 1 < chars.length) pieces.push({ kind: "char", char: chars[++at] ?? "" });
    else pieces.push({ kind: "char", char });
  }
  return pieces;
}

/**
 * SQL's LIKE over the whole text. When a piece does not fit, only the last % is tried one character further on (an
 * earlier one need not be: what it could give up, the last one can take), so the work is at most text times pattern.
 */
export function matchesLike(text: string, pattern: string): boolean {
  const chars = [...text];
  const pieces = piecesOf(pattern);
  let at = 0;
  let piece = 0;
  let lastAny = -1;
  let lastAnyAt = 0;
  while (at < chars.length) {
    const wanted = pieces[piece];
    if (wanted?.kind === "any") {
      lastAny = piece++;
      lastAnyAt = at;
    } else if (wanted?.kind === "one" || (wanted?.kind === "char" && wanted.char === chars[at])) {
      at++;
      piece++;
    } else if (lastAny >= 0) {
      at = ++lastAnyAt;
      piece = lastAny + 1;
    } else return false;
  }
  while (pieces[piece]?.kind === "any") piece++;
  return piece === pieces.length;
}

/** Whether the rule by itself names the slot. */
export function matches(slot: SelectableSlot, selector: Selector): boolean {
  const { name, nameLike, plugin, database } = selector;
  if (name === undefined && nameLike === undefined && plugin === undefined && database === undefined) {
    return false; // no condition must not come to mean "every slot"
  }
  return (
    (name === undefined || name === slot.name) &&
    (nameLike === undefined || matchesLike(slot.name, nameLike)) &&
    (plugin === undefined || plugin === slot.plugin) &&
    (database === undefined || database === slot.database)
  );
}

/** `name_like "app_%", plugin "pgoutput"`, with the configuration's names of the conditions. */
export function describeSelector(selector: Selector): string {
  const conditions = [
    ["name", selector.name],
    ["name_like", selector.nameLike],
    ["plugin", selector.plugin],
    ["database", selector.database],
  ] as const;
  return conditions
    .filter(([, value]) => value !== undefined)
    .map(([key, value]) => `${key} "${value}"`)
    .join(", ");
}

/** An exclusion wins over every inclusion and every flag (`flags`: what flags the slot); what nothing includes is not selected. */
export function matchSelectors(
  slot: SelectableSlot,
  include: readonly Selector[],
  exclude: readonly Selector[],
  flags: readonly string[],
): Selection {
  const excluded = exclude.find((selector) => matches(slot, selector));
  if (excluded) return { selected: false, by: [`excluded by rule ${describeSelector(excluded)}`] };
  const included = include.find((selector) => matches(slot, selector));
  const by = [...flags, ...(included ? [`rule ${describeSelector(included)}`] : [])];
  if (by.length > 0) return { selected: true, by };
  return {
    selected: false,
    by: ["not flagged", include.length === 0 ? "slots.include is empty" : "no rule of slots.include matches"],
  };
}
