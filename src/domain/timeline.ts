/** Timelines: which WAL two servers have in common. */
import type { Lsn } from "./lsn.ts";

/** Up to where a timeline was followed until the next one of a history branched off it. */
interface Fork {
  timeline: number;
  until: Lsn;
}

/** A timeline's ancestors, oldest first, as its history file lists them. */
export type TimelineHistory = readonly Fork[];

/** A slot for whose `restart_lsn` its server has no serialized snapshot: it stands where it was created (I2 e). */
interface UnmovedSlot {
  name: string;
  databaseOid: number;
  plugin: string;
  restartLsn: Lsn;
}

/** A node's last life as a primary, as a sidecar beside it saw it. */
export interface PrimaryLife {
  timeline: number;
  history: TimelineHistory;
  unmoved: readonly UnmovedSlot[];
}

/**
 * Up to where the WAL of that life is also that of `timeline`: no position beyond it means the same on both. Null when the one is no
 * descendant of the other. Two timelines of one number that began elsewhere are two, so the ancestors are compared as well.
 */
export function commonUntil(
  life: Pick<PrimaryLife, "timeline" | "history">,
  history: TimelineHistory,
): Lsn | null {
  const at = life.history.length;
  const fork = history[at];
  if (fork?.timeline !== life.timeline) return null;
  const same = life.history.every(
    ({ timeline, until }, index) => history[index]?.timeline === timeline && history[index]?.until === until,
  );
  return same ? fork.until : null;
}
