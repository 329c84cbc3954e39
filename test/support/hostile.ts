/** A database that means harm to whoever does not say exactly what he calls. */
import pg from "pg";
import type { PgServer } from "../../src/sandbox/server.ts";

/** Functions and operators that raise an error, ahead of PostgreSQL's own for whoever does not say which he means. */
export async function makeHostile(primary: PgServer, database: string, role: string): Promise<void> {
  const run = (sql: string) => runIn(primary, database, sql);
  await run("create schema evil");
  const bad = "begin raise exception 'caught'; end";
  await run(
    `create function evil.fail(text, text) returns boolean language plpgsql as '${bad.replaceAll("'", "''")}'`,
  );
  await run(
    `create function evil.fail(name, name) returns boolean language plpgsql as '${bad.replaceAll("'", "''")}'`,
  );
  for (const type of ["text", "name"])
    await run(`create operator evil.= (leftarg = ${type}, rightarg = ${type}, function = evil.fail)`);
  for (const name of [
    "pg_is_in_recovery",
    "pg_current_wal_lsn",
    "pg_backend_pid",
    "pg_last_wal_replay_lsn",
    "pg_log_standby_snapshot",
  ])
    await run(
      `create function evil.${name}() returns text language plpgsql as '${bad.replaceAll("'", "''")}'`,
    );
  await run(`create view evil.pg_replication_slots as select 'x'::name as slot_name`);
  for (const setting of ["search_path = evil, pg_catalog", "default_transaction_isolation = serializable"])
    await run(`alter role ${role} in database "${database}" set ${setting}`);
}

/** By parameters: in a URL, a database such as `../x` is not what it is. */
export async function runIn(
  { host, port }: PgServer,
  database: string,
  sql: string,
  params: unknown[] = [],
): Promise<void> {
  const client = new pg.Client({ host, port, user: "postgres", database });
  await client.connect();
  try {
    await client.query(sql, params);
  } finally {
    await client.end();
  }
}
