/** The sequence in which a slot is born while catalog changes are in flight (K4). */
import type pg from "pg";
import type { PgServer } from "../../src/sandbox/server.ts";
import { eventually } from "./wait.ts";
import { logRunningTransactions } from "./wal.ts";

export interface Birth {
  /** A row with the new columns, of a transaction that is still open. */
  open: pg.Client;
}

/** What a new slot's decoder has logged, once it has. The records that it waits for are brought on. */
async function logged(primary: PgServer, server: PgServer, since: number, text: string): Promise<void> {
  await eventually(
    async () => {
      await logRunningTransactions(primary);
      return server.logText().slice(since).includes(text);
    },
    { what: `"${server.name}" to log: ${text}` },
  );
}

/**
 * Makes a slot on `server` (by `create`, which must not wait for its end) while T0 and T2 are open; a column is added to `t` meanwhile, T0
 * ends, T3 inserts into `t`, T2 ends. Resolves with T3 open, when the slot has found its consistent point.
 */
export async function bearInFlight(
  primary: PgServer,
  server: PgServer,
  create: () => Promise<void>,
  begun: () => Promise<void>,
): Promise<Birth> {
  const since = server.logText().length;
  const begin = async () => {
    const client = await primary.connect();
    await client.query("begin; insert into other values (0)");
    return client;
  };
  const t0 = await begin();
  await create();
  await begun();
  await logged(primary, server, since, "found initial starting point");
  const t2 = await begin();
  await primary.query("alter table t add column extra text");
  await t0.query("commit");
  await logged(primary, server, since, "found initial consistent point");
  const open = await primary.connect();
  await open.query("begin; insert into t values (3, 'with the column')");
  await t2.query("commit");
  await logged(primary, server, since, "found consistent point");
  await Promise.all([t0.end(), t2.end()]);
  return { open };
}
