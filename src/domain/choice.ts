/**
 * Which of the primary's logical slots are failover slots, and why: (flagged, or a rule of slots.include matches) and no rule of
 * slots.exclude does. With a native subscription's slot go those of its table syncs. Pure.
 */
import type { JournalState } from "./journal.ts";
import { isOwnSlotName } from "./names.ts";
import type { PrimaryView } from "./observation.ts";
import type { Problem } from "./prerequisites.ts";
import { isFlaggedIn, REGISTRY_TABLE } from "./registry.ts";
import { describeSelector, matches, matchSelectors, type Selector } from "./selector.ts";
import { type PrimarySlot, slotNamed } from "./slot.ts";
import { isCopying, subscriptionsOf, tableSyncOf } from "./table-sync.ts";

/** Which slots the configuration names. */
export interface Selection {
  include: readonly Selector[];
  exclude: readonly Selector[];
}

/** What can choose a slot besides a rule, as status shows it and the journal keeps it. */
const BY_FLAG = "flag";
const BY_REGISTRY = "registry";

/** A failover slot, with what chose it: `flag` (the server's own, 17+), `registry`, `rule name "x"`, `table sync of x`. */
type ChosenSlot = PrimarySlot & { readonly chosenBy: readonly string[] };

/** A logical slot on the primary that is no failover slot. */
export interface NotChosen {
  name: string;
  database: string;
  plugin: string;
  why: string;
  /** A rule of slots.exclude has decided; else nothing has. */
  excluded: boolean;
}

export interface Choice {
  chosen: ChosenSlot[];
  notChosen: NotChosen[];
}

/** Since this major the server has a flag of its own, and the registry is only what is left of the time before. */
const FLAG_SINCE = 170_000;

/**
 * Chooses. Temporary slots and a sidecar's own never are. While the registry cannot be read, what it chose before stays chosen: a
 * table that is gone or locked away must not have all slots dropped.
 */
export function chooseSlots(primary: PrimaryView, selection: Selection, journal: JournalState): Choice {
  const choice: Choice = { chosen: [], notChosen: [] };
  // table syncs last: they come and go, and must not take the last free slot from one that stays
  const candidates = choosable(primary).toSorted((a, b) => Number(isTableSync(a)) - Number(isTableSync(b)));
  for (const slot of candidates) {
    const flags = flagsOf(slot, primary, journal);
    if (isTableSync(slot)) flags.push(...withSubscription(slot, choice, primary, journal));
    const { selected, by } = matchSelectors(slot, selection.include, selection.exclude, flags);
    if (selected)
      choice.chosen.push({ ...slot, chosenBy: by, ...(isCopying(slot) ? { copying: true } : {}) });
    else {
      const { name, database, plugin } = slot;
      const excluded = isExcluded(slot, selection);
      choice.notChosen.push({ name, database, plugin, why: by.join(", "), excluded });
    }
  }
  return choice;
}

/** What can be a failover slot at all. */
function choosable({ slots }: PrimaryView): PrimarySlot[] {
  return slots.filter(({ temporary, name }) => !temporary && !isOwnSlotName(name));
}

function isExcluded(slot: PrimarySlot, { exclude }: Selection): boolean {
  return exclude.some((rule) => matches(slot, rule));
}

function isTableSync(slot: PrimarySlot): boolean {
  return tableSyncOf(slot) !== null;
}

/**
 * A table sync's slot is chosen with its subscription's. Which one that is its name does not tell: any that is chosen in the same
 * database counts, and so does one that a new primary does not show yet. One slot too many costs little, one too few a table.
 */
function withSubscription(
  slot: PrimarySlot,
  { chosen }: Choice,
  primary: PrimaryView,
  journal: JournalState,
): string[] {
  const remembered = [...journal.slots.values()].filter(
    ({ name, obsolete }) => !obsolete && slotNamed(primary.slots, name) === undefined,
  );
  const names = subscriptionsOf(slot, [...chosen, ...remembered]);
  return names.length === 0 ? [] : [`table sync of ${names.join(" or ")}`];
}

/** How many of the primary's logical slots neither a flag nor a rule says anything of. */
export function undecided(notChosen: readonly NotChosen[]): number {
  return notChosen.filter(({ excluded }) => !excluded).length;
}

function flagsOf({ name, failover }: PrimarySlot, primary: PrimaryView, journal: JournalState): string[] {
  const before = !registryCounts(primary) ? false : wasFlagged(journal, name);
  const flags: string[] = [];
  if (failover) flags.push(BY_FLAG);
  if (isFlaggedIn(primary.registry, name, before)) flags.push(BY_REGISTRY);
  return flags;
}

/** False where it has gone for good: an absent table on 17 or later says that the server's own flags are all there is. */
function registryCounts({ registry, serverVersionNum }: PrimaryView): boolean {
  return registry.kind !== "absent" || serverVersionNum < FLAG_SINCE;
}

function wasFlagged(journal: JournalState, name: string): boolean {
  const record = journal.slots.get(name);
  return record !== undefined && !record.obsolete && record.chosenBy.includes(BY_REGISTRY);
}

/** What is to be said of the choice as a whole. */
export function choiceProblems(
  primary: PrimaryView,
  selection: Selection,
  { chosen }: Choice,
  journal: JournalState,
): Problem[] {
  const { registry } = primary;
  if (registry.kind === "unreadable")
    return [
      {
        code: "registry_unreadable",
        severity: "doubt",
        message: `which slots are flagged cannot be read (those that were stay so): ${registry.why}`,
      },
    ];
  const lost = [...journal.slots.keys()].filter((name) => wasFlagged(journal, name));
  if (registry.kind === "absent" && registryCounts(primary) && lost.length > 0)
    return [
      {
        code: "registry_missing",
        severity: "doubt",
        message: `${REGISTRY_TABLE}, which flagged ${some(lost)}, is gone from database "${registry.database}" of the primary (they stay protected meanwhile): correct the database in primary.dsn if it is another one, or make it again with one slotsync flag that names all that are to stay: what it does not name is given up`,
      },
    ];
  const problems: Problem[] = [];
  if (registry.kind === "read") {
    const there = new Set(primary.slots.map(({ name }) => name));
    const missing = [...registry.names].filter((name) => !there.has(name)).toSorted();
    if (missing.length > 0)
      problems.push({
        code: "flagged_slot_missing",
        severity: "warning",
        message: `the primary has no logical slot ${some(missing)}, though flagged: create what is missing, or slotsync unflag it`,
      });
  }
  const idle = selection.include.flatMap((rule) => whyIdle(rule, primary, selection) ?? []);
  if (chosen.length === 0) problems.push(nothingChosen(selection, idle, choosable(primary).length));
  else if (idle.length > 0)
    problems.push({
      code: "rule_matches_nothing",
      severity: "warning",
      message: `${idle.join("; ")}: correct it in slots.include, create the slot, or take the rule out`,
    });
  return problems;
}

/** What is wrong with a rule of slots.include that chooses no slot of the primary, or null. */
function whyIdle(rule: Selector, primary: PrimaryView, selection: Selection): string | null {
  const there = choosable(primary).filter((slot) => matches(slot, rule));
  if (there.some((slot) => !isExcluded(slot, selection))) return null;
  return `rule ${describeSelector(rule)} matches ${there.length === 0 ? "no logical slot of the primary" : "only slots that slots.exclude leaves out"}`;
}

/** `there`: how many logical slots the primary has, or null where it was not asked. */
export function nothingChosen(
  { include }: Selection,
  idle: readonly string[],
  there: number | null,
): Problem {
  const why =
    include.length === 0
      ? HOW_TO_CHOOSE
      : `no slot is chosen, so none is protected: ${idle.join("; ") || `${include.length} rule(s) of slots.include matched nothing when the primary was last seen`}${there === 0 ? " (it has none)" : ": correct slots.include, or create the slot"}`;
  return { code: NOTHING_CHOSEN, severity: "doubt", message: why };
}

/** The code of this problem. No slot at all is unsafe then, and yet nobody should take that for ready. */
export const NOTHING_CHOSEN = "nothing_chosen";

const HOW_TO_CHOOSE =
  'no slot is chosen, so none is protected: flag those that are to survive a failover (slotsync flag NAME), or name them in slots.include, for instance [{name_like: "%"}] for all';

function some(names: readonly string[]): string {
  const shown = names.slice(0, 5).map((name) => `"${name}"`);
  return shown.join(", ") + (names.length > 5 ? ` and ${names.length - 5} more` : "");
}
