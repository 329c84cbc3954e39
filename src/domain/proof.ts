/**
 * What proves a slot on the standby safe that came by its file: a consistent start (I2), its WAL (I3), its catalog rows (I4), the rewrite
 * mappings (I16). Slots made by SQL on 16 and later need none of it: there the server has seen to the start, and says so itself
 * when rows are removed.
 */
import { advanceKeepsRows, tellsRowsRemoved } from "./capability.ts";
import {
  type Birth,
  type JournalState,
  PROVEN,
  type Proof,
  type Provision,
  type RowsHeld,
  SETTLED,
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
  session: string;
  /** The process that serves it on the primary, once that is certain. */
  walsender: number | null;
}

/**
 * The feedback as it stands now, or null while it does not hold. Any sign that it may have been interrupted makes it begin anew: from 16 on
 * WAL of before that may say that rows are gone, and has to be replayed first.
 */
export function feedbackNow({ primary, standby, journal }: Seen): Feedback | null {
  if (physicalXmin({ primary, standby }) === null) return null;
  const { feedbackSince: since, feedbackSession: session, feedbackWalsender } = journal;
  const walsender = primary.physicalSlot?.walsender ?? null;
  // The primary was asked first. A walreceiver that has ended since, as it does when the primary dies, has held all the rows until
  // then if its walsender was still there; without that, others may have come and gone unseen, and the physical slot with them.
  const goesOn = standby.streaming
    ? session === standby.feedbackSession
    : walsender !== null && walsender === feedbackWalsender;
  if (since !== null && session !== null && goesOn) return { since, session, walsender };
  // the walsender may be that of the session before
  return { since: primary.walLsn, session: standby.feedbackSession, walsender: null };
}

/** From which transaction on the standby's feedback holds catalog rows on the primary; null while it holds none. */
function physicalXmin({ primary, standby }: Pick<Seen, "primary" | "standby">): Xid | null {
  return standby.hotStandbyFeedback ? (primary.physicalSlot?.catalogXmin ?? null) : null;
}

/** The primary's slot of the same name. */
export type Original = Pick<PrimarySlot, "catalogXmin" | "restartLsn" | "invalidation">;

/**
 * I4, where no server tells of rows that are gone (11 to 15). A valid logical slot is the primary's own promise that it can be read from
 * its confirmed position with the rows that there are now: whatever was removed before this look, it does not need. From here on it holds
 * them itself as long as it stands there, and the standby's physical slot when it moves on. The two are not read at one instant: the
 * physical slot must have been seen to hold rows in the look before as well, on this very primary.
 */
export function rowsHeldNow(original: Original | null, { primary, standby, journal }: Seen): RowsHeld | null {
  const physical = physicalXmin({ primary, standby });
  const before = journal.feedbackSince !== null && journal.primaryTimeline === primary.timeline;
  if (physical === null || !before || original === null || original.invalidation !== null) return null;
  const { catalogXmin, restartLsn: begins } = original;
  return catalogXmin === null || begins === null ? null : { physical, original: catalogXmin, begins };
}

/** The same as the journal has it while the primary does not answer: then nothing new is proven, and nothing forgotten. */
export function rowsOf(name: string, original: Original | null, seen: Seen): RowsHeld | null {
  return seen.primary.remembered ? (seen.journal.slots.get(name)?.rows ?? null) : rowsHeldNow(original, seen);
}

/** A slot of ours that is loaded, or is copied for another. */
type Holder = Pick<StandbySlot, "catalogXmin" | "confirmedFlushLsn">;

/**
 * True when all catalog rows are here that are needed to read our slot from exactly the position at which the primary's was seen. It may be
 * the loaded one, or a guard that is copied for it. However far back its decoding begins, what is sent
 * needs no rows but those that the primary's slot needs: transactions that commit later have all their changes after its `restart_lsn`,
 * and to move a slot reads no catalogs. So it is enough that the feedback holds those, or what our slot needs if that is less.
 */
export function holdsRows(rows: RowsHeld | null, local: Holder, serverVersionNum: number): boolean {
  // what an advance has let run ahead holds too little once this server is a primary
  if (!advanceKeepsRows(serverVersionNum) && ranAhead(rows, local)) return false;
  if (tellsRowsRemoved(serverVersionNum)) return true;
  const { catalogXmin } = local;
  if (rows === null || catalogXmin === null) return false;
  return xidPrecedesOrEquals(rows.physical, rows.original) || xidPrecedesOrEquals(rows.physical, catalogXmin);
}

/**
 * Where advancing runs ahead (`advanceKeepsRows`): true unless our slot is seen to hold all rows that the primary's needs. One that stands
 * where the primary's begins to decode, or before, holds them whatever it shows: it has let go only of what no transaction needed that was
 * still running there, and what is sent began later.
 */
export function ranAhead(rows: RowsHeld | null, { catalogXmin, confirmedFlushLsn: at }: Holder): boolean {
  if (rows === null || catalogXmin === null || at === null) return true;
  return at > rows.begins && !xidPrecedesOrEquals(catalogXmin, rows.original);
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
export function provisionOf(
  record: Provision & { state: string; births?: readonly Birth[] },
  local: StandbySlot,
): Provision {
  // first of all, also for one that was here before: a file that was staged over it while it came up may have been loaded since
  const origin = record.staged.findLast((staged) => isLoadedFrom(local, staged)) ?? null;
  if (origin) return { ...UNPROVISIONED, origin };
  if (record.state === "owned") return record;
  // from a file that nobody knows: nothing can ever be proven of it
  if (record.state === "staging") return UNPROVISIONED;
  const copied = record.births?.some(({ at, settled }) => settled && at === local.confirmedFlushLsn);
  return { ...UNPROVISIONED, proof: PROVEN, ...(copied ? { beginning: SETTLED } : {}) };
}

/** What is proven of our slot now, its catalog rows left out. */
export function proofNow({ origin, proof }: Provision, local: StandbySlot): Proof {
  if (origin === null) return proof;
  // I2 (d): the server moves restart_lsn only to a point for which it has just written a snapshot, having read all WAL before it
  const moved = local.restartLsn !== null && local.restartLsn > origin.restartLsn;
  return {
    start: proof.start || moved,
    wal: proof.wal || moved,
    mappings: proof.mappings || isPastLoad(origin, local),
  };
}

/**
 * I16: what it decodes was written with it in this server's memory. PostgreSQL keeps the mappings of every rewrite that began at or past the
 * least `restart_lsn`, and a change is moved only by a rewrite that begins after it.
 */
function isPastLoad({ loadedBy }: Staged, { restartLsn }: StandbySlot): boolean {
  return loadedBy !== null && restartLsn !== null && restartLsn > loadedBy;
}

/** True when nothing is left to prove but its catalog rows (`holdsRows`). */
export function isProven({ start, wal, mappings }: Proof): boolean {
  return start && wal && mappings;
}
