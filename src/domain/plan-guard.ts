/** The guard and the hold of one database: what is there, and how far the guard may go (G1). */
import type { Action } from "./action.ts";
import { beginningNow, isSettled } from "./birth.ts";
import { createsOnStandby } from "./capability.ts";
import {
  type GuardRecord,
  type JournalState,
  type Provision,
  type SlotRecord,
  UNPROVISIONED,
} from "./journal.ts";
import { bytesBetween, type Lsn, maxLsn, minLsn } from "./lsn.ts";
import { guardName, holdName } from "./names.ts";
import type { StandbyView } from "./observation.ts";
import type { Backoff, Memory, PlanInput } from "./plan.ts";
import { whyNoGuard } from "./plugins.ts";
import { isProven, proofNow, provisionOf } from "./proof.ts";
import { type StandbySlot, slotNamed } from "./slot.ts";
import { xidPrecedesOrEquals } from "./xid.ts";

/** One of our own slots, usable: valid and with a position. */
export type Source = StandbySlot & { confirmedFlushLsn: Lsn; restartLsn: Lsn };

export interface DatabaseState {
  oid: number;
  name: string;
  guard: Source | null;
  /** A statement that is still at work may be moving the guard up to here: nothing before it counts as covered (G2). */
  maxTarget: Lsn;
  /** Before 16, the second guard (G3). */
  hold: Source | null;
  holdMaxTarget: Lsn;
  /** How the guard and the hold came to be here. */
  provision: Provision;
  holdProvision: Provision;
  /** The guard is so new that nothing may be copied from it yet (K4). */
  newborn: boolean;
  holdNewborn: boolean;
  /** A guard is being created right now. */
  creating: boolean;
  /** Why it cannot be created, or the last attempt failed. */
  failure: Pick<Backoff, "reason" | "detail"> | null;
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
  const low = journal.lowGuards[database.oid];
  const creating = memory.creatingGuards.has(database.oid);
  const find = (name: string | undefined) => {
    const slot = slotNamed(standby.slots, name);
    return slot?.databaseOid === database.oid ? slot : undefined;
  };
  const held = createsOnStandby(standby.serverVersionNum)
    ? usable(find(holdName(journal.instanceId, database.oid)), true)
    : usable(find(low?.name), false);
  const guard = creating ? null : usable(find(record?.name), false);
  const provision = record && guard ? provisionNow(record, guard, standby) : UNPROVISIONED;
  const holdProvision = low && held ? provisionNow(low, held, standby) : UNPROVISIONED;
  return {
    ...database,
    newborn: guard !== null && isNew(provision, guard),
    // a temporary copy is made of a guard that counts
    holdNewborn: held !== null && !held.temporary && isNew(holdProvision, held),
    creating,
    maxTarget: record?.maxTarget ?? (0n as Lsn),
    holdMaxTarget: low?.maxTarget ?? (0n as Lsn),
    provision,
    holdProvision,
    failure: whyNoGuard(standby, database.oid) ?? memory.backoff.get(guardBackoffKey(database.oid)) ?? null,
    guard,
    hold: held,
  };
}

/** One whose start is not proven is in doubt for that, and no longer once it has moved. */
function isNew(provision: Provision, guard: Source): boolean {
  return proofNow(provision, guard).start && !isSettled(provision, guard);
}

function provisionNow(record: GuardRecord, local: StandbySlot, standby: StandbyView): Provision {
  const provision = provisionOf(record, local);
  return { ...provision, beginning: beginningNow(provision, local, standby) };
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

/**
 * What a guard that does not count yet waits for: each slot that is ahead of it, for there it may come to count, and then covers the slot.
 * A slot whose creation began after the guard's birth was made once all had ended that was open then. Where being there has not helped, it
 * goes on: it would stay for good, and serve nobody.
 */
export function aheadOf(guard: Source, positions: readonly Lsn[]): Lsn[] {
  return positions.filter((position) => position > guard.confirmedFlushLsn);
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
    if (whyNoGuard(input.standby, state.oid) !== null) return [];
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
  const since = memory.now - (memory.guardAdvancedAt.get(state.guard.name) ?? 0);
  const due =
    rideTo !== null ||
    state.newborn ||
    behind >= GUARD_EVERY_BYTES ||
    since >= GUARD_EVERY_MS ||
    (creating && behind >= GUARD_BEFORE_COPY_BYTES);
  if (behind <= 0 || !due || !mayTry(state.guard.name, memory)) return [];
  return [{ kind: "advance_guard", ...base, guard: state.guard.name, to, unsure: false }];
}

/** A slot further behind than this does not hold the guard back: the second guard waits for it. */
const SPREAD_BYTES = 64 * 1024 * 1024;

/**
 * Where guards come by their files there are two a database from the beginning, for none can be copied later: one goes as far as G1
 * lets it go for all but the laggards, the other waits for those (G3), and for where decoding begins for any of the primary's slots: so
 * this standby's feedback goes no further than what those need, and their rows stay provable while they stand (I4, `holdsRows`).
 */
export function planLoadedGuards(
  state: DatabaseState,
  relied: readonly Lsn[],
  unserved: readonly Lsn[],
  beginnings: readonly Lsn[],
  input: PlanInput,
): Action[] {
  const { guard, hold, provision, holdProvision, newborn, holdNewborn } = state;
  // I4: what the feedback does not hold for it, it can serve for nobody
  const held = input.primary.physicalSlot?.catalogXmin ?? null;
  const isServed = (position: Lsn) =>
    hold !== null &&
    !holdNewborn &&
    isProven(proofNow(holdProvision, hold)) &&
    held !== null &&
    hold.catalogXmin !== null &&
    xidPrecedesOrEquals(held, hold.catalogXmin) &&
    maxLsn(hold.confirmedFlushLsn, state.holdMaxTarget) <= position &&
    bytesBetween(position, input.primary.walLsn) > SPREAD_BYTES;
  // a position behind a guard is none that this one can serve: only the other may have to wait for it
  const targetOf = (source: Source, positions: readonly Lsn[]) =>
    guardTarget(
      positions.filter((position) => position >= source.confirmedFlushLsn),
      input,
    );
  const forFresh = relied.filter((position) => !isServed(position));
  const freshTo = (fresh: Source) =>
    newborn ? guardTarget(aheadOf(fresh, unserved), input) : targetOf(fresh, forFresh);
  const lowTo = (low: Source) =>
    holdNewborn
      ? guardTarget(aheadOf(low, [...unserved, ...beginnings]), input)
      : minLsn(targetOf(low, relied), ...beginnings);
  return [
    ...(guard ? advanceLoaded(state, guard, provision, newborn, freshTo(guard), input) : []),
    ...(hold ? advanceLoaded(state, hold, holdProvision, holdNewborn, lowTo(hold), input) : []),
  ];
}

function advanceLoaded(
  state: DatabaseState,
  guard: Source,
  provision: Provision,
  newborn: boolean,
  to: Lsn,
  input: PlanInput,
): Action[] {
  const { memory } = input;
  const proof = proofNow(provision, guard);
  const behind = bytesBetween(guard.confirmedFlushLsn, to);
  const since = memory.now - (memory.guardAdvancedAt.get(guard.name) ?? 0);
  const due = newborn || since >= GUARD_EVERY_MS || behind >= GUARD_EVERY_BYTES;
  if (!proof.wal || behind <= 0 || !due) return [];
  if (!mayTry(guard.name, memory)) return [];
  return [
    {
      kind: "advance_guard",
      database: state.name,
      databaseOid: state.oid,
      guard: guard.name,
      to,
      unsure: !proof.start,
    },
  ];
}

/**
 * Keeps a copy of the guard where it is, for slots that are behind it or that it is about to pass without waiting (G3). Once the
 * guard itself is behind all of them again the copy goes: it would hold WAL for nothing.
 */
export function planHold(
  state: DatabaseState,
  guardActions: readonly Action[],
  unserved: readonly Lsn[],
  input: PlanInput,
  headroom: Headroom,
): Action[] {
  const { guard, hold } = state;
  if (!guard || state.newborn || !createsOnStandby(input.standby.serverVersionNum)) return [];
  const { journal, memory } = input;
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

/** The same for staging a slot's file, … */
export function stageBackoffKey(slot: string): string {
  return `stage:${slot}`;
}

/** … and for completing what was loaded from it. */
export function completeBackoffKey(slot: string): string {
  return `complete:${slot}`;
}

/** … and for bringing over the rewrite mappings that it may need. */
export function mappingsBackoffKey(slot: string): string {
  return `mappings:${slot}`;
}

/** Attempts to complete a slot after which its WAL is taken to be gone on both servers. */
const HOPELESS_AFTER = 3;

/** A slot loaded from its file whose WAL is nowhere to be had: it can never be decoded, and is made anew. */
export function whyHopeless(local: StandbySlot, provision: Provision, input: PlanInput): string | null {
  const failure = input.memory.backoff.get(completeBackoffKey(local.name));
  if (failure?.reason !== "wal_or_rows_removed" || failure.failures < HOPELESS_AFTER) return null;
  return proofNow(provision, local).wal ? null : failure.detail;
}

/** Under which keys a slot's journalled failure rests: what was being done with it shows in how far it has come. */
export function failureKeys({ name, state, proof }: SlotRecord): string[] {
  if (state !== "owned") return [name, stageBackoffKey(name)];
  if (!proof.wal) return [completeBackoffKey(name)];
  return [proof.mappings ? name : mappingsBackoffKey(name)];
}
