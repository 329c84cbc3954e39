import {
  chmodSync,
  createReadStream,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { DataDirectoryError } from "../../src/datadir/errors.ts";
import { readIdentity, verifyDirectory } from "../../src/datadir/identity.ts";
import { hasPlugin } from "../../src/datadir/plugins.ts";
import { nextStart, readSettings } from "../../src/datadir/settings.ts";
import {
  listSlotFolders,
  removeLeftovers,
  removeSlotFolder,
  writeSlotFolder,
} from "../../src/datadir/slot-folders.ts";
import { hasSnapshot, placeSnapshot } from "../../src/datadir/snapshots.ts";
import {
  missingSegments,
  placeSegment,
  segmentName,
  segmentOf,
  verifySegment,
} from "../../src/datadir/wal.ts";
import { type Lsn, parseLsn } from "../../src/domain/lsn.ts";
import { snapshotFileName } from "../../src/pg/snapshot-file.ts";
import { giveTo } from "../../src/sandbox/account.ts";
import type { PgServer } from "../../src/sandbox/server.ts";
import { startCluster, type TestCluster } from "../support/cluster-fixture.ts";
import { createLogicalSlot, readSlot } from "../support/consumer.ts";
import { testedMajors } from "../support/majors.ts";
import { confirm } from "../support/slots.ts";
import { logRunningTransactions, switchSegments, waitForReplay } from "../support/wal.ts";

interface Facts {
  systemIdentifier: string;
  startEpochS: number;
  port: number;
  segmentBytes: number;
  timeline: number;
}

/** What a server says of itself by SQL. */
async function factsOf(server: PgServer): Promise<Facts> {
  const [row] = await server.query<Facts>(
    `select s.system_identifier::text as "systemIdentifier", c.timeline_id as timeline,
            extract(epoch from pg_catalog.pg_postmaster_start_time())::float8 as "startEpochS",
            pg_catalog.current_setting('port')::int as port,
            pg_catalog.pg_size_bytes(pg_catalog.current_setting('wal_segment_size'))::int as "segmentBytes"
       from pg_catalog.pg_control_system() as s, pg_catalog.pg_control_checkpoint() as c`,
  );
  if (!row) throw new Error("no facts");
  return row;
}

/** Bytes of a slot's state on the server that has it, on disk. */
function stateOf(server: PgServer, slot: string): Buffer {
  return readFileSync(join(server.dataDir, "pg_replslot", slot, "state"));
}

interface Shown {
  name: string;
  confirmed: string;
  restart: string;
}

async function slotsOf(server: PgServer): Promise<Shown[]> {
  return server.query<Shown>(
    `select slot_name::text as name, confirmed_flush_lsn::text as confirmed, restart_lsn::text as restart
       from pg_catalog.pg_replication_slots where slot_type = 'logical' order by slot_name`,
  );
}

function putFile(server: PgServer, name: string, text: string): void {
  const path = join(server.dataDir, name);
  writeFileSync(path, text);
  giveTo(server.workspace.account, path);
}

describe.each(testedMajors())("a standby's data directory, PostgreSQL %i", (major) => {
  test("whose it is, what its settings are, and what is in its WAL", async () => {
    const { primary, standby } = await startCluster({ major });
    await identity(primary, standby);
    await settings(standby);
    expect(await hasPlugin(standby.dataDir, "test_decoding")).toBe(true);
    expect(await hasPlugin(standby.dataDir, "no_such_plugin")).toBe(false);
    expect(await hasPlugin(standby.dataDir, "../postgresql/test_decoding")).toBe(false);
    await wal(primary, standby);
  });

  test("a slot and its snapshot that are placed are the server's own from its next start on (I11)", async () => {
    const cluster = await startCluster({ major });
    await stagedSlot(cluster);
  });
});

async function identity(primary: PgServer, standby: PgServer): Promise<void> {
  const { major } = standby;
  const { systemIdentifier, ...itsServer } = await factsOf(standby);
  const primaryFacts = await factsOf(primary);
  const running = { pid: standby.pid, startEpochS: expect.any(Number), port: standby.port };
  expect(await readIdentity(standby.dataDir)).toEqual({
    major,
    systemIdentifier,
    standby: true,
    primaryState: "in_recovery",
    running,
  });
  expect(await readIdentity(primary.dataDir)).toMatchObject({
    standby: false,
    primaryState: "in_production",
  });

  const verify = (expected: object, dir = standby.dataDir) =>
    verifyDirectory(dir, { systemIdentifier, major, server: itsServer, ...expected });
  await expect(verify({})).resolves.toBeUndefined();
  await expect(verify({ server: null })).resolves.toBeUndefined();
  const reasons: [string, object, string?][] = [
    ["another_server", { server: { ...itsServer, port: primaryFacts.port } }],
    ["another_server", { server: { ...itsServer, startEpochS: itsServer.startEpochS - 3 } }],
    ["another_server", {}, primary.dataDir],
    ["another_cluster", { systemIdentifier: "1" }],
    ["another_major", { major: major + 1 }],
    ["not_a_data_directory", {}, standby.dir],
    ["not_a_data_directory", {}, standby.logFile],
    ["missing", {}, join(standby.dir, "nothing")],
  ];
  for (const [reason, expected, dir] of reasons) {
    const refused = verify(expected, dir);
    await expect(refused).rejects.toBeInstanceOf(DataDirectoryError);
    await expect(refused).rejects.toMatchObject({ reason });
    await expect(refused).rejects.toThrow(/standby\.data_directory/);
  }
}

const RECOVERY_CONF = ["standby_mode", "primary_conninfo", "primary_slot_name", "recovery_target_timeline"];

async function settings(standby: PgServer): Promise<void> {
  const { dataDir, major } = standby;
  mkdirSync(join(dataDir, "more"));
  giveTo(standby.workspace.account, join(dataDir, "more"));
  putFile(
    standby,
    "more/1.conf",
    "my.a = 'it''s \\'x\\' \\101 \\n # no' # yes\nWORK_MEM = 0x1000kB\nmy.b 1.5e3\n",
  );
  putFile(standby, "more/2.conf", "include_if_exists 'none'\n\tmy.c = host.name:1/x\r\nmy.c_2 = -5\n");
  const conf = join(dataDir, "postgresql.conf");
  writeFileSync(conf, `${readFileSync(conf, "utf8")}\ninclude_dir 'more'\nmax_replication_slots = 70\n`);
  await standby.query("alter system set my.d to 'a ''b'' \\ c'").catch(() => {});
  // PostgreSQL's own reading of the files
  const said = await standby.query<{ name: string; setting: string }>(
    `select distinct on (lower(name)) lower(name) as name, setting from pg_catalog.pg_file_settings
      where error is null or error = 'setting could not be applied' order by lower(name), seqno desc`,
  );
  const skipped: string[] = [];
  const read = new Map(await readSettings(dataDir, major, skipped));
  expect(read.get("primary_slot_name")).toBe("standby1");
  expect(read.get("primary_conninfo")).toContain(`application_name=${standby.name}`);
  if (major < 12) {
    expect(read.get("standby_mode")).toBe("on");
    // before 12 these are no settings, and in a file of their own
    for (const name of RECOVERY_CONF) read.delete(name);
  }
  expect(Object.fromEntries(read)).toEqual(
    Object.fromEntries(said.map(({ name, setting }) => [name, setting])),
  );
  expect(read.get("my.a")).toBe("it's 'x' A \n # no");
  expect(skipped).toEqual([]);

  // the running server has 64
  const running = { maxReplicationSlots: 64, walLevel: "logical" };
  expect(await nextStart(dataDir, major, running)).toEqual({ ...running, hotStandby: true });
  expect(await nextStart(dataDir, major, null)).toEqual({
    maxReplicationSlots: 70,
    walLevel: "logical",
    hotStandby: true,
  });
}

async function wal(primary: PgServer, standby: PgServer): Promise<void> {
  const { major } = standby;
  const { systemIdentifier, segmentBytes } = await factsOf(standby);
  const [before] = await primary.query<{ lsn: string }>(
    "select pg_catalog.pg_current_wal_lsn()::text as lsn",
  );
  const first = segmentOf(parseLsn(before?.lsn ?? ""), segmentBytes);
  await primary.query("create table filler as select repeat('x', 1000) from generate_series(1, 30000)");
  await switchSegments(primary, 2);
  const to = parseLsn(await waitForReplay(primary, standby));
  const from = (BigInt(first) * BigInt(segmentBytes)) as Lsn;
  const last = segmentOf(to, segmentBytes) - 1;
  expect(last - first).toBeGreaterThanOrEqual(2);
  const expected = { systemIdentifier, segmentBytes, timeline: 1, major };
  const fileOf = (server: PgServer, number: number, timeline = 1) =>
    join(server.dataDir, "pg_wal", segmentName(timeline, number, segmentBytes));

  for (let number = first; number <= last; number += 1) {
    for (const server of [primary, standby]) {
      const file = fileOf(server, number);
      await expect(verifySegment(file, { ...expected, segmentNumber: number })).resolves.toBeUndefined();
      // as of a later timeline, which this one may be a parent of
      await expect(
        verifySegment(file, { ...expected, segmentNumber: number, timeline: 5 }),
      ).resolves.toBeUndefined();
      await expect(verifySegment(file, { ...expected, segmentNumber: number + 1 })).rejects.toThrow(/not of/);
      await expect(
        verifySegment(file, { ...expected, segmentNumber: number, major: major === 18 ? 17 : major + 1 }),
      ).rejects.toThrow(/magic/);
      await expect(
        verifySegment(file, { ...expected, segmentNumber: number, systemIdentifier: "1" }),
      ).rejects.toThrow(/cluster/);
    }
  }

  expect(await missingSegments(standby.dataDir, from, to, segmentBytes)).toEqual([]);
  const lost = fileOf(standby, first + 1);
  const like = statSync(lost);
  rmSync(lost);
  expect(await missingSegments(standby.dataDir, from, to, segmentBytes)).toEqual([first + 1]);
  const name = segmentName(1, first + 1, segmentBytes);
  const source = fileOf(primary, first + 1);
  const fetched = { ...expected, segmentNumber: first + 1 };
  await placeSegment(standby.dataDir, name, createReadStream(source), fetched);
  expect(readFileSync(lost).equals(readFileSync(source))).toBe(true);
  expect(statSync(lost)).toMatchObject({ uid: like.uid, gid: like.gid, mode: like.mode });
  expect(await missingSegments(standby.dataDir, from, to, segmentBytes)).toEqual([]);

  // the first segment of the next timeline begins with its parent's pages
  standby.promote();
  await standby.waitPromoted();
  await switchSegments(standby, 2);
  const forked = segmentOf(to, segmentBytes);
  const file = fileOf(standby, forked, 2);
  await expect(
    verifySegment(file, { ...expected, segmentNumber: forked, timeline: 2 }),
  ).resolves.toBeUndefined();
  await expect(verifySegment(file, { ...expected, segmentNumber: forked })).rejects.toThrow(
    /is of timeline 2/,
  );
  await expect(
    verifySegment(fileOf(standby, forked + 1, 2), { ...expected, segmentNumber: forked + 1, timeline: 2 }),
  ).resolves.toBeUndefined();
}

/** The modes of a slot's folder and file, which belong to whom the directory belongs to. */
function like({ dataDir }: PgServer, slot: string): number[] {
  const { uid, gid } = statSync(dataDir);
  return ["", "state"].map((name) => {
    const found = statSync(join(dataDir, "pg_replslot", slot, name));
    expect(found).toMatchObject({ uid, gid });
    return found.mode & 0o777;
  });
}

/** Stages what PostgreSQL would remove again. */
async function temporarySlot(primary: PgServer, standby: PgServer): Promise<void> {
  const session = await primary.connect();
  try {
    await session.query(
      "select pg_catalog.pg_create_logical_replication_slot('temp1', 'test_decoding', true)",
    );
    await writeSlotFolder(standby.dataDir, "temp1", stateOf(primary, "temp1"), primary.major);
  } finally {
    await session.end();
  }
}

async function stagedSlot({ major, primary, standby }: TestCluster): Promise<void> {
  await primary.query("create table t (id integer)");
  await createLogicalSlot(primary, "logical1");
  // a slot that has moved on starts at a position with a snapshot
  for (let round = 0; round < 3; round += 1) {
    await primary.query("insert into t values ($1)", [round]);
    await logRunningTransactions(primary);
    await confirm(primary, "logical1");
  }
  await primary.query("checkpoint");
  const state = stateOf(primary, "logical1");
  const [shown] = await slotsOf(primary);
  const restart = parseLsn(shown?.restart ?? "");
  await waitForReplay(primary, standby);
  await expect(
    writeSlotFolder(standby.dataDir, "logical1", state, major, {
      // PostgreSQL would not start over an empty folder either, but it is not ours to take
      beforeStep: (step) => {
        if (step.startsWith("fsync"))
          mkdirSync(join(standby.dataDir, "pg_replslot", "logical1"), { recursive: true });
      },
    }),
  ).rejects.toThrow(DataDirectoryError);
  rmSync(join(standby.dataDir, "pg_replslot", "logical1"), { recursive: true });
  await removeLeftovers(standby.dataDir, ["logical1"]);

  const folder = join(standby.dataDir, "pg_replslot");
  await expect(writeSlotFolder(standby.dataDir, "logical2", state, major)).rejects.toThrow(/"logical1"/);
  await expect(writeSlotFolder(standby.dataDir, "../logical1", state, major)).rejects.toThrow(RangeError);
  await expect(writeSlotFolder(standby.dataDir, "logical1", state.subarray(1), major)).rejects.toThrow();
  expect(readdirSync(folder)).toEqual([]);
  await expect(temporarySlot(primary, standby)).rejects.toThrow(/is of a temporary slot/);
  expect(readdirSync(folder)).toEqual([]);
  await writeSlotFolder(standby.dataDir, "logical1", state, major);
  await expect(writeSlotFolder(standby.dataDir, "logical1", state, major)).rejects.toThrow(/exists already/);
  const listed = { name: "logical1", problem: null };
  mkdirSync(join(folder, "logical2.tmp"));
  await removeLeftovers(standby.dataDir, ["logical1", "logical2"]);
  expect(readdirSync(folder)).toEqual(["logical1"]);
  expect(await listSlotFolders(standby.dataDir, major)).toMatchObject([
    { ...listed, state: { restartLsn: restart } },
  ]);
  expect(await listSlotFolders(standby.dataDir, major, { known: new Set(["logical1"]) })).toEqual([
    { ...listed, state: null },
  ]);

  // as the server itself makes them, in a cluster of its account alone and in one that its group may read
  expect(like(standby, "logical1")).toEqual([0o700, 0o600]);
  await removeSlotFolder(standby.dataDir, "logical1");
  chmodSync(standby.dataDir, 0o750);
  const steps: string[] = [];
  await writeSlotFolder(standby.dataDir, "logical1", state, major, {
    beforeStep: (step) => {
      steps.push(step.replace(`${folder}`, "").replace(standby.dataDir, ""));
    },
  });
  expect(like(standby, "logical1")).toEqual([0o750, 0o640]);
  // on the device before it has its name
  expect(steps.slice(-5)).toEqual([
    "write /logical1.tmp/state",
    "fsync /logical1.tmp/state",
    "fsync /logical1.tmp",
    "rename /logical1.tmp",
    "fsync ",
  ]);
  await standby.restart();
  expect(await slotsOf(standby)).toEqual([shown]);
  const snapshot = readFileSync(join(primary.dataDir, "pg_logical", "snapshots", snapshotFileName(restart)));
  const target = join(standby.dataDir, "pg_logical", "snapshots", snapshotFileName(restart));
  expect(await hasSnapshot(standby.dataDir, restart, major)).toBe(false);
  expect(await placeSnapshot(standby.dataDir, restart, snapshot, major)).toBe("placed");
  expect(await placeSnapshot(standby.dataDir, restart, snapshot, major)).toBe("present");
  expect(readFileSync(target).equals(snapshot)).toBe(true);
  expect(statSync(target)).toMatchObject({ uid: statSync(folder).uid, gid: statSync(folder).gid });
  writeFileSync(target, "damaged");
  expect(await hasSnapshot(standby.dataDir, restart, major)).toBe(false);
  expect(await placeSnapshot(standby.dataDir, restart, snapshot, major)).toBe("placed");
  await expect(placeSnapshot(standby.dataDir, restart, Buffer.from("damaged"), major)).rejects.toThrow();
  // a crash's leftover is tolerated by a restartpoint, which also keeps what the slot needs
  const leftover = `${target}.slotsync-1.tmp`;
  const oldLeftover = join(standby.dataDir, "pg_logical", "snapshots", "0-1.snap.slotsync-1.tmp");
  for (const path of [leftover, oldLeftover]) {
    writeFileSync(path, "half");
    giveTo(standby.workspace.account, path);
  }
  await primary.query("checkpoint");
  await waitForReplay(primary, standby);
  await standby.query("checkpoint");
  expect(await hasSnapshot(standby.dataDir, restart, major)).toBe(true);
  expect(readdirSync(join(standby.dataDir, "pg_logical", "snapshots"))).not.toContain(
    "0-1.snap.slotsync-1.tmp",
  );
  standby.promote();
  await standby.waitPromoted();
  await readSlot(standby, "logical1");
}

describe("a crash between any two steps leaves a directory that PostgreSQL starts with (I11)", () => {
  const CUT = new Error("cut off here");

  /** Runs it up to its nth step; true when it came to its end. */
  async function cutAt(
    n: number,
    run: (beforeStep: (step: string) => void) => Promise<unknown>,
  ): Promise<boolean> {
    let step = 0;
    let isCut = false;
    await run(() => {
      if (step === n) {
        isCut = true;
        throw CUT;
      }
      step += 1;
    }).catch((error) => {
      if (!isCut) throw error;
    });
    return !isCut;
  }

  test.each(testedMajors())("PostgreSQL %i: staging, replacing and removing a slot", async (major) => {
    const { primary, standby } = await startCluster({ major });
    await createLogicalSlot(primary, "logical1");
    await primary.query("checkpoint");
    const older = stateOf(primary, "logical1");
    await primary.query("create table t (id integer)");
    await logRunningTransactions(primary);
    await confirm(primary, "logical1");
    await primary.query("checkpoint");
    const newer = stateOf(primary, "logical1");
    expect(newer.equals(older)).toBe(false);
    await waitForReplay(primary, standby);
    const { dataDir } = standby;
    const folder = join(dataDir, "pg_replslot");
    const starts = async () => {
      await standby.start();
      const names = (await slotsOf(standby)).map(({ name }) => name);
      await standby.stop("immediate");
      // nothing but slots is left after a start
      expect(readdirSync(folder)).toEqual(names);
      for (const name of names) expect(readdirSync(join(folder, name))).toEqual(["state"]);
      return names;
    };
    await standby.stop();

    const staged: number[] = [];
    for (let cut = 0, done = false; !done; cut += 1) {
      done = await cutAt(cut, (beforeStep) =>
        writeSlotFolder(dataDir, "logical1", older, major, { beforeStep }),
      );
      staged.push((await starts()).length);
      if (done) break;
      if (readdirSync(folder).length > 0) rmSync(join(folder, "logical1"), { recursive: true });
    }
    // first not there, then whole: and whole as soon as it has its name
    expect(staged.join("")).toMatch(/^0{7,}1{2}$/);

    const replaced: boolean[] = [];
    for (let cut = 0, done = false; !done; cut += 1) {
      done = await cutAt(cut, (beforeStep) =>
        writeSlotFolder(dataDir, "logical1", newer, major, { beforeStep, replace: true }),
      );
      const [slot] = await listSlotFolders(dataDir, major);
      expect(slot).toMatchObject({ name: "logical1", problem: null });
      replaced.push(stateOf(standby, "logical1").equals(newer));
      expect(await starts()).toEqual(["logical1"]);
      if (!done) await writeSlotFolder(dataDir, "logical1", older, major, { replace: true });
    }
    expect(replaced.indexOf(true)).toBe(replaced.length - 2);

    const left: number[] = [];
    for (let cut = 0, done = false; !done; cut += 1) {
      done = await cutAt(cut, (beforeStep) => removeSlotFolder(dataDir, "logical1", { beforeStep }));
      left.push((await starts()).length);
      if (!done && left.at(-1) === 0) await writeSlotFolder(dataDir, "logical1", newer, major);
    }
    expect(left.join("")).toMatch(/^10+$/);
  });
});
