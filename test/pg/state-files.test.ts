// What the codecs of src/pg say of the files must be what the servers say, in every major: this file goes through all eight of
// them whatever PG_MAJORS is, for a format that was read wrongly would only show on a server that someone needs.
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { describe, expect, test } from "vitest";
import { formatLsn } from "../../src/domain/lsn.ts";
import { parseSlotState, rewriteSlotState, type SlotState } from "../../src/pg/slot-state-file.ts";
import { snapshotFileName, verifySnapshotFile } from "../../src/pg/snapshot-file.ts";
import { giveTo } from "../../src/sandbox/account.ts";
import type { PgServer } from "../../src/sandbox/server.ts";
import { startCluster } from "../support/cluster-fixture.ts";
import { createLogicalSlot, insertedIds, readSlot } from "../support/consumer.ts";

/** A slot as pg_replication_slots shows it: what this major has no column for is null. */
interface ShownSlot {
  name: string;
  plugin: string | null;
  database_oid: string | null;
  temporary: boolean;
  xmin: string | null;
  catalog_xmin: string | null;
  restart_lsn: string | null;
  confirmed_flush_lsn: string | null;
  lost: boolean | null;
  two_phase: boolean | null;
  two_phase_at: string | null;
  synced: boolean | null;
  failover: boolean | null;
}

/** What has a column from this major on. */
const COLUMNS: readonly [number, string, string][] = [
  [13, "lost", "coalesce(wal_status = 'lost', false)"],
  [14, "two_phase", "two_phase"],
  [17, "synced", "synced"],
  [17, "failover", "failover"],
  [18, "two_phase_at", "two_phase_at::text"],
];

async function shownSlots(server: PgServer): Promise<Map<string, ShownSlot>> {
  const more = COLUMNS.map(
    ([since, name, expression]) => `${server.major >= since ? expression : "null"} as ${name}`,
  );
  const rows = await server.query<ShownSlot>(
    `select slot_name::text as name, plugin::text, datoid::text as database_oid, temporary, xmin::text, catalog_xmin::text,
      restart_lsn::text, confirmed_flush_lsn::text, ${more.join(", ")}
      from pg_catalog.pg_replication_slots order by slot_name`,
  );
  return new Map(rows.map((row) => [row.name, row]));
}

/** A state as the view would show it. */
function asShown(state: SlotState, major: number): ShownSlot {
  const has = (column: string) => COLUMNS.some(([since, name]) => name === column && major >= since);
  return {
    name: state.name,
    plugin: state.plugin || null,
    database_oid: state.databaseOid === 0 ? null : String(state.databaseOid),
    temporary: state.persistency === "temporary",
    xmin: state.xmin === null ? null : String(state.xmin),
    catalog_xmin: state.catalogXmin === null ? null : String(state.catalogXmin),
    restart_lsn: state.restartLsn === 0n ? null : formatLsn(state.restartLsn),
    confirmed_flush_lsn: state.confirmedFlushLsn === 0n ? null : formatLsn(state.confirmedFlushLsn),
    lost: has("lost") ? state.invalidated : null,
    two_phase: has("two_phase") ? state.twoPhase : null,
    two_phase_at: has("two_phase_at") && state.twoPhaseAt !== null ? formatLsn(state.twoPhaseAt) : null,
    synced: has("synced") ? state.synced : null,
    failover: has("failover") ? state.failover : null,
  };
}

function readState(server: PgServer, slot: string): Buffer {
  return readFileSync(path.join(server.dataDir, "pg_replslot", slot, "state"));
}

/** Puts a state file into the stopped server's data. */
function placeState(server: PgServer, slot: string, bytes: Buffer): void {
  const folder = path.join(server.dataDir, "pg_replslot", slot);
  const file = path.join(folder, "state");
  mkdirSync(folder, { mode: 0o700 });
  writeFileSync(file, bytes, { mode: 0o600 });
  for (const each of [folder, file]) giveTo(server.workspace.account, each);
}

/** The names of the snapshot files, all of them verified. */
function verifiedSnapshots(server: PgServer): string[] {
  const folder = path.join(server.dataDir, "pg_logical", "snapshots");
  const names = readdirSync(folder).filter((name) => name.endsWith(".snap"));
  for (const name of names) {
    const bytes = readFileSync(path.join(folder, name));
    const { sizeBytes, length } = verifySnapshotFile(bytes, server.major);
    expect([sizeBytes, length]).toEqual([bytes.length, bytes.length]);
  }
  return names;
}

/** The view shows each slot's file, field by field, once a checkpoint has written them. */
async function expectFilesAsShown(server: PgServer): Promise<Map<string, SlotState>> {
  await server.query("checkpoint");
  const shown = await shownSlots(server);
  const states = new Map(
    [...shown.keys()].map((name) => [name, parseSlotState(readState(server, name), server.major)]),
  );
  for (const [name, slot] of shown) {
    const state = states.get(name);
    expect(state && asShown(state, server.major)).toEqual(slot);
  }
  return states;
}

async function makeSlots(server: PgServer): Promise<void> {
  await createLogicalSlot(server, "decoding");
  await createLogicalSlot(server, "output", { plugin: "pgoutput" });
  await createLogicalSlot(server, "untouched");
  await server.query(`select pg_catalog.pg_create_physical_replication_slot('unused')`);
  await server.query(`select pg_catalog.pg_create_physical_replication_slot('physical', true)`);
  const create = "select pg_catalog.pg_create_logical_replication_slot";
  if (server.major >= 14) await server.query(`${create}('prepared', 'test_decoding', false, true)`);
  if (server.major >= 17) await server.query(`${create}('failover', 'pgoutput', false, false, true)`);
}

/** A server keeps a slot's restart_lsn until the position that would allow another one has been confirmed: two steps move it. */
async function advanceTwice(server: PgServer, slots: string[]): Promise<void> {
  for (let step = 0; step < 2; step++) {
    await server.query("checkpoint");
    await server.query("insert into t values (0)");
    for (const slot of slots) {
      await server.query(
        "select pg_catalog.pg_replication_slot_advance($1, pg_catalog.pg_current_wal_lsn())",
        [slot],
      );
    }
  }
}

describe.each([11, 12, 13, 14, 15, 16, 17, 18])("the files of PostgreSQL %i", (major) => {
  test("state files say what the server shows, rewritten ones are loaded as they were written, and snapshots hold", async () => {
    const { primary } = await startCluster({
      major,
      standbys: 0,
      settings: major >= 13 ? { wal_keep_size: 0 } : {},
    });
    await primary.query("create table t (id integer)");
    await makeSlots(primary);
    await expectFilesAsShown(primary);

    // snapshots of catalog changes by transactions that have committed and by one that runs
    const running = await primary.connect();
    await running.query("begin");
    await running.query("create table running (id integer)");
    await primary.query("create table committed (id integer)");
    await advanceTwice(primary, ["decoding"]);
    expect(verifiedSnapshots(primary).length).toBeGreaterThan(0);
    await running.query("commit");

    const advanced = ["decoding", "output", ...(major >= 14 ? ["prepared"] : [])];
    await advanceTwice(primary, [...advanced, "physical"]);
    const snapshots = verifiedSnapshots(primary);
    const states = await expectFilesAsShown(primary);
    for (const slot of advanced) {
      expect(snapshots).toContain(snapshotFileName(states.get(slot)?.restartLsn ?? fail()));
    }
    expect(states.get("unused")).toMatchObject({ restartLsn: 0n, databaseOid: 0, plugin: "" });
    expect(states.get("decoding")?.restartLsn).toBeGreaterThan(states.get("untouched")?.restartLsn ?? fail());

    // a temporary slot's file goes with its session
    await running.query(
      "select pg_catalog.pg_create_logical_replication_slot('temporary', 'test_decoding', true)",
    );
    const temporary = readState(primary, "temporary");
    expect(parseSlotState(temporary, major)).toMatchObject({ name: "temporary", persistency: "temporary" });
    await running.end();

    await primary.query("insert into t values (1)");
    const before = await shownSlots(primary);
    await primary.stop();
    const placed: [string, Buffer][] = [
      ["renamed", rewriteSlotState(readState(primary, "decoding"), major, { name: "renamed" })],
      ["kept", rewriteSlotState(temporary, major, { name: "kept", persistency: "persistent" })],
      [
        "replugged",
        rewriteSlotState(readState(primary, "output"), major, { name: "replugged", plugin: "test_decoding" }),
      ],
    ];
    if (major >= 14) {
      const onePhase = { name: "one_phase", twoPhase: false } as const;
      placed.push(["one_phase", rewriteSlotState(readState(primary, "prepared"), major, onePhase)]);
    }
    for (const [name, bytes] of placed) placeState(primary, name, bytes);
    // what makes slots lose their WAL at a checkpoint below
    if (major >= 13) primary.configure({ max_slot_wal_keep_size: "1MB" });
    await primary.start();

    const after = await shownSlots(primary);
    for (const [name, slot] of before) if (!slot.temporary) expect(after.get(name)).toEqual(slot);
    for (const [name, bytes] of placed) {
      expect(after.get(name)).toEqual(asShown(parseSlotState(bytes, major), major));
    }
    const positions = (slot: ShownSlot | undefined) => [
      slot?.restart_lsn,
      slot?.confirmed_flush_lsn,
      slot?.catalog_xmin,
    ];
    expect(positions(after.get("renamed"))).toEqual(positions(before.get("decoding")));
    expect(positions(after.get("replugged"))).toEqual(positions(before.get("output")));
    for (const [name] of placed) expect(insertedIds(await readSlot(primary, name), "t")).toEqual([1]);

    if (major >= 13) {
      for (let segment = 0; segment < 2; segment++) {
        await primary.query("insert into t values (2)");
        await primary.query("select pg_catalog.pg_switch_wal()");
      }
      await primary.query("checkpoint");
      const lost = await expectFilesAsShown(primary);
      expect(lost.get("untouched")).toMatchObject({ invalidated: true, restartLsn: 0n });
      expect(lost.get("unused")).toMatchObject({ invalidated: false });
    }
  });
});

function fail(): never {
  throw new Error("no such slot");
}
