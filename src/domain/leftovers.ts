/**
 * Slots on the standby that nobody uses and that hold WAL there: a former primary's physical slots for its former standbys, and logical
 * ones that the primary does not have. Never one in use, never one of ours, never a failover slot's.
 */
import type { JournalState } from "./journal.ts";
import { bytesBetween, type Lsn } from "./lsn.ts";
import { isOwnSlotName } from "./names.ts";
import type { PrimaryView, StandbyView } from "./observation.ts";
import { isOurs } from "./ownership.ts";

export interface Leftover {
  name: string;
  kind: "physical" | "logical";
  /** Where it holds WAL from. It stands elsewhere once somebody has used it. */
  restartLsn: Lsn;
  heldBytes: number;
}

/** Since when such a slot has been seen where it stands, ms since the epoch. */
export interface LeftoverRecord {
  name: string;
  restartLsn: Lsn;
  since: number;
  /** Somebody moves it though nobody streams from it: Patroni 4 keeps the slots of all members on every standby so. */
  kept: boolean;
}

/** What has not been moved for this time is not kept by anybody: several times Patroni's longest loop. */
const KEPT_FOR_MS = 900_000;

/**
 * The leftovers of a look, the one that holds most first: idle slots that hold WAL and that nobody has been seen to move. Without the
 * primary's word only physical ones can be told.
 */
export function leftoversOf(
  primary: Pick<PrimaryView, "slots" | "remembered"> | null,
  standby: Pick<StandbyView, "slots" | "physicalSlots" | "replayLsn">,
  journal: Pick<JournalState, "slots" | "leftovers">,
): Leftover[] {
  const known = new Map(journal.leftovers.map((each) => [each.name, each]));
  return idleSlotsOf(primary, standby, journal).filter(({ name, restartLsn, heldBytes }) => {
    const before = known.get(name);
    return heldBytes > 0 && !(before && (before.kept || before.restartLsn !== restartLsn));
  });
}

/** Slots in use by nobody that are neither ours nor a failover slot's; the one that holds most first. */
export function idleSlotsOf(
  primary: Pick<PrimaryView, "slots" | "remembered"> | null,
  standby: Pick<StandbyView, "slots" | "physicalSlots" | "replayLsn">,
  journal: Pick<JournalState, "slots">,
): Leftover[] {
  const physical = standby.physicalSlots.flatMap(({ name, active, restartLsn }) =>
    active || restartLsn === null ? [] : [{ name, kind: "physical" as const, restartLsn }],
  );
  const known =
    primary === null || primary.remembered ? null : new Set(primary.slots.map(({ name }) => name));
  const logical = standby.slots.flatMap((slot) => {
    const { name, restartLsn, activePid, temporary, synced } = slot;
    // what the primary has under that name is a failover slot, or may become one
    if (known === null || known.has(name) || restartLsn === null) return [];
    // what the server keeps by itself it also drops by itself (17+); our own slots have names of their own
    if (activePid !== null || temporary || synced || isOwnSlotName(name)) return [];
    return isOurs(slot, journal.slots.get(name)) || journal.slots.get(name)?.births.length
      ? []
      : [{ name, kind: "logical" as const, restartLsn }];
  });
  return [...physical, ...logical]
    .map((slot) => ({ ...slot, heldBytes: Math.max(0, bytesBetween(slot.restartLsn, standby.replayLsn)) }))
    .toSorted((a, b) => b.heldBytes - a.heldBytes || (a.name < b.name ? -1 : 1));
}

/**
 * Since when each idle slot has stood where it is, and whether somebody keeps moving it: from now on for one that stands elsewhere than
 * when it was last seen.
 */
export function noteLeftovers(
  known: readonly LeftoverRecord[],
  found: readonly Leftover[],
  now: number,
): LeftoverRecord[] {
  return found.map(({ name, restartLsn }) => {
    const before = known.find((each) => each.name === name);
    if (before?.restartLsn !== restartLsn)
      return { name, restartLsn, since: now, kept: before !== undefined };
    return before.kept && now - before.since >= KEPT_FOR_MS ? { ...before, kept: false } : before;
  });
}

/** Those that have been there for so long that they are to go. */
export function overdue(
  known: readonly LeftoverRecord[],
  found: readonly Leftover[],
  afterMs: number | null,
  now: number,
): Leftover[] {
  if (afterMs === null) return [];
  return found.filter(({ name, restartLsn }) =>
    known.some((each) => each.name === name && each.restartLsn === restartLsn && now - each.since >= afterMs),
  );
}

const UNITS = ["bytes", "kB", "MB", "GB", "TB"];

/** One sentence for the status, with the size of each. */
export function describeLeftovers(leftovers: readonly Leftover[]): string {
  const named = leftovers
    .slice(0, 5)
    .map(({ name, kind, heldBytes }) => `"${name}" (${kind}, ${size(heldBytes)})`);
  const more = leftovers.length > 5 ? ` and ${leftovers.length - 5} more` : "";
  const count = leftovers.length === 1 ? "1 slot" : `${leftovers.length} slots`;
  return `${count} on this standby that nobody uses hold WAL here: ${named.join(", ")}${more}. If no standby is to come back to them, release them: slotsync release NAME, or --all-inactive (slots.release_after_minutes does it by itself)`;
}

function size(bytes: number): string {
  let value = bytes;
  let unit = 0;
  for (; value >= 1024 && unit < UNITS.length - 1; unit += 1) value /= 1024;
  return `${unit === 0 ? value : value.toFixed(1)} ${UNITS[unit]}`;
}
