/** What fills the WAL: a steady trickle of rows, or a given amount at a given speed. */
import { setTimeout as sleep } from "node:timers/promises";
import { type Lsn, parseLsn } from "../src/domain/lsn.ts";
import type { PgServer } from "../src/sandbox/server.ts";

const TRANSACTIONS_PER_SECOND = 20;

export interface Trickle {
  stop(): Promise<void>;
}

/** Rows per second in 20 transactions a second, in one database after the other. */
export async function startTrickle(
  primary: PgServer,
  rowsPerSecond: number,
  databases: readonly string[] = ["postgres"],
): Promise<Trickle> {
  const stopping = new AbortController();
  const rows = Math.round(rowsPerSecond / TRANSACTIONS_PER_SECOND);
  const everyMs = 1000 / TRANSACTIONS_PER_SECOND;
  const clients = await Promise.all(databases.map((database) => primary.connect(database)));
  const write = async () => {
    let due = performance.now();
    for (let turn = 0; !stopping.signal.aborted; turn++) {
      await clients[turn % clients.length]?.query(
        `insert into bench_rows (filler) select pg_catalog.repeat('x', 60) from pg_catalog.generate_series(1, ${rows})`,
      );
      // what was missed is not made up for
      due = Math.max(due + everyMs, performance.now());
      await sleep(due - performance.now());
    }
  };
  // a primary that is killed on purpose ends the writing
  const ended = write().catch(() => {});
  return {
    async stop() {
      stopping.abort();
      await ended;
      await Promise.all(clients.map((client) => client.end().catch(() => {})));
    },
  };
}

export async function walPosition(primary: PgServer): Promise<Lsn> {
  const [row] = await primary.query<{ lsn: string }>(
    "select pg_catalog.pg_current_wal_flush_lsn()::text as lsn",
  );
  return parseLsn(row?.lsn ?? "0/0");
}

/** Writes about this much WAL as rows of 1 kB, half a megabyte a transaction. Returns where it ends. */
export async function writeWal(primary: PgServer, bytes: number, bytesPerSecond: number): Promise<Lsn> {
  const client = await primary.connect();
  try {
    const position = async () => {
      const { rows } = await client.query<{ lsn: string }>(
        "select pg_catalog.pg_current_wal_insert_lsn()::text as lsn",
      );
      return parseLsn(rows[0]?.lsn ?? "0/0");
    };
    const first = await position();
    const started = performance.now();
    for (let written = 0; written < bytes; ) {
      await client.query(
        `insert into bench_rows (filler) select pg_catalog.repeat(pg_catalog.md5(i::text), 31)
           from pg_catalog.generate_series(1, 500) as i`,
      );
      written = Number((await position()) - first);
      await sleep(Math.max(0, started + (written / bytesPerSecond) * 1000 - performance.now()));
    }
    return await position();
  } finally {
    await client.end();
  }
}
