import { eventually } from "../../src/sandbox/poll.ts";
import type { PgServer } from "../../src/sandbox/server.ts";

/** The server's WAL position: what it has written, or as a standby what it has replayed. */
async function currentLsn(server: PgServer): Promise<string> {
  const [row] = await server.query<{ lsn: string }>(
    `select case when pg_catalog.pg_is_in_recovery() then pg_catalog.pg_last_wal_replay_lsn()
                 else pg_catalog.pg_current_wal_lsn() end::text as lsn`,
  );
  if (!row) throw new Error(`"${server.name}" has no WAL position`);
  return row.lsn;
}

/** Resolves when the standby has replayed all that the primary had written when this was called. */
export async function waitForReplay(primary: PgServer, standby: PgServer): Promise<string> {
  const target = await currentLsn(primary);
  const sql = "select from (select 1) as one where pg_catalog.pg_last_wal_replay_lsn() >= $1::pg_lsn";
  await eventually(async () => (await standby.query(sql, [target])).length > 0, {
    what: `"${standby.name}" to replay up to ${target}`,
  });
  return target;
}

/** Resolves when the standby has received all that the primary had written when this was called, replayed or not. */
export async function waitForReceipt(primary: PgServer, standby: PgServer): Promise<string> {
  const target = await currentLsn(primary);
  const sql = "select from (select 1) as one where pg_catalog.pg_last_wal_receive_lsn() >= $1::pg_lsn";
  await eventually(async () => (await standby.query(sql, [target])).length > 0, {
    what: `"${standby.name}" to receive up to ${target}`,
  });
  return target;
}

/** Has the primary write a running-xacts record now, instead of within 15 seconds: where slots can move on. */
export async function logRunningTransactions(primary: PgServer): Promise<void> {
  await primary.query(primary.major >= 16 ? "select pg_catalog.pg_log_standby_snapshot()" : "checkpoint");
}

/** Fills and leaves `count` WAL segments. */
export async function switchSegments(primary: PgServer, count: number): Promise<void> {
  for (let each = 0; each < count; each++) {
    // a switch at the very start of a segment does nothing: write something first
    await primary.query("select pg_catalog.pg_logical_emit_message(false, 'segment', 'filler')");
    await primary.query("select pg_catalog.pg_switch_wal()");
  }
}

/** Has the standby receive WAL and not replay it; resolves when it has stopped. */
export async function pauseReplay(standby: PgServer): Promise<void> {
  await standby.query("select pg_catalog.pg_wal_replay_pause()");
  const sql = "select pg_catalog.pg_get_wal_replay_pause_state() = 'paused' as paused";
  await eventually(async () => (await standby.query<{ paused: boolean }>(sql))[0]?.paused, {
    what: `"${standby.name}" to stop replaying`,
    intervalMs: 5,
  });
}

/** Lets it go on. */
export async function resumeReplay(standby: PgServer): Promise<void> {
  await standby.query("select pg_catalog.pg_wal_replay_resume()");
}

/** Writes this much WAL that nobody decodes. */
export async function writeWal(primary: PgServer, bytes: number): Promise<void> {
  await primary.query("select pg_catalog.pg_logical_emit_message(false, 'filler', repeat('x', $1))", [bytes]);
}
