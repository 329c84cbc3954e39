/** What a loaded slot stands on: its WAL (I3) and its catalog rows (I4). Whatever takes them away, the status says so and it recovers. */
import { readFileSync, rmSync, writeFileSync } from "node:fs";
import path from "node:path";
import { expect, onTestFinished, test } from "vitest";
import { parseLsn } from "../../src/domain/lsn.ts";
import { snapshotFileName } from "../../src/pg/snapshot-file.ts";
import { backupInto } from "../../src/sandbox/backup.ts";
import { ensurePhysicalSlot, waitStreaming } from "../../src/sandbox/cluster.ts";
import type { PgServer } from "../../src/sandbox/server.ts";
import { startCluster, type TestCluster } from "../support/cluster-fixture.ts";
import { createLogicalSlot, insertedIds, readSlot } from "../support/consumer.ts";
import {
  cyclesLater,
  isReady,
  loseWal,
  onMajor,
  QUICK,
  segmentsOf,
  slotIn,
  untilRecorded,
  untilTold,
} from "../support/file-way.ts";
import { startSidecar, type TestSidecar } from "../support/sidecar.ts";
import { confirm, peek, slotsOf } from "../support/slots.ts";
import {
  failOver,
  keptStreams,
  promisedStreams,
  untilProblem,
  untilReason,
  untilStaged,
} from "../support/steps.ts";
import { eventually } from "../support/wait.ts";
import { switchSegments, waitForReplay } from "../support/wal.ts";

for (const at of [11, 15])
  onMajor(at, (major) => {
    test("WAL that the standby lacks is fetched, and decoding from the very first change works after a failover (I3)", async () => {
      const cluster = await startCluster({ major });
      const { primary, standby } = cluster;
      await primary.query("create table t (id int primary key)");
      await createLogicalSlot(primary, "idle");
      await primary.query("insert into t values (1)");
      await switchSegments(primary, 3);
      await primary.query("insert into t values (2)");
      const sidecar = await startSidecar(standby, { nap: QUICK });
      await untilStaged(sidecar, "idle");
      const lost = await loseWal(cluster);
      await sidecar.untilSlot("idle", "synced");
      expect(segmentsOf(standby)).toEqual(expect.arrayContaining(lost.slice(1)));
      await primary.query("insert into t values (3)");
      const promised = await promisedStreams(cluster, "idle");
      await failOver(cluster, sidecar);
      expect(await keptStreams(standby, ["idle"])).toEqual(promised);
      expect(insertedIds(await peek(standby, "idle"), "t")).toEqual([1, 2, 3]);
    });
  });

for (const at of [11, 12, 15])
  onMajor(at, (major) => {
    test("WAL that is on neither server: the slot says so, is never ready, and made anew is ready (I3, I6)", async () => {
      const { cluster, sidecar } = await lostEverywhere(major);
      const { primary, standby } = cluster;
      await untilTold(sidecar, "idle", "wal_or_rows_removed", "is neither here nor on the primary");
      await eventually(async () => !(await slotsOf(standby)).has("idle"), { what: "the slot to be dropped" });
      expect(sidecar.history.filter((status) => isReady(status, "idle"))).toEqual([]);

      await primary.query("select pg_catalog.pg_drop_replication_slot('idle')");
      await createLogicalSlot(primary, "idle");
      await primary.query("insert into t values (3)");
      await untilStagedAt(sidecar, primary, "idle");
      await standby.restart();
      await sidecar.untilSlot("idle");
      await primary.query("insert into t values (4)");
      const promised = await promisedStreams(cluster, "idle");
      await failOver(cluster, sidecar);
      expect(await keptStreams(standby, ["idle"])).toEqual(promised);
    });

    test("a slot whose WAL is on neither server does not wear its name after a failover (I3, I6)", async () => {
      const { cluster, sidecar } = await lostEverywhere(major);
      await untilReason(sidecar, "idle", "wal_or_rows_removed");
      const { finish } = await failOver(cluster, sidecar);
      expect((await slotsOf(cluster.standby)).has("idle"), JSON.stringify(finish)).toBe(false);
      expect(["dropped", "not_protected"]).toContain(
        finish?.slots.find(({ name }) => name === "idle")?.outcome,
      );
    });
  });

async function lostEverywhere(major: number): Promise<{ cluster: TestCluster; sidecar: TestSidecar }> {
  const cluster = await startCluster({ major });
  const { primary, standby } = cluster;
  await primary.query("create table t (id int primary key)");
  await createLogicalSlot(primary, "idle");
  await primary.query("insert into t values (1)");
  await switchSegments(primary, 3);
  const sidecar = await startSidecar(standby, { nap: QUICK });
  await untilStaged(sidecar, "idle");
  await loseWal(cluster, true);
  return { cluster, sidecar };
}

/** Staged as it stands on the primary now, and with its guards. */
async function untilStagedAt(sidecar: TestSidecar, primary: PgServer, name: string): Promise<void> {
  await untilRecorded(sidecar, primary, name);
  await untilStaged(sidecar, name);
  await cyclesLater(sidecar, 4);
}

interface Break {
  what: string;
  /** Takes the proof away, and resolves when it may be put right. */
  breaks: (proven: Proven) => Promise<void>;
  mends: (proven: Proven) => Promise<void>;
  /** Over between two looks: the primary's slots have kept their rows, so it need not be seen. */
  unseen?: true;
}

interface Proven {
  cluster: TestCluster;
  sidecar: TestSidecar;
}

const BREAKS: Break[] = [
  {
    what: "its physical slot is dropped",
    breaks: async ({ cluster, sidecar }) => {
      await dropPhysical(cluster.primary, cluster.standby.name);
      await untilProblem(sidecar, "physical_slot_missing");
    },
    mends: ({ cluster }) => ensurePhysicalSlot(cluster.primary, cluster.standby.name),
  },
  {
    what: "its physical slot is dropped and made anew at once",
    breaks: async ({ cluster }) => {
      await dropPhysical(cluster.primary, cluster.standby.name);
      await ensurePhysicalSlot(cluster.primary, cluster.standby.name);
      await waitStreaming(cluster.primary, cluster.standby.name);
    },
    mends: async () => {},
    unseen: true,
  },
  {
    what: "hot_standby_feedback is switched off",
    breaks: async ({ cluster, sidecar }) => {
      cluster.standby.configure({ hot_standby_feedback: false });
      await untilProblem(sidecar, "feedback_off");
    },
    mends: async ({ cluster }) => cluster.standby.configure({ hot_standby_feedback: true }),
  },
  {
    what: "primary_slot_name is changed",
    breaks: async ({ cluster: { primary, standby } }) => {
      await ensurePhysicalSlot(primary, "another");
      const { host, port } = primary;
      standby.follow({ host, port, slotName: "another", applicationName: standby.name });
      if (standby.major < 13) await standby.restart();
      else standby.reload();
    },
    mends: async () => {},
  },
  {
    what: "the standby is rebuilt",
    breaks: async ({ cluster: { primary, standby }, sidecar }) => {
      await standby.stop();
      rmSync(standby.dataDir, { recursive: true });
      await backupInto(primary, standby);
      const { host, port } = primary;
      standby.follow({ host, port, slotName: standby.name, applicationName: standby.name });
      await standby.start();
      await untilStaged(sidecar, "early", "late");
    },
    mends: ({ cluster }) => cluster.standby.restart(),
  },
];

// 12 calls no slot ready by a guard past which it is (advance_runs_ahead)
for (const at of [13, 15])
  onMajor(
    at,
    (major) => {
      test.each(BREAKS)(
        "when $what, slots are not ready until their rows are proven again, and then lose nothing (I4)",
        async ({ breaks, mends, unseen = false }) => {
          const cluster = await startCluster({ major });
          const { primary, standby } = cluster;
          await primary.query("create table t (id int primary key)");
          await createLogicalSlot(primary, "early");
          const sidecar = await startSidecar(standby, { nap: QUICK });
          await untilStaged(sidecar, "early");
          await standby.restart();
          await sidecar.untilSlot("early", "synced");
          await createLogicalSlot(primary, "late");
          await sidecar.until("both to be ready", ({ ready, slots }) => ready && slots.length === 2);
          // rows that nobody needs any more but the slots
          await primary.query("alter table t add column note text");
          await primary.query("insert into t values (1, 'one')");

          const since = sidecar.history.length;
          await breaks({ cluster, sidecar });
          if (!unseen)
            await sidecar.until("it not to be ready", () =>
              sidecar.history.slice(since).some(({ ready }) => !ready),
            );
          await mends({ cluster, sidecar });
          let id = 1;
          await eventually(
            async () => {
              id += 1;
              await primary.query("insert into t values ($1, 'more')", [id]);
              await primary.query("checkpoint");
              for (const name of ["early", "late"]) await readSlot(primary, name);
              return sidecar.status?.ready && sidecar.status.slots.length === 2;
            },
            { what: "both to be ready again", intervalMs: 200, timeoutMs: 40_000 },
          );
          await primary.query("insert into t values (1000, 'last')");
          await untilRecorded(sidecar, primary, "early", "late");
          await sidecar.until("both to be ready", ({ ready }) => ready);
          const promised = await promisedStreams(cluster, "early", "late");
          await failOver(cluster, sidecar);
          expect(await keptStreams(standby, promised.keys())).toEqual(promised);
        },
      );
    },
    12,
  );

onMajor(
  14,
  (major) => {
    test("a slot that is only guarded outlives a reload of the standby's settings and a new connection to the primary, and is made at the promotion (I4, G2b)", async () => {
      const standbySettings = { wal_retrieve_retry_interval: "200ms" };
      const cluster = await startCluster({ major, standbySettings });
      const { primary, standby } = cluster;
      await primary.query("create table t (id int primary key)");
      const sidecar = await startSidecar(standby, { nap: QUICK });
      await sidecar.until("the guards to be staged", ({ restart }) => restart?.guards === 2);
      await standby.restart();
      await sidecar.until("the guards", ({ guards }) =>
        guards.every(({ confirmedFlushLsn }) => confirmedFlushLsn !== null),
      );
      await createLogicalSlot(primary, "late");
      await sidecar.untilSlot("late", "guarded");

      const since = sidecar.history.length;
      standby.configure({ log_min_messages: "error" });
      await eventually(
        async () => {
          const [row] = await standby.query<{ setting: string }>(
            "select pg_catalog.current_setting('log_min_messages') as setting",
          );
          return row?.setting === "error";
        },
        { what: "the settings to be read again" },
      );
      await primary.query("insert into t values (1)");
      await primary.query("checkpoint");
      await cyclesLater(sidecar, 3);
      expect(sidecar.history.slice(since).filter((status) => !isReady(status, "late"))).toEqual([]);

      const look = () => sidecar.sidecar.lastLook.view;
      const before = look().feedbackSession;
      const { host, port } = primary;
      standby.follow({ host, port, slotName: standby.name, applicationName: "another" });
      if (standby.major < 13) await standby.restart();
      else standby.reload();
      await sidecar.until("another walreceiver", () => look().streaming && look().feedbackSession !== before);
      // the status is that of the look before until the cycle has ended
      await cyclesLater(sidecar);
      await sidecar.untilSlot("late", "guarded");
      await primary.query("insert into t values (2)");
      await untilRecorded(sidecar, primary, "late");
      const promised = await promisedStreams(cluster, "late");
      const { finish } = await failOver(cluster, sidecar);
      expect(finish?.slots).toMatchObject([{ name: "late", outcome: "materialised" }]);
      expect(await keptStreams(standby, ["late"])).toEqual(promised);
    });
  },
  12,
);

/** Between two of its walsender's lives. */
async function dropPhysical(primary: PgServer, name: string): Promise<void> {
  await eventually(
    async () => {
      try {
        await primary.query(
          "select pg_catalog.pg_terminate_backend(active_pid) from pg_catalog.pg_replication_slots where slot_name = $1 and active",
          [name],
        );
        await primary.query("select pg_catalog.pg_drop_replication_slot($1)", [name]);
        return true;
      } catch (error) {
        if ((error as { code?: string }).code === "55006") return false;
        throw error;
      }
    },
    { what: `"${name}" to be dropped`, intervalMs: 1 },
  );
}

// 11 and 12 move a slot only to where the primary's begins to decode
for (const at of [13, 15])
  onMajor(at, (major) => {
    test("an advance that waits for an open transaction holds up no other slot of its database, and goes on when that ends (I2, I9)", async () => {
      const cluster = await startCluster({ major });
      const { primary, standby } = cluster;
      await primary.query("create table t (id int primary key)");
      for (const name of ["fine", "stuck"]) await createLogicalSlot(primary, name);
      // it has an id and has written nothing: whoever starts without a snapshot at a point where it was running must wait for it
      const open = await primary.connect();
      onTestFinished(() => open.end());
      await open.query("begin");
      await open.query("select txid_current()");
      await primary.query("insert into t values (1)");
      await primary.query("checkpoint");
      await readSlot(primary, "stuck");
      const restart = (await slotsOf(primary)).get("stuck")?.restart ?? "";
      const snapshot = path.join(
        primary.dataDir,
        "pg_logical/snapshots",
        snapshotFileName(parseLsn(restart)),
      );
      const sound = readFileSync(snapshot);
      writeFileSync(snapshot, sound.subarray(0, 50));
      const sidecar = await startSidecar(standby, {
        nap: QUICK,
        timeouts: { connectMs: 2_000, statementMs: 2_000, answerMs: 4_000 },
      });
      await untilStaged(sidecar, "fine", "stuck");
      writeFileSync(snapshot, sound);
      await standby.restart();
      await sidecar.untilSlot("fine", "synced");
      await untilReason(sidecar, "stuck", "no_consistent_snapshot");

      for (const id of [2, 3, 4]) {
        await primary.query("insert into t values ($1)", [id]);
        for (const name of ["fine", "stuck"]) await confirm(primary, name);
        const { confirmed } = (await slotsOf(primary)).get("fine") ?? {};
        await waitForReplay(primary, standby);
        const status = await sidecar.until("the fine one to go on", (each) => {
          const fine = slotIn(each, "fine");
          return fine?.protection === "synced" && fine.standbyConfirmedFlushLsn === confirmed;
        });
        expect(slotIn(status, "stuck")).toMatchObject({ protection: "waiting" });
      }
      expect(sidecar.history.filter((status) => isReady(status, "stuck"))).toEqual([]);
      await open.query("commit");
      let id = 4;
      await eventually(
        async () => {
          id += 1;
          await primary.query("insert into t values ($1)", [id]);
          await primary.query("checkpoint");
          await confirm(primary, "stuck");
          return sidecar.status !== null && isReady(sidecar.status, "stuck");
        },
        { what: "the other to go on as well", intervalMs: 200, timeoutMs: 60_000 },
      );
      await primary.query("insert into t values (1000)");
      await untilRecorded(sidecar, primary, "fine", "stuck");
      const promised = await promisedStreams(cluster, "fine", "stuck");
      await failOver(cluster, sidecar);
      expect(await keptStreams(standby, promised.keys())).toEqual(promised);
    });
  });
