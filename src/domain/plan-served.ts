/**
 * Failover slots that the server syncs by itself (17+): its worker where that is on, else `pg_sync_replication_slots()`, called from
 * here. What it has synced is watched and never touched; what it has not is covered by the guard, under no name of its own, for the
 * server stops at a slot of the same name that it has not made (`synchronize_one_slot` in slotsync.c).
 */
import type { Action } from "./action.ts";
import { syncsByServer } from "./capability.ts";
import { doubtsOf, notFlushed, pluginUnproven } from "./doubts.ts";
import { PROVEN, UNPROVISIONED } from "./journal.ts";
import { formatLsn, isAhead, type Lsn } from "./lsn.ts";
import { isValidSlotName } from "./names.ts";
import type { PrimaryView, StandbyView } from "./observation.ts";
import { isOurs, isServed, whyUnsafe } from "./ownership.ts";
import type { Memory, PlanInput } from "./plan.ts";
import { type DatabaseState, type Headroom, mayTry, take } from "./plan-guard.ts";
import {
  coveredBy,
  decideSlot,
  guardedBy,
  probeOf,
  type SlotDecision,
  uncovered,
  whyUnfit,
} from "./plan-slot.ts";
import { rowsOf } from "./proof.ts";
import { GUARDED, SYNCED, type Verdict, waiting } from "./protection.ts";
import { type PrimarySlot, type StandbySlot, sameIdentity, slotNamed } from "./slot.ts";
import { preparedTooEarly } from "./two-phase.ts";

/** Decides for one slot, whoever syncs it. `database` is null when it does not exist on the standby. */
export function decideFailoverSlot(
  slot: PrimarySlot,
  database: DatabaseState | null,
  input: PlanInput,
  headroom: Headroom,
): SlotDecision {
  const local = slotNamed(input.standby.slots, slot.name);
  if (!isValidSlotName(slot.name) || !(slot.failover || local?.synced))
    return decideSlot(slot, database, input, headroom);
  if (local && !local.synced) return decideInTheWay(slot, local, database, input, headroom);
  const served = local && isServed(local) ? local : undefined;
  const verdict = served && verdictOfServed(slot, served, input);
  if (verdict === SYNCED) return { slot, verdict, ...probeOf(slot, database, input) };
  const unfit = whyUnfit({ ...slot, twoPhase: false }, database, input);
  if (unfit || database === null) return { ...unfit, slot, verdict: unfit?.verdict ?? notYet(slot) };
  return decideCovered(slot, local, verdict ?? null, database, input, headroom);
}

/**
 * The primary's slot with the position that the standby's own tells of it, where that is news. The primary is asked first, and the server
 * may bring its slot on before the standby is looked at: that is no slot ahead of the primary's (I1), but one whose subscriber has
 * confirmed more since. It was not ahead in the look before, which was over when the primary was asked, and the server takes no
 * position from anywhere else.
 */
export function asConfirmed<S extends PrimarySlot>(
  slot: S,
  { standby, journal }: Pick<PlanInput, "standby" | "journal">,
): S {
  const local = slotNamed(standby.slots, slot.name);
  const known = journal.slots.get(slot.name);
  if (!local || !known || !isServed(local) || !sameIdentity(slot, local)) return slot;
  const [at, confirmed] = [local.confirmedFlushLsn, slot.confirmedFlushLsn];
  if (at === null || confirmed === null || !isAhead(at, confirmed)) return slot;
  const aheadBefore = known.served && (known.maxTarget === null || isAhead(known.maxTarget, confirmed));
  return aheadBefore ? slot : { ...slot, confirmedFlushLsn: at };
}

/** How a slot stands that the server has synced: the checks are the same as for ours. */
function verdictOfServed(slot: PrimarySlot, local: StandbySlot, input: PlanInput): Verdict {
  const unsafe = whyUnsafe(slot, local);
  const confirmed = slot.confirmedFlushLsn;
  if (unsafe || confirmed === null)
    return waiting(
      "wal_or_rows_removed",
      `the slot that the server has synced is not usable (${unsafe ?? "the primary's is being made"}): it drops or mends it itself`,
    );
  if (!slot.failover && !input.primary.remembered)
    return (
      preparedTooEarly(slot, input) ??
      waiting(
        "name_conflict",
        "the primary's slot is not flagged to survive a failover any more: the server drops the one that it has synced here, then it is made anew",
      )
    );
  return (
    // first of all: after a promotion the other doubts have passed, and this reason alone tells that the slot may not be kept (G5)
    preparedTooEarly(slot, input) ??
    notFlushed(confirmed, input) ??
    doubtsOf(local, { ...UNPROVISIONED, proof: PROVEN }, rowsOf(slot.name, slot, input), input) ??
    pluginUnproven(local, input) ??
    SYNCED
  );
}

/** Not synced, or not to be relied on: a guard at or behind its position protects it, and is materialised after a promotion. */
function decideCovered(
  slot: PrimarySlot,
  local: StandbySlot | undefined,
  doubt: Verdict | null,
  database: DatabaseState,
  input: PlanInput,
  headroom: Headroom,
): SlotDecision {
  const position = slot.confirmedFlushLsn;
  const probe = probeOf(slot, database, input);
  if (slot.twoPhase || position === null)
    return { slot, verdict: doubt ?? preparedTooEarly(slot, input) ?? notYet(slot), ...probe };
  if (coveredBy(position, database) !== "guard" || !database.guard)
    return {
      slot,
      verdict: doubt ?? uncovered(position, database, headroom, input),
      needsHold: position,
      ...probe,
    };
  // what has the name now leaves room for itself
  if (!local && !take(headroom))
    return {
      slot,
      relies: position,
      verdict: waiting(
        "too_many_slots",
        `the standby has no free replication slot (max_replication_slots = ${input.standby.maxReplicationSlots}): raise it there and restart it`,
      ),
      ...probe,
    };
  const guarded =
    pluginUnproven(slot, input) ?? guardedBy(database.guard, database.provision, slot, position, input);
  return { slot, verdict: guarded === GUARDED ? guarded : (doubt ?? guarded), relies: position, ...probe };
}

function notYet(slot: PrimarySlot): Verdict {
  return slot.twoPhase
    ? waiting(
        "no_consistent_snapshot",
        "the server has not synced it yet, and out of a guard it would lose two_phase (G5)",
      )
    : waiting("no_consistent_snapshot", "the server has not synced it yet");
}

/**
 * A slot of this name that the server has not made: it stops there, with all others behind it. One of ours is dropped as soon as the
 * guard covers it; any other is left to what is done about conflicts.
 */
function decideInTheWay(
  slot: PrimarySlot,
  local: StandbySlot,
  database: DatabaseState | null,
  input: PlanInput,
  headroom: Headroom,
): SlotDecision {
  const decision = decideSlot(slot, database, input, headroom);
  const position = slot.confirmedFlushLsn;
  const { confirmedFlushLsn: at, activePid } = local;
  if (!database?.guard || position === null || at === null || slot.twoPhase || decision.drop) return decision;
  if (coveredBy(position, database) !== "guard") return decision;
  const waits = { ...decision, relies: position };
  if (!isOurs(local, input.journal.slots.get(slot.name)) || activePid !== null) return waits;
  const verdict =
    pluginUnproven(slot, input) ?? guardedBy(database.guard, database.provision, slot, position, input);
  if (verdict !== GUARDED) return waits;
  const { name, database: where, databaseOid } = local;
  const why = "the server syncs it by itself, and stops at a slot of the same name";
  return {
    slot,
    verdict,
    relies: position,
    drop: { kind: "drop", slot: name, database: where, databaseOid, at, why },
  };
}

/** What is known of our last call of `pg_sync_replication_slots()`. */
export interface ServerSyncMemory {
  /** How the slots of both servers stood then. */
  state: string;
  at: number;
  /** How long to rest while they stand as they did. */
  napMs: number;
}

/** Where the back-off of that call is kept; no slot can have this name. */
export const SERVER_SYNC_KEY = "server:sync";

/** While a call changes something: each makes a connection to the primary. */
const CALL_EVERY_MS = 1_000;
const LONGEST_NAP_MS = 30_000;

/** What the server's slot sync has to do: bring these slots on, drop those of its own that the primary does not have, or not flagged, any more. */
export function leftToSync(
  primary: PrimaryView,
  standby: StandbyView,
  chosen: readonly PrimarySlot[],
): { behind: PrimarySlot[]; stale: StandbySlot[] } {
  const flagged = new Set(primary.slots.filter(({ failover }) => failover).map(({ name }) => name));
  const wanted = new Set(chosen.filter(({ name }) => flagged.has(name)).map(({ name }) => name));
  return {
    behind: primary.slots.filter(
      (slot) => wanted.has(slot.name) && !isLevel(slot, slotNamed(standby.slots, slot.name)),
    ),
    stale: standby.slots.filter(({ name, synced }) => synced && !flagged.has(name)),
  };
}

/** One pass of the server's slot sync, where its own worker is off and something is left to sync. */
export function planServerSync({ primary, standby, memory, chosen }: PlanInput): Action[] {
  const [database] = standby.databases;
  // the server refuses to sync from a standby
  const cascaded = (primary.upstream ?? null) !== null;
  if (cascaded || !drivenFromHere(standby) || database === undefined || !mayTry(SERVER_SYNC_KEY, memory))
    return [];
  const left = leftToSync(primary, standby, chosen);
  const behind = left.behind.filter((slot) => canSync(slot, standby));
  if (left.stale.length + behind.length === 0) return [];
  const here = standby.slots.filter(({ synced }) => synced);
  const state = [...behind, ...here].map(positionsOf).join(" ");
  if (!isDue(state, memory)) return [];
  return [{ kind: "sync_slots", database: database.name, databaseOid: database.oid, state }];
}

/** Whether the server can sync slots, and does not do it by itself. */
function drivenFromHere(standby: StandbyView): boolean {
  return (
    syncsByServer(standby.serverVersionNum) && !standby.syncsSlots && standby.conninfoHasDatabase !== false
  );
}

/** The server raises for a slot past the end of WAL here, be it by a byte, and leaves those behind it out: asking it again is no use. */
function canSync({ confirmedFlushLsn }: PrimarySlot, { flushedLsn }: StandbyView): boolean {
  return confirmedFlushLsn === null || confirmedFlushLsn <= flushedLsn;
}

function isLevel(slot: PrimarySlot, local: StandbySlot | undefined): boolean {
  return (
    local !== undefined &&
    isServed(local) &&
    local.confirmedFlushLsn === slot.confirmedFlushLsn &&
    local.restartLsn === slot.restartLsn &&
    local.twoPhase === slot.twoPhase &&
    (local.invalidation === null) === (slot.invalidation === null)
  );
}

function positionsOf({ name, restartLsn, confirmedFlushLsn }: PrimarySlot): string {
  const text = (lsn: Lsn | null) => (lsn === null ? "" : formatLsn(lsn));
  return `${name}:${text(restartLsn)}:${text(confirmedFlushLsn)}`;
}

function isDue(state: string, { serverSync, now }: Pick<Memory, "serverSync" | "now">): boolean {
  if (serverSync === null) return true;
  return now - serverSync.at >= (serverSync.state === state ? serverSync.napMs : CALL_EVERY_MS);
}

/** What is remembered after a call: while nothing changes by it, the next one comes later. */
export function afterServerSync(
  before: ServerSyncMemory | null,
  state: string,
  now: number,
): ServerSyncMemory {
  const same = before?.state === state;
  return { state, at: now, napMs: same ? Math.min(before.napMs * 2, LONGEST_NAP_MS) : CALL_EVERY_MS };
}
