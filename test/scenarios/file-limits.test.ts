/** The standby must always start (I11): what others put into its data directory, and what its settings say for the next start. */
import { cpSync, rmSync } from "node:fs";
import path from "node:path";
import { expect, test } from "vitest";
import { giveTo } from "../../src/sandbox/account.ts";
import type { PgServer } from "../../src/sandbox/server.ts";
import { startCluster, type TestCluster } from "../support/cluster-fixture.ts";
import { createLogicalSlot } from "../support/consumer.ts";
import { cyclesLater, isReady, onMajor, QUICK, slotFolders, slotIn, untilTold } from "../support/file-way.ts";
import { startSidecar } from "../support/sidecar.ts";
import { sidecarSlots, slotsOf } from "../support/slots.ts";
import { failOver, keptStreams, promisedStreams, untilProblem, untilStaged } from "../support/steps.ts";
import { eventually } from "../support/wait.ts";
import { waitForReplay } from "../support/wal.ts";

/** What somebody else puts there: the slot's folder as it lies on the primary. */
function copyFolder(primary: PgServer, standby: PgServer, name: string): void {
  const folder = (server: PgServer) => path.join(server.dataDir, "pg_replslot", name);
  cpSync(folder(primary), folder(standby), { recursive: true });
  for (const file of [folder(standby), path.join(folder(standby), "state")])
    giveTo(standby.workspace.account, file);
}

const stagedBy = (folders: readonly string[]) => folders.filter((name) => !name.startsWith("slotsync_"));

for (const at of [11, 15])
  onMajor(at, (major) => {
    test("a folder of somebody else's under the slot's name is left alone and never ready; the others go on (I6, I7, I9)", async () => {
      const cluster = await startCluster({ major });
      const { primary, standby } = cluster;
      for (const name of ["other", "taken"]) await createLogicalSlot(primary, name);
      await waitForReplay(primary, standby);
      copyFolder(primary, standby, "taken");
      const sidecar = await startSidecar(standby, { nap: QUICK });
      await untilTold(sidecar, "taken", "name_conflict", "remove it there");
      await untilStaged(sidecar, "other");
      expect(stagedBy(slotFolders(standby))).toEqual(["other", "taken"]);

      await standby.restart();
      await sidecar.untilSlot("other", "synced");
      await untilTold(sidecar, "taken", "name_conflict", "drop it there");
      await standby.query("select pg_catalog.pg_drop_replication_slot('taken')");
      await untilStagedFolder(sidecar, standby, "taken");
      await standby.restart();
      await sidecar.untilSlot("taken", "synced");
    });
  });

async function untilStagedFolder(
  { until }: Awaited<ReturnType<typeof startSidecar>>,
  standby: PgServer,
  name: string,
): Promise<void> {
  await until(
    `"${name}" to be staged`,
    ({ restart }) => restart?.slots === 1 && slotFolders(standby).includes(name),
  );
}

onMajor(
  12,
  (major) => {
    test("a folder that appears under a guarded slot's name takes its readiness, for after a promotion it could not be made (I6)", async () => {
      const cluster = await startCluster({ major });
      const { primary, standby } = cluster;
      await createLogicalSlot(primary, "early");
      const sidecar = await startSidecar(standby, {
        nap: QUICK,
        selection: { include: [{ nameLike: "%" }], exclude: [] },
      });
      await untilStaged(sidecar, "early");
      await standby.restart();
      await sidecar.untilSlot("early", "synced");
      await createLogicalSlot(primary, "late");
      await sidecar.untilSlot("late", "guarded");
      await untilStagedFolder(sidecar, standby, "late");
      // other bytes than ours: from here on it is somebody else's
      rmSync(path.join(standby.dataDir, "pg_replslot/late"), { recursive: true });
      await createLogicalSlot(primary, "late_b");
      cpSync(
        path.join(primary.dataDir, "pg_replslot/late_b"),
        path.join(standby.dataDir, "pg_replslot/late"),
        { recursive: true },
      );
      await untilTold(sidecar, "late", "name_conflict", "remove it there");
      rmSync(path.join(standby.dataDir, "pg_replslot/late"), { recursive: true });
      await sidecar.untilSlot("late", "guarded");
      const promised = await promisedStreams(cluster, "early", "late");
      await failOver(cluster, sidecar);
      expect(await keptStreams(standby, promised.keys())).toEqual(promised);
    });
  },
  12,
);

onMajor(11, (major) => {
  test("nothing is staged beyond max_replication_slots, the status says so, and the standby starts (I11)", async () => {
    const { primary, standby } = await startCluster({ major, standbySettings: { max_replication_slots: 2 } });
    for (const name of ["app_a", "app_b", "foreign"]) await createLogicalSlot(primary, name);
    await waitForReplay(primary, standby);
    copyFolder(primary, standby, "foreign");
    const sidecar = await startSidecar(standby, {
      nap: QUICK,
      selection: { include: [{ nameLike: "app%" }], exclude: [] },
    });
    await untilStaged(sidecar, "app_a");
    await untilTold(sidecar, "app_b", "too_many_slots", "raise it there and restart it");
    expect(slotFolders(standby)).toEqual(["app_a", "foreign"]);
    await standby.restart();
    await sidecar.untilSlot("app_a", "synced");
    await untilTold(sidecar, "app_b", "too_many_slots", "raise it there and restart it");

    standby.configure({ max_replication_slots: 10 });
    await standby.restart();
    await untilStaged(sidecar, "app_b");
    await standby.restart();
    await sidecar.untilSlot("app_b", "synced");
  });
});

onMajor(
  14,
  (major) => {
    test("folders that others add to what is staged make room by what is ours, and the standby starts (I11)", async () => {
      const { primary, standby } = await startCluster({
        major,
        standbySettings: { max_replication_slots: 5 },
      });
      for (const name of ["app_a", "app_b", "foreign_a", "foreign_b"]) await createLogicalSlot(primary, name);
      await waitForReplay(primary, standby);
      const sidecar = await startSidecar(standby, {
        nap: QUICK,
        selection: { include: [{ nameLike: "app%" }], exclude: [] },
      });
      await untilStaged(sidecar, "app_a", "app_b");
      for (const name of ["foreign_a", "foreign_b"]) copyFolder(primary, standby, name);
      await untilTold(sidecar, "app_b", "too_many_slots", "raise it there");
      expect(slotFolders(standby)).toHaveLength(5);
      await standby.restart();
      await sidecar.untilSlot("app_a", "synced");
    });
  },
  12,
);

onMajor(
  13,
  (major) => {
    test("max_replication_slots lowered for the next start counts: what is over is taken back, and the standby starts (I11)", async () => {
      const { primary, standby } = await startCluster({ major });
      for (const name of ["app_a", "app_b"]) await createLogicalSlot(primary, name);
      const sidecar = await startSidecar(standby, { nap: QUICK });
      await untilStaged(sidecar, "app_a", "app_b");
      expect(slotFolders(standby)).toHaveLength(4);
      standby.configure({ max_replication_slots: 3 });
      await untilTold(sidecar, "app_b", "too_many_slots", "takes 3 replication slots");
      expect(slotFolders(standby)).toHaveLength(3);
      await standby.restart();
      await sidecar.untilSlot("app_a", "synced");
      await sidecar.until(
        "app_b to be told",
        (status) => slotIn(status, "app_b")?.reason === "too_many_slots",
      );

      standby.configure({ max_replication_slots: 64 });
      await standby.restart();
      // the guards were born at its place, and have gone on from there to count
      await untilStaged(sidecar, "app_b");
      await standby.restart();
      await sidecar.untilSlot("app_b", "synced");
    });
  },
  12,
);

for (const at of [11, 14])
  onMajor(at, (major) => {
    test("wal_level lowered for the next start: what is staged is taken back, nothing new is staged, and the standby starts (I11)", async () => {
      const { primary, standby } = await startCluster({ major });
      await createLogicalSlot(primary, "app");
      const sidecar = await startSidecar(standby, { nap: QUICK });
      await untilStaged(sidecar, "app");
      standby.configure({ wal_level: "replica" });
      await untilTold(sidecar, "app", "restart_pending", "set wal_level = logical there");
      await sidecar.until("all to be taken back", ({ restart }) => restart === null);
      expect(slotFolders(standby)).toEqual([]);
      await createLogicalSlot(primary, "more");
      await untilTold(sidecar, "more", "restart_pending", "set wal_level = logical there");
      await standby.restart();
      await untilProblem(sidecar, "standby_wal_level");
      expect((await cyclesLater(sidecar)).ready).toBe(false);
      expect(slotFolders(standby)).toEqual([]);

      standby.configure({ wal_level: "logical" });
      await standby.restart();
      await untilStaged(sidecar, "app", "more");
      await standby.restart();
      for (const name of ["app", "more"]) await sidecar.untilSlot(name, "synced");
    });
  });

type Standing = (cluster: TestCluster) => Promise<void> | void;

const STANDING: [what: string, major: number, happens: Standing][] = [
  ["the primary is gone", 13, ({ primary }) => primary.kill()],
  ["feedback is off", 11, ({ standby }) => standby.configure({ hot_standby_feedback: false })],
];

for (const [what, at, happens] of STANDING)
  onMajor(at, (major) => {
    test(`what would keep the standby from starting is taken back also while ${what} (I11)`, async () => {
      const cluster = await startCluster({ major });
      const { primary, standby } = cluster;
      for (const name of ["app_a", "app_b"]) await createLogicalSlot(primary, name);
      const sidecar = await startSidecar(standby, { nap: QUICK });
      await untilStaged(sidecar, "app_a", "app_b");
      const all = slotFolders(standby).length;
      await happens(cluster);
      await sidecar.until("it to be told", ({ problems }) => problems.length > 0);
      standby.configure({ max_replication_slots: all - 1 });
      await eventually(() => slotFolders(standby).length === all - 1, { what: "one to be taken back" });
      standby.configure({ wal_level: "replica" });
      await eventually(() => slotFolders(standby).length === 0, { what: "all to be taken back" });
      await standby.restart();
    });
  });

for (const at of [11, 15])
  onMajor(at, (major) => {
    test("what is staged is taken back at a promotion, and no later start of the new primary loads it (I6)", async () => {
      const cluster = await startCluster({ major });
      const { primary, standby } = cluster;
      await primary.query("create table t (id int)");
      await createLogicalSlot(primary, "early");
      const sidecar = await startSidecar(standby, { nap: QUICK });
      await untilStaged(sidecar, "early");
      await standby.restart();
      await sidecar.untilSlot("early", "synced");
      await createLogicalSlot(primary, "late");
      await untilStagedFolder(sidecar, standby, "late");
      await primary.query("insert into t values (1)");
      if (major > 11) await sidecar.untilSlot("late", "guarded");
      const kept = major > 11 ? ["early", "late"] : ["early"];
      const promised = await promisedStreams(cluster, ...kept);
      const { finish } = await failOver(cluster, sidecar);
      expect(finish?.slots.find(({ name }) => name === "late")?.outcome).toBe(
        major > 11 ? "materialised" : "not_protected",
      );
      expect(slotFolders(standby)).toEqual(kept);
      await sidecar.stop();
      await standby.waitPromoted();
      await standby.restart();
      expect([...(await slotsOf(standby)).keys()]).toEqual(kept);
      expect(await keptStreams(standby, kept)).toEqual(promised);
      expect(await sidecarSlots(standby)).toEqual([]);
    });

    test("staged and never loaded, slots are not there after a promotion, nor after a restart (I6)", async () => {
      const cluster = await startCluster({ major });
      const { primary, standby } = cluster;
      await createLogicalSlot(primary, "app");
      const sidecar = await startSidecar(standby, { nap: QUICK });
      await untilStaged(sidecar, "app");
      await failOver(cluster, sidecar);
      expect(slotFolders(standby)).toEqual([]);
      await standby.waitPromoted();
      await standby.restart();
      expect([...(await slotsOf(standby)).keys()]).toEqual([]);
      expect(sidecar.history.filter((status) => isReady(status, "app"))).toEqual([]);
    });
  });
