/**
 * What the tests of PostgreSQL's own slot-sync worker assert, asked of the sidecar on every major where it applies. docs/conformance.md
 * is made from a run of these (npm run conformance).
 */
import { expect } from "vitest";
import { formatLsn } from "../../src/domain/lsn.ts";
import type { Status } from "../../src/domain/status.ts";
import { StatusBoard } from "../../src/http/status-board.ts";
import type { PgServer } from "../../src/sandbox/server.ts";
import { startCascade } from "../support/cascade.ts";
import { buildCli, cli, writeConfig } from "../support/cli.ts";
import { startCluster } from "../support/cluster-fixture.ts";
import { createLogicalSlot, readSlot, repoint, subscribe } from "../support/consumer.ts";
import { isReady, slotIn } from "../support/file-way.ts";
import { makeHostile } from "../support/hostile.ts";
import { loseCatalogRows } from "../support/loss.ts";
import type { TestSidecar } from "../support/sidecar.ts";
import { confirm, peek, positionOf, sidecarSlots, slotsOf } from "../support/slots.ts";
import { failOver, hasGuard, untilProblem } from "../support/steps.ts";
import { eventually } from "../support/wait.ts";
import {
  logRunningTransactions,
  switchSegments,
  waitForReceipt,
  waitForReplay,
  writeWal,
} from "../support/wal.ts";
import type { Key } from "./catalogue.ts";
import {
  consume,
  createFailoverSlot,
  failOverKeeping,
  isHereOrStaged,
  protect,
  protectReading,
  quickSidecar,
  untilSamePosition,
} from "./steps.ts";

/** What is done and asserted under each title of the catalogue. */
export const SCENARIOS: Record<Key, (major: number) => Promise<void>> = {
  flag: async (major) => {
    const { primary, standby } = await startCluster({ major });
    const config = writeConfig(standby, { slots: {} });
    await buildCli();
    const sidecar = await quickSidecar(standby, { selection: { include: [], exclude: [] } });
    await createLogicalSlot(primary, "app");
    const flagged = await cli(["flag", "app", "-c", config.file]);
    expect(flagged.code, flagged.stderr).toBe(0);
    await protect(sidecar, standby, "app");
    const cleared = await cli(["unflag", "app", "-c", config.file]);
    expect(cleared.code, cleared.stderr).toBe(0);
    await eventually(async () => !(await slotsOf(standby)).has("app"), {
      what: "the slot to be dropped here",
    });
    expect((await slotsOf(primary)).has("app")).toBe(true);
  },
  notAStandby: async (major) => {
    const { primary } = await startCluster({ major, standbys: 0 });
    const config = writeConfig(primary, { primary: { dsn: primary.dsn() } });
    await buildCli();
    const refused = await cli(["sync", "-c", config.file]);
    expect(refused).toMatchObject({ code: 1, stderr: expect.stringContaining("this node is a primary") });
    expect((await slotsOf(primary)).size).toBe(0);
  },
  twoPlugins: async (major) => {
    const { primary, standby } = await startCluster({ major });
    const sidecar = await quickSidecar(standby);
    await createFailoverSlot(primary, "text", { plugin: "test_decoding" });
    await createFailoverSlot(primary, "native", { plugin: "pgoutput" });
    await protect(sidecar, standby, "text", "native");
    await standby.restart();
    for (const name of ["text", "native"]) await sidecar.untilSlot(name);
    await sidecar.stop();
    const here = await slotsOf(standby);
    for (const [name, plugin] of [
      ["text", "test_decoding"],
      ["native", "pgoutput"],
    ] as const)
      expect(here.get(name)).toMatchObject({ plugin, temporary: false });
  },
  remoteDrop: async (major) => {
    const { primary, standby } = await startCluster({ major });
    const sidecar = await quickSidecar(standby);
    for (const name of ["gone", "kept"]) await createFailoverSlot(primary, name);
    await protect(sidecar, standby, "gone", "kept");
    await primary.query("select pg_catalog.pg_drop_replication_slot('gone')");
    await eventually(async () => !(await slotsOf(standby)).has("gone"), { what: "the slot to be dropped" });
    expect((await slotsOf(standby)).has("kept")).toBe(true);
  },
  invalidated: async (major) => {
    const cluster = await startCluster({ major });
    const { primary, standby } = cluster;
    const sidecar = await quickSidecar(standby);
    await createFailoverSlot(primary, "kept");
    await protect(sidecar, standby, "kept");
    await sidecar.untilSlot("kept", "synced");
    await loseCatalogRows(cluster, sidecar, "kept");
    await waitForReplay(primary, standby);
    const lostAt = await positionOf(primary, "kept");
    standby.configure({ hot_standby_feedback: true });
    await eventually(
      async () => {
        await consume(primary, "kept");
        await waitForReplay(primary, standby);
        return sidecar.status?.ready && slotIn(sidecar.status, "kept")?.protection === "synced";
      },
      { what: "the slot to be here anew", timeoutMs: 40_000, intervalMs: 200 },
    );
    expect(await positionOf(standby, "kept")).toBeGreaterThan(lostAt);
    expect(await isConflicting(standby, "kept")).toBe(false);
  },
  runningTransaction: async (major) => {
    const cluster = await startCluster({ major });
    const { primary, standby } = cluster;
    await primary.query("create table written (id int primary key)");
    const open = await primary.connect();
    try {
      await createFailoverSlot(primary, "app");
      await open.query("begin");
      await open.query("insert into written values (1)");
      await logRunningTransactions(primary);
      await primary.query("insert into written values (2)");
      await consume(primary, "app");
      const sidecar = await quickSidecar(standby, { atOnce: true });
      await primary.query("insert into written values (3)");
      await sidecar.until("the slot to be seen", ({ slots }) => slots.length === 1);
      await open.query("commit");
      await protectReading(sidecar, cluster, "app");
      await primary.query("insert into written values (4)");
      const { promised, kept } = await failOverKeeping(cluster, sidecar, "app");
      expect(promised.get("app")?.join()).toContain(":4");
      expect(kept).toEqual(promised);
    } finally {
      await open.end();
    }
  },
  hostile: async (major) => {
    const { primary, standby } = await startCluster({ major });
    await primary.query("create role sync superuser login replication");
    await makeHostile(primary, "postgres", "sync");
    await waitForReplay(primary, standby);
    const sidecar = await quickSidecar(standby, { dsn: standby.dsn("postgres", "sync") });
    await createFailoverSlot(primary, "app");
    await protect(sidecar, standby, "app");
    expect(sidecar.log.filter((line) => line.includes("caught"))).toEqual([]);
  },
  wrongSetting: async (major) => {
    const { primary, standby } = await startCluster({ major });
    const sidecar = await quickSidecar(standby);
    await createFailoverSlot(primary, "app");
    await protect(sidecar, standby, "app");
    standby.configure({ hot_standby_feedback: false });
    const { ready, problems } = await untilProblem(sidecar, "feedback_off");
    expect(ready).toBe(false);
    expect(problems.find(({ code }) => code === "feedback_off")?.message).toContain(
      "hot_standby_feedback = on",
    );
    standby.configure({ hot_standby_feedback: true });
    await eventually(
      async () => {
        await consume(primary, "app");
        return sidecar.status?.ready;
      },
      { what: "the standby to be ready again", timeoutMs: 40_000, intervalMs: 200 },
    );
  },
  confirmedFlush: async (major) => {
    const { primary, standby } = await startCluster({ major });
    const sidecar = await quickSidecar(standby);
    await createFailoverSlot(primary, "app");
    await protect(sidecar, standby, "app");
    const before = await positionOf(primary, "app");
    await writeWal(primary, 200_000);
    await consume(primary, "app");
    const after = await positionOf(primary, "app");
    expect(after).toBeGreaterThan(before);
    await sidecar.until("the position to be recorded, and the slot ready", (status) => {
      const slot = slotIn(status, "app");
      return isReady(status, "app") && slot?.primaryConfirmedFlushLsn !== null && slot?.lagBytes === 0;
    });
    await untilSamePosition(primary, standby, "app");
  },
  promotion: async (major) => {
    const cluster = await startCluster({ major, subscriber: true });
    const { primary, standby, subscriber } = cluster;
    for (const server of [primary, subscriber])
      await server.query("create table written (id int primary key)");
    const more: Record<string, string> = major >= 17 ? { failover: "true" } : {};
    await subscribe({ publisher: primary, subscriber, tables: ["written"], with: more });
    const sidecar = await quickSidecar(standby);
    await protect(sidecar, standby, "sub1");
    await primary.query("insert into written select generate_series(1, 100)");
    await waitForReceipt(primary, standby);
    await sidecar.until("all to be ready", ({ ready }) => ready);
    const { finish } = await failOver(cluster, sidecar);
    expect(finish?.complete, JSON.stringify(finish)).toBe(true);
    await repoint(subscriber, "sub1", standby);
    await standby.query("insert into written values (101)");
    await eventually(
      async () => {
        const [row] = await subscriber.query<{ count: string }>("select count(*) from written");
        return row?.count === "101";
      },
      { what: "the subscriber to have every row" },
    );
    expect(await sidecarSlots(standby)).toEqual([]);
  },
  twoPhase: async (major) => {
    const cluster = await startCluster({ major, settings: { max_prepared_transactions: 10 } });
    const { primary, standby } = cluster;
    await primary.query("create table written (id int primary key)");
    const sidecar = await quickSidecar(standby, { restarts: true });
    await createFailoverSlot(primary, "exact", { twoPhase: true });
    // the server itself brings it, once its reader has gone on, and not while a transaction that it would need is prepared
    if (major >= 17) await protectReading(sidecar, cluster, "exact");
    const client = await primary.connect();
    try {
      await client.query("begin");
      await client.query("insert into written values (1)");
      await client.query("prepare transaction 'later'");
    } finally {
      await client.end();
    }
    const kinds = async (server: PgServer) =>
      (await readSlot(server, "exact")).map(({ data }) => data.split(" ").slice(0, 2).join(" "));
    if (major < 17)
      await sidecar.until("the slot to be here or staged", (status) => isHereOrStaged(status, "exact"));
    expect(await kinds(primary)).toContain("PREPARE TRANSACTION");
    await protectReading(sidecar, cluster, "exact");
    await untilSamePosition(primary, standby, "exact");
    await sidecar.untilSlot("exact", "synced");
    await waitForReplay(primary, standby);
    await failOver(cluster, sidecar);
    await standby.query("commit prepared 'later'");
    expect(await kinds(standby)).toEqual(["COMMIT PREPARED"]);
  },
  idleReason: async (major) => {
    const { primary, standby } = await startCluster({ major });
    await createFailoverSlot(primary, "idle");
    // transactions come and go: a server that begins to keep catalog rows now cannot vouch for those that the slot needs
    await primary.query("create table written (id int primary key)");
    await writeWal(primary, 100_000);
    await logRunningTransactions(primary);
    const sidecar = await quickSidecar(standby, { atOnce: true });
    const told = await sidecar.until(
      "some cycles",
      ({ slots }) => slots.length > 0 && sidecar.history.length > 5,
    );
    const idle = slotIn(told, "idle");
    expect(idle).toMatchObject({
      protection: "waiting",
      reason: expect.any(String),
      detail: expect.any(String),
    });
    const board = new StatusBoard(60_000, Date.now);
    for (const [index, status] of sidecar.history.entries()) board.post(status, index + 1);
    const counted = board.notReady.filter(({ slot }) => slot === "idle");
    expect(counted.find(({ reason }) => reason === idle?.reason)?.cycles).toBeGreaterThan(1);
  },
  madeAnew: async (major) => {
    const cluster = await startCluster({ major });
    const { primary, standby } = cluster;
    await primary.query("create table written (id int primary key)");
    const sidecar = await quickSidecar(standby);
    await createFailoverSlot(primary, "again");
    await protect(sidecar, standby, "again");
    await primary.query("insert into written values (1)");
    await primary.query("select pg_catalog.pg_drop_replication_slot('again')");
    await createFailoverSlot(primary, "again");
    await primary.query("insert into written values (2)");
    const made = await positionOf(primary, "again");
    await sidecar.until("the new one to be seen", (status) => {
      const seen = slotIn(status, "again");
      return seen?.primaryConfirmedFlushLsn === formatLsn(made);
    });
    await protect(sidecar, standby, "again");
    const { promised, kept } = await failOverKeeping(cluster, sidecar, "again");
    expect(promised.get("again")?.join()).toContain(":2");
    expect(promised.get("again")?.join()).not.toContain(":1");
    expect(kept).toEqual(promised);
  },
  exclusive: async (major) => {
    const cluster = await startCluster({ major });
    const { primary, standby } = cluster;
    const sidecar = await quickSidecar(standby);
    await createFailoverSlot(primary, "app");
    await protectReading(sidecar, cluster, "app");
    await sidecar.untilSlot("app", "synced");
    await expect(peek(standby, "app")).rejects.toThrow(/cannot use replication slot "app"/);
    await expect(confirm(standby, "app", "0/FFFFFFF")).rejects.toThrow(/cannot use replication slot "app"/);
  },
  noDatabase: async (major) => {
    const cluster = await startCluster({ major });
    const { primary, standby } = cluster;
    const [shown] = await standby.query<{ primary_conninfo: string }>("show primary_conninfo");
    const without = shown?.primary_conninfo.replace(/dbname=\S+/, "");
    await standby.query(`alter system set primary_conninfo = '${without}'`);
    await standby.query("select pg_catalog.pg_reload_conf()");
    const sidecar = await quickSidecar(standby);
    await createFailoverSlot(primary, "app");
    await sidecar.untilSlot("app", "guarded");
    const { problems } = await untilProblem(sidecar, "sync_needs_dbname");
    expect(problems.find(({ code }) => code === "sync_needs_dbname")?.message).toContain("add dbname=");
    await standby.query("alter system reset primary_conninfo");
    await standby.query("select pg_catalog.pg_reload_conf()");
    await protectReading(sidecar, cluster, "app");
    await sidecar.untilSlot("app", "synced");
  },
  walRemoved: async (major) => {
    const cluster = await startCluster({
      major,
      standbySettings: {
        max_slot_wal_keep_size: "16MB",
        [major >= 13 ? "wal_keep_size" : "wal_keep_segments"]: 0,
      },
    });
    const { primary, standby } = cluster;
    const sidecar = await quickSidecar(standby);
    await createFailoverSlot(primary, "idle");
    await protect(sidecar, standby, "idle");
    await switchSegments(primary, 4);
    await primary.query("checkpoint");
    await waitForReplay(primary, standby);
    await standby.query("checkpoint");
    await sidecar.until("it not to be ready", ({ slots }) =>
      slots.some(({ name, reason }) => name === "idle" && reason !== null),
    );
    await eventually(async () => !(await slotsOf(standby)).has("idle"), {
      what: "the lost slot to be dropped",
    });
    await sidecar.until("new guards to be on their way", ({ guards, restart }) =>
      guards.every(({ name, confirmedFlushLsn: at }) => at !== null || restart?.staged.includes(name)),
    );
    await protectReading(sidecar, cluster, "idle");
    await untilSamePosition(primary, standby, "idle");
  },
  inactiveSince: async (major) => {
    const cluster = await startCluster({ major });
    const { primary, standby } = cluster;
    const sidecar = await quickSidecar(standby);
    await createFailoverSlot(primary, "app");
    await createFailoverSlot(primary, "idle");
    await protectReading(sidecar, cluster, "app");
    await sidecar.untilSlot("idle");
    const [before] = await standby.query<{ now: string }>("select pg_catalog.clock_timestamp()::text as now");
    await failOver(cluster, sidecar);
    const rows = await standby.query<{ slot_name: string }>(
      "select slot_name::text from pg_catalog.pg_replication_slots where inactive_since > $1::timestamptz order by 1",
      [before?.now],
    );
    expect(rows.map(({ slot_name }) => slot_name)).toEqual(["app", "idle"]);
  },
  earlierPrepared: async (major) => {
    const cluster = await startCluster({
      major,
      subscriber: true,
      settings: { max_prepared_transactions: 10 },
    });
    const { primary, standby, subscriber } = cluster;
    for (const server of [primary, subscriber])
      await server.query("create table written (id int primary key)");
    const sidecar = await quickSidecar(standby);
    await subscribe({ publisher: primary, subscriber, tables: ["written"], with: { failover: "true" } });
    await primary.query("begin; insert into written values (1); prepare transaction 'earlier'");
    await subscriber.query("alter subscription sub1 disable");
    await eventually(async () => !(await slotsOf(primary)).get("sub1")?.active, {
      what: "the subscription's walsender to end",
    });
    await subscriber.query("alter subscription sub1 set (two_phase = true)");
    await subscriber.query("alter subscription sub1 enable");
    await sidecar.until("the slot to be seen", ({ slots }) => slots.some(({ name }) => name === "sub1"));
    await eventually(
      async () => {
        await logRunningTransactions(primary);
        const slot = sidecar.status && slotIn(sidecar.status, "sub1");
        return slot?.protection === "synced" || slot?.reason === "prepared_transactions_pending";
      },
      { what: "the slot to be judged", timeoutMs: 60_000, intervalMs: 300 },
    );
    if (slotIn(sidecar.status as Status, "sub1")?.protection !== "synced") return;
    await waitForReplay(primary, standby);
    await failOver(cluster, sidecar);
    await repoint(subscriber, "sub1", standby);
    await standby.query("commit prepared 'earlier'");
    await eventually(async () => (await subscriber.query("select from written")).length === 1, {
      what: "the row of the prepared transaction at the subscriber",
    });
  },
  alterFailover: async (major) => {
    const cluster = await startCluster({ major, subscriber: true });
    const { primary, standby, subscriber } = cluster;
    for (const server of [primary, subscriber])
      await server.query("create table written (id int primary key)");
    await subscribe({ publisher: primary, subscriber, tables: ["written"] });
    const sidecar = await quickSidecar(standby, { selection: { include: [], exclude: [] } });
    const alter = async (failover: boolean) => {
      await subscriber.query("alter subscription sub1 disable");
      await eventually(async () => !(await slotsOf(primary)).get("sub1")?.active, {
        what: "the subscription's walsender to end",
      });
      await subscriber.query(`alter subscription sub1 set (failover = ${failover})`);
      await subscriber.query("alter subscription sub1 enable");
    };
    expect(sidecar.status?.slots).toEqual([]);
    await alter(true);
    await sidecar.untilSlot("sub1");
    await alter(false);
    await sidecar.until("it to be let go", ({ slots }) => slots.length === 0);
  },
  syncedUntouched: async (major) => {
    const cluster = await startCluster({ major });
    const { primary, standby } = cluster;
    const sidecar = await quickSidecar(standby);
    await createFailoverSlot(primary, "app");
    await protectReading(sidecar, cluster, "app");
    await sidecar.untilSlot("app", "synced");
    await expect(standby.query("select pg_catalog.pg_drop_replication_slot('app')")).rejects.toThrow(
      /cannot drop replication slot "app"|cannot use replication slot "app"/,
    );
    const replication = await standby.connect("postgres", "postgres", {
      replication: "database",
    } as object);
    try {
      await expect(replication.query('ALTER_REPLICATION_SLOT "app" (FAILOVER false)')).rejects.toThrow(
        /cannot/,
      );
    } finally {
      await replication.end();
    }
    await protectReading(sidecar, cluster, "app");
    expect((await slotsOf(standby)).has("app")).toBe(true);
  },
  holdBack: async (major) => {
    const cluster = await startCluster({ major, subscriber: true });
    const { primary, standby, subscriber } = cluster;
    for (const server of [primary, subscriber])
      await server.query("create table written (id int primary key)");
    await subscribe({ publisher: primary, subscriber, tables: ["written"], with: { failover: "true" } });
    const sidecar = await quickSidecar(standby);
    await sidecar.untilSlot("sub1");
    primary.configure({ synchronized_standby_slots: standby.name });
    await standby.stop();
    await primary.query("insert into written values (1)");
    const held = async () => (await subscriber.query("select from written")).length === 0;
    // the walsender says that it waits for the standby, and the row is not there
    await eventually(
      async () =>
        (
          await primary.query(
            "select from pg_catalog.pg_stat_activity where wait_event = 'WaitForStandbyConfirmation'",
          )
        ).length > 0,
      { what: "the walsender to wait for the standby" },
    );
    expect(await held()).toBe(true);
    await standby.start();
    await eventually(async () => !(await held()), { what: "the row at the subscriber" });
    await sidecar.untilSlot("sub1");
    await sidecar.until("the standby to be ready", ({ ready }) => ready);
  },
  message: async (major) => {
    const cluster = await startCluster({ major });
    const { primary, standby } = cluster;
    await primary.query("create table written (id int primary key)");
    const sidecar = await quickSidecar(standby);
    await createFailoverSlot(primary, "app");
    await protect(sidecar, standby, "app");
    const open = await primary.connect();
    try {
      await open.query("begin");
      await open.query("insert into written values (1)");
      await logRunningTransactions(primary);
      await consume(primary, "app");
      await primary.query(
        "select pg_catalog.pg_logical_emit_message(false, 'test', 'outside of transactions')",
      );
      await open.query("commit");
    } finally {
      await open.end();
    }
    await protectReadingNothing(sidecar, primary, "app");
    const { promised, kept } = await failOverKeeping(cluster, sidecar, "app");
    expect(promised.get("app")?.join()).toContain("outside of transactions");
    expect(kept).toEqual(promised);
  },
  switchover: async (major) => {
    const cluster = await startCluster({ major });
    const { primary, standby } = cluster;
    await primary.query("create table written (id int primary key)");
    const sidecar = await quickSidecar(standby);
    await createFailoverSlot(primary, "app");
    await protect(sidecar, standby, "app");
    await primary.query("insert into written values (1)");
    await consume(primary, "app");
    await primary.query("insert into written values (2)");
    const left = await positionOf(primary, "app");
    await sidecar.until("the position to be recorded, and all to be ready", (status) => {
      const slot = slotIn(status, "app");
      return status.ready && slot?.primaryConfirmedFlushLsn === formatLsn(left);
    });
    // a clean stop waits until the standby has everything
    await primary.stop();
    standby.promote();
    await sidecar.until("the finishing step", ({ role, finish }) => role === "primary" && finish !== null);
    expect(await positionOf(standby, "app")).toBe(left);
    await standby.query("insert into written values (3)");
    const sent = (await readSlot(standby, "app")).map(({ data }) => data).join();
    expect(sent).toContain(":2");
    expect(sent).toContain(":3");
    expect(sent).not.toContain(":1");
  },
  cascade: async (major) => {
    const { root, leaf, sidecar } = await startCascade(major);
    if (major >= 16) await sidecar.until("the guard", hasGuard);
    await createFailoverSlot(root, "app");
    await protect(sidecar, leaf, "app");
    await sidecar.until("it to be ready", ({ ready }) => ready);
  },
};

/** Ready at the very position where its reader stands: what it has not read stays to be compared. */
async function protectReadingNothing(sidecar: TestSidecar, primary: PgServer, name: string): Promise<void> {
  const at = formatLsn(await positionOf(primary, name));
  await sidecar.until(`"${name}" to be ready where it stands`, (status) => {
    const slot = slotIn(status, name);
    return isReady(status, name) && slot?.primaryConfirmedFlushLsn === at;
  });
}

async function isConflicting(standby: PgServer, name: string): Promise<boolean> {
  const [row] = await standby.query<{ lost: boolean }>(
    `select ${standby.major >= 17 ? "invalidation_reason is not null" : "coalesce(conflicting, false)"} as lost
       from pg_catalog.pg_replication_slots where slot_name = $1`,
    [name],
  );
  return row?.lost ?? false;
}
