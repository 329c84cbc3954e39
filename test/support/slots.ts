import { type Lsn, parseLsn } from "../../src/domain/lsn.ts";
import type { PgServer } from "../../src/sandbox/server.ts";
import { type Change, readSlot } from "./consumer.ts";

/** A logical slot as a server shows it. */
export interface ShownSlot {
  name: string;
  plugin: string;
  database: string;
  temporary: boolean;
  active: boolean;
  confirmed: string | null;
  restart: string | null;
  walStatus: string | null;
}

/** All logical slots of a server by name, with those of the sidecar. */
export async function slotsOf(server: PgServer): Promise<Map<string, ShownSlot>> {
  const rows = await server.query<ShownSlot>(
    `select slot_name::text as name, plugin::text, database::text, temporary, active, confirmed_flush_lsn::text as confirmed,
            restart_lsn::text as restart, ${server.major >= 13 ? "wal_status" : "null::text"} as "walStatus"
       from pg_catalog.pg_replication_slots where slot_type = 'logical' order by slot_name`,
  );
  return new Map(rows.map((row) => [row.name, row]));
}

/** The names of the slots that sidecars made for themselves. */
export async function sidecarSlots(server: PgServer): Promise<string[]> {
  return [...(await slotsOf(server)).keys()].filter((name) => name.startsWith("slotsync_"));
}

/** Where a slot stands; throws when there is none. */
export async function positionOf(server: PgServer, name: string): Promise<Lsn> {
  const confirmed = (await slotsOf(server)).get(name)?.confirmed;
  if (!confirmed) throw new Error(`"${server.name}" has no slot "${name}" with a position`);
  return parseLsn(confirmed);
}

/** Moves a slot as its consumer does when it confirms; to the end of WAL when no position is given. */
export async function confirm(
  server: PgServer,
  name: string,
  to: string | null = null,
  database = "postgres",
): Promise<void> {
  await server.query(
    "select pg_catalog.pg_replication_slot_advance($1, coalesce($2::pg_lsn, pg_catalog.pg_current_wal_lsn()))",
    [name, to],
    database,
  );
}

/** What a test_decoding slot has to send, left where it is. */
export async function peek(server: PgServer, name: string, database = "postgres"): Promise<Change[]> {
  return readSlot(server, name, { peek: true, database });
}

/** The changes without their transaction ids, for comparing two servers' streams. */
export function comparable(changes: readonly Change[]): string[] {
  return changes.map(({ lsn, data }) => `${lsn} ${data}`);
}
