/** A subscriber that reads its test_decoding slot through SQL, and keeps what it has received. */
import type pg from "pg";
import { sleep } from "../pg/sleep.ts";
import type { PgServer } from "../sandbox/server.ts";
import { TABLE } from "./writers.ts";

export interface ReadingPace {
  /** the pause between two reads; none is made when left out */
  everyMs?: number;
  /** stop a read at the end of the transaction in which it reaches this many changes */
  changes?: number;
}

const INSERTED = new RegExp(`^table [^:]*\\b${TABLE}: INSERT: id\\[bigint\\]:(\\d+)`);

export class SqlReader {
  readonly slot: string;
  /** ms since the epoch */
  readonly createdAt: number;
  /** Rows that were there before the slot: its stream begins after them. */
  readonly rowsBefore: ReadonlySet<number>;
  /** Rows in the order of their arrival; a repeated one is there twice. */
  readonly received: number[] = [];
  readonly #stopping = new AbortController();
  #server: PgServer;
  #loop: Promise<void> = Promise.resolve();

  private constructor(server: PgServer, slot: string, createdAt: number, rowsBefore: ReadonlySet<number>) {
    this.#server = server;
    this.slot = slot;
    this.createdAt = createdAt;
    this.rowsBefore = rowsBefore;
  }

  /** Makes a slot while others write, and notes exactly which rows precede it: those of the snapshot that it exports. */
  static async create(server: PgServer, slot: string): Promise<SqlReader> {
    const replication = { replication: "database" } as pg.ClientConfig;
    const walsender = await server.connect("postgres", "postgres", replication);
    const session = await server.connect();
    try {
      const made = await walsender.query<{ snapshot_name: string }>(
        `CREATE_REPLICATION_SLOT ${slot} LOGICAL test_decoding EXPORT_SNAPSHOT`,
      );
      const createdAt = Date.now();
      await session.query("begin isolation level repeatable read");
      await session.query(`set transaction snapshot '${made.rows[0]?.snapshot_name}'`);
      const { rows } = await session.query<{ id: string }>(`select id from ${TABLE}`);
      return new SqlReader(server, slot, createdAt, new Set(rows.map((row) => Number(row.id))));
    } finally {
      await Promise.all([walsender.end(), session.end()]);
    }
  }

  /** Reads again and again until stopped. */
  start({ everyMs, changes }: ReadingPace): void {
    if (everyMs !== undefined) this.#loop = this.#keepReading(everyMs, changes ?? null);
  }

  /** From now on read from another server. */
  retarget(server: PgServer): void {
    this.#server = server;
  }

  async stop(): Promise<void> {
    this.#stopping.abort();
    await this.#loop;
  }

  /** Reads all that is left. */
  async drain(server: PgServer): Promise<void> {
    const client = await server.connect();
    try {
      while (await this.#read(client, null));
    } finally {
      await client.end();
    }
  }

  async #keepReading(everyMs: number, changes: number | null): Promise<void> {
    const { signal } = this.#stopping;
    while (!signal.aborted) {
      const server = this.#server;
      let client: pg.Client | undefined;
      try {
        client = await server.connect("postgres", "postgres", { query_timeout: 5_000 });
        while (!signal.aborted && this.#server === server) {
          await this.#read(client, changes);
          await sleep(everyMs, signal);
        }
      } catch {
        // the primary is dead; what was not confirmed comes again
        await sleep(everyMs, signal);
      } finally {
        client?.end().catch(() => {});
      }
    }
  }

  /**
   * False when there is nothing left. Takes first and confirms then: pg_logical_slot_get_changes() confirms before its rows have
   * arrived, and loses them when the server dies in between.
   */
  async #read(client: pg.Client, changes: number | null): Promise<boolean> {
    const { rows } = await client.query<{ lsn: string; data: string }>(
      `select lsn::text, data from pg_catalog.pg_logical_slot_peek_changes($1, null, $2, 'skip-empty-xacts', '1', 'include-xids', '0')`,
      [this.slot, changes],
    );
    const last = rows.at(-1);
    if (!last) return false;
    for (const { data } of rows) {
      const id = INSERTED.exec(data)?.[1];
      if (id !== undefined) this.received.push(Number(id));
    }
    await client.query("select pg_catalog.pg_replication_slot_advance($1, $2::pg_lsn)", [
      this.slot,
      last.lsn,
    ]);
    return true;
  }
}
