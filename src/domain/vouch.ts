/**
 * For which time the journal vouches (I15): for the moment of the last look at both servers, and for as long as the primary was seen to
 * have written nothing since (`quietUntil`). Whatever shows that the primary lived on after that, with nobody looking, ends it.
 *
 *   WAL on this standby that the primary did not have at the last quiet moment · a message of the walreceiver · an answer of the primary
 *   that is a refusal · a look at the primary alone that found new WAL · a time in which neither the sidecar nor this standby was there
 *
 * When the primary and its WAL fall silent together, the answer stands as of that moment: what a primary does that is merely cut off
 * from this standby, no standby can have.
 */
import type { JournalState } from "./journal.ts";
import { type Lsn, maxLsn } from "./lsn.ts";

/** The latest sign that the primary was alive, or may have been, after the last look at both servers. */
export interface Alive {
  /** ms, on the journal's axis. */
  at: number;
  /** The end of the WAL that was known of then; null when none was beyond the last look. */
  lsn: Lsn | null;
  how: "wal" | "message" | "refusal" | "looked" | "unwatched";
}

/** What shows now whether the primary lives on. */
export interface SignsOfLife {
  /** The end of the WAL on this standby. */
  flushedLsn: Lsn;
  /**
   * ms since the walreceiver's last message, by the standby's own clock; 0 when one is at work and the role may not see more; null without a
   * walreceiver.
   */
  messageAgeMs: number | null;
  /** The primary was asked just now, and answered with a refusal. */
  refused: boolean;
}

/** From the last moment that somebody vouches for until the last one at which the primary was alive; ms. */
export interface Unseen {
  from: number;
  to: number;
}

/**
 * How often the primary is asked for its WAL position, plus one look, on a machine five times slower than any that was measured: life
 * that is no younger than that is what a crash leaves, between the last answer and the end.
 */
export const SEEN_WITHIN_MS = 5_000;

/** The end of the WAL that somebody has looked at, or has told the time of. */
function knownWal({ quietLsn, standbyFlushedLsn, alive }: JournalState): Lsn {
  return [quietLsn, standbyFlushedLsn, alive?.lsn ?? null].reduce<Lsn>(
    (end, lsn) => (lsn === null ? end : maxLsn(end, lsn)),
    0n as Lsn,
  );
}

/** The latest sign of life since the last look, or null. WAL of which nobody can tell when it came may have come just now. */
export function latestAlive(journal: JournalState, signs: SignsOfLife, now: number): Alive | null {
  const found: Alive[] = journal.alive === null ? [] : [journal.alive];
  const lsn = maxLsn(knownWal(journal), signs.flushedLsn);
  // from a standby between, messages come whether or not the primary lives
  if (signs.messageAgeMs !== null && !journal.relayed)
    found.push({ at: now - Math.max(0, signs.messageAgeMs), lsn, how: "message" });
  if (signs.refused) found.push({ at: now, lsn, how: "refusal" });
  if (signs.flushedLsn > knownWal(journal)) found.push({ at: now, lsn, how: "wal" });
  return found.reduce<Alive | null>((last, life) => (last === null || life.at > last.at ? life : last), null);
}

/** The time that nobody saw, if that life is too long after the last look for the journal to vouch for it. */
export function unseenUntil(journal: Pick<JournalState, "quietUntil">, life: Alive | null): Unseen | null {
  if (life === null || life.at - journal.quietUntil <= SEEN_WITHIN_MS) return null;
  return { from: journal.quietUntil, to: life.at };
}

/**
 * The same for the gap report, once the standby is a primary: until now where nobody can tell when WAL came, or noted the loss of the
 * primary. `blindMs`: the longest that it takes a sidecar to note that.
 */
export function unseenAtEnd(
  journal: JournalState,
  endOfWal: Lsn | null,
  now: number,
  blindMs: number,
): Unseen | null {
  if (journal.observedAt === 0) return null;
  const signs = { flushedLsn: endOfWal ?? (0n as Lsn), messageAgeMs: null, refused: false };
  const unseen = unseenUntil(journal, latestAlive(journal, signs, now));
  if (unseen) return unseen;
  const lost = journal.primaryLostAt ?? journal.haltedAt ?? now;
  return lost - journal.quietUntil > blindMs ? { from: journal.quietUntil, to: lost } : null;
}
