/** Setting the server's own failover flag (17+), which only a replication connection can. */
import type { PgSession } from "../pg/session.ts";
import { alterFailover } from "../pg/sql.ts";

/** Flags slots. Returns the errors by slot; never throws. */
export async function flagFailover(
  slots: readonly string[],
  open: () => Promise<PgSession>,
): Promise<Map<string, unknown>> {
  const errors = new Map<string, unknown>();
  let session: PgSession | null = null;
  for (const slot of slots) {
    try {
      if (!session?.usable) session = await open();
      await session.script(alterFailover(slot, true), { what: `flagging slot "${slot}"` });
    } catch (error) {
      errors.set(slot, error);
    }
  }
  await session?.close();
  return errors;
}
