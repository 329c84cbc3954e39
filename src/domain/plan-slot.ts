/** How one failover slot stands on this standby and what it needs next: `synchronize_one_slot`, as a decision. */
import type { Action } from "./action.ts";
import { formatLsn, type Lsn, maxLsn, minLsn } from "./lsn.ts";
import { isValidSlotName } from "./names.ts";
import { isOurs, whyUnsafe } from "./ownership.ts";
import type { PlanInput } from "./plan.ts";
import { type DatabaseState, type Headroom, mayTry, pluginBackoffKey, take } from "./plan-guard.ts";
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
  probe?: Action;
  /** Our slot is here and may be moved forward to this position. */
  advance?: { local: StandbySlot; confirmed: Lsn; restart: Lsn; to: Lsn };
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
  if (local) return decideExisting(slot, local, database, input);
  const unfit = whyUnfit(slot, database);
  if (unfit) return unfit;
  return decideMissing(slot as Placed, database as DatabaseState, input, headroom);
}

/** Bytes that one statement decodes at the most, so that a slot far behind moves in steps that end in time. */
const LARGEST_STEP = 4n * 1024n ** 3n;

type Placed = PrimarySlot & { confirmedFlushLsn: Lsn; restartLsn: Lsn };

/** What keeps a slot from being protected whatever is here. */
function whyUnfit(slot: PrimarySlot, database: DatabaseState | null): SlotDecision | null {
  if (slot.invalidation !== null)
    return {
      slot,
      verdict: blocked(
        "slot_invalidated",
        `the primary has invalidated it (${slot.invalidation}): recreate it there`,
      ),
    };
  if (slot.twoPhase)
    return {
      slot,
      verdict: blocked(
        "prepared_transactions_pending",
        "two_phase slots cannot be copied exactly by SQL (G5); this release does not protect them",
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
): SlotDecision {
  const record = input.journal.slots.get(slot.name);
  const needsHold = slot.confirmedFlushLsn === null ? {} : { needsHold: slot.confirmedFlushLsn };
  if (!record || !isOurs(local, record) || local.confirmedFlushLsn === null)
    return {
      slot,
      ...needsHold,
      verdict: blocked(
        "name_conflict",
        `a slot of this name exists on the standby (${local.plugin}, database "${local.database}", at ${at(local.confirmedFlushLsn)}) and the journal does not say that it is ours: drop it there, and it is made anew within a cycle`,
      ),
    };
  if (local.activePid !== null)
    return {
      slot,
      verdict: blocked(
        "slot_in_use",
        `process ${local.activePid} is using our slot on this standby, where it may move it past the subscriber: stop it`,
      ),
    };
  const unsafe = whyUnsafe(slot, local) ?? (record.dropping ? "its drop is under way" : null);
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
  if (busy && record.maxTarget !== null && record.maxTarget > confirmed)
    return {
      slot,
      verdict: waiting(
        "wal_or_rows_removed",
        "the primary's slot has gone back while ours was being moved: it may come to stand ahead of it",
      ),
    };
  // NULL only for one that lost its WAL, which is unsafe
  const restart = local.restartLsn ?? local.confirmedFlushLsn;
  return {
    slot,
    verdict: verdictOfSynced(slot.name, confirmed, local, local.confirmedFlushLsn, input),
    ...advanceOf(slot.name, confirmed, local, local.confirmedFlushLsn, restart, input),
  };
}

function verdictOfUnsafe(slot: PrimarySlot, unsafe: string, covered: boolean): Verdict {
  if (slot.invalidation !== null) return blocked("slot_invalidated", `${unsafe}: recreate it there`);
  return waiting(
    covered ? "no_consistent_snapshot" : "wal_or_rows_removed",
    `our slot is not usable (${unsafe}); it is dropped and made anew${covered ? "" : " once the subscriber has confirmed past what is kept here"}`,
  );
}

function verdictOfSynced(
  name: string,
  confirmed: Lsn,
  local: StandbySlot,
  position: Lsn,
  input: PlanInput,
): Verdict {
  // a slot that cannot be moved may not be readable either; one that has arrived needs no moving
  const failure = position < confirmed ? input.memory.backoff.get(name) : undefined;
  if (failure) return waiting(failure.reason, failure.detail);
  return notFlushed(confirmed, input) ?? unproven(local, input) ?? soonRemoved(local, input) ?? SYNCED;
}

/** I1 would put the slot past the end of WAL here: transactions that the subscriber has and this standby lacks. */
function notFlushed(confirmed: Lsn, input: PlanInput): Verdict | null {
  if (confirmed <= input.standby.flushedLsn) return null;
  return waiting(
    "wal_not_flushed",
    `the subscriber has confirmed ${formatLsn(confirmed)}, but this standby has WAL only up to ${formatLsn(input.standby.flushedLsn)}`,
  );
}

/**
 * I4: until this standby's feedback has reached the primary, the primary may remove catalog rows that the slot needs. WAL that says
 * so may be here and not replayed yet, and a promotion would replay it, whereupon the server invalidates the slot: so what was
 * written before the feedback took hold must have been replayed as well.
 */
function unproven(local: StandbySlot, { primary, standby, journal }: PlanInput): Verdict | null {
  if (primary.physicalSlot === null) return null;
  const { name, catalogXmin } = primary.physicalSlot;
  if (
    catalogXmin === null ||
    local.catalogXmin === null ||
    !xidPrecedesOrEquals(catalogXmin, local.catalogXmin)
  )
    return waiting(
      "catalog_rows_unproven",
      `the primary's physical slot "${name}" has catalog_xmin ${catalogXmin ?? "NULL"}, and this slot needs catalog rows from ${local.catalogXmin ?? "an unknown transaction"} on: the standby's feedback has not reached the primary yet (it is sent every wal_receiver_status_interval, which must not be 0)`,
    );
  const since = journal.feedbackSince ?? primary.walLsn;
  if (standby.replayLsn >= since) return null;
  return waiting(
    "catalog_rows_unproven",
    `the standby's feedback has held the catalog rows on the primary since ${formatLsn(since)}, and replay has come to ${formatLsn(standby.replayLsn)} only: what is in between may say that rows are gone`,
  );
}

/** I3: the checkpoint of a promotion will not spare the WAL that the slot needs, though until then it is all here. */
function soonRemoved({ restartLsn }: StandbySlot, { standby }: PlanInput): Verdict | null {
  if (standby.keptSegments === null || restartLsn === null) return null;
  const segmentOf = (lsn: Lsn) => lsn / BigInt(standby.walSegmentBytes);
  const segments = Number(segmentOf(standby.flushedLsn) - segmentOf(restartLsn));
  // one to spare, for what a promotion writes itself
  if (segments < standby.keptSegments) return null;
  return waiting(
    "wal_or_rows_removed",
    `max_slot_wal_keep_size on the standby keeps ${standby.keptSegments} WAL segments, and the slot needs ${segments + 1}: the next checkpoint may remove them; raise it there, or set it to -1`,
  );
}

function advanceOf(
  name: string,
  confirmed: Lsn,
  local: StandbySlot,
  localConfirmed: Lsn,
  localRestart: Lsn,
  { standby, memory }: PlanInput,
): Pick<SlotDecision, "advance"> {
  const to = minLsn(confirmed, standby.replayLsn, (localConfirmed + LARGEST_STEP) as Lsn);
  const resting = (memory.restUntil.get(name) ?? 0) > memory.now || !mayTry(name, memory);
  if (to <= localConfirmed || resting) return {};
  return { advance: { local, confirmed: localConfirmed, restart: localRestart, to } };
}

/** For a slot whose name is free here. */
function decideMissing(
  slot: Placed,
  database: DatabaseState,
  input: PlanInput,
  headroom: Headroom,
): SlotDecision {
  const { memory, standby, journal } = input;
  const position = slot.confirmedFlushLsn;
  const cover = coveredBy(position, database);
  const failure = memory.backoff.get(slot.name);
  if (cover === null) return { slot, verdict: uncovered(position, database, headroom), needsHold: position };

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
  if (source && mayTry(slot.name, memory) && position <= standby.replayLsn)
    decision.create = {
      kind: "create",
      slot: slot.name,
      database: slot.database,
      databaseOid: slot.databaseOid,
      plugin: slot.plugin,
      from: source.name,
      to: position,
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
  if (!journal.plugins.includes(slot.plugin)) {
    // a guard covers a slot only if its plugin loads here: else materialising it after a promotion would fail
    const refused = memory.backoff.get(pluginBackoffKey(slot.plugin));
    decision.verdict = refused
      ? waiting(refused.reason, refused.detail)
      : waiting(
          "plugin_unproven",
          `whether output plugin "${slot.plugin}" loads on this standby is being tried`,
        );
    if (!decision.create && database.guard && mayTry(pluginBackoffKey(slot.plugin), memory))
      decision.probe = {
        kind: "probe_plugin",
        database: slot.database,
        databaseOid: slot.databaseOid,
        plugin: slot.plugin,
        from: database.guard.name,
      };
  } else if (database.guard)
    decision.verdict =
      notFlushed(position, input) ??
      unproven(database.guard, input) ??
      soonRemoved(database.guard, input) ??
      GUARDED;
  return { ...decision, relies: position };
}

/** G2: which of our slots lies at or behind the position. The guard is durable; the hold dies with our session. */
function coveredBy(position: Lsn, { guard, hold, maxTarget }: DatabaseState): "guard" | "hold" | null {
  if (guard && maxLsn(guard.confirmedFlushLsn, maxTarget) <= position) return "guard";
  if (hold && hold.confirmedFlushLsn <= position) return "hold";
  return null;
}

function uncovered(
  position: Lsn,
  { guard, hold, name, failure, creating }: DatabaseState,
  headroom: Headroom,
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
  const kept = hold ?? guard;
  return waiting(
    "wal_or_rows_removed",
    `the slot is at ${formatLsn(position)}, and this standby has kept WAL and catalog rows only from ${formatLsn(kept.confirmedFlushLsn)} on: it is protected once its subscriber has confirmed past that`,
  );
}

function at(lsn: Lsn | null): string {
  return lsn === null ? "no position" : formatLsn(lsn);
}
