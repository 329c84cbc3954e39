/** How one failover slot stands on this standby and what it needs next: `synchronize_one_slot`, as a decision. */
import type { Action } from "./action.ts";
import { decideConflict, isUnmoved } from "./adopt.ts";
import { beginningNow, copiedTooEarly, isSettled, newborn } from "./birth.ts";
import { advanceKeepsRows, copiesSlots, createsOnStandby } from "./capability.ts";
import { doubtsOf, notFlushed, pluginUnproven } from "./doubts.ts";
import { inGrace } from "./grace.ts";
import type { Provision, RowsHeld } from "./journal.ts";
import { formatLsn, isAhead, type Lsn, lastHad, maxLsn, minLsn } from "./lsn.ts";
import { isLibraryName, isValidSlotName } from "./names.ts";
import { isOnlyAhead, isOurs, whyUnsafe } from "./ownership.ts";
import type { PlanInput } from "./plan.ts";
import {
  type DatabaseState,
  type Headroom,
  mayTry,
  pluginBackoffKey,
  type Source,
  take,
  whyHopeless,
} from "./plan-guard.ts";
import { comesByFile, folderConflict, untilRestart } from "./plan-stage.ts";
import { isProbeDue, whyRefused } from "./plugins.ts";
import { holdsRows, isProven, proofNow, provisionOf, rowsOf } from "./proof.ts";
import { blocked, GUARDED, SYNCED, type Verdict, waiting } from "./protection.ts";
import { type PrimarySlot, type StandbySlot, slotNamed } from "./slot.ts";
import { xidPrecedesOrEquals } from "./xid.ts";

export interface SlotDecision {
  slot: PrimarySlot;
  verdict: Verdict;
  /** The guard may not be advanced past this position: the slot may yet have to be copied out of it (G1). */
  relies?: Lsn | readonly [];
  /** The guard need not wait for this slot at this position, but a copy of it is to be kept before it passes. */
  needsHold?: Lsn;
  create?: Extract<Action, { kind: "create" }>;
  drop?: Extract<Action, { kind: "drop" }>;
  adopt?: Extract<Action, { kind: "adopt" }>;
  probe?: Action;
  /** Our slot is here and may be moved forward to this position. */
  advance?: { local: StandbySlot; confirmed: Lsn; restart: Lsn; to: Lsn; unsure: boolean };
}

/** Decides for one slot. `database` is null when it does not exist on the standby. */
export function decideSlot(
  slot: PrimarySlot,
  database: DatabaseState | null,
  input: PlanInput,
  headroom: Headroom,
): SlotDecision {
  if (!isValidSlotName(slot.name))
    return { slot, verdict: blocked("name_conflict", "its name is not a valid slot name; it is left alone") };

  const local = slotNamed(input.standby.slots, slot.name);
  if (local) return decideExisting(slot, local, database, input, headroom);
  const unfit = whyUnfit(slot, database, input);
  if (unfit) return unfit;
  const placed = slot as Placed;
  const byFile = comesByFile(slot, input);
  const decision = byFile
    ? decideUnloaded(placed, database as DatabaseState, input, headroom)
    : decideMissing(placed, database as DatabaseState, input, headroom);
  const conflict = folderConflict(slot.name, input);
  // one that is just being made by SQL has its folder before it is shown
  if (!conflict || (!byFile && input.memory.busyDatabases.has(slot.databaseOid))) return decision;
  const { create: _, ...rest } = decision;
  return { ...rest, verdict: conflict };
}

/** For a slot that will come by its file, with the next start of this standby: until then a guard may protect it. */
function decideUnloaded(
  slot: Placed,
  database: DatabaseState,
  input: PlanInput,
  headroom: Headroom,
): SlotDecision {
  const position = slot.confirmedFlushLsn;
  const pending = { slot, verdict: untilRestart(slot, input), ...probeOf(slot, database, input) };
  if (slot.twoPhase || !copiesSlots(input.standby.serverVersionNum)) return pending;
  const standing = standingByGuards(slot, position, database, input);
  if (standing === null) return { ...pending, needsHold: position };
  if (!take(headroom))
    return {
      ...pending,
      relies: position,
      verdict: waiting(
        "too_many_slots",
        `after a promotion this server would have no free replication slot for it (max_replication_slots = ${input.standby.maxReplicationSlots}): raise it here and restart it`,
      ),
    };
  return { ...pending, verdict: pluginUnproven(slot, input) ?? standing, relies: position };
}

/** Bytes that one statement decodes at the most, so that a slot far behind moves in steps that end in time. */
const LARGEST_STEP = 4n * 1024n ** 3n;

type Placed = PrimarySlot & { confirmedFlushLsn: Lsn; restartLsn: Lsn };

/** What keeps a slot from being protected whatever is here. */
export function whyUnfit(
  slot: PrimarySlot,
  database: DatabaseState | null,
  input: PlanInput,
): SlotDecision | null {
  if (!isLibraryName(slot.plugin))
    return {
      slot,
      verdict: blocked(
        "plugin_missing",
        `output plugin "${slot.plugin}" is no plain library name, and no server is asked to load anything else: recreate the slot there with the plugin's name alone`,
      ),
    };
  if (slot.invalidation !== null)
    return {
      slot,
      verdict: blocked(
        "slot_invalidated",
        `the primary has invalidated it (${slot.invalidation}): recreate it there`,
      ),
    };
  if (slot.twoPhase && !comesByFile(slot, input))
    return {
      slot,
      verdict: blocked(
        "prepared_transactions_pending",
        "two_phase slots cannot be copied exactly by SQL (G5): let its file be staged, by slots.provision = auto or file, standby.data_directory, and a restart.mode other than never",
      ),
    };
  if (!database)
    return {
      slot,
      verdict: waiting(
        "database_missing",
        `database "${slot.database}" does not exist on this standby yet, or does not take connections`,
      ),
    };
  if (slot.confirmedFlushLsn === null || slot.restartLsn === null)
    return {
      slot,
      verdict: waiting("no_consistent_snapshot", "its creation on the primary has not finished"),
      // it will find its consistent point at or past its restart_lsn: the guard must not run ahead of that (G1)
      ...(slot.restartLsn === null ? {} : { relies: slot.restartLsn }),
    };
  return null;
}

/** For a slot whose name is taken here. */
function decideExisting(
  slot: PrimarySlot,
  local: StandbySlot,
  database: DatabaseState | null,
  input: PlanInput,
  headroom: Headroom,
): SlotDecision {
  const record = input.journal.slots.get(slot.name);
  const needsHold = slot.confirmedFlushLsn === null ? {} : { needsHold: slot.confirmedFlushLsn };
  if (!record || !isOurs(local, record) || local.confirmedFlushLsn === null)
    return { slot, ...needsHold, ...decideForeign(slot, local, database, input, headroom) };
  if (local.activePid !== null)
    return {
      slot,
      verdict: blocked(
        "slot_in_use",
        `process ${local.activePid} is using our slot on this standby, where it may move it past the subscriber: stop it`,
      ),
    };
  const known = provisionOf(record, local);
  const provision = { ...known, beginning: beginningNow(known, local, input.standby) };
  const unsafe =
    whyUnsafe(slot, local) ??
    (record.dropping ? "its drop is under way" : null) ??
    whyHopeless(local, provision, input);
  if (unsafe && isOnlyAhead(slot, local) && inGrace(input.journal, input.primary, input.memory.now))
    return {
      slot,
      relies: slot.confirmedFlushLsn ?? [],
      verdict: waiting(
        "no_consistent_snapshot",
        "our slot is ahead of the new primary's, for its subscriber had confirmed more on the old one: it serves again once the subscriber has gone on past that",
      ),
      // I1: a promotion drops it and makes it out of the guard
      ...guardedMeanwhile(slot, slot.confirmedFlushLsn as Lsn, database, input, headroom),
    };
  if (unsafe) {
    const position = slot.confirmedFlushLsn;
    const covered = database !== null && position !== null && coveredBy(position, database) === "guard";
    return {
      slot,
      verdict: verdictOfUnsafe(slot, unsafe, covered),
      drop: {
        kind: "drop",
        slot: slot.name,
        database: local.database,
        databaseOid: local.databaseOid,
        at: local.confirmedFlushLsn,
        why: unsafe,
      },
      ...(position === null ? { relies: slot.restartLsn ?? [] } : { relies: position }),
    };
  }
  const confirmed = slot.confirmedFlushLsn as Lsn;
  const busy = input.memory.busyDatabases.has(local.databaseOid);
  if (busy && record.maxTarget !== null && isAhead(record.maxTarget, confirmed))
    return {
      slot,
      verdict: waiting(
        "wal_or_rows_removed",
        "the primary's slot has gone back while ours was being moved: it may come to stand ahead of it",
      ),
    };
  // NULL only for one that lost its WAL, which is unsafe
  const restart = local.restartLsn ?? local.confirmedFlushLsn;
  const proof = proofNow(provision, local);
  const rows = rowsOf(slot.name, slot, input);
  const verdict = verdictOfSynced(confirmed, local, local.confirmedFlushLsn, provision, rows, input);
  const whole = isProven(proof) && holdsRows(rows, local, input.standby.serverVersionNum);
  return {
    slot,
    verdict,
    ...(whole && !isCopiedTooEarly(provision, local)
      ? {}
      : guardedMeanwhile(slot, confirmed, database, input, headroom)),
    ...(proof.wal
      ? advanceOf(
          goalOf(slot as Placed, database, input),
          local,
          local.confirmedFlushLsn,
          restart,
          !proof.start,
          input,
        )
      : {}),
    ...probeOf(slot, database, input),
  };
}

/** For a slot of the name that is not ours (I7). Until it is, or has made room, nothing protects the name. */
function decideForeign(
  slot: PrimarySlot,
  local: StandbySlot,
  database: DatabaseState | null,
  input: PlanInput,
  headroom: Headroom,
): Omit<SlotDecision, "slot"> {
  const decision = decideConflict(slot, local, input);
  const what = `a slot of this name exists on the standby (${local.plugin}, database "${local.database}", at ${at(local.confirmedFlushLsn)})`;
  const { name, restartLsn: restart, confirmedFlushLsn: position, ...identity } = local;
  const base = { slot: name, database: local.database, databaseOid: local.databaseOid };
  if (decision.kind === "adopt" && restart !== null && position !== null) {
    const failure = input.memory.backoff.get(name);
    return {
      verdict: failure
        ? waiting(failure.reason, failure.detail)
        : waiting("name_conflict", `${what}, left from when this node was the primary: it is being adopted`),
      ...(mayTry(name, input.memory)
        ? {
            adopt: {
              kind: "adopt",
              ...base,
              plugin: identity.plugin,
              twoPhase: identity.twoPhase,
              at: position,
              restart,
              unmoved: isUnmoved(local, input),
            },
          }
        : {}),
    };
  }
  if (decision.kind === "wait")
    return {
      verdict: waiting(
        "name_conflict",
        `${what}, left from when this node was the primary: ${decision.why}. slotsync release ${name} drops it at once`,
      ),
    };
  const confirmed = slot.confirmedFlushLsn;
  const why = decision.kind === "quarantine" ? decision.why : "";
  if (decision.kind === "recreate" && confirmed !== null && position !== null && slot.invalidation === null) {
    // without the guard first there would be a moment in which nothing protects the name
    const { verdict, relies } = guardedMeanwhile(slot, confirmed, database, input, headroom);
    if (verdict === GUARDED && relies !== undefined)
      return {
        verdict: waiting("name_conflict", `${what}: ${decision.why}; it is dropped and made anew`),
        relies,
        drop: { kind: "drop", ...base, at: position, why: decision.why },
      };
    return {
      // without its plugin a guard protects nothing
      ...probeOf(slot, database, input),
      verdict: waiting(
        "name_conflict",
        `${what}: ${decision.why}; it is dropped and made anew once a guard of this standby reaches back to ${formatLsn(confirmed)}. slotsync release ${name} drops it at once`,
      ),
    };
  }
  return {
    verdict: blocked(
      "name_conflict",
      `${what} and the journal does not say that it is ours: ${why}. If nobody needs it, drop it there (slotsync release ${name}), and it is made anew within a cycle`,
    ),
  };
}

/**
 * For our slot that is here and not proven: where a guard covers it, a promotion drops it and makes it out of that, and until then the
 * guard waits for it.
 */
function guardedMeanwhile(
  slot: PrimarySlot,
  confirmed: Lsn,
  database: DatabaseState | null,
  input: PlanInput,
  { free }: Headroom,
): Partial<SlotDecision> {
  if (!database || slot.twoPhase || !copiesSlots(input.standby.serverVersionNum)) return {};
  if (pluginUnproven(slot, input)) return {};
  const verdict = standingByGuards(slot, confirmed, database, input);
  if (verdict !== GUARDED) return {};
  // dropped it leaves room for itself, and not for the working copy that it is made out of
  return free < 0 ? { relies: confirmed } : { verdict, relies: confirmed };
}

function verdictOfUnsafe(slot: PrimarySlot, unsafe: string, covered: boolean): Verdict {
  if (slot.invalidation !== null) return blocked("slot_invalidated", `${unsafe}: recreate it there`);
  return waiting(
    covered ? "no_consistent_snapshot" : "wal_or_rows_removed",
    `our slot is not usable (${unsafe}); it is dropped and made anew${covered ? "" : " once the subscriber has confirmed past what is kept here"}`,
  );
}

function verdictOfSynced(
  confirmed: Lsn,
  local: StandbySlot,
  position: Lsn,
  provision: Provision,
  rows: RowsHeld | null,
  input: PlanInput,
): Verdict {
  // a slot that cannot be moved may not be readable either; one that has arrived needs no moving
  const failure = position < lastHad(confirmed) ? input.memory.backoff.get(local.name) : undefined;
  if (failure) return waiting(failure.reason, failure.detail);
  return (
    notFlushed(confirmed, input) ??
    doubtsOf(local, provision, rows, input) ??
    pluginUnproven(local, input) ??
    (isCopiedTooEarly(provision, local) ? copiedTooEarly(local.restartLsn ?? position) : SYNCED)
  );
}

/** One that came by its own file sends what the primary's slot would send. */
function isCopiedTooEarly(provision: Provision, local: StandbySlot): boolean {
  return provision.origin === null && !isSettled(provision, local);
}

/** True when the low guard could make the slot, as the finishing step asks it (I17), and lies where the slot begins to decode, or before. */
function isMadeByLow(slot: Placed, database: DatabaseState | null, input: PlanInput): boolean {
  const low = database?.hold ?? null;
  if (database === null || low === null || low.temporary || slot.twoPhase || database.holdNewborn)
    return false;
  if (low.confirmedFlushLsn > slot.restartLsn || !isProven(proofNow(database.holdProvision, low)))
    return false;
  return holdsRows(rowsOf(slot.name, slot, input), low, input.standby.serverVersionNum);
}

/**
 * I4: where advancing runs ahead, only as far as no row can be let go of that the primary's slot needs: to where that begins to decode, or
 * all the way while it needs none that a transaction of before this look has deleted, or while the low guard, which goes no further than
 * that, can make it anew. So what was promised in this look holds all the same.
 */
function goalOf(slot: Placed, database: DatabaseState | null, input: PlanInput): Lsn {
  const { confirmedFlushLsn, restartLsn, catalogXmin } = slot;
  const { primary, standby } = input;
  if (advanceKeepsRows(standby.serverVersionNum) || isMadeByLow(slot, database, input))
    return confirmedFlushLsn;
  const idle = catalogXmin !== null && xidPrecedesOrEquals(primary.oldestXid, catalogXmin);
  return minLsn(confirmedFlushLsn, idle ? primary.walLsn : restartLsn);
}

function advanceOf(
  confirmed: Lsn,
  local: StandbySlot,
  localConfirmed: Lsn,
  localRestart: Lsn,
  unsure: boolean,
  { standby, memory }: PlanInput,
): Pick<SlotDecision, "advance"> {
  const { name } = local;
  const to = minLsn(confirmed, standby.replayLsn, (localConfirmed + LARGEST_STEP) as Lsn);
  const resting = (memory.restUntil.get(name) ?? 0) > memory.now || !mayTry(name, memory);
  if (to <= localConfirmed || resting) return {};
  return { advance: { local, confirmed: localConfirmed, restart: localRestart, to, unsure } };
}

/** For a slot whose name is free here. */
function decideMissing(
  slot: Placed,
  database: DatabaseState,
  input: PlanInput,
  headroom: Headroom,
): SlotDecision {
  const { memory, standby } = input;
  const position = slot.confirmedFlushLsn;
  const cover = coveredBy(position, database);
  const failure = memory.backoff.get(slot.name);
  if (cover === null)
    return { slot, verdict: uncovered(position, database, headroom, input), needsHold: position };

  if (!take(headroom))
    return {
      slot,
      // a hold would need a free slot as well: the guard itself waits
      ...(cover === "guard" ? { relies: position } : { needsHold: position }),
      verdict: waiting(
        "too_many_slots",
        `the standby has no free replication slot (max_replication_slots = ${standby.maxReplicationSlots}): raise it there and restart it`,
      ),
    };
  const source = cover === "guard" ? database.guard : database.hold;
  const decision: SlotDecision = { slot, verdict: GUARDED };
  if (source && mayTry(slot.name, memory) && lastHad(position) <= standby.replayLsn)
    decision.create = {
      kind: "create",
      slot: slot.name,
      database: slot.database,
      databaseOid: slot.databaseOid,
      plugin: slot.plugin,
      from: source.name,
      to: minLsn(position, standby.replayLsn),
    };

  if (failure)
    return {
      ...decision,
      needsHold: position,
      // what is tried again in this cycle is copied after the guard has moved
      ...(decision.create ? { relies: position } : {}),
      verdict: waiting(failure.reason, failure.detail),
    };
  if (cover === "hold")
    return {
      ...decision,
      needsHold: position,
      verdict:
        notFlushed(position, input) ??
        waiting(
          "wal_or_rows_removed",
          "the subscriber has caught up with what is kept here; the slot is being made",
        ),
    };
  // a guard covers a slot only if its plugin loads here: else materialising it after a promotion would fail
  const unloadable = pluginUnproven(slot, input);
  if (unloadable) {
    decision.verdict = unloadable;
    if (!decision.create) Object.assign(decision, probeOf(slot, database, input));
  } else if (database.guard)
    decision.verdict = guardedBy(database.guard, database.provision, slot, position, input);
  return { ...decision, relies: position };
}

/**
 * How a slot stands by the guards that outlive this process and reach back to its position (G2); null when none does. The fresh one comes
 * first; where that one is in doubt, the low one behind it serves as well, and waits for the slot (G1), as the finishing step does it.
 */
function standingByGuards(
  slot: PrimarySlot,
  position: Lsn,
  database: DatabaseState,
  input: PlanInput,
): Verdict | null {
  const { guard, maxTarget, provision, hold, holdMaxTarget, holdProvision, newborn, holdNewborn } = database;
  const fresh =
    !newborn && reaches(guard, maxTarget, position)
      ? guardedBy(guard, provision, slot, position, input)
      : null;
  // where a hold is a temporary slot, it protects nobody
  if (createsOnStandby(input.standby.serverVersionNum)) return fresh;
  if (fresh === GUARDED || holdNewborn || !reaches(hold, holdMaxTarget, position)) return fresh;
  const low = guardedBy(hold, holdProvision, slot, position, input);
  return low === GUARDED ? low : (fresh ?? low);
}

/** How a slot stands that is copied out of `guard` when it is needed. */
export function guardedBy(
  guard: StandbySlot,
  provision: Provision,
  slot: PrimarySlot,
  position: Lsn,
  input: PlanInput,
): Verdict {
  return (
    notFlushed(position, input) ??
    // I4: copied at the slot's very position it needs no older rows than that; what the guard itself may lack is decoded by nobody
    doubtsOf(guard, provision, rowsOf(slot.name, slot, input), input) ??
    GUARDED
  );
}

/** Sees whether the plugin loads, when that is not known, or was seen long ago. */
export function probeOf(
  slot: PrimarySlot,
  database: DatabaseState | null,
  input: PlanInput,
): Pick<SlotDecision, "probe"> {
  const bySql = createsOnStandby(input.standby.serverVersionNum);
  if (!database || (bySql && !database.guard) || !isLibraryName(slot.plugin)) return {};
  const { standby, journal, memory } = input;
  const { plugin } = slot;
  const probedAt = memory.pluginProbedAt ? (memory.pluginProbedAt.get(plugin) ?? 0) : null;
  if (!isProbeDue(plugin, standby, journal, probedAt, memory.now)) return {};
  if (!mayTry(pluginBackoffKey(plugin), memory) || whyRefused(slot, standby.plugins?.rules) !== null)
    return {};
  return {
    probe: {
      kind: "probe_plugin",
      database: slot.database,
      databaseOid: slot.databaseOid,
      plugin: slot.plugin,
      from: bySql ? (database.guard?.name ?? null) : null,
    },
  };
}

/** G2: which of our slots lies at or behind the position. A hold that dies with our session serves for making slots only. */
export function coveredBy(position: Lsn, state: DatabaseState): "guard" | "hold" | null {
  const { guard, hold, maxTarget, holdMaxTarget, newborn, holdNewborn } = state;
  if (!newborn && reaches(guard, maxTarget, position)) return "guard";
  return !holdNewborn && reaches(hold, holdMaxTarget, position) ? "hold" : null;
}

function reaches(source: Source | null, maxTarget: Lsn, position: Lsn): source is Source {
  return source !== null && maxLsn(source.confirmedFlushLsn, maxTarget) <= position;
}

export function uncovered(
  position: Lsn,
  { guard, hold, name, failure, creating, newborn: isNew }: DatabaseState,
  headroom: Headroom,
  { primary }: Pick<PlanInput, "primary">,
): Verdict {
  if (!guard && !creating && headroom.free < 1)
    return waiting(
      "too_many_slots",
      `there is no free replication slot on the standby for the guard of database "${name}": raise max_replication_slots there and restart it`,
    );
  if (!guard && failure)
    return waiting(failure.reason, `the guard of database "${name}" cannot be created: ${failure.detail}`);
  if (!guard)
    return waiting(
      "no_consistent_snapshot",
      `the guard of database "${name}" is being created; that waits for the transactions now running on the primary`,
    );
  if (isNew) return newborn(name, guard.restartLsn, primary);
  const kept = hold ?? guard;
  return waiting(
    "wal_or_rows_removed",
    `the slot is at ${formatLsn(position)}, and this standby has kept WAL and catalog rows only from ${formatLsn(kept.confirmedFlushLsn)} on: it is protected once its subscriber has confirmed past that`,
  );
}

function at(lsn: Lsn | null): string {
  return lsn === null ? "no position" : formatLsn(lsn);
}
