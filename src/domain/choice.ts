/**
 * Which of the primary's logical slots are failover slots, and why: (flagged, or a rule of slots.include matches) and no rule of
 * slots.exclude does. Pure.
 */
import type { JournalState } from "./journal.ts";
import { isOwnSlotName } from "./names.ts";
import type { PrimaryView } from "./observation.ts";
import type { Problem } from "./prerequisites.ts";
import { isFlaggedIn, REGISTRY_TABLE } from "./registry.ts";
import { matchSelectors, type Selector } from "./selector.ts";
import type { PrimarySlot } from "./slot.ts";

/** Which slots the configuration names. */
export interface Selection {
  include: readonly Selector[];
  exclude: readonly Selector[];
}

/** What can choose a slot besides a rule, as status shows it and the journal keeps it. */
const BY_FLAG = "flag";
const BY_REGISTRY = "registry";

/** A failover slot, with what chose it: `flag` (the server's own, 17+), `registry`, `rule name "x"`. */
type ChosenSlot = PrimarySlot & { readonly chosenBy: readonly string[] };

/** A logical slot on the primary that is no failover slot. */
export interface NotChosen {
  name: string;
  database: string;
  plugin: string;
  why: string;
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
  for (const slot of primary.slots) {
    if (slot.temporary || isOwnSlotName(slot.name)) continue;
    const flags = flagsOf(slot, primary, journal);
    const { selected, by } = matchSelectors(slot, selection.include, selection.exclude, flags);
    if (selected) choice.chosen.push({ ...slot, chosenBy: by });
    else {
      const { name, database, plugin } = slot;
      choice.notChosen.push({ name, database, plugin, why: by.join(", ") });
    }
  }
  return choice;
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
  if (chosen.length === 0 && selection.include.length === 0)
    problems.push({ code: NOTHING_CHOSEN, severity: "doubt", message: HOW_TO_CHOOSE });
  return problems;
}

/** The code of this problem. No slot at all is unsafe then, and yet nobody should take that for ready. */
export const NOTHING_CHOSEN = "nothing_chosen";

const HOW_TO_CHOOSE =
  'no slot is chosen, so none is protected: flag those that are to survive a failover (slotsync flag NAME), or name them in slots.include, for instance [{name_like: "%"}] for all';

function some(names: readonly string[]): string {
  const shown = names.slice(0, 5).map((name) => `"${name}"`);
  return shown.join(", ") + (names.length > 5 ? ` and ${names.length - 5} more` : "");
}
