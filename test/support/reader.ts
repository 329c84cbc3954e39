import type pg from "pg";
import { formatLsn, type Lsn, parseLsn } from "../../src/domain/lsn.ts";
import type { PgServer } from "../../src/sandbox/server.ts";
import { type Change, insertedIds } from "./consumer.ts";

/** A consumer that reads a test_decoding slot until its server dies, and what it knows. */
export interface Reader {
  /** The rows that reached it. */
  readonly taken: ReadonlySet<number>;
  /** The last position it confirmed and was told so; null before the first. */
  readonly confirmed: Lsn | null;
  stop(): Promise<void>;
}

export interface ReaderOptions {
  slot: string;
  table: string;
  database?: string;
}

const PEEK = `select lsn::text, xid::text, data
  from pg_catalog.pg_logical_slot_peek_changes($1, null, 100, 'skip-empty-xacts', '1', 'include-xids', '0')`;
const CONFIRM = "select pg_catalog.pg_replication_slot_advance($1, $2::pg_lsn)";

/**
 * Reads as a good consumer does: it confirms only what has reached it, so that whatever it does not have, the server still owes it.
 */
export async function startReader(server: PgServer, options: ReaderOptions): Promise<Reader> {
  const { slot, table, database = "postgres" } = options;
  const client = await server.connect(database);
  const taken = new Set<number>();
  const state = { confirmed: null as Lsn | null, stopped: false };
  const loop = (async () => {
    try {
      while (!state.stopped) await readOnce(client, slot, table, taken, state);
    } catch {
      // the server is gone: what was taken and what was confirmed is known
    } finally {
      await client.end().catch(() => {});
    }
  })();
  return {
    taken,
    get confirmed() {
      return state.confirmed;
    },
    async stop() {
      state.stopped = true;
      await loop;
    },
  };
}

async function readOnce(
  client: pg.Client,
  slot: string,
  table: string,
  taken: Set<number>,
  state: { confirmed: Lsn | null },
): Promise<void> {
  const { rows } = await client.query<Change & pg.QueryResultRow>(PEEK, [slot]);
  for (const id of insertedIds(rows, table)) taken.add(id);
  const last = rows.findLast(({ data }) => data.startsWith("COMMIT"));
  if (!last) return;
  const lsn = parseLsn(last.lsn);
  await client.query(CONFIRM, [slot, formatLsn(lsn)]);
  state.confirmed = lsn;
}
