import { isPgError, SQLSTATE } from "../pg/errors.ts";
import type { PgSession } from "../pg/session.ts";
import { dropSlot, type Role } from "../pg/sql.ts";
import { expectDone } from "./errors.ts";

/** Drops a slot of ours (I7); one that is gone already is as good. The server refuses while it is in use. */
export async function dropOwnSlot(session: PgSession, role: Role, slot: string): Promise<void> {
  const what = `dropping slot "${slot}"`;
  try {
    expectDone(await session.query(dropSlot(role), [slot], { what }), what);
  } catch (error) {
    if (!isPgError(error, SQLSTATE.undefinedObject)) throw error;
  }
}
