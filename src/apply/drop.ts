import { formatLsn, type Lsn } from "../domain/lsn.ts";
import { isPgError, SQLSTATE } from "../pg/errors.ts";
import type { PgSession } from "../pg/session.ts";
import { dropSeenSlot, dropSlot, type Role } from "../pg/sql.ts";
import { expectDone, expectUnmoved } from "./errors.ts";

/** Drops a slot whose name proves it ours; one that is gone already is as good. The server refuses while it is in use. */
export async function dropOwnSlot(session: PgSession, role: Role, slot: string): Promise<void> {
  const what = `dropping slot "${slot}"`;
  try {
    expectDone(await session.query(dropSlot(role), [slot], { what }), what);
  } catch (error) {
    if (!isPgError(error, SQLSTATE.undefinedObject)) throw error;
  }
}

/**
 * Drops our copy of a failover slot, if it still stands where it was seen (I7): a plan may be old by the time that it is carried out.
 * Throws SlotMovedError when the slot does not stand there.
 */
export async function dropFailoverSlot(
  session: PgSession,
  role: Role,
  slot: string,
  at: Lsn | null,
): Promise<void> {
  const what = `dropping slot "${slot}"`;
  const seen = at === null ? null : formatLsn(at);
  expectUnmoved(await session.query(dropSeenSlot(role), [slot, seen], { what }), what);
}
