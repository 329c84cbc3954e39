/** Asks each database with a guard, on the standby and rarely, for tables that plugins treat as catalogs (I12: nothing on the primary). */
import type { StandbyView } from "../domain/observation.ts";
import { slotNamed } from "../domain/slot.ts";
import { describeError } from "../pg/errors.ts";
import { USER_CATALOG_TABLES } from "../pg/sql.ts";
import type { Sidecar } from "./sidecar.ts";

/** A table may become one at any time; nobody waits for this answer. */
const EVERY_MS = 600_000;

export class CatalogTables {
  readonly #askedAt = new Map<string, number>();
  readonly #tables = new Map<string, readonly string[]>();
  #asking = false;

  /** What is known, by database. */
  get tables(): ReadonlyMap<string, readonly string[]> {
    return this.#tables;
  }

  /** Asks the next database whose turn it is, beside the cycle. What fails is tried again in its time. */
  lookAbout(sidecar: Sidecar, standby: StandbyView): void {
    const guards = Object.values(sidecar.journal.guards).filter(({ name }) => slotNamed(standby.slots, name));
    const names = new Set(guards.map(({ database }) => database));
    for (const database of [...this.#tables.keys()]) if (!names.has(database)) this.#tables.delete(database);
    const now = sidecar.now();
    const due = [...names].find(
      (name) => now - (this.#askedAt.get(name) ?? Number.NEGATIVE_INFINITY) >= EVERY_MS,
    );
    if (this.#asking || due === undefined) return;
    this.#asking = true;
    this.#askedAt.set(due, now);
    this.#ask(sidecar, due)
      .catch((error: unknown) =>
        sidecar.log.debug(`tables with user_catalog_table in database "${due}": ${describeError(error)}`),
      )
      .finally(() => {
        this.#asking = false;
      });
  }

  async #ask(sidecar: Sidecar, database: string): Promise<void> {
    const session = await sidecar.standby.open(database, "catalog tables", false);
    try {
      const rows = await session.query<{ name: string }>(USER_CATALOG_TABLES, [], {
        what: "looking for tables with user_catalog_table",
      });
      this.#tables.set(
        database,
        rows.map(({ name }) => name),
      );
    } finally {
      await session.close();
    }
  }
}
