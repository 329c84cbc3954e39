/** Native subscriptions whose tables are still being copied when the primary dies. */
import { expect, onTestFinished, test } from "vitest";
import type { SlotStatus, Status } from "../../src/domain/status.ts";
import { tableRepair } from "../../src/domain/table-sync.ts";
import { parseConnInfo } from "../../src/pg/conninfo.ts";
import type { PgServer } from "../../src/sandbox/server.ts";
import { startCluster, type TestCluster } from "../support/cluster-fixture.ts";
import { repoint, subscribe, waitSubscribed } from "../support/consumer.ts";
import { QUICK } from "../support/file-way.ts";
import { describeEach, usedOf } from "../support/majors.ts";
import { startSidecar, type TestSidecar } from "../support/sidecar.ts";
import { slotsOf } from "../support/slots.ts";
import { failOver, hasGuard } from "../support/steps.ts";
import { eventually } from "../support/wait.ts";
import { waitForReceipt } from "../support/wal.ts";

const TABLES = ["first", "second", "third"];
const COPIED_LATER = ["second", "third"];

const MAY = (major: number) =>
  major < 16 ? "pg_read_binary_file(text, bigint, bigint, boolean)" : "pg_log_standby_snapshot()";

interface Scene {
  cluster: TestCluster;
  sidecar: TestSidecar;
  /** Lets the copies of `second` and `third` go on. */
  letCopy(): Promise<void>;
}

const SYNC_SLOT = /^pg_\d+_sync_\d+_\d+$/;
const isSyncSlot = ({ name }: { name: string }) => SYNC_SLOT.test(name);
const syncSlots = async (server: PgServer) =>
  [...(await slotsOf(server)).keys()].filter((name) => SYNC_SLOT.test(name));
const syncSlotsIn = ({ slots }: Status): SlotStatus[] => slots.filter(isSyncSlot);

async function statesOf(subscriber: PgServer): Promise<Record<string, string>> {
  const rows = await subscriber.query<{ name: string; state: string }>(
    "select srrelid::regclass::text as name, srsubstate::text as state from pg_catalog.pg_subscription_rel",
  );
  return Object.fromEntries(rows.map(({ name, state }) => [name, state]));
}

const untilStates = (subscriber: PgServer, state: string) =>
  eventually(
    async () => {
      const states = await statesOf(subscriber);
      return COPIED_LATER.every((table) => states[table] === state);
    },
    { what: `${COPIED_LATER.join(" and ")} to be in state ${state}`, timeoutMs: 60_000 },
  );

/** A subscription that has `first`, and whose copies of the others have begun and cannot end. */
async function copiesUnderWay(major: number, more: Record<string, string> = {}): Promise<Scene> {
  const cluster = await startCluster({ major, subscriber: true });
  const { primary, standby, subscriber } = cluster;
  // a role as the documentation has it, which sees the primary's walsenders
  await primary.query("create role side login replication; grant pg_monitor to side");
  await primary.query(`grant execute on function ${MAY(major)} to side`);
  const sidecar = await startSidecar(standby, {
    primaryConn: parseConnInfo(primary.dsn("postgres", "side")),
    selection: { include: [{ name: "sub1" }], exclude: [] },
    nap: QUICK,
  });
  if (major < 16) {
    await sidecar.until("the guards to be staged", ({ restart }) => restart?.guards === 2);
    await standby.restart();
  }
  await sidecar.until("the guard", hasGuard);
  for (const table of TABLES)
    for (const server of [primary, subscriber])
      await server.query(`create table ${table} (id bigint primary key)`);
  for (const table of TABLES) await primary.query(`insert into ${table} select generate_series(1, 3)`);
  await subscribe({ publisher: primary, subscriber, name: "sub1", tables: ["first"], with: more });
  const holder = await subscriber.connect();
  onTestFinished(() => holder.end().catch(() => {}));
  await holder.query("select pg_catalog.pg_advisory_lock(7)");
  await subscriber.query(`create function wait() returns trigger language plpgsql as
    $$ begin perform pg_catalog.pg_advisory_xact_lock_shared(7); return new; end $$`);
  for (const table of COPIED_LATER) {
    await subscriber.query(
      `create trigger waits before insert on ${table} for each row execute function wait()`,
    );
    await subscriber.query(`alter table ${table} enable always trigger waits`);
  }
  await primary.query(`alter publication sub1_pub add table ${COPIED_LATER.join(", ")}`);
  await subscriber.query("alter subscription sub1 refresh publication");
  await untilStates(subscriber, "d");
  await eventually(async () => (await syncSlots(primary)).length === COPIED_LATER.length, {
    what: "the slots of the tables that are copied",
  });
  return {
    cluster,
    sidecar,
    letCopy: async () => void (await holder.query("select pg_catalog.pg_advisory_unlock(7)")),
  };
}

/** Keeps the subscription's main worker from going on; the tables' own workers wait for it once they have copied. */
async function holdMainWorker({ primary, subscriber }: TestCluster): Promise<() => Promise<void>> {
  const holder = await subscriber.connect();
  onTestFinished(() => holder.end().catch(() => {}));
  await holder.query("begin; lock table first in access exclusive mode");
  await primary.query("insert into first values (4)");
  await eventually(
    async () =>
      (
        await subscriber.query(
          "select from pg_catalog.pg_locks where relation = 'first'::regclass and not granted",
        )
      ).length > 0,
    { what: "the main worker to wait" },
  );
  return async () => void (await holder.query("rollback"));
}

/** Runs the statements of a repair as an operator does: those that are to be repeated until they return no row, repeated. */
async function carryOut(server: PgServer, repair: string): Promise<void> {
  let repeat = false;
  for (const line of repair.split("\n")) {
    if (line.startsWith("--")) repeat = /^-- repeat/.test(line);
    else {
      const run = async () => (await server.query(line)).length === 0;
      if (repeat) await eventually(run, { what: `no row of ${line}` });
      else await run();
      repeat = false;
    }
  }
}

async function untilEqual({ standby, subscriber }: TestCluster): Promise<void> {
  await waitSubscribed(subscriber, "sub1");
  const rows = async (server: PgServer) =>
    JSON.stringify(
      await server.query(
        TABLES.map((table) => `select '${table}' as t, id from ${table}`)
          .join(" union all ")
          .concat(" order by 1, 2"),
      ),
    );
  await eventually(async () => (await rows(subscriber)) === (await rows(standby)), {
    what: "the subscriber to have what the new primary has",
  });
}

const MAJORS = [14, 15, 16, 17, 18];
const USED = process.env.PG_MAJORS === undefined ? [15, 16] : usedOf(MAJORS);

describeEach(MAJORS, USED, (major) => {
  test("tables whose copy has ended before a failover sync on after it: their slots are chosen with the subscription's own (K7)", async () => {
    const { cluster, sidecar, letCopy } = await copiesUnderWay(major);
    const { primary, standby, subscriber } = cluster;
    const letGo = await holdMainWorker(cluster);
    await letCopy();
    await untilStates(subscriber, "f");
    for (const table of COPIED_LATER) await primary.query(`insert into ${table} values (4)`);
    await waitForReceipt(primary, standby);
    const names = await syncSlots(primary);
    const status = await sidecar.until(
      "all to be ready",
      (seen) =>
        seen.ready && syncSlotsIn(seen).filter(({ tableSync }) => tableSync?.copying === false).length === 2,
    );
    expect(status.slots.map(({ name, chosenBy }) => [name, chosenBy])).toEqual([
      ["sub1", ['rule name "sub1"']],
      ...names.map((name) => [name, ["table sync of sub1"]]),
    ]);
    expect(status.notChosen).toEqual([]);

    const { finish } = await failOver(cluster, sidecar);
    expect(finish?.slots.filter(isSyncSlot).map(({ detail }) => detail)).toEqual(
      names.map(() => expect.stringContaining("in state f it goes on from this slot")),
    );
    await standby.query("insert into second values (5)");
    await repoint(subscriber, "sub1", standby);
    await letGo();
    await untilEqual(cluster);
    expect(await syncSlots(standby)).toEqual([]);
  });

  test.runIf(major >= 17)(
    "a subscription with failover = true gives its table syncs' slots the flag, and they come through as well (K7)",
    async () => {
      const { cluster, sidecar, letCopy } = await copiesUnderWay(major, { failover: "true" });
      const { primary, standby, subscriber } = cluster;
      const letGo = await holdMainWorker(cluster);
      await letCopy();
      await untilStates(subscriber, "f");
      await primary.query("insert into second values (4)");
      await waitForReceipt(primary, standby);
      const status = await sidecar.until(
        "all to be ready",
        (seen) => seen.ready && syncSlotsIn(seen).length === 2,
      );
      expect(syncSlotsIn(status).map(({ chosenBy }) => chosenBy)).toEqual([
        ["flag", "table sync of sub1"],
        ["flag", "table sync of sub1"],
      ]);
      await failOver(cluster, sidecar);
      await repoint(subscriber, "sub1", standby);
      await letGo();
      await untilEqual(cluster);
    },
  );

  test("while a table is being copied its slot does not stand against being ready, and after a failover the table is copied again (K7)", async () => {
    const { cluster, sidecar, letCopy } = await copiesUnderWay(major);
    const { primary, standby, subscriber } = cluster;
    const names = await syncSlots(primary);
    const status = await sidecar.until("the copies to be seen", (seen) => syncSlotsIn(seen).length === 2);
    expect(syncSlotsIn(status).map(({ name, tableSync }) => [name, tableSync?.copying])).toEqual(
      names.map((name) => [name, true]),
    );
    // from the first look at them on, whatever had come of them then
    const since = sidecar.history.slice(sidecar.history.findIndex((seen) => syncSlotsIn(seen).length > 0));
    expect(since.filter(({ ready }) => !ready)).toEqual([]);
    await waitForReceipt(primary, standby);

    const { finish } = await failOver(cluster, sidecar);
    for (const name of names)
      expect(finish?.slots.find((slot) => slot.name === name)?.detail).toContain(
        "in state d PostgreSQL copies the table again",
      );
    await standby.query("insert into second values (4)");
    await repoint(subscriber, "sub1", standby);
    await letCopy();
    await untilEqual(cluster);
  });

  test("a table whose slot did not come through is copied again by the statements of the report (K7)", async () => {
    const { cluster, sidecar, letCopy } = await copiesUnderWay(major);
    const { primary, standby, subscriber } = cluster;
    const letGo = await holdMainWorker(cluster);
    await letCopy();
    await untilStates(subscriber, "f");
    await sidecar.until("all to be ready", (seen) => seen.ready && syncSlotsIn(seen).length === 2);
    const names = await syncSlots(primary);
    await waitForReceipt(primary, standby);
    await failOver(cluster, sidecar);
    // as if nobody had brought them over
    for (const name of names)
      await standby.query(
        "select pg_catalog.pg_drop_replication_slot(slot_name) from pg_catalog.pg_replication_slots where slot_name = $1",
        [name],
      );
    await repoint(subscriber, "sub1", standby);
    await letGo();
    for (const name of names) await carryOut(subscriber, tableRepair({ name, plugin: "pgoutput" }) ?? "");
    await standby.query("insert into second values (5)");
    await untilEqual(cluster);
  });
});
