import type { Action } from "../domain/action.ts";
import { formatLsn } from "../domain/lsn.ts";
import { isPgError, SQLSTATE } from "../pg/errors.ts";
import type { PgSession } from "../pg/session.ts";
import { DROP_OUR_SLOT, dropSlot, type Role } from "../pg/sql.ts";
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

/** Drops our copy of a failover slot, if it still stands where it was seen (I7). Throws SlotMovedError when it does not. */
export async function dropFailoverSlot(
  session: PgSession,
  { slot, at }: Pick<Extract<Action, { kind: "drop" }>, "slot" | "at">,
): Promise<void> {
  const what = `dropping slot "${slot}"`;
  expectUnmoved(await session.query(DROP_OUR_SLOT, [slot, formatLsn(at)], { what }), what);
}
