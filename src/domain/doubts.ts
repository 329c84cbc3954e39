/** Why a slot that is here may not serve after a failover, each as a verdict; null where there is no doubt. */
import { advanceKeepsRows, tellsRowsRemoved } from "./capability.ts";
import { idleTooLong } from "./idle.ts";
import type { Provision, RowsHeld } from "./journal.ts";
import { bytesBeyond, formatLsn, type Lsn } from "./lsn.ts";
import { isOwnSlotName } from "./names.ts";
import type { PlanInput } from "./plan.ts";
import { completeBackoffKey, mappingsBackoffKey, pluginBackoffKey } from "./plan-guard.ts";
import { pluginDoubt } from "./plugins.ts";
import { feedbackNow, holdsRows, proofNow, ranAhead } from "./proof.ts";
import { type Verdict, waiting } from "./protection.ts";
import type { StandbySlot } from "./slot.ts";
import { xidPrecedesOrEquals } from "./xid.ts";

/** The first doubt about one of our slots, or null. `rows`: what is held for the failover slot that it is, or is copied for. */
export function doubtsOf(
  local: StandbySlot,
  provision: Provision,
  rows: RowsHeld | null,
  input: PlanInput,
): Verdict | null {
  return (
    incomplete(local, provision, input) ??
    rowsUnproven(local, rows, input) ??
    soonRemoved(local, input) ??
    idleTooLong(local, input.standby)
  );
}

/** I1 would put the slot past the end of WAL here: transactions that the subscriber has and this standby lacks. */
export function notFlushed(confirmed: Lsn, input: PlanInput): Verdict | null {
  if (bytesBeyond(input.standby.flushedLsn, confirmed) === 0) return null;
  return waiting(
    "wal_not_flushed",
    `the subscriber has confirmed ${formatLsn(confirmed)}, but this standby has WAL only up to ${formatLsn(input.standby.flushedLsn)}`,
  );
}

/** I2, I3, I16: loaded from a file, a slot is safe only with its snapshot, its WAL and the rewrite mappings. */
function incomplete(local: StandbySlot, provision: Provision, input: PlanInput): Verdict | null {
  const proof = proofNow(provision, local);
  const failure = input.memory.backoff.get(completeBackoffKey(local.name));
  if (!proof.wal)
    return failure
      ? waiting(failure.reason, failure.detail)
      : waiting(
          "wal_or_rows_removed",
          `it was loaded from its file, and whether the WAL from ${formatLsn(provision.origin?.restartLsn ?? local.restartLsn ?? (0n as Lsn))} on is here is being looked into`,
        );
  if (!proof.start)
    return waiting(
      "no_consistent_snapshot",
      `it was loaded from its file without a snapshot that says which transactions were running at ${formatLsn(provision.origin?.restartLsn ?? (0n as Lsn))}: decoding may begin too late and skip changes. It is safe once it has moved past a point of this standby's own, for which its subscriber must go on and transactions that were running then must end${isOwnSlotName(local.name) ? "" : `. slotsync resync ${local.name} drops it, and stages it again from a fresh file`}`,
    );
  return proof.mappings ? null : mappingsUnproven(local, input);
}

/** I16: rows of catalogs that were rewritten before the start that loaded it would not be found where they went. */
function mappingsUnproven({ name }: StandbySlot, { memory, standby }: PlanInput): Verdict {
  const failure = memory.backoff.get(mappingsBackoffKey(name));
  if (failure) return waiting(failure.reason, failure.detail);
  const hindrance = standby.files?.problem?.detail ?? null;
  return waiting(
    "rewrite_mappings_unproven",
    hindrance === null
      ? "it was loaded from its file, and what the primary noted before that of rows that a VACUUM FULL of catalogs has moved is being brought over"
      : `it was loaded from its file, and what the primary noted before that of rows that a VACUUM FULL of catalogs has moved cannot be brought over: ${hindrance}`,
  );
}

/** I4. Where the server tells (16+), what the feedback holds must be held for this very slot; where nobody tells, it is proven. */
function rowsUnproven(local: StandbySlot, rows: RowsHeld | null, input: PlanInput): Verdict | null {
  const { primary, standby } = input;
  const { serverVersionNum } = standby;
  if (tellsRowsRemoved(serverVersionNum)) {
    const notHeld = rowsNotHeld(local, input);
    if (notHeld) return notHeld;
  }
  if (holdsRows(rows, local, serverVersionNum)) return null;
  if (rows !== null && !advanceKeepsRows(serverVersionNum) && ranAhead(rows, local))
    return waiting(
      "catalog_rows_unproven",
      `advancing has moved its catalog_xmin to ${local.catalogXmin ?? "NULL"}, past ${rows.original}, from which on the primary's slot needs catalog rows: this release of PostgreSQL does that too early (advance_runs_ahead). It is safe once the primary's slot has come up to it`,
    );
  return waiting("catalog_rows_unproven", whyRowsUnproven(local, rows, primary));
}

function whyRowsUnproven(
  local: StandbySlot,
  rows: RowsHeld | null,
  { physicalSlot, remembered }: PlanInput["primary"],
): string {
  if (rows !== null)
    return `the primary's physical slot of this standby holds catalog rows from transaction ${rows.physical} on, the primary's slot needs them from ${rows.original} on and this slot from ${local.catalogXmin ?? "an unknown transaction"} on: it is safe once its subscriber has gone on past that, or once the feedback begins anew: set hot_standby_feedback = off on this standby, reload, wait until that physical slot's catalog_xmin is NULL, and set it on again`;
  if (physicalSlot === null)
    return remembered
      ? "the last look at the primary did not prove that its catalog rows are kept"
      : "nothing keeps catalog rows on the primary while this standby has no physical replication slot there";
  return physicalSlot.catalogXmin === null
    ? feedbackMissing(physicalSlot.name)
    : `the primary's physical slot "${physicalSlot.name}" has not been seen before to hold catalog rows: the next look proves it`;
}

function feedbackMissing(name: string): string {
  return `the primary's physical slot "${name}" has no catalog_xmin: the standby's feedback has not reached the primary yet (it is sent every wal_receiver_status_interval, which must not be 0)`;
}

/**
 * Until this standby's feedback has reached the primary, the primary may remove catalog rows that the slot needs. WAL that says so may be
 * here and not replayed yet, and a promotion would replay it, whereupon the server invalidates the slot: so what was written before the
 * feedback took hold must have been replayed as well.
 */
function rowsNotHeld(local: StandbySlot, input: PlanInput): Verdict | null {
  const { primary, standby } = input;
  if (primary.physicalSlot === null) return null;
  const { name, catalogXmin } = primary.physicalSlot;
  if (catalogXmin === null) return waiting("catalog_rows_unproven", feedbackMissing(name));
  if (local.catalogXmin === null || !xidPrecedesOrEquals(catalogXmin, local.catalogXmin))
    return waiting(
      "catalog_rows_unproven",
      `the primary's physical slot "${name}" has catalog_xmin ${catalogXmin}, and this slot needs catalog rows from ${local.catalogXmin ?? "an unknown transaction"} on: the standby's feedback has not reached the primary yet (it is sent every wal_receiver_status_interval, which must not be 0)`,
    );
  const since = feedbackNow(input)?.since ?? primary.walLsn;
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

/** Without its plugin nobody can read a slot after a promotion. */
export function pluginUnproven(
  slot: Pick<StandbySlot, "plugin" | "databaseOid">,
  { standby, journal, memory }: PlanInput,
): Verdict | null {
  return pluginDoubt(slot, standby, journal, memory.backoff.get(pluginBackoffKey(slot.plugin)));
}
