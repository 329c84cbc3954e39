import type { JournalState } from "../domain/journal.ts";
import { isFailoverReady } from "../domain/protection.ts";

/** True when a slot came, went, moved on the primary, or stands differently than before: reasons to look again soon. */
export function positionsMoved(before: JournalState, after: JournalState): boolean {
  const names = new Set([...before.slots.keys(), ...after.slots.keys()]);
  for (const name of names) {
    const a = before.slots.get(name);
    const b = after.slots.get(name);
    if (!a || !b) return true;
    if (
      a.primaryConfirmedFlushLsn !== b.primaryConfirmedFlushLsn ||
      a.primaryRestartLsn !== b.primaryRestartLsn
    )
      return true;
    if (a.protection !== b.protection || a.reason !== b.reason) return true;
  }
  return false;
}

/** True while a table is being copied whose slot is not protected yet: the end of the copy, from which on it has to be, writes no WAL. */
export function anyCopyUnprotected({ slots }: JournalState): boolean {
  return [...slots.values()].some(({ copying, protection }) => copying && !isFailoverReady(protection));
}
