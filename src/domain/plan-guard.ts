/** The guard and the hold of one database: what is there, and how far the guard may go (G1). */
import type { Action } from "./action.ts";
import type { JournalState } from "./journal.ts";
import { bytesBetween, type Lsn, minLsn } from "./lsn.ts";
import { guardName, holdName } from "./names.ts";
import type { StandbyView } from "./observation.ts";
import type { Backoff, Memory, PlanInput } from "./plan.ts";
import { type StandbySlot, slotNamed } from "./slot.ts";

/** One of our own slots, usable: valid and with a position. */
type Source = StandbySlot & { confirmedFlushLsn: Lsn; restartLsn: Lsn };

export interface DatabaseState {
  oid: number;
  name: string;
  guard: Source | null;
  /** A statement that is still at work may be moving the guard up to here: nothing before it counts as covered (G2). */
  maxTarget: Lsn;
  hold: Source | null;
  /** A guard is being created right now. */
  creating: boolean;
  /** Why the last attempt to create it failed. */
  failure: Backoff | null;
}

/** A guard is moved at least this often while WAL comes in, so that it does not hold more WAL than it must … */
const GUARD_EVERY_MS = 5_000;
/** … and at once when it is this far behind, … */
const GUARD_EVERY_BYTES = 16 * 1024 * 1024;
/** … or this far behind with slots about to be copied out of it. */
const GUARD_BEFORE_COPY_BYTES = 1024 * 1024;

/** Replication slots that may still be made on the standby. */
export interface Headroom {
  free: number;
}

/** Takes one of them; false when there is none. */
export function take(headroom: Headroom): boolean {
  if (headroom.free < 1) return false;
  headroom.free -= 1;
  return true;
}

/** Finds our guard and hold among the standby's slots. */
export function inspectDatabase(
  database: { oid: number; name: string },
  standby: StandbyView,
  journal: JournalState,
  memory: Memory,
): DatabaseState {
  const record = journal.guards[database.oid];
  const creating = memory.creatingGuards.has(database.oid);
  const find = (name: string | undefined) => {
    const slot = slotNamed(standby.slots, name);
    return slot?.databaseOid === database.oid ? slot : undefined;
  };
  return {
    ...database,
    creating,
    maxTarget: record?.maxTarget ?? (0n as Lsn),
    failure: memory.backoff.get(guardBackoffKey(database.oid)) ?? null,
    guard: creating ? null : usable(find(record?.name), false),
    hold: usable(find(holdName(journal.instanceId, database.oid)), true),
  };
}

function usable(slot: StandbySlot | undefined, temporary: boolean): Source | null {
  if (!slot || slot.temporary !== temporary || slot.invalidation !== null) return null;
  if (slot.confirmedFlushLsn === null || slot.restartLsn === null) return null;
  return slot as Source;
}

/**
 * G1: the guard goes at most to the replay position, to the least position that a slot may yet have to be copied at, and to the
 * primary's WAL position read before the slot list — so that a slot made after the poll starts at or past the guard.
 */
export function guardTarget(relied: readonly Lsn[], { primary, standby }: PlanInput): Lsn {
  return minLsn(standby.replayLsn, primary.walLsn, ...relied);
}

/** Creates the guard where there is none; advances it when that is due. */
export function planGuard(
  state: DatabaseState,
  relied: readonly Lsn[],
  rideTo: Lsn | null,
  creating: boolean,
  input: PlanInput,
  headroom: Headroom,
): Action[] {
  const { journal, memory } = input;
  const base = { database: state.name, databaseOid: state.oid };
  if (state.creating) return [];
  if (!state.guard) {
    if (!mayTry(guardBackoffKey(state.oid), memory) || !take(headroom)) return [];
    return [
      {
        kind: "create_guard",
        ...base,
        guard: guardName(journal.instanceId, state.oid, journal.guardSerial + 1),
      },
    ];
  }
  const to = rideTo ?? guardTarget(relied, input);
  const behind = bytesBetween(state.guard.confirmedFlushLsn, to);
  const since = memory.now - (memory.guardAdvancedAt.get(state.oid) ?? 0);
  const due =
    rideTo !== null ||
    behind >= GUARD_EVERY_BYTES ||
    since >= GUARD_EVERY_MS ||
    (creating && behind >= GUARD_BEFORE_COPY_BYTES);
  if (behind <= 0 || !due || !mayTry(guardBackoffKey(state.oid), memory)) return [];
  return [{ kind: "advance_guard", ...base, guard: state.guard.name, to }];
}

/**
 * Keeps a copy of the guard where it is, for slots that are behind it or that it is about to pass without waiting (G3). Once the
 * guard itself is behind all of them again the copy goes: it would hold WAL for nothing.
 */
export function planHold(
  state: DatabaseState,
  guardActions: readonly Action[],
  unserved: readonly Lsn[],
  { journal, memory }: PlanInput,
  headroom: Headroom,
): Action[] {
  const { guard, hold } = state;
  if (!guard) return [];
  const base = { database: state.name, databaseOid: state.oid };
  const advance = guardActions.find((action) => action.kind === "advance_guard");
  const then = advance?.to ?? guard.confirmedFlushLsn;
  if (hold && unserved.every((position) => position >= guard.confirmedFlushLsn))
    return [{ kind: "release_hold", ...base, hold: hold.name }];
  if (hold || unserved.every((position) => position >= then)) return [];
  if (!mayTry(holdBackoffKey(state.oid), memory) || !take(headroom)) return [];
  return [{ kind: "create_hold", ...base, hold: holdName(journal.instanceId, state.oid), from: guard.name }];
}

/** Where the back-off of a guard's creation is kept; no slot can have this name. */
export function guardBackoffKey(databaseOid: number): string {
  return `guard:${databaseOid}`;
}

/** The same for its hold. */
export function holdBackoffKey(databaseOid: number): string {
  return `hold:${databaseOid}`;
}

/** The same for what is known of an output plugin. */
export function pluginBackoffKey(plugin: string): string {
  return `plugin:${plugin}`;
}

/** False while what failed last time rests. */
export function mayTry(key: string, memory: Memory): boolean {
  return (memory.backoff.get(key)?.retryAt ?? 0) <= memory.now;
}
