/** Tables that a plugin treats as catalogs (`user_catalog_table`), in databases with failover slots. */
import type { Problem } from "./prerequisites.ts";

const SHOWN = 3;

/**
 * Moving a slot without reading it, as guards and copies are moved, PostgreSQL does not see who writes to such tables: the snapshots that it
 * serializes meanwhile lack those transactions. `tables` are qualified names by database.
 */
export function catalogTableProblems(tables: ReadonlyMap<string, readonly string[]>): Problem[] {
  return [...tables].flatMap(([database, names]) => {
    if (names.length === 0) return [];
    const more = names.length > SHOWN ? " and others" : "";
    return {
      code: "user_catalog_table",
      severity: "warning" as const,
      message: `database "${database}" has tables with user_catalog_table (${names.slice(0, SHOWN).join(", ")}${more}): PostgreSQL does not see writes to them while it moves a slot without reading it, so after a failover a plugin that reads them may meet them as they were before. No plugin that comes with PostgreSQL reads any: ALTER TABLE … RESET (user_catalog_table) where none of yours does`,
    };
  });
}
