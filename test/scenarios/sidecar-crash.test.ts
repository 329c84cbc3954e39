/** The sidecar is killed with SIGKILL at each step of a cycle, and of the finishing step after a promotion (I10). */
import { describe, expect, test } from "vitest";
import type { JournalState } from "../../src/domain/journal.ts";
import { isFailoverReady } from "../../src/domain/protection.ts";
import type { Status } from "../../src/domain/status.ts";
import { readJournal } from "../../src/journal/store.ts";
import { startCluster, type TestCluster } from "../support/cluster-fixture.ts";
import { createLogicalSlot } from "../support/consumer.ts";
import { testedMajors } from "../support/majors.ts";
import { startSidecar, type TestSidecar, temporaryDirectory } from "../support/sidecar.ts";
import { type CrashPoint, startSidecarProcess } from "../support/sidecar-process.ts";
import { comparable, confirm, peek, positionOf, sidecarSlots, slotsOf } from "../support/slots.ts";
import { eventually } from "../support/wait.ts";
import { waitForReceipt, waitForReplay } from "../support/wal.ts";

const save = (when: CrashPoint["when"], nth: number): CrashPoint => ({ at: "save", when, nth });
const statement = (matching: string, when: CrashPoint["when"], nth = 1): CrashPoint => ({
  at: "statement",
  matching,
  when,
  nth,
});

const CREATE_GUARD = "pg_create_logical_replication_slot";
const COPY = "pg_copy_logical_replication_slot";
const ADVANCE = "pg_replication_slot_advance";
const DROP = "pg_drop_replication_slot";

/** The first cycle of the sidecar that is killed creates the guard. */
const FIRST_CYCLE: [step: string, point: CrashPoint][] = [
  ["before it has written that it makes a guard", save("before", 1)],
  ["when it has written that it makes a guard", save("after", 1)],
  ["when the guard has just been made", statement(CREATE_GUARD, "after")],
];

/** The first cycle of the sidecar that is killed drops a slot, copies one out of the guard and advances one. */
const LATER_CYCLE: [step: string, point: CrashPoint][] = [
  ["when it has looked at both servers", save("before", 1)],
  ["when it has written what it is about to do", save("after", 1)],
  ["before it drops a slot", statement(DROP, "before")],
  ["when it has dropped a slot", statement(DROP, "after")],
  ["when it has copied the guard to a temporary slot", statement(COPY, "after")],
  ["before the copy is given its name", statement(COPY, "before", 2)],
  ["when the copy has its name", statement(COPY, "after", 2)],
  ["before it advances a slot", statement(`unnest.*|${ADVANCE}.*unnest`, "before")],
  ["when everything is done and not yet written down", save("before", 2)],
  ["when everything is written down", save("after", 2)],
];

const AS_PRIMARY = "CASE WHEN NOT pg_catalog.pg_is_in_recovery\\(\\) THEN\\s[^]*";
const LOOK_AT_PROMOTED = "^(?![^]*may_snapshot)[^]*AS stalled_standby_slots";
const BRINGS = `${AS_PRIMARY}${ADVANCE}[^]*"moved"`;
const NAMES = (slot: string) => `${AS_PRIMARY}${COPY}[^]*,"${slot}",`;
const DROPS_GUARD = `${AS_PRIMARY}${DROP}[^]*"slotsync_guard_`;

/** Finishing: one slot is advanced, two are copied out of the guard, then the guard is dropped. */
const FINISHING: [step: string, point: CrashPoint | null][] = [
  ["before it looks at the promoted server", statement(LOOK_AT_PROMOTED, "before")],
  ["before it writes what it is about to finish", statement(LOOK_AT_PROMOTED, "after")],
  ["before it brings a slot to its position", statement(BRINGS, "before")],
  ["when it has brought a slot to its position", statement(BRINGS, "after")],
  ["when a slot has been copied out of the guard", statement(NAMES("guarded_1"), "after")],
  ["before another slot is given its name", statement(NAMES("guarded_2"), "before")],
  ["before the guard is dropped", statement(DROPS_GUARD, "before")],
  ["when the guard is dropped and the report not written", statement(DROPS_GUARD, "after")],
  ["when all is done", null],
];

describe.each(testedMajors())("PostgreSQL %i", (major) => {
  test.each(FIRST_CYCLE)(
    "killed %s, the sidecar makes its guard and leaves no other (I10)",
    async (_step, point) => {
      const cluster = await startCluster({ major });
      const stateDirectory = temporaryDirectory();
      await startSidecarProcess(cluster.standby, stateDirectory, point).died();

      const sidecar = await startSidecar(cluster.standby, { stateDirectory });
      await sidecar.until("the guard", hasGuard);
      await createLogicalSlot(cluster.primary, "kept");
      await allSynced(sidecar, "kept");
      await expectTidy(cluster, stateDirectory, "kept");
    },
  );

  test.each(LATER_CYCLE)(
    "killed %s, the sidecar goes on where it was, and a failover loses nothing (I1, I7, I10)",
    async (_step, point) => {
      const cluster = await startCluster({ major });
      const { primary, standby } = cluster;
      const stateDirectory = temporaryDirectory();
      await primary.query("create table t (id int primary key)");
      const first = await startSidecar(standby, { stateDirectory });
      await first.until("the guard", hasGuard);
      for (const slot of ["still", "moved", "gone"]) await createLogicalSlot(primary, slot);
      await allSynced(first, "still", "moved", "gone");
      await first.stop();

      await primary.query("insert into t select generate_series(1, 10)");
      await confirm(primary, "moved");
      await primary.query("select pg_catalog.pg_drop_replication_slot('gone')");
      await createLogicalSlot(primary, "fresh");
      await primary.query("insert into t select generate_series(11, 20)");
      await waitForReplay(primary, standby);
      await startSidecarProcess(standby, stateDirectory, point).died();
      await expectHonest(cluster, stateDirectory);

      const last = await startSidecar(standby, { stateDirectory });
      await allSynced(last, "still", "moved", "fresh");
      await expectTidy(cluster, stateDirectory, "fresh", "moved", "still");
      expect(last.status?.ready).toBe(true);

      const promised = await streams(cluster, "still", "moved", "fresh");
      await primary.kill();
      standby.promote();
      await last.until("the finishing step", ({ role }) => role === "primary");
      for (const [slot, changes] of promised)
        expect(comparable(await peek(standby, slot)), slot).toEqual(changes);
      expect(await sidecarSlots(standby)).toEqual([]);
    },
  );

  test.each(FINISHING)(
    "killed at a promotion %s, the sidecar finishes it when it is started again (I1, I6, I10)",
    async (_step, point) => {
      const cluster = await startCluster({ major });
      const { primary, standby } = cluster;
      const stateDirectory = temporaryDirectory();
      await primary.query("create table t (id int primary key)");
      const first = startSidecarProcess(standby, stateDirectory, point);
      await first.until("the guard", hasGuard);
      for (const slot of ["still", "moved"]) await createLogicalSlot(primary, slot);
      await allSynced(first, "still", "moved");

      // what comes now is received and not replayed: the standby can neither advance nor copy up to it before the promotion
      await standby.query("select pg_catalog.pg_wal_replay_pause()");
      await primary.query("insert into t select generate_series(1, 10)");
      await confirm(primary, "moved");
      for (const slot of ["guarded_1", "guarded_2"]) await createLogicalSlot(primary, slot);
      await primary.query("insert into t select generate_series(11, 20)");
      await waitForReceipt(primary, standby);
      const moved = await positionOf(primary, "moved");
      await first.until(
        "the slots to be guarded and the position to be recorded",
        ({ ready, slots }) =>
          ready &&
          slots.filter(({ protection }) => protection === "guarded").length === 2 &&
          slots.some(
            ({ name, lagBytes, primaryConfirmedFlushLsn }) =>
              name === "moved" && primaryConfirmedFlushLsn !== null && (lagBytes ?? 0) > 0,
          ),
      );
      const names = ["still", "moved", "guarded_1", "guarded_2"] as const;
      const promised = await streams(cluster, ...names);
      await primary.kill();
      standby.promote();
      if (point) await first.died();
      else {
        await first.until("the finishing step", ({ role }) => role === "primary");
        await first.kill();
      }

      for (const round of ["the second run", "a third run"]) {
        const sidecar = await startSidecar(standby, { stateDirectory });
        const { finish } = await sidecar.until(round, ({ role }) => role === "primary");
        expect(finish?.complete, JSON.stringify(finish)).toBe(true);
        expect(finish?.slots.map(({ name }) => name).toSorted()).toEqual([...names].toSorted());
        for (const { name, outcome } of finish?.slots ?? [])
          expect(["kept", "advanced", "materialised"], `${name}: ${outcome}`).toContain(outcome);
        expect([...(await slotsOf(standby)).keys()], round).toEqual([...names].toSorted());
        expect(await positionOf(standby, "moved")).toBe(moved);
        for (const [slot, changes] of promised)
          expect(comparable(await peek(standby, slot)), slot).toEqual(changes);
        await sidecar.stop();
      }
    },
  );

  test("killed while its guard waits for a transaction, the sidecar ends with one guard, and the other is dropped (I10)", async () => {
    const cluster = await startCluster({ major });
    const { primary, standby } = cluster;
    const stateDirectory = temporaryDirectory();
    const writer = await primary.connect();
    await writer.query("create table t (id int)");
    await writer.query("begin");
    await writer.query("insert into t values (1)");
    const first = startSidecarProcess(standby, stateDirectory);
    await eventually(async () => (await sidecarSlots(standby)).length === 1, {
      what: "the guard's creation to begin",
    });
    await first.kill();

    const second = await startSidecar(standby, { stateDirectory });
    await eventually(async () => (await sidecarSlots(standby)).length === 2, {
      what: "the second guard's creation",
    });
    await writer.query("commit");
    await writer.end();
    // one that is made while the guard is may lie at its very birth, from where it has to go on
    await second.until("the guard", hasGuard);
    await createLogicalSlot(primary, "kept");
    await allSynced(second, "kept");
    await expectTidy(cluster, stateDirectory, "kept");
  });

  test("killed while its guard waits, and the standby promoted then: no slot of the sidecar's is left (I6, I10)", async () => {
    const cluster = await startCluster({ major });
    const { primary, standby } = cluster;
    const stateDirectory = temporaryDirectory();
    const writer = await primary.connect();
    await writer.query("create table t (id int)");
    await writer.query("begin");
    await writer.query("insert into t values (1)");
    const first = startSidecarProcess(standby, stateDirectory);
    await eventually(async () => (await sidecarSlots(standby)).length === 1, {
      what: "the guard's creation to begin",
    });
    await first.kill();
    await primary.kill();
    await writer.end().catch(() => {});
    standby.promote();
    await standby.waitPromoted();

    const second = await startSidecar(standby, { stateDirectory });
    await second.until("the finishing step", ({ role }) => role === "primary");
    await eventually(async () => (await sidecarSlots(standby)).length === 0, {
      what: "the guard to be dropped",
    });
  });
});

function hasGuard({ guards }: Status): boolean {
  return guards.some((guard) => guard.confirmedFlushLsn !== null);
}

async function allSynced(sidecar: Pick<TestSidecar, "until">, ...names: string[]): Promise<void> {
  await sidecar.until(
    `${names.join(", ")} to be synced`,
    ({ slots }) =>
      slots.length === names.length &&
      slots.every(
        ({ name, protection, lagBytes }) => names.includes(name) && protection === "synced" && lagBytes === 0,
      ),
  );
}

async function streams(cluster: TestCluster, ...names: string[]): Promise<Map<string, string[]>> {
  await waitForReceipt(cluster.primary, cluster.standby);
  const result = new Map<string, string[]>();
  for (const name of names) result.set(name, comparable(await peek(cluster.primary, name)));
  return result;
}

async function journalIn(stateDirectory: string): Promise<JournalState> {
  const journal = await readJournal(stateDirectory);
  if (!journal) throw new Error("there is no journal");
  return journal;
}

/** What the journal calls ready is: the slot is there and not ahead, or the guard is behind it. */
async function expectHonest({ primary, standby }: TestCluster, stateDirectory: string): Promise<void> {
  const journal = await journalIn(stateDirectory);
  const here = await slotsOf(standby);
  for (const name of here.keys())
    if (!name.startsWith("slotsync_") && (await slotsOf(primary)).has(name))
      expect(await positionOf(standby, name), name).toBeLessThanOrEqual(await positionOf(primary, name));
  const guard = Object.values(journal.guards)[0];
  for (const [name, record] of journal.slots) {
    if (!isFailoverReady(record.protection) || record.absentSince !== null || here.has(name)) continue;
    expect(await positionOf(standby, guard?.name ?? ""), name).toBeLessThanOrEqual(
      record.primaryConfirmedFlushLsn ?? 0n,
    );
  }
}

/** The slots of these names, one guard that the journal knows, and nothing else. */
async function expectTidy(
  { standby }: TestCluster,
  stateDirectory: string,
  ...names: string[]
): Promise<void> {
  await eventually(
    async () => {
      const journal = await journalIn(stateDirectory);
      const guards = Object.values(journal.guards).map((guard) => guard.name);
      const persistent = [...(await slotsOf(standby)).values()].filter((slot) => !slot.temporary);
      const expected = [...names, ...guards].toSorted();
      return guards.length === 1 && persistent.map(({ name }) => name).join() === expected.join();
    },
    { what: "nothing but the slots and one guard to be there", timeoutMs: 10_000 },
  );
}
