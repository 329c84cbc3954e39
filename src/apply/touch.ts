/** Using slots that nobody reads, lest the server give them up as idle (18+). */
import type { StandbySlot } from "../domain/slot.ts";
import type { PgSession } from "../pg/session.ts";
import { alterFailover } from "../pg/sql.ts";

/**
 * Takes each slot and lets it go again, by setting the failover flag to what it is: that is use, decodes nothing, writes nothing, and works
 * in recovery and from any database. Not for temporary slots, which only the session that has them can take. Returns the errors by slot;
 * never throws.
 */
export async function touchSlots(
  slots: readonly Pick<StandbySlot, "name" | "failover">[],
  open: () => Promise<PgSession>,
): Promise<Map<string, unknown>> {
  const errors = new Map<string, unknown>();
  let session: PgSession | null = null;
  for (const { name, failover } of slots) {
    try {
      if (!session?.usable) session = await open();
      await session.script(alterFailover(name, failover), { what: `using slot "${name}"` });
    } catch (error) {
      errors.set(name, error);
    }
  }
  await session?.close();
  return errors;
}
