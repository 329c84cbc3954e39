/** G5 for slots that the server syncs by itself: whether a prepared transaction could be left out after a promotion. */
import { syncsTwoPhaseExactly } from "./capability.ts";
import type { SlotRecord } from "./journal.ts";
import type { PrimaryView } from "./observation.ts";
import type { PlanInput } from "./plan.ts";
import { type Verdict, waiting } from "./protection.ts";
import type { PrimarySlot } from "./slot.ts";
import { type Xid, xidPrecedesOrEquals } from "./xid.ts";

/** The next transaction when the slot had been seen with two_phase by an earlier look; null at the first one, for it may be just that new. */
export function twoPhaseSince(
  known: Pick<SlotRecord, "twoPhase" | "twoPhaseXid"> | undefined,
  primary: PrimaryView,
): Xid | null {
  return known?.twoPhase ? (known.twoPhaseXid ?? primary.oldestXid) : null;
}

/**
 * 17 syncs a slot without the position at which two_phase began (`two_phase_at`). A transaction that was prepared before that and is
 * committed after a promotion would be left out: the new primary takes it for sent. What began after the slot was seen with two_phase
 * was prepared later. Null where there is no doubt.
 */
export function preparedTooEarly(
  slot: PrimarySlot,
  { primary, standby, journal }: Pick<PlanInput, "primary" | "standby" | "journal">,
): Verdict | null {
  if (!slot.twoPhase || syncsTwoPhaseExactly(standby.serverVersionNum)) return null;
  const since = twoPhaseSince(journal.slots.get(slot.name), primary);
  const early = primary.prepared.filter(
    ({ database, xid }) => database === slot.database && (since === null || !xidPrecedesOrEquals(since, xid)),
  );
  if (early.length === 0) return null;
  return waiting(
    "prepared_transactions_pending",
    `${early.length} prepared transaction(s), the first of them ${early[0]?.xid}, may be older than the slot's two_phase, which PostgreSQL 17 does not bring to a standby: after a promotion their COMMIT PREPARED would be sent without their changes. It is safe once they are committed or rolled back`,
  );
}
