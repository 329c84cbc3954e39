/**
 * What proves a slot on the standby safe that came by its file: a consistent start (I2), its WAL (I3), its catalog rows (I4). Slots
 * made by SQL on 16 and later need none of it: there the server has seen to the start, and says so itself when rows are removed.
 */
import { tellsRowsRemoved } from "./capability.ts";
import {
  type JournalState,
  PROVEN,
  type Proof,
  type Provision,
  type Staged,
  UNPROVISIONED,
} from "./journal.ts";
import type { Lsn } from "./lsn.ts";
import type { PrimaryView, StandbyView } from "./observation.ts";
import { type PrimarySlot, type StandbySlot, sameIdentity } from "./slot.ts";
import { type Xid, xidPrecedesOrEquals } from "./xid.ts";

interface Seen {
  primary: PrimaryView;
  standby: StandbyView;
  journal: JournalState;
}

/** Since when, without interruption, the standby's feedback has held catalog rows on the primary. */
export interface Feedback {
  /** The primary's WAL position then. */
  since: Lsn;
  /** What was removed before had been deleted by older transactions. */
  xid: Xid;
  session: string;
  /** The process that serves it on the primary, once that is certain. */
  walsender: number | null;
  /** False when it begins with this look: proofs of before do not count any more. */
  kept: boolean;
}

/** The feedback as it stands now, or null while it does not hold. Any sign that it may have been interrupted makes it begin anew. */
export function feedbackNow({ primary, standby, journal }: Seen): Feedback | null {
  if (!standby.hotStandbyFeedback || (primary.physicalSlot?.catalogXmin ?? null) === null) return null;
  const { feedbackSince: since, feedbackXid: xid, feedbackSession: session, feedbackWalsender } = journal;
  const walsender = primary.physicalSlot?.walsender ?? null;
  // The primary was asked first. A walreceiver that has ended since, as it does when the primary dies, has held all the rows until
  // then if its walsender was still there; without that, others may have come and gone unseen, and the physical slot with them.
  const goesOn = standby.streaming
    ? session === standby.feedbackSession
    : walsender !== null && walsender === feedbackWalsender;
  if (since !== null && xid !== null && session !== null && goesOn)
    return { since, xid, session, walsender, kept: true };
  // the walsender may be that of the session before
  return {
    since: primary.walLsn,
    xid: primary.oldestXid,
    session: standby.feedbackSession,
    walsender: null,
    kept: false,
  };
}

/** True when the slot is the one that was staged so. */
export function isLoadedFrom(local: StandbySlot, staged: Staged): boolean {
  return (
    !local.temporary &&
    local.restartLsn === staged.restartLsn &&
    local.confirmedFlushLsn === staged.confirmedFlushLsn &&
    sameIdentity(local, staged)
  );
}

/** A slot of ours as it is here, even when the journal has not yet noted that it has come: loaded from its file, or made by SQL. */
export function provisionOf(record: Provision & { state: string }, local: StandbySlot): Provision {
  // first of all, also for one that was here before: a file that was staged over it while it came up may have been loaded since
  const origin = record.staged.findLast((staged) => isLoadedFrom(local, staged)) ?? null;
  if (origin) return { staged: [], origin, proof: UNPROVISIONED.proof };
  if (record.state === "owned") return record;
  // from a file that nobody knows: nothing can ever be proven of it
  if (record.state === "staging") return UNPROVISIONED;
  return { staged: [], origin: null, proof: PROVEN };
}

/** The primary's slot of the same name, when it is valid. */
export type Original = Pick<PrimarySlot, "restartLsn" | "catalogXmin">;

/**
 * What is proven of our slot now. `original` is the primary's slot whose file it came from, when it is still there and valid: while
 * that one needs rows as old as ours does, the primary has kept them.
 */
export function proofNow(
  provision: Provision,
  local: StandbySlot,
  original: Original | null,
  seen: Seen,
): Proof {
  const { origin, proof } = provision;
  if (origin === null) return proof;
  // I2 (d): the server moves restart_lsn only to a point for which it has just written a snapshot, having read all WAL before it
  const moved = local.restartLsn !== null && local.restartLsn > origin.restartLsn;
  return {
    start: proof.start || moved,
    wal: proof.wal || moved,
    rows: rowsNow(provision, local, original, seen),
  };
}

/**
 * I4, in one read of the primary: rows that our slot needs were kept until now, and from now on the physical slot keeps them. Until
 * now: by the original or the pin, which need rows at least as old; or by the physical slot itself since our slot needs no row that
 * had died when that began.
 */
function rowsNow(
  { origin, proof }: Provision,
  local: StandbySlot,
  original: Original | null,
  seen: Seen,
): boolean {
  const { primary, standby } = seen;
  if (tellsRowsRemoved(standby.serverVersionNum)) return true;
  if (primary.remembered) return proof.rows;
  const feedback = feedbackNow(seen);
  const catalogXmin = primary.physicalSlot?.catalogXmin ?? null;
  const needs = local.catalogXmin;
  if (feedback === null || catalogXmin === null || needs === null) return false;
  if (!xidPrecedesOrEquals(catalogXmin, needs)) return false;
  if (proof.rows && feedback.kept) return true;
  const pin = primary.pins.find(({ name }) => name === origin?.pin)?.catalogXmin ?? null;
  return [feedback.xid, keptBy(original, origin), pin].some(
    (xid) => xid !== null && xidPrecedesOrEquals(xid, needs),
  );
}

/**
 * Only the very slot that the file was read from has kept rows all the time, and only one that has not moved is that for certain: one
 * made anew under its name starts further on, yet may bear as old a catalog_xmin, which it takes from other slots and holds from then on.
 */
function keptBy(original: Original | null, origin: Staged | null): Xid | null {
  if (original === null || original.restartLsn === null || origin === null) return null;
  // one that was made anew starts past the fork: this one has kept rows on the new primary from its first moment on
  const sinceTheFork = origin.commonUntil !== null && original.restartLsn <= origin.commonUntil;
  return sinceTheFork || original.restartLsn === origin.restartLsn ? original.catalogXmin : null;
}

/** True when nothing is left to prove. */
export function isProven({ start, wal, rows }: Proof): boolean {
  return start && wal && rows;
}
