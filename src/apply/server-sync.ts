/** The server's own slot sync (17+), called from here where its worker is off. */
import type { PgSession } from "../pg/session.ts";
import { SYNC_SLOTS } from "../pg/sql.ts";
import { expectDone } from "./errors.ts";

/** One pass over all slots that are flagged to survive a failover. Throws what the server says, or WrongRoleError. */
export async function syncServerSlots(session: PgSession): Promise<void> {
  const what = "calling pg_sync_replication_slots()";
  expectDone(await session.query(SYNC_SLOTS, [], { what }), what);
}
