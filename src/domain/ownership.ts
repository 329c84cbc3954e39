import type { SlotRecord } from "./journal.ts";
import { type StandbySlot, sameIdentity } from "./slot.ts";

/**
 * True when the journal proves that this slot on the standby is ours (I7): recorded, the same database, plugin and two_phase,
 * and nowhere beyond the furthest position we ever moved it to. A slot that somebody made anew or consumed under the name
 * stands beyond it.
 */
export function isOurs(local: StandbySlot, record: SlotRecord | undefined): boolean {
  if (!record || local.temporary || !sameIdentity(local, record)) return false;
  if (record.maxTarget === null || local.confirmedFlushLsn === null) return false;
  switch (record.state) {
    case "owned":
      return local.confirmedFlushLsn <= record.maxTarget;
    case "creating":
      // cut off between the intent and its outcome: ours only at the very position it was to be born at
      return local.confirmedFlushLsn === record.maxTarget;
    default:
      return false;
  }
}
