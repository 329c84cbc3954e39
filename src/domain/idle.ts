/**
 * 18 and later: `idle_replication_slot_timeout`. A checkpoint or restartpoint, also the one right after a promotion, gives up each slot that
 * nobody has used for so long; of a standby's slots only what the server itself syncs is spared, and that only in recovery. Slots of ours
 * are read by nobody, so they are used in time (I18).
 */
import type { GuardRecord, JournalState } from "./journal.ts";
import { holdName } from "./names.ts";
import type { StandbyView } from "./observation.ts";
import { isOurs } from "./ownership.ts";
import { type Verdict, waiting } from "./protection.ts";
import type { StandbySlot } from "./slot.ts";

/** How long slots have not been used, by the server's own clock. */
export interface Idleness {
  /** The setting, ms. */
  timeoutMs: number;
  /** By name, ms; slots in use are left out. */
  idleMs: ReadonlyMap<string, number>;
}

/** A slot is used again after this share of the time-out, so that a late cycle comes early enough; … */
const DUE = 1 / 4;
/** … and one that nobody has used for this share is not counted on: the next checkpoint may come too late to save it. */
const DOUBTFUL = 3 / 4;

/** Our slots that are to be used now; temporary ones only in the session that has them. */
export function dueForUse({ idleness, slots }: StandbyView, journal: JournalState): StandbySlot[] {
  if (!idleness) return [];
  const dueMs = idleness.timeoutMs * DUE;
  return slots.filter((slot) => (idleness.idleMs.get(slot.name) ?? 0) >= dueMs && isKept(slot, journal));
}

/** The longest nap that lets none of them come near the time-out, ms. */
export function longestNapMs({ idleness }: Pick<StandbyView, "idleness">): number {
  return idleness ? idleness.timeoutMs * DUE : Number.POSITIVE_INFINITY;
}

/** After a promotion: all that the journal knows, whoever has synced it, before anything else is done with it. */
export function toUseAtPromotion(slots: readonly StandbySlot[], journal: JournalState): StandbySlot[] {
  return slots.filter(
    (slot) =>
      !slot.temporary &&
      slot.activePid === null &&
      slot.invalidation === null &&
      (slot.synced ? journal.slots.has(slot.name) : isKept(slot, journal)),
  );
}

function isKept(slot: StandbySlot, { slots, guards, lowGuards, instanceId }: JournalState): boolean {
  const named = (each: GuardRecord) => each.name === slot.name;
  if (slot.invalidation !== null) return false;
  if (slot.temporary) return slot.name === holdName(instanceId, slot.databaseOid);
  return (
    Object.values(guards).some(named) ||
    Object.values(lowGuards).some(named) ||
    isOurs(slot, slots.get(slot.name))
  );
}

/** Nobody has used the slot for so long that the checkpoint of a promotion may give it up; null where there is no such doubt. */
export function idleTooLong(local: StandbySlot, { idleness }: StandbyView): Verdict | null {
  if (!idleness || local.synced) return null;
  const idleMs = idleness.idleMs.get(local.name) ?? 0;
  if (idleMs < idleness.timeoutMs * DOUBTFUL) return null;
  return waiting(
    "idle_timeout",
    `slot "${local.name}" has not been used for ${Math.round(idleMs / 1_000)} s, and with idle_replication_slot_timeout = ${Math.round(idleness.timeoutMs / 1_000)} s on the standby a checkpoint, such as that of a promotion, gives it up: a running sidecar uses it in time, so start slotsync run or see its log`,
  );
}
