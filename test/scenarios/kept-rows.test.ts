/**
 * Catalog rows where no server tells of their removal (12 to 15): what the primary's slot promises, and this standby's feedback holds from
 * there on, is proven again at the second look after whatever interrupted it (I4, I19).
 */
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { expect, test } from "vitest";
import { parseLsn } from "../../src/domain/lsn.ts";
import { snapshotFileName } from "../../src/pg/snapshot-file.ts";
import { waitStreaming } from "../../src/sandbox/cluster.ts";
import type { PgServer } from "../../src/sandbox/server.ts";
import { buildCli, cli, writeConfig } from "../support/cli.ts";
import { startCluster, type TestCluster } from "../support/cluster-fixture.ts";
import { createLogicalSlot, readSlot } from "../support/consumer.ts";
import {
  cyclesLater,
  isReady,
  onMajor,
  QUICK,
  stateFile,
  untilRecorded,
  untilTold,
} from "../support/file-way.ts";
import { startSidecar, type TestSidecar } from "../support/sidecar.ts";
import { slotsOf } from "../support/slots.ts";
import { failOver, followInstead, keptStreams, promisedStreams, untilStaged } from "../support/steps.ts";
import { comeBack, switchOver, type TestNode } from "../support/switchover.ts";
import { eventually } from "../support/wait.ts";
import { waitForReplay } from "../support/wal.ts";

const CATALOGS = ["pg_attribute", "pg_class", "pg_type", "pg_depend"];
const NAMES = ["busy", "idle"];

/** Catalog rows come, are used and are deleted, and whatever nobody holds of them is removed. */
async function changeCatalogs(primary: PgServer, round: number): Promise<void> {
  await primary.query(`create type pair${round} as (a int, b text)`);
  await primary.query(`create table made${round} (id int primary key, p pair${round})`);
  await primary.query(`insert into made${round} values (1, (1, 'one'))`);
  await primary.query(`alter type pair${round} drop attribute b cascade`);
  await primary.query(`alter table t add column c${round} text default 'x'`);
  await primary.query(`insert into t (id) values (${round * 10})`);
  if (round > 1) await primary.query(`alter table t drop column c${round - 1}`);
  await primary.query("checkpoint");
  await vacuumCatalogs(primary);
}

async function vacuumCatalogs(server: PgServer): Promise<void> {
  for (const catalog of CATALOGS) await server.query(`vacuum ${catalog}`);
}

/** Two slots that have moved, loaded on the standby and ready. */
async function loaded(standbys: readonly PgServer[], primary: PgServer): Promise<TestSidecar[]> {
  await primary.query("create table t (id int primary key)");
  for (const name of NAMES) await createLogicalSlot(primary, name);
  await primary.query("insert into t values (1)");
  await primary.query("checkpoint");
  const sidecars: TestSidecar[] = [];
  for (const standby of standbys) {
    const sidecar = await startSidecar(standby, { nap: QUICK });
    await untilStaged(sidecar, ...NAMES);
    await standby.restart();
    for (const name of NAMES) await sidecar.untilSlot(name, "synced");
    sidecars.push(sidecar);
  }
  // it moves once
  for (const name of NAMES) await readSlot(primary, name);
  for (const sidecar of sidecars) {
    await untilRecorded(sidecar, primary, ...NAMES);
    await sidecar.until("both to be ready", ({ ready }) => ready);
  }
  return sidecars;
}

async function receiverOf(standby: PgServer): Promise<number | undefined> {
  const [row] = await standby.query<{ pid: number }>(
    "select pid from pg_catalog.pg_stat_wal_receiver where status = 'streaming'",
  );
  return row?.pid;
}

/** Ends the walreceiver, and waits until another one streams. */
async function reconnect(primary: PgServer, standby: PgServer): Promise<void> {
  const before = await receiverOf(standby);
  await primary.query(
    "select pg_catalog.pg_terminate_backend(active_pid) from pg_catalog.pg_replication_slots where slot_name = $1",
    [standby.name],
  );
  await eventually(
    async () => {
      const now = await receiverOf(standby);
      return now !== undefined && now !== before;
    },
    { what: "another walreceiver" },
  );
}

/** Ready in the looks from the second one on. */
async function readyAtTheSecondLook(sidecar: TestSidecar): Promise<void> {
  await cyclesLater(sidecar, 2);
  const since = sidecar.history.length;
  await cyclesLater(sidecar, 2);
  for (const status of sidecar.history.slice(since))
    expect(isReady(status, "idle"), JSON.stringify(status.slots)).toBe(true);
}

/** The old primary's own slots are what the promoted standby's are held against, with the catalogs vacuumed once more. */
async function expectTheSameStreams(cluster: Pick<TestCluster, "primary" | "standby">, sidecar: TestSidecar) {
  const { primary, standby } = cluster;
  await untilRecorded(sidecar, primary, ...NAMES);
  await waitForReplay(primary, standby);
  await sidecar.until("both to be ready", ({ ready }) => ready);
  const promised = await promisedStreams(cluster, ...NAMES);
  const { finish } = await failOver(cluster as TestCluster, sidecar);
  expect(finish?.slots.map(({ outcome }) => outcome)).not.toContain("dropped");
  await standby.query("create table after (id int primary key)");
  await vacuumCatalogs(standby);
  const kept = await keptStreams(standby, NAMES);
  for (const [name, stream] of promised) expect(kept.get(name)?.slice(0, stream.length)).toEqual(stream);
}

for (const at of [12, 15])
  onMajor(
    at,
    (major) => {
      test("an idle slot stays ready over reconnects of the walreceiver and a restart of the leader, and loses nothing at a failover (I4, I19)", async () => {
        const cluster = await startCluster({
          major,
          standbySettings: { wal_retrieve_retry_interval: "100ms" },
        });
        const { primary, standby } = cluster;
        const [sidecar] = (await loaded([standby], primary)) as [TestSidecar];
        for (const round of [1, 2, 3]) {
          await changeCatalogs(primary, round * 2 - 1);
          await readSlot(primary, "busy");
          await reconnect(primary, standby);
          await changeCatalogs(primary, round * 2);
          await readyAtTheSecondLook(sidecar);
        }
        await primary.restart();
        await waitStreaming(primary, standby.name);
        await sidecar.until("the new leader to be seen", ({ source }) => source === "live");
        await changeCatalogs(primary, 7);
        await readyAtTheSecondLook(sidecar);
        await expectTheSameStreams(cluster, sidecar);
      });
    },
    12,
  );

onMajor(
  13,
  (major) => {
    test("after a switchover an idle slot is ready on the third node and on the one that came back, and loses nothing at the next failover (I4, I19)", async () => {
      const cluster = await startCluster({ major, standbys: 2 });
      const { primary: first, standbys } = cluster;
      const [second, third] = standbys as [PgServer, PgServer];
      const [sidecar2, sidecar3] = (await loaded(standbys, first)) as [TestSidecar, TestSidecar];
      await changeCatalogs(first, 1);
      await waitForReplay(first, second);
      await waitForReplay(first, third);
      await untilRecorded(sidecar2, first, ...NAMES);
      const next: TestNode = { server: second, sidecar: sidecar2 };
      const sidecar1 = await startSidecar(first, { nap: QUICK });
      await eventually(() => sidecar1.sidecar.journal.life !== null, {
        what: "the primary's life to be noted",
      });
      await switchOver({ server: first, sidecar: sidecar1 }, next);
      await followInstead(third, second);
      await waitStreaming(second, third.name);
      await changeCatalogs(second, 2);
      await sidecar3.until("the slots to be ready again", (status) => isReady(status, "idle"));
      await changeCatalogs(second, 3);
      await readyAtTheSecondLook(sidecar3);
      await comeBack({ server: first, sidecar: sidecar1 }, next);
      await sidecar1.until("its own slots to be ready", (status) => isReady(status, "idle"));
      await changeCatalogs(second, 4);
      await expectTheSameStreams({ primary: second, standby: third }, sidecar3);
    });
  },
  12,
);

for (const at of [12, 15])
  onMajor(
    at,
    (major) => {
      test("feedback that was off while nobody looked, with catalogs vacuumed meanwhile, is never called ready, and what is ready after the next looks loses nothing (I4, I15)", async () => {
        await buildCli();
        const cluster = await startCluster({ major });
        const { primary, standby } = cluster;
        const [sidecar] = (await loaded([standby], primary)) as [TestSidecar];
        const config = writeConfig(standby, { state_directory: sidecar.stateDirectory });
        await sidecar.stop();
        expect((await cli(["check", "-c", config.file])).code).toBe(0);

        const heldXmin = async () => {
          const [row] = await primary.query<{ catalog_xmin: string | null }>(
            "select catalog_xmin::text from pg_catalog.pg_replication_slots where slot_name = $1",
            [standby.name],
          );
          return row?.catalog_xmin ?? null;
        };
        standby.configure({ hot_standby_feedback: false });
        await eventually(async () => (await heldXmin()) === null, { what: "the feedback to be off" });
        await changeCatalogs(primary, 1);
        for (const name of NAMES) await readSlot(primary, name);
        await changeCatalogs(primary, 2);
        for (const name of NAMES) await readSlot(primary, name);
        await vacuumCatalogs(primary);
        standby.configure({ hot_standby_feedback: true });
        await eventually(async () => (await heldXmin()) !== null, { what: "the feedback to be on" });
        await waitForReplay(primary, standby);
        const check = await cli(["check", "-c", config.file]);
        expect(check.code, check.stdout).not.toBe(0);

        const again = await startSidecar(standby, {
          nap: QUICK,
          stateDirectory: sidecar.stateDirectory,
        });
        await changeCatalogs(primary, 3);
        await again.until("both to be ready", ({ ready }) => ready);
        await expectTheSameStreams(cluster, again);
      });
    },
    12,
  );

onMajor(11, (major) => {
  test("a slot that came after the feedback had gone past its rows says so, is not kept as ready, and is safe once the feedback has begun anew, as it says (I4, I19)", async () => {
    const cluster = await startCluster({ major });
    const { primary, standby } = cluster;
    await primary.query("create table t (id int primary key)");
    for (const name of NAMES) await createLogicalSlot(primary, name);
    await changeCatalogs(primary, 1);
    // it moves past where it was made, so that the rows between are its own to hold
    await readSlot(primary, "idle");
    const first = await startSidecar(standby, {
      nap: QUICK,
      selection: { include: [{ name: "busy" }], exclude: [] },
    });
    await untilStaged(first, "busy");
    await standby.restart();
    await first.untilSlot("busy", "synced");
    await eventually(
      async () => {
        await primary.query("insert into t values ((random() * 1000000000)::int) on conflict do nothing");
        await primary.query("checkpoint");
        await readSlot(primary, "busy");
        return (await xminOf(primary, standby.name)) > (await xminOf(primary, "idle"));
      },
      { what: "the feedback to go past the idle slot's rows", intervalMs: 300, timeoutMs: 40_000 },
    );
    await first.stop();
    const sidecar = await startSidecar(standby, {
      nap: QUICK,
      stateDirectory: first.stateDirectory,
    });
    await untilStaged(sidecar, "idle");
    await standby.restart();
    await untilTold(sidecar, "idle", "catalog_rows_unproven", "hot_standby_feedback = off");

    standby.configure({ hot_standby_feedback: false });
    await eventually(async () => (await xminOf(primary, standby.name)) === 0, {
      what: "the feedback to be off",
    });
    standby.configure({ hot_standby_feedback: true });
    await sidecar.until("both to be ready", ({ ready, slots }) => ready && slots.length === 2);
    await expectTheSameStreams(cluster, sidecar);
  });
});

/** A slot's catalog_xmin; 0 for none. */
async function xminOf(server: PgServer, name: string): Promise<number> {
  const [row] = await server.query<{ xmin: string | null }>(
    "select catalog_xmin::text as xmin from pg_catalog.pg_replication_slots where slot_name = $1",
    [name],
  );
  return Number(row?.xmin ?? 0);
}

onMajor(
  15,
  (major) => {
    test("slotsync resync has a slot that cannot be proven any more made again, and leaves a ready one alone (I2, I19)", async () => {
      await buildCli();
      const cluster = await startCluster({ major });
      const { primary, standby } = cluster;
      await primary.query("create table t (id int primary key)");
      for (const name of NAMES) await createLogicalSlot(primary, name);
      await primary.query("insert into t values (1)");
      await primary.query("checkpoint");
      await readSlot(primary, "idle");
      const restart = (await slotsOf(primary)).get("idle")?.restart ?? "";
      const file = path.join(primary.dataDir, "pg_logical/snapshots", snapshotFileName(parseLsn(restart)));
      const sound = readFileSync(file);
      writeFileSync(file, sound.subarray(0, 50));
      const sidecar = await startSidecar(standby, { nap: QUICK });
      await untilStaged(sidecar, ...NAMES);
      writeFileSync(file, sound);
      await standby.restart();
      await sidecar.untilSlot("busy", "synced");
      await untilTold(sidecar, "idle", "no_consistent_snapshot", "slotsync resync idle");

      const config = writeConfig(standby, { state_directory: sidecar.stateDirectory });
      const resync = (name: string) => cli(["resync", "-c", config.file, name]);
      expect(await resync("busy")).toMatchObject({ code: 1, stdout: expect.stringContaining("it is ready") });
      expect(await resync("idle")).toMatchObject({
        code: 0,
        stdout: expect.stringContaining("dropped: idle"),
      });
      // its guards lack the snapshot as well, so that is what status tells meanwhile
      await eventually(() => existsSync(stateFile(standby, "idle")) && sidecar.status?.restart?.slots === 1, {
        what: "its file to be staged",
      });
      await standby.restart();
      await sidecar.untilSlot("idle", "synced");
      await expectTheSameStreams(cluster, sidecar);
    });
  },
  12,
);
