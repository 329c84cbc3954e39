/** Slots that the server syncs by itself (17 and later). */
import type { PgServer } from "../../src/sandbox/server.ts";
import { insertedIds, readSlot } from "./consumer.ts";
import { testedMajors } from "./majors.ts";
import { eventually } from "./wait.ts";
import { logRunningTransactions } from "./wal.ts";

/** The majors whose server has a slot sync of its own. */
export const SERVER_SYNC_MAJORS: readonly number[] = [17, 18];

/** Those of them that this test run uses: the ones that PG_MAJORS names, both when it is not set. */
export function serverSyncMajors(): number[] {
  if (process.env.PG_MAJORS === undefined) return [...SERVER_SYNC_MAJORS];
  return testedMajors().filter((major) => SERVER_SYNC_MAJORS.includes(major));
}

/** What 17 and later show of a slot besides its position. */
export interface Flags {
  failover: boolean;
  synced: boolean;
  temporary: boolean;
  twoPhase: boolean;
}

/** The logical slots of a server by name, with their flags. */
export async function flagsOf(server: PgServer): Promise<Map<string, Flags>> {
  const rows = await server.query<Flags & { name: string }>(
    `select slot_name::text as name, failover, synced, temporary, two_phase as "twoPhase"
       from pg_catalog.pg_replication_slots where slot_type = 'logical' order by slot_name`,
  );
  return new Map(rows.map(({ name, ...flags }) => [name, flags]));
}

/** Makes a test_decoding slot that is flagged to survive a failover. */
export async function createFailoverSlot(
  server: PgServer,
  name: string,
  { twoPhase = false }: { twoPhase?: boolean } = {},
): Promise<void> {
  await server.query(
    "select pg_catalog.pg_create_logical_replication_slot($1, 'test_decoding', false, $2, true)",
    [name, twoPhase],
  );
}

/** Switches the server's own worker on or off. */
export async function setWorker(standby: PgServer, on: boolean): Promise<void> {
  standby.configure({ sync_replication_slots: on });
  standby.reload();
  const sql = "select from pg_catalog.pg_stat_activity where backend_type = 'slotsync worker'";
  await eventually(async () => (await standby.query(sql)).length > 0 === on, {
    what: `the slot sync worker of "${standby.name}" to ${on ? "run" : "stop"}`,
  });
}

/**
 * Writes to the table `t` and reads the slot until the servers have synced it for good: what was made before a server looked is synced
 * once its reader has gone on. Returns the rows that were read.
 */
export async function readUntilServed(
  primary: PgServer,
  standbys: readonly PgServer[],
  name: string,
): Promise<number[]> {
  const taken: number[] = [];
  await eventually(
    async () => {
      await primary.query("insert into t select coalesce(max(id), 0) + 1 from t");
      await logRunningTransactions(primary);
      taken.push(...insertedIds(await readSlot(primary, name), "t"));
      const shown = await Promise.all(standbys.map(flagsOf));
      return shown.every((flags) => flags.get(name)?.synced === true && !flags.get(name)?.temporary);
    },
    { what: `the servers to have synced "${name}"`, timeoutMs: 60_000, intervalMs: 200 },
  );
  return taken;
}
