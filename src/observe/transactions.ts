/** The oldest transactions of the primary, for a reason that tells what it waits for. */
import type { PrimaryView } from "../domain/observation.ts";
import type { PgSession } from "../pg/session.ts";
import { OLDEST_TRANSACTIONS } from "../pg/sql.ts";

/** Those that have changed something; of others' only as many as the role may see (pg_monitor). */
export async function oldestTransactions(
  session: PgSession,
): Promise<NonNullable<PrimaryView["openTransactions"]>> {
  const rows = await session.query<{ who: string; database: string | null; seconds: string }>(
    OLDEST_TRANSACTIONS,
    [],
    { what: "asking the primary for its oldest transactions" },
  );
  return rows.map(({ who, database, seconds }) => ({
    who,
    database: database ?? "",
    seconds: Number(seconds),
  }));
}
