/** What this node has in common with the timelines on which subscribers were last seen, once it is a primary (I14). */
import type { JournalState, SlotRecord } from "./journal.ts";
import { bytesBeyond, type Lsn, minLsn } from "./lsn.ts";
import { type Limit, limitOn, type OwnHistory, type TimelinePosition } from "./timeline.ts";

/** The journal, and the history of the timeline that the promotion began; null where that could not be read. */
export interface Promoted {
  journal: JournalState;
  own: OwnHistory | null;
}

/** How far the positions of this record are also this node's. */
export function limitFor(record: SlotRecord, { journal, own }: Promoted): Limit {
  // a journal of before positions had timelines: what was seen in its last look was of the primary's
  const undated = record.timeline === null && record.absentSince === null;
  return limitOn(
    own,
    undated ? journal.primaryTimeline : record.timeline,
    undated ? journal.standbyFlushedLsn : record.commonLsn,
  );
}

/** The end of the WAL that this node took over from the primary before it; null where that is not known. */
export function endOfWalOf({ journal, own }: Promoted): Lsn | null {
  return own?.forks.at(-1)?.until ?? journal.standbyFlushedLsn;
}

/** What a subscriber was seen to have that is not of this node's history. */
export interface Gap {
  /** False when it is not known where this node's history left the timeline on which the subscriber was seen: there may be more. */
  certain: boolean;
  /** Up to here both are the same; null where nothing is known. */
  until: Lsn | null;
  /** Bytes of WAL that the subscriber has confirmed past that. */
  beyondBytes: number;
  /** Where it was seen to stand so far. */
  seen: TimelinePosition | null;
}

/**
 * The gap of one slot. Beside where its subscriber was seen last, each place counts where it stood on an earlier timeline past the fork, until
 * the slot was seen past that fork on the later one: then its subscriber has gone on along this node's history.
 */
export function gapOf(record: SlotRecord, promoted: Promoted): Gap {
  const confirmed = record.primaryConfirmedFlushLsn;
  const limit = limitFor(record, promoted);
  const end = limit.kind === "unknown" ? null : limit.until;
  const gap: Gap = { certain: limit.kind === "fork", until: end, beyondBytes: 0, seen: null };
  const known = confirmed === null || end === null ? null : minLsn(confirmed, end);
  const places = [
    ...(confirmed === null ? [] : [{ timeline: record.timeline ?? 0, lsn: confirmed, until: end }]),
    ...record.formerly.flatMap((place, index) => {
      const then = limitOn(promoted.own, place.timeline, null);
      if (then.kind !== "fork") return [{ ...place, until: known }];
      const later = [...record.formerly.slice(index + 1).map(({ lsn }) => lsn), confirmed];
      const wentOn = later.some((lsn) => lsn !== null && bytesBeyond(then.until, lsn) > 0);
      return wentOn ? [] : [{ ...place, until: then.until }];
    }),
  ];
  for (const { until, ...place } of places) {
    const beyondBytes = until === null ? 0 : bytesBeyond(until, place.lsn);
    if (beyondBytes > gap.beyondBytes) Object.assign(gap, { until, beyondBytes, seen: place });
  }
  return gap;
}
