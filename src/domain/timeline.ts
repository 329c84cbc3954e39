/**
 * Timelines: which WAL two servers have in common. A position names WAL only together with its timeline (I14): past the point where a
 * history left a timeline, the same number is another place.
 */
import { type Lsn, maxLsn } from "./lsn.ts";
import type { StandbyView } from "./observation.ts";

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

/** A position, and the timeline that it is of. */
export interface TimelinePosition {
  timeline: number;
  lsn: Lsn;
}

/** The timeline that a node writes, and its ancestors: all of them, or, where not `whole`, the latest. */
export interface OwnHistory {
  timeline: number;
  forks: TimelineHistory;
  whole: boolean;
}

/** How far what was seen on a timeline is also here. */
export type Limit =
  /** This node's history left that timeline there: all of it up to there is here, and nothing beyond. */
  | { kind: "fork"; until: Lsn }
  /** Where it left that timeline is not known. Up to there this node was seen to have it. */
  | { kind: "seen"; until: Lsn }
  /** That timeline is none of this node's history, or nothing is known of it. */
  | { kind: "unknown" };

/**
 * How far positions of `timeline` are also this node's. `own` is null where its history could not be read; `seen` is how far it was seen to
 * have that timeline, or null. A node that left recovery without a new timeline still writes the one of the positions: no fork tells
 * its own WAL from what it had received.
 */
export function limitOn(own: OwnHistory | null, timeline: number | null, seen: Lsn | null): Limit {
  const fork = own?.forks.find((each) => each.timeline === timeline);
  if (fork) return { kind: "fork", until: fork.until };
  const mayBe = own === null || !own.whole || own.timeline === timeline;
  return mayBe && timeline !== null && seen !== null ? { kind: "seen", until: seen } : { kind: "unknown" };
}

/** The timeline that the standby is on, as far as it shows: what it receives, else the latest that it is known to have come to. */
export function timelineHere(
  { receivedTimeline, leastTimeline }: Pick<StandbyView, "receivedTimeline" | "leastTimeline">,
  { standbyTimeline }: { standbyTimeline: number | null },
): number {
  return receivedTimeline ?? Math.max(leastTimeline, standbyTimeline ?? 0);
}

/** What the history of a standby would be if it were promoted now: it would leave its timeline at the end of the WAL that it has. */
export function historyIfPromoted(
  standby: Pick<StandbyView, "receivedTimeline" | "leastTimeline" | "flushedLsn">,
  journal: { standbyTimeline: number | null; history: { timeline: number; forks: TimelineHistory } | null },
): OwnHistory {
  const here = timelineHere(standby, journal);
  const whole = journal.history?.timeline === here;
  const before = whole ? (journal.history?.forks ?? []) : [];
  return { timeline: here + 1, forks: [...before, { timeline: here, until: standby.flushedLsn }], whole };
}

/** Where a subscriber was last seen to stand, on which timeline, and how far this standby had that timeline. */
export interface Sighting {
  /** The timeline that the primary's positions are of; null where that was not written down yet. */
  timeline: number | null;
  /** Up to here this standby had replayed that timeline at the time; null when it was not seen to be on it. */
  commonLsn: Lsn | null;
  /**
   * Where the subscriber stood on earlier timelines, where that is a higher number than what the primary's slot shows now. A promotion sets
   * its slot back to what the new primary has, and what the subscriber has beyond that does not go away.
   */
  formerly: readonly TimelinePosition[];
}

const FORMER_KEPT = 8;

/**
 * The sighting of a slot that a primary on `timeline` shows at `confirmed`. A former position that is not a higher number tells nothing more:
 * either it lies before the fork, or the slot has been read on past the fork since.
 */
export function sightingOf(
  known: (Sighting & { primaryConfirmedFlushLsn: Lsn | null }) | undefined,
  timeline: number,
  confirmed: Lsn | null,
  replayed: Lsn | null,
): Sighting {
  const same = known?.timeline === timeline;
  const left =
    known && !same && known.timeline !== null && known.primaryConfirmedFlushLsn !== null
      ? [{ timeline: known.timeline, lsn: known.primaryConfirmedFlushLsn }]
      : [];
  const formerly = [...(known?.formerly ?? []), ...left]
    .filter(({ lsn }) => confirmed === null || lsn > confirmed)
    .slice(-FORMER_KEPT);
  const before = same ? known.commonLsn : null;
  return {
    timeline,
    commonLsn: before !== null && replayed !== null ? maxLsn(before, replayed) : (replayed ?? before),
    formerly,
  };
}
