/** What a node that is a primary looks like to its own sidecar: what its slots are held against when it follows again. */
import { listSnapshotNames } from "../datadir/snapshots.ts";
import { startsByItself } from "../domain/capability.ts";
import type { Lsn } from "../domain/lsn.ts";
import type { LogicalSlot } from "../domain/slot.ts";
import type { PrimaryLife, TimelineHistory } from "../domain/timeline.ts";
import { positionsIn, readTimelineHistory, snapshotPositions } from "../pg/server-history.ts";
import type { PgSession } from "../pg/session.ts";
import { observePromoted } from "./standby.ts";

export interface LifeContext {
  control: PgSession;
  /** Opens a session for replication with the same server. */
  openReplication: () => Promise<PgSession>;
  /** Its data directory, or null. */
  directory: string | null;
  /** What was seen before. */
  known: PrimaryLife | null;
}

/** Looks at it. Null while the server is none, or does not say on which timeline it is. Throws what the sessions throw. */
export async function observeLife(context: LifeContext): Promise<PrimaryLife | null> {
  const { control, known, directory } = context;
  // the slots before the snapshots: where a slot has moved to, it has left one first
  const { inRecovery, timeline, slots } = await observePromoted(control);
  if (inRecovery || timeline === null) return null;
  const history: TimelineHistory =
    known?.timeline === timeline
      ? known.history
      : await readTimelineHistory(context.openReplication, timeline);
  const positions =
    (await snapshotPositions(control)) ??
    (directory === null ? null : positionsIn(await listSnapshotNames(directory)));
  const alone = startsByItself(control.serverVersionNum);
  return { timeline, history, unmoved: positions === null ? [] : unmovedOf(slots, positions, alone) };
}

/** I2 (e): no snapshot where decoding begins and, where a creation may have used another slot's, none up to its position either. */
function unmovedOf(slots: readonly LogicalSlot[], snapshots: readonly Lsn[], alone: boolean) {
  return slots.flatMap(({ name, databaseOid, plugin, restartLsn, confirmedFlushLsn, temporary }) => {
    if (temporary || restartLsn === null || confirmedFlushLsn === null) return [];
    const upTo = alone ? restartLsn : confirmedFlushLsn;
    if (snapshots.some((lsn) => lsn >= restartLsn && lsn <= upTo)) return [];
    return [{ name, databaseOid, plugin, restartLsn }];
  });
}
