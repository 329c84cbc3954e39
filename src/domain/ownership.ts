import type { Birth, SlotRecord } from "./journal.ts";
import { formatLsn, isAhead, type Lsn } from "./lsn.ts";
import { isLoadedFrom } from "./proof.ts";
import { type SlotIdentity, type StandbySlot, sameIdentity } from "./slot.ts";

/**
 * True when the journal proves that this slot on the standby is ours (I7): recorded, the same database, plugin and two_phase,
 * between where it came and the furthest position we ever moved it to. A slot that somebody else makes or consumes under the name
 * stands beyond that, and one that is loaded from an old file may stand before it. What the server has synced by itself (17+) is never ours. Cut off between the intent and its outcome, it is ours at the very position at which it was to be born.
 */
export function isOurs(local: StandbySlot, record: SlotRecord | undefined): boolean {
  if (!record || local.temporary || local.synced || local.confirmedFlushLsn === null) return false;
  if (record.births.some((birth) => isBornAs(local, birth))) return true;
  if (record.staged.some((staged) => isLoadedFrom(local, staged))) return true;
  if (record.state !== "owned" || record.served || record.ours === null || !sameIdentity(local, record.ours))
    return false;
  if (record.bornAt !== null && local.confirmedFlushLsn < record.bornAt) return false;
  return record.maxTarget !== null && local.confirmedFlushLsn <= record.maxTarget;
}

/** True for a slot that the server itself keeps up with the primary's (17+): nobody can use or drop it while this is a standby. */
export function isServed(local: StandbySlot): boolean {
  return local.synced && !local.temporary && local.confirmedFlushLsn !== null;
}

/** True when the slot is just where and what that copy of ours was to be. */
export function isBornAs(local: StandbySlot, { databaseOid, plugin, at }: Birth): boolean {
  return local.confirmedFlushLsn === at && sameIdentity(local, { databaseOid, plugin, twoPhase: false });
}

/** The primary's slot, as seen now or as the journal remembers it. */
export interface Original extends SlotIdentity {
  confirmedFlushLsn: Lsn | null;
  invalidation: string | null;
}

/** The primary's slot as the journal remembers it. */
export function originalOf(record: SlotRecord): Original {
  const { databaseOid, plugin, twoPhase, primaryConfirmedFlushLsn, primaryInvalidation } = record;
  return {
    databaseOid,
    plugin,
    twoPhase,
    confirmedFlushLsn: primaryConfirmedFlushLsn,
    invalidation: primaryInvalidation,
  };
}

/** Why our slot may not go on wearing its name (I1, I5, I6), or null. */
export function whyUnsafe(original: Original, local: StandbySlot): string | null {
  if (original.invalidation !== null) return `the primary has invalidated it (${original.invalidation})`;
  if (!sameIdentity(original, local))
    return "the primary's slot is another one now (database, plugin or two_phase differ)";
  // a finished slot never loses its position: this is a new one of the same name
  if (original.confirmedFlushLsn === null) return "the primary's slot is being made anew";
  if (local.invalidation !== null) return `this standby has invalidated it (${local.invalidation})`;
  if (local.confirmedFlushLsn !== null && isAhead(local.confirmedFlushLsn, original.confirmedFlushLsn))
    return `it is ahead of the primary's (${formatLsn(local.confirmedFlushLsn)} > ${formatLsn(original.confirmedFlushLsn)}): a failover would skip changes`;
  return null;
}

/** Whether nothing else makes it unsafe than that it is ahead of the primary's: the latter comes up to it when its consumer goes on. */
export function isOnlyAhead(original: Original, local: StandbySlot): boolean {
  const { confirmedFlushLsn } = original;
  if (confirmedFlushLsn === null || local.confirmedFlushLsn === null) return false;
  return (
    isAhead(local.confirmedFlushLsn, confirmedFlushLsn) &&
    whyUnsafe(original, { ...local, confirmedFlushLsn }) === null
  );
}
