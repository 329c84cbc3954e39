/** Dropping slots that nobody uses. They are not ours: only where they were seen, and only while nobody uses them. */
import type { Lsn } from "../domain/lsn.ts";
import { formatLsn } from "../domain/lsn.ts";
import type { PgSession } from "../pg/session.ts";
import { RELEASE_SLOT } from "../pg/sql.ts";
import { expectUnmoved } from "./errors.ts";

/** Drops it. Throws SlotMovedError when it is in use, or not where it was seen. */
export async function releaseSlot(session: PgSession, name: string, restartLsn: Lsn | null): Promise<void> {
  const what = `releasing slot "${name}"`;
  const at = restartLsn === null ? null : formatLsn(restartLsn);
  expectUnmoved(await session.query(RELEASE_SLOT, [name, at], { what }), what);
}
