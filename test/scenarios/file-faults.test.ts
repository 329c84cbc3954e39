/** Slots that come by their files (11 to 15): what is wrong around them. Each time the standby starts, and the status says why not. */
import { chmodSync, cpSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { expect, test } from "vitest";
import { parseLsn } from "../../src/domain/lsn.ts";
import { parseConnInfo } from "../../src/pg/conninfo.ts";
import { crc32c } from "../../src/pg/crc32c.ts";
import { snapshotFileName } from "../../src/pg/snapshot-file.ts";
import { ensurePhysicalSlot, waitStreaming } from "../../src/sandbox/cluster.ts";
import type { PgServer } from "../../src/sandbox/server.ts";
import { startCluster, type TestCluster } from "../support/cluster-fixture.ts";
import { createLogicalSlot, readSlot } from "../support/consumer.ts";
import {
  cyclesLater,
  isReady,
  onMajor,
  QUICK,
  slotFolders,
  stateFile,
  untilRecorded,
  untilTold,
} from "../support/file-way.ts";
import { startSidecar, temporaryDirectory } from "../support/sidecar.ts";
import { startSidecarProcess } from "../support/sidecar-process.ts";
import { sidecarSlots, slotsOf } from "../support/slots.ts";
import {
  failOver,
  keptStreams,
  promisedStreams,
  untilFinished,
  untilReason,
  untilStaged,
} from "../support/steps.ts";
import { eventually } from "../support/wait.ts";
import { logRunningTransactions, switchSegments, waitForReplay } from "../support/wal.ts";

interface Wrong {
  what: string;
  directory: (cluster: TestCluster) => string;
  says: string;
}

const WRONG: Wrong[] = [
  {
    what: "does not exist",
    directory: ({ standby }) => `${standby.dataDir}-not`,
    says: "correct standby.data_directory",
  },
  {
    what: "is no data directory",
    directory: () => temporaryDirectory(),
    says: "show data_directory",
  },
  {
    what: "is another cluster's",
    directory: ({ subscriber }) => subscriber.dataDir,
    says: "set standby.data_directory to the directory of the very server",
  },
  {
    what: "is of another major",
    directory: ({ standby, major }) => {
      const copy = temporaryDirectory();
      for (const file of ["global/pg_control", "postmaster.pid"]) {
        mkdirSync(path.dirname(path.join(copy, file)), { recursive: true });
        cpSync(path.join(standby.dataDir, file), path.join(copy, file));
      }
      writeFileSync(path.join(copy, "PG_VERSION"), `${major - 1}\n`);
      return copy;
    },
    says: "not of one before an upgrade",
  },
  {
    what: "is another standby's of the same cluster",
    directory: ({ standbys }) => (standbys[1] as PgServer).dataDir,
    says: "set standby.data_directory to the directory of the very server",
  },
  {
    what: "is the primary's",
    directory: ({ primary }) => primary.dataDir,
    says: "set standby.data_directory to the directory of the very server",
  },
];

onMajor(14, (major) => {
  test.each(WRONG)(
    "a data directory that $what is not touched, the status says so, and the right one mends it (I11, I13)",
    async ({ directory, says }) => {
      const cluster = await startCluster({ major, standbys: 2, subscriber: true });
      const { primary, standby, standbys, subscriber } = cluster;
      await createLogicalSlot(primary, "app");
      const dataDirectory = directory(cluster);
      const all = [primary, ...standbys, subscriber];
      const before = all.map(slotFolders);
      const wrong = await startSidecar(standby, { nap: QUICK, dataDirectory });
      await untilTold(wrong, "app", "restart_pending", says);
      expect((await cyclesLater(wrong)).problems).toContainEqual(
        expect.objectContaining({ code: "data_directory_unusable", severity: "warning" }),
      );
      expect(all.map(slotFolders)).toEqual(before);
      const { stateDirectory } = wrong;
      await wrong.stop();

      const sidecar = await startSidecar(standby, { nap: QUICK, stateDirectory });
      await untilStaged(sidecar, "app");
      await standby.restart();
      await sidecar.untilSlot("app", "synced");
    },
  );
});

onMajor(13, (major) => {
  test("a data directory that may not be written is not used, the status says as which account to run (I11)", async () => {
    const { primary, standby } = await startCluster({ major });
    await createLogicalSlot(primary, "app");
    const folder = path.join(standby.dataDir, "pg_replslot");
    chmodSync(folder, 0o500);
    const stateDirectory = temporaryDirectory();
    // root may write all the same
    const account = standby.workspace.account;
    const sidecar = startSidecarProcess(standby, stateDirectory, null, account);
    await untilTold(sidecar, "app", "permission_denied", "run slotsync as the account that owns");
    await standby.restart();
    await untilTold(sidecar, "app", "permission_denied", "run slotsync as the account that owns");
    expect(slotFolders(standby)).toEqual([]);

    chmodSync(folder, 0o700);
    await sidecar.until("the slot to be staged", ({ restart }) => restart?.slots === 1);
    await standby.restart();
    await sidecar.until("the slot to be ready", (status) => isReady(status, "app"));
    await sidecar.kill();
  });
});

onMajor(15, (major) => {
  test("without a data directory the status names the setting, and nothing is called ready (I6)", async () => {
    const { primary, standby } = await startCluster({ major });
    await createLogicalSlot(primary, "app");
    const sidecar = await startSidecar(standby, { nap: QUICK, dataDirectory: null });
    const { problems, ready } = await untilTold(
      sidecar,
      "app",
      "restart_pending",
      "set standby.data_directory",
    );
    expect(problems).toContainEqual(expect.objectContaining({ code: "data_directory_unset" }));
    expect(ready).toBe(false);
    await standby.restart();
    await untilTold(sidecar, "app", "restart_pending", "set standby.data_directory");
  });
});

onMajor(11, (major) => {
  test("without a data directory 11 does not tell whom it follows: the status names the setting (I6)", async () => {
    const { primary, standby } = await startCluster({ major });
    await createLogicalSlot(primary, "app");
    const sidecar = await startSidecar(standby, {
      nap: QUICK,
      dataDirectory: null,
      primaryConn: parseConnInfo(primary.dsn()),
    });
    const { problems, ready } = await sidecar.until("a problem", (status) => status.problems.length > 0);
    const told = problems.map(({ message }) => message).join();
    expect(told).toContain("standby.data_directory");
    expect(told, "a grant does not help").not.toContain("GRANT");
    expect(ready).toBe(false);
  });
});

type Damage = (state: Buffer) => Buffer;

/** With its checksum made anew, so that nothing else is wrong. */
const sealed =
  (change: (state: Buffer) => void): Damage =>
  (state) => {
    const copy = Buffer.from(state);
    change(copy);
    copy.writeUInt32LE(crc32c(copy.subarray(8)), 4);
    return copy;
  };

const DAMAGES: [what: string, major: number, damage: Damage, says: string][] = [
  ["cut off", 15, (state) => state.subarray(0, 100), "100 bytes"],
  ["empty", 13, () => Buffer.alloc(0), "app_a"],
  ["of another slot", 12, sealed((state) => void state.write("someone", 16)), "someone"],
  ["of another version", 14, sealed((state) => void state.writeUInt32LE(9, 8)), "version 9"],
  [
    "damaged",
    11,
    (state) => {
      const copy = Buffer.from(state);
      copy.writeUInt8(copy.readUInt8(100) ^ 1, 100);
      return copy;
    },
    "wrong checksum",
  ],
];

for (const [what, at, damage, says] of DAMAGES)
  onMajor(at, (major) => {
    test.each(["first", "last"])(
      `a state file on the primary that is ${what} is not staged, whether that slot was made %s; the others are (I9, I11)`,
      async (made) => {
        const cluster = await startCluster({ major });
        const { primary, standby } = cluster;
        const order = made === "first" ? ["app_a", "app_b", "app_c"] : ["app_b", "app_c", "app_a"];
        for (const name of order) {
          await createLogicalSlot(primary, name);
          await switchSegments(primary, 1);
        }
        const file = stateFile(primary, "app_a");
        const sound = readFileSync(file);
        writeFileSync(file, damage(sound));
        const sidecar = await startSidecar(standby, { nap: QUICK });
        await untilStaged(sidecar, "app_b", "app_c");
        if (major > 11)
          await sidecar.until("both guards to be staged", ({ restart }) => restart?.guards === 2);
        const told = await sidecar.until("the reason", ({ slots }) => slots[0]?.reason !== "restart_pending");
        expect(told.slots[0]).toMatchObject({ name: "app_a", protection: "waiting" });
        expect(told.slots[0]?.detail).toContain(says);
        expect(slotFolders(standby)).not.toContain("app_a");
        await standby.restart();
        for (const name of ["app_b", "app_c"]) await sidecar.untilSlot(name);
        const later = await cyclesLater(sidecar);
        if (major === 11) expect(isReady(later, "app_a")).toBe(false);
        // made from another slot's file
        else expect(await sidecarSlots(standby)).toHaveLength(2);

        writeFileSync(file, sound);
        await sidecar.until("the mended one to be staged", ({ restart }) => restart?.slots === 1, 40_000);
        await standby.restart();
        await sidecar.untilSlot("app_a");
        const promised = await promisedStreams(cluster, "app_a", "app_b", "app_c");
        await failOver(cluster, sidecar);
        expect(await keptStreams(standby, promised.keys())).toEqual(promised);
      },
    );
  });

/** A snapshot as a server of another minor version might write it. */
const foreignSnapshot = sealed((snapshot) => void snapshot.writeUInt32LE(snapshot.readUInt32LE(8) + 1, 8));

for (const at of [11, 15])
  onMajor(at, (major) => {
    test("a snapshot of another format is not used: the slot waits until it has moved by itself (I2)", async () => {
      const cluster = await startCluster({ major });
      const { primary, standby } = cluster;
      await primary.query("create table t (id int primary key)");
      await createLogicalSlot(primary, "app");
      await primary.query("insert into t values (1)");
      await logRunningTransactions(primary);
      await readSlot(primary, "app");
      const restart = (await slotsOf(primary)).get("app")?.restart ?? "";
      const snapshot = path.join(
        primary.dataDir,
        "pg_logical/snapshots",
        snapshotFileName(parseLsn(restart)),
      );
      const sound = readFileSync(snapshot);
      writeFileSync(snapshot, foreignSnapshot(sound));
      const sidecar = await startSidecar(standby, { nap: QUICK });
      await untilStaged(sidecar, "app");
      writeFileSync(snapshot, sound);
      await standby.restart();
      await untilReason(sidecar, "app", "no_consistent_snapshot");
      const since = sidecar.history.length;
      await cyclesLater(sidecar);
      expect(sidecar.history.slice(since).filter((status) => isReady(status, "app"))).toEqual([]);

      let id = 1;
      await eventually(
        async () => {
          id += 1;
          await primary.query("insert into t values ($1)", [id]);
          await primary.query("checkpoint");
          await readSlot(primary, "app");
          return sidecar.status !== null && isReady(sidecar.status, "app");
        },
        { what: "the slot to have moved by itself", intervalMs: 200 },
      );
      await primary.query("insert into t values (1000)");
      await untilRecorded(sidecar, primary, "app");
      const promised = await promisedStreams(cluster, "app");
      await failOver(cluster, sidecar);
      expect(await keptStreams(standby, ["app"])).toEqual(promised);
    });
  });

for (const mode of ["fast", "immediate"] as const)
  onMajor(mode === "fast" ? 12 : 11, (major) => {
    test(`the primary is restarted (${mode}) between the pin and the start: the slot is ready all the same, and loses nothing (I4, I10)`, async () => {
      const cluster = await startCluster({ major });
      const { primary, standby } = cluster;
      await primary.query("create table t (id int primary key)");
      await createLogicalSlot(primary, "app");
      const sidecar = await startSidecar(standby, { nap: QUICK });
      await untilStaged(sidecar, "app");
      await primary.restart(mode);
      await primary.query("alter table t add column note text");
      await primary.query("vacuum pg_catalog.pg_attribute");
      await primary.query("insert into t values (1, 'one')");
      await standby.restart();
      await sidecar.untilSlot("app", "synced");
      const promised = await promisedStreams(cluster, "app");
      expect(promised.get("app")?.join()).toContain("one");
      await failOver(cluster, sidecar);
      expect(await keptStreams(standby, ["app"])).toEqual(promised);
    });
  });

for (const at of [12, 14])
  onMajor(at, (major) => {
    test("the primary fails over between staging and the start: the staged standby follows the new one, and is never ahead of it (I1, I4, I6)", async () => {
      const cluster = await startCluster({ major, standbys: 2 });
      const { primary, standbys } = cluster;
      const [heir, staged] = standbys as [PgServer, PgServer];
      await primary.query("create table t (id int primary key)");
      for (const name of ["idle", "read"]) await createLogicalSlot(primary, name);
      const first = await startSidecar(heir, { nap: QUICK });
      await untilStaged(first, "idle", "read");
      await heir.restart();
      for (const name of ["idle", "read"]) await first.untilSlot(name, "synced");
      await primary.query("insert into t select generate_series(1, 10)");
      await readSlot(primary, "read");
      await primary.query("checkpoint");

      const second = await startSidecar(staged, { nap: QUICK });
      await untilStaged(second, "idle", "read");
      await primary.query("insert into t select generate_series(11, 20)");
      for (const each of standbys) await waitForReplay(primary, each);
      await primary.kill();
      heir.promote();
      await untilFinished(first);
      await staged.stop();
      await ensurePhysicalSlot(heir, staged.name);
      staged.follow({
        host: heir.host,
        port: heir.port,
        slotName: staged.name,
        applicationName: staged.name,
      });
      await staged.start();
      await waitStreaming(heir, staged.name);

      await heir.query("insert into t select generate_series(21, 30)");
      const now = { primary: heir, standby: staged };
      await second.until(
        "both to be ready",
        (status) => status.ready && ["idle", "read"].every((name) => isReady(status, name)),
        60_000,
      );
      for (const { slots } of second.history)
        for (const slot of slots)
          if (slot.protection === "synced") expect(slot.lagBytes, slot.name).toBeGreaterThanOrEqual(0);
      await untilRecorded(second, heir, "idle", "read");
      const promised = await promisedStreams(now, "idle", "read");
      await heir.kill();
      staged.promote();
      await untilFinished(second);
      expect(await keptStreams(staged, ["idle", "read"])).toEqual(promised);
    });
  });
