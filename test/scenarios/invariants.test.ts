/** The invariants of docs/safety.md, each on real servers. Every test here has been seen to fail with its guarded line removed. */
import { mkdirSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import path from "node:path";
import { describe, expect, onTestFinished, test } from "vitest";
import { advanceOne, advanceSeen, advanceSlots } from "../../src/apply/advance.ts";
import { createSlots } from "../../src/apply/create.ts";
import { dropFailoverSlot, dropOwnSlot } from "../../src/apply/drop.ts";
import { SlotMovedError, WrongRoleError } from "../../src/apply/errors.ts";
import { createGuard } from "../../src/apply/guard.ts";
import { HoldKeeper } from "../../src/apply/hold.ts";
import { probePlugin } from "../../src/apply/probe.ts";
import { replaceSlot } from "../../src/apply/replace.ts";
import { formatLsn, type Lsn, parseLsn } from "../../src/domain/lsn.ts";
import { parseConnInfo } from "../../src/pg/conninfo.ts";
import { openSession, type PgSession } from "../../src/pg/session.ts";
import type { PgServer } from "../../src/sandbox/server.ts";
import { startCluster, type TestCluster } from "../support/cluster-fixture.ts";
import { createLogicalSlot } from "../support/consumer.ts";
import { makeHostile, runIn } from "../support/hostile.ts";
import { loseCatalogRows } from "../support/loss.ts";
import { testedMajors } from "../support/majors.ts";
import { startSidecar, type TestSidecar } from "../support/sidecar.ts";
import { confirm, positionOf, sidecarSlots, slotsOf } from "../support/slots.ts";
import {
  failOver,
  hasGuard,
  keptStreams,
  promisedStreams,
  syncSlots,
  untilAllSynced,
  untilProblem,
  untilReason,
} from "../support/steps.ts";
import { eventually } from "../support/wait.ts";
import {
  logRunningTransactions,
  pauseReplay,
  resumeReplay,
  switchSegments,
  waitForReceipt,
  waitForReplay,
  writeWal,
} from "../support/wal.ts";

const MB = 1024 * 1024;
/** While the primary still makes the slot, or its WAL is on its way. */
const PASSING = ["no_consistent_snapshot", "wal_not_flushed"];

describe.each(testedMajors())("PostgreSQL %i", (major) => {
  test("a primary's crash takes a slot back, and the standby's is never ahead of it while it is called ready (I1)", async () => {
    const cluster = await startCluster({ major });
    const { primary, standby } = cluster;
    await primary.query("create table t (id int)");
    const sidecar = await startSidecar(standby, { nap: { minMs: 50, maxMs: 200 } });
    await syncSlots(sidecar, primary, "read");
    const before = await positionOf(primary, "read");
    await primary.query("insert into t select generate_series(1, 10)");
    await confirm(primary, "read");
    await untilAllSynced(sidecar, primary);
    expect(await positionOf(standby, "read")).toBeGreaterThan(before);

    // a confirmation is on disk with the next checkpoint only
    await primary.kill();
    await primary.start();
    expect(await positionOf(primary, "read")).toBe(before);
    const restarted = sidecar.history.length;
    await untilAllSynced(sidecar, primary);
    for (const { slots } of sidecar.history.slice(restarted))
      for (const slot of slots)
        if (slot.protection === "synced" && slot.standbyConfirmedFlushLsn && slot.primaryConfirmedFlushLsn)
          expect(parseLsn(slot.standbyConfirmedFlushLsn)).toBeLessThanOrEqual(
            parseLsn(slot.primaryConfirmedFlushLsn),
          );
    const promised = await promisedStreams(cluster, "read");
    await failOver(cluster, sidecar);
    expect(await keptStreams(standby, ["read"])).toEqual(promised);
  });

  test("a slot made and moved while transactions are open sends what the primary would have sent (I2)", async () => {
    const cluster = await startCluster({ major });
    const { primary, standby } = cluster;
    await primary.query("create table t (id int primary key, note text)");
    const sidecar = await startSidecar(standby);
    await syncSlots(sidecar, primary, "before", "moved");
    const open = await primary.connect();
    await open.query("begin; insert into t values (1, 'open')");
    await primary.query("insert into t values (2)");
    await logRunningTransactions(primary);
    await primary.query("create table u (id int)");
    await primary.query("alter table u add column more int default 7");
    await primary.query("checkpoint");
    const second = await primary.connect();
    await second.query("begin; insert into t values (3)");
    // both are open across the position at which the standby's copy is made
    await primary.query(
      "select pg_catalog.pg_copy_logical_replication_slot('before', 'copied'), pg_catalog.pg_copy_logical_replication_slot('before', 'across')",
    );
    await confirm(primary, "across");
    await confirm(primary, "moved");
    await untilAllSynced(sidecar, primary);
    await open.query("commit");
    await logRunningTransactions(primary);
    await primary.query("insert into t values (4)");
    await second.query("commit");
    await Promise.all([open.end(), second.end()]);
    const names = ["before", "moved", "copied", "across"];
    const promised = await promisedStreams(cluster, ...names);
    await failOver(cluster, sidecar);
    expect(await keptStreams(standby, names)).toEqual(promised);
  });

  test("a slot whose WAL the standby has removed is not ready, does not exist after a failover, and is remade (I3, I6)", async () => {
    const cluster = await startCluster({
      major,
      standbySettings: { max_slot_wal_keep_size: "16MB", wal_keep_size: 0 },
    });
    const { primary, standby } = cluster;
    const sidecar = await startSidecar(standby);
    await syncSlots(sidecar, primary, "idle", "busy");
    await removeWal(cluster, "busy");
    await untilReason(sidecar, "idle", "wal_or_rows_removed");
    await eventually(async () => !(await slotsOf(standby)).has("idle"), {
      what: "the lost slot to be dropped",
    });
    await catchUp(sidecar, primary, "busy", "idle");

    await removeWal(cluster, "busy");
    await untilReason(sidecar, "idle", "wal_or_rows_removed");
    const { finish } = await failOver(cluster, sidecar);
    expect((await slotsOf(standby)).has("idle")).toBe(false);
    // by the sidecar before, or by the finishing step
    expect(["not_protected", "dropped"]).toContain(
      finish?.slots.find(({ name }) => name === "idle")?.outcome,
    );
  });

  test("a slot that lost catalog rows is not ready, is dropped, and is made anew past the loss (I4, I6)", async () => {
    const cluster = await startCluster({ major });
    const { primary, standby } = cluster;
    const sidecar = await startSidecar(standby);
    await syncSlots(sidecar, primary, "kept");
    await loseCatalogRows(cluster, sidecar, "kept");
    await waitForReplay(primary, standby);
    const lost = sidecar.history.length;
    standby.configure({ hot_standby_feedback: true });
    await eventually(async () => !(await slotsOf(standby)).has("kept"), {
      what: "the invalid slot to be dropped",
    });
    const lostAt = await positionOf(primary, "kept");
    await catchUp(sidecar, primary, "kept");
    expect(await isConflicting(standby, "kept")).toBe(false);
    const ready = sidecar.history.slice(lost).find((status) => status.ready);
    expect(parseLsn(ready?.slots[0]?.primaryConfirmedFlushLsn ?? "")).toBeGreaterThan(lostAt);
  });

  test("a slot is not called ready before this standby's feedback holds its catalog rows on the primary (I4)", async () => {
    const { primary, standby } = await startCluster({
      major,
      standbySettings: { wal_receiver_status_interval: "3s" },
    });
    const sidecar = await startSidecar(standby, { nap: { minMs: 50, maxMs: 100 } });
    await sidecar.until("the guard", hasGuard);
    await createLogicalSlot(primary, "kept");
    const held =
      "select from pg_catalog.pg_replication_slots where slot_name = 'standby1' and catalog_xmin is not null";
    let tooEarly = false;
    await eventually(
      async () => {
        const ready = sidecar.status?.ready === true && sidecar.status.slots.length > 0;
        const holds = (await primary.query(held)).length > 0;
        tooEarly ||= ready && !holds;
        return ready;
      },
      { what: "the slot to be ready", intervalMs: 30 },
    );
    expect(tooEarly, "ready before the primary held the rows").toBe(false);
    expect(sidecar.history.some(({ slots }) => slots[0]?.reason === "catalog_rows_unproven")).toBe(true);
  });

  test("a slot is not called ready while WAL that takes its catalog rows away is here and not replayed (I4)", async () => {
    const cluster = await startCluster({ major });
    const { primary, standby } = cluster;
    const sidecar = await startSidecar(standby, { nap: { minMs: 50, maxMs: 200 } });
    await syncSlots(sidecar, primary, "kept");
    await pauseReplay(standby);
    await loseCatalogRows(cluster, sidecar, "kept");
    await waitForReceipt(primary, standby);
    const lost = sidecar.history.length;
    standby.configure({ hot_standby_feedback: true });
    await eventually(
      async () => {
        const sql =
          "select from pg_catalog.pg_replication_slots where slot_name = 'standby1' and catalog_xmin is not null";
        return (await primary.query(sql)).length === 1;
      },
      { what: "the feedback to be back" },
    );
    await sidecar.until("some cycles", () => sidecar.history.length > lost + 8);
    expect(sidecar.history.slice(lost).filter(({ ready }) => ready).length).toBe(0);
    await resumeReplay(standby);
    await eventually(async () => !(await slotsOf(standby)).has("kept"), {
      what: "the invalid slot to be dropped",
    });
  });

  test("a slot whose WAL the standby's next checkpoint removes, as a promotion does, is not called ready (I3)", async () => {
    const cluster = await startCluster({
      major,
      standbySettings: { max_slot_wal_keep_size: "16MB", wal_keep_size: 0 },
    });
    const { primary, standby } = cluster;
    const sidecar = await startSidecar(standby, { nap: { minMs: 50, maxMs: 200 } });
    await syncSlots(sidecar, primary, "idle");
    await switchSegments(primary, 4);
    await waitForReplay(primary, standby);
    const cycles = sidecar.sidecar.cycles;
    await sidecar.until("two cycles", () => sidecar.sidecar.cycles > cycles + 2);
    const ready = sidecar.status?.ready;
    await failOver(cluster, sidecar);
    await standby.query("checkpoint");
    const usable = (await slotsOf(standby)).get("idle")?.walStatus;
    expect({ ready, usable: usable === "reserved" || usable === "extended" }).not.toEqual({
      ready: true,
      usable: false,
    });
  });

  describe("a slot that is another one now (I5)", () => {
    test("with another plugin is dropped and made anew", async () => {
      const { primary, standby } = await startCluster({ major });
      const sidecar = await startSidecar(standby);
      await syncSlots(sidecar, primary, "again");
      await primary.query("select pg_catalog.pg_drop_replication_slot('again')");
      await createLogicalSlot(primary, "again", { plugin: "pgoutput" });
      await untilAllSynced(sidecar, primary);
      expect((await slotsOf(standby)).get("again")?.plugin).toBe("pgoutput");
    });

    test("with two_phase is dropped, blocked, and does not exist after a failover (G5, I6)", async () => {
      const cluster = await startCluster({
        major,
        primarySettings: { max_prepared_transactions: 5 },
        standbySettings: { max_prepared_transactions: 5 },
      });
      const { primary, standby } = cluster;
      const sidecar = await startSidecar(standby);
      await syncSlots(sidecar, primary, "again");
      await primary.query("select pg_catalog.pg_drop_replication_slot('again')");
      await primary.query(
        "select pg_catalog.pg_create_logical_replication_slot('again', 'test_decoding', false, true)",
      );
      await untilReason(sidecar, "again", "prepared_transactions_pending");
      await eventually(async () => !(await slotsOf(standby)).has("again"), { what: "ours to be dropped" });
      expect(sidecar.status?.ready).toBe(false);
      await failOver(cluster, sidecar);
      expect(await slotsOf(standby)).toEqual(new Map());
    });

    test("in another database is dropped and made anew there", async () => {
      const { primary, standby } = await startCluster({ major });
      await primary.query("create database app");
      const sidecar = await startSidecar(standby);
      await sidecar.until("both guards", (status) => status.guards.length === 2 && hasGuard(status));
      await createLogicalSlot(primary, "again");
      await sidecar.untilSlot("again", "synced");
      await primary.query("select pg_catalog.pg_drop_replication_slot('again')");
      await createLogicalSlot(primary, "again", { database: "app" });
      await untilAllSynced(sidecar, primary);
      expect((await slotsOf(standby)).get("again")?.database).toBe("app");
    });

    test("in a database that was dropped and made anew gets a new guard, and is protected past it", async () => {
      const { primary, standby } = await startCluster({ major });
      await primary.query("create database app");
      const sidecar = await startSidecar(standby);
      await sidecar.until("both guards", (status) => status.guards.length === 2 && hasGuard(status));
      await createLogicalSlot(primary, "again", { database: "app" });
      await sidecar.untilSlot("again", "synced");
      await primary.query("select pg_catalog.pg_drop_replication_slot('again')");
      await primary.query("drop database app");
      await primary.query("create database app");
      await createLogicalSlot(primary, "again", { database: "app" });
      await untilReason(sidecar, "again", "wal_or_rows_removed");
      await confirm(primary, "again", null, "app");
      await sidecar.untilSlot("again", "synced");
      expect((await sidecarSlots(standby)).length).toBe(2);
    });
  });

  test("a slot that was found to be another and could not be dropped before is not there as it was after a failover (I5, I6)", async () => {
    const cluster = await startCluster({ major });
    const { primary, standby } = cluster;
    const sidecar = await startSidecar(standby);
    await syncSlots(sidecar, primary, "fine", "unsafe");
    standby.configure({ hot_standby_feedback: false });
    await untilProblem(sidecar, "feedback_off");
    await primary.query("select pg_catalog.pg_drop_replication_slot('unsafe')");
    await createLogicalSlot(primary, "unsafe", { plugin: "pgoutput" });
    await sidecar.until("the other slot to be seen", ({ slots }) =>
      slots.some(({ name, detail }) => name === "unsafe" && detail?.includes("another one now")),
    );
    expect((await slotsOf(standby)).get("unsafe")?.plugin).toBe("test_decoding");
    await failOver(cluster, sidecar);
    const left = await slotsOf(standby);
    expect(left.has("fine")).toBe(true);
    // made anew out of the guard as what it is now, or not there
    expect(left.get("unsafe")?.plugin ?? "pgoutput").toBe("pgoutput");
  });

  test("a same-named slot of somebody else's is left alone, through a failover too, and the others go on (I7)", async () => {
    const cluster = await startCluster({ major });
    const { primary, standby } = cluster;
    await createForeign(cluster, "taken");
    const position = await positionOf(standby, "taken");
    const sidecar = await startSidecar(standby);
    await sidecar.until("the guard", hasGuard);
    await createLogicalSlot(primary, "taken");
    await createLogicalSlot(primary, "ours");
    await untilReason(sidecar, "taken", "name_conflict");
    await sidecar.untilSlot("ours", "synced");
    await confirm(primary, "taken");
    await confirm(primary, "ours");
    await sidecar.until("ours to follow", ({ slots }) =>
      slots.some(
        ({ name, lagBytes, primaryConfirmedFlushLsn }) =>
          name === "taken" && lagBytes === null && primaryConfirmedFlushLsn !== null,
      ),
    );
    await primary.query("select pg_catalog.pg_drop_replication_slot('taken')");
    await sidecar.until("the primary's to be gone", ({ slots }) =>
      slots.every(({ name }) => name !== "taken"),
    );
    await createLogicalSlot(primary, "taken");
    await untilReason(sidecar, "taken", "name_conflict");
    expect(await positionOf(standby, "taken")).toBe(position);
    const { finish } = await failOver(cluster, sidecar);
    expect(await positionOf(standby, "taken")).toBe(position);
    expect(finish?.slots.find(({ name }) => name === "taken")?.outcome).toBe("not_ours");
  });

  test("a consumer at work on our slot is left alone, told, and the others go on (I7)", async () => {
    const { primary, standby } = await startCluster({ major });
    const sidecar = await startSidecar(standby);
    await syncSlots(sidecar, primary, "taken", "ours");
    const consumer = await standby.connect("postgres", "postgres", { replication: "database" } as object);
    const streaming = consumer.query("START_REPLICATION SLOT taken LOGICAL 0/0").catch(() => {});
    await eventually(async () => (await slotsOf(standby)).get("taken")?.active, {
      what: "the consumer to stream",
    });
    await confirm(primary, "ours");
    await primary.query("select pg_catalog.pg_drop_replication_slot('taken')");
    await createLogicalSlot(primary, "taken", { plugin: "pgoutput" });
    await untilReason(sidecar, "taken", "slot_in_use");
    await sidecar.until("ours to follow", ({ slots }) =>
      slots.some(({ name, lagBytes }) => name === "ours" && lagBytes === 0),
    );
    expect((await slotsOf(standby)).get("taken")).toMatchObject({ active: true, plugin: "test_decoding" });
    await consumer.end();
    await streaming;
    await untilAllSynced(sidecar, primary);
    expect((await slotsOf(standby)).get("taken")?.plugin).toBe("pgoutput");
  });

  test("a plan that has grown old, by a long stop over a promotion say, drops, moves and replaces no slot that stands elsewhere by now (I7)", async () => {
    const { primary } = await startCluster({ major });
    await createLogicalSlot(primary, "later");
    await primary.query("create table t (id int)");
    const planned = await positionOf(primary, "later");
    await primary.query("select pg_replication_slot_advance('later', pg_current_wal_lsn())");
    const before = await slotsOf(primary);
    const session = await sessionOn(primary);
    const base = {
      slot: "later",
      plugin: "test_decoding",
      from: "later",
      to: await positionOf(primary, "later"),
    };
    const replaced: unknown[] = [];
    await createSlots(session, "primary", "work", [{ ...base, replaces: planned }], (_create, error) =>
      replaced.push(error),
    );
    expect(replaced).toEqual([expect.any(SlotMovedError)]);
    const moves = [
      () => dropFailoverSlot(session, "primary", "later", planned),
      () => dropFailoverSlot(session, "primary", "later", null),
      () => advanceSeen(session, "primary", "later", planned, base.to),
    ];
    for (const move of moves) await expect(move()).rejects.toBeInstanceOf(SlotMovedError);
    expect(await slotsOf(primary)).toEqual(before);
    await dropFailoverSlot(session, "primary", "later", base.to);
    expect((await slotsOf(primary)).has("later")).toBe(false);
  });

  test("every statement that changes a slot of a standby refuses on a promoted server (I8)", async () => {
    const cluster = await startCluster({ major });
    const { primary, standby } = cluster;
    await createForeign(cluster, "ours");
    await primary.stop();
    standby.promote();
    await standby.waitPromoted();
    const session = await sessionOn(standby);
    const before = await slotsOf(standby);
    const to = await positionOf(standby, "ours");
    const base = { slot: "ours", database: "postgres", databaseOid: 5, plugin: "test_decoding", at: to, to };
    const none = async () => {};
    const holds = new HoldKeeper(() => sessionOn(standby));
    const create = async (replaces: boolean) => {
      let outcome: unknown = null;
      await createSlots(
        session,
        "standby",
        "work",
        [{ ...base, slot: replaces ? "ours" : "new", from: "ours", ...(replaces ? { replaces: to } : {}) }],
        (_create, error) => {
          outcome = error;
        },
      );
      if (outcome) throw outcome;
    };
    const attempts: [what: string, run: () => Promise<unknown>][] = [
      ["creating a guard", () => createGuard(session, "guard", none)],
      ["advancing one", () => advanceOne(session, "standby", "ours", "FF/0")],
      ["holding", () => holds.create("postgres", "hold", "ours")],
      ["probing", () => probePlugin(session, "work", "ours", "test_decoding")],
      ["creating", () => create(false)],
      ["creating in place of another", () => create(true)],
      ["replacing", () => replaceSlot(session, { kind: "replace", guard: "ours", ...base })],
      ["dropping", () => dropOwnSlot(session, "standby", "ours")],
    ];
    for (const [what, run] of attempts) await expect(run(), what).rejects.toThrow(WrongRoleError);
    const [many] = await advanceSlots(session, [
      { kind: "advance", ...base, to: (to + 1n) as Lsn, unsure: false },
    ]);
    expect(many?.error).toBeInstanceOf(WrongRoleError);
    expect(await slotsOf(standby)).toEqual(before);
  });

  test("an output plugin that the standby lacks blocks its own slots, and the others go on (I9)", async () => {
    const cluster = await startCluster({ major, standbys: 1 });
    const { primary, standby } = cluster;
    const libraries = librariesWithout(cluster, "test_decoding");
    standby.configure({ dynamic_library_path: libraries });
    await standby.restart();
    const sidecar = await startSidecar(standby, { nap: { minMs: 50, maxMs: 200 } });
    await sidecar.until("the guard", hasGuard);
    await createLogicalSlot(primary, "lacking");
    await createLogicalSlot(primary, "having", { plugin: "pgoutput" });
    await sidecar.untilSlot("having", "synced");
    await untilReason(sidecar, "lacking", "plugin_missing");
    await confirm(primary, "having");
    await sidecar.until("the other to follow", ({ slots }) =>
      slots.some(({ name, lagBytes }) => name === "having" && lagBytes === 0),
    );
    expect(
      sidecar.history.some(({ slots }) =>
        slots.some(({ name, detail }) => name === "having" && detail?.includes("test_decoding")),
      ),
    ).toBe(false);
    expect(sidecar.status?.ready).toBe(false);
    standby.configure({ dynamic_library_path: "$libdir" });
    await confirm(primary, "lacking");
    await untilAllSynced(sidecar, primary);
  });

  describe("a lost journal costs readiness, never a slot (I10)", () => {
    test.each([
      ["deleted", (file: string) => rmSync(file)],
      [
        "damaged",
        (file: string) => writeFileSync(file, readFileSync(file, "utf8").replace("postgres", "POSTGRES")),
      ],
    ])(
      "%s: nothing is dropped, nothing that was here is called ready, new slots are protected",
      async (_what, harm) => {
        const cluster = await startCluster({ major });
        const { primary, standby } = cluster;
        const first = await startSidecar(standby);
        await syncSlots(first, primary, "old");
        const before = await slotsOf(standby);
        await first.stop();
        harm(path.join(first.stateDirectory, "journal.json"));

        const second = await startSidecar(standby, { stateDirectory: first.stateDirectory });
        await untilReason(second, "old", "name_conflict");
        await second.until("a guard of its own", hasGuard);
        await createLogicalSlot(primary, "new");
        await second.untilSlot("new", "synced");
        await primary.query("select pg_catalog.pg_drop_replication_slot('old')");
        await second.until("the old slot to be forgotten", ({ slots }) => slots.length === 1);
        const after = await slotsOf(standby);
        for (const [name, slot] of before)
          expect(after.get(name), name).toMatchObject({ confirmed: slot.confirmed });
        expect(
          second.history.some(({ slots }) =>
            slots.some(({ name, reason }) => name === "old" && reason === null),
          ),
        ).toBe(false);
      },
    );
  });

  test("the primary sees one connection and one query a cycle, and nothing is written there (I12)", async () => {
    const { primary, standby } = await startCluster({ major, primarySettings: { log_statement: "all" } });
    const sidecar = await startSidecar(standby, { nap: { minMs: 20, maxMs: 20 } });
    await syncSlots(sidecar, primary, "kept");
    await primary.query("checkpoint");
    await waitForReplay(primary, standby);
    const ours = () => statementsOf(primary, "pg-slotsync");
    const [logged, cycles] = [ours().length, sidecar.sidecar.cycles];
    const lsn = "select pg_catalog.pg_current_wal_insert_lsn()::text as lsn";
    const [before] = await primary.query<{ lsn: string }>(lsn);
    await sidecar.until("thirty more cycles", () => sidecar.sidecar.cycles >= cycles + 30);
    const [after] = await primary.query<{ lsn: string }>(lsn);
    const polled = ours().slice(logged);
    const passed = sidecar.sidecar.cycles - cycles;
    expect(polled.length).toBeGreaterThanOrEqual(29);
    expect(polled.length).toBeLessThanOrEqual(passed + 1);
    expect(new Set(polled).size).toBe(1);
    expect(after).toEqual(before);
    const connections = "select from pg_catalog.pg_stat_activity where application_name like 'pg-slotsync%'";
    expect((await primary.query(connections)).length).toBe(1);
    const all = new Set(ours().map((statement) => statement.split("\n")[0]?.trim().slice(0, 60)));
    expect([...all].filter((statement) => !/^(select|$)/i.test(statement ?? ""))).toEqual([]);
  });

  test("names made to hurt, and a hostile search_path with functions and operators of its own, do no harm (I13)", async () => {
    const cluster = await startCluster({ major });
    const { primary, standby } = cluster;
    const databases = [
      "we\"ird 'db'",
      "../x",
      "ünï cödé",
      "back\\slash $1 %s",
      "d".repeat(63),
      "; drop table t --",
    ];
    for (const database of databases)
      await primary.query(`create database "${database.replaceAll('"', '""')}"`);
    await primary.query("create role sync superuser login replication");
    for (const database of ["postgres", "../x"]) await makeHostile(primary, database, "sync");
    await waitForReplay(primary, standby);
    const sidecar = await startSidecar(standby, {
      dsn: standby.dsn("postgres", "sync"),
      primaryConn: parseConnInfo(primary.dsn("postgres", "sync")),
    });
    await sidecar.until(
      "every guard",
      (status) => status.guards.length === databases.length + 1 && hasGuard(status),
    );
    const slots = new Map<string, string>([
      ["s".repeat(63), "postgres"],
      ["__proto__", "postgres"],
      ["constructor", "postgres"],
      ["_", "../x"],
      ...databases.map((database, at): [string, string] => [`slot_${at}`, database]),
    ]);
    for (const [name, database] of slots)
      await runIn(primary, database, "select pg_catalog.pg_create_logical_replication_slot($1, $2)", [
        name,
        "test_decoding",
      ]);
    await sidecar.until(
      "all to be synced",
      (status) =>
        status.ready &&
        status.slots.length === slots.size &&
        status.slots.every(({ protection }) => protection === "synced"),
    );
    await failOver(cluster, sidecar);
    const left = await slotsOf(standby);
    expect([...left.keys()].toSorted()).toEqual([...slots.keys()].toSorted());
    for (const [name, database] of slots) expect(left.get(name)?.database).toBe(database);
  });

  test("a slot is protected the moment it is seen, whenever it is made, and the guard is never past it (G1)", async () => {
    const { primary, standby } = await startCluster({ major });
    const sidecar = await startSidecar(standby, { nap: { minMs: 5, maxMs: 10 } });
    await syncSlots(sidecar, primary, "first");
    const since = sidecar.history.length;
    const guardBefore = parseLsn(sidecar.status?.guards[0]?.confirmedFlushLsn ?? "");
    // with a megabyte behind it the guard is moved before every copy
    for (let round = 0; round < 12; round++) {
      const names = [0, 1, 2, 3].map((each) => `made_${round}_${each}`);
      await Promise.all(
        names.map(async (name) => {
          await writeWal(primary, 300_000);
          await createLogicalSlot(primary, name);
        }),
      );
      for (const name of names) await sidecar.untilSlot(name);
      await primary.query(
        "select pg_catalog.pg_drop_replication_slot(slot_name) from pg_catalog.pg_replication_slots where slot_name like 'made_%'",
      );
    }
    const seen = sidecar.history.slice(since).flatMap((status) => status.slots);
    expect(new Set(seen.map(({ name }) => name)).size).toBe(49);
    expect(
      seen
        .filter(({ reason }) => reason !== null && !PASSING.includes(reason))
        .map(({ name, reason }) => `${name}: ${reason}`),
    ).toEqual([]);
    await sidecar.until("the guard to have moved on", ({ guards }) => {
      const guardAfter = parseLsn(guards[0]?.confirmedFlushLsn ?? "0/0");
      return guardAfter - guardBefore > BigInt(8 * MB);
    });
  });

  test("a slot made between the look at the primary and the look at the standby is behind no guard (G1)", async () => {
    const { primary, standby } = await startCluster({ major });
    const sidecar = await startSidecar(standby, { nap: { minMs: 5, maxMs: 10 } });
    await syncSlots(sidecar, primary, "first");
    const links = sidecar.sidecar;
    const session = links.primary.session.bind(links.primary);
    const control = links.standby.control.bind(links.standby);
    let polling = false;
    let pending = true;
    links.primary.session = (conninfo) => {
      polling = true;
      return session(conninfo);
    };
    links.standby.control = async () => {
      const between = polling;
      polling = false;
      if (between && pending) {
        pending = false;
        // enough for the guard to be moved at once, to whatever the standby shows
        await writeWal(primary, 20 * MB);
        await createLogicalSlot(primary, "between");
        await primary.query("create table past_it (id int)");
        await waitForReplay(primary, standby);
      }
      return control();
    };
    await sidecar.untilSlot("between", "synced");
    const seen = sidecar.history.flatMap(({ slots }) => slots.filter(({ name }) => name === "between"));
    expect(seen.filter(({ reason }) => reason === "wal_or_rows_removed")).toEqual([]);
  });

  test("a slot is never to be seen at a wrong position while a promotion is finished (G2b)", async () => {
    const cluster = await startCluster({ major });
    const { primary, standby } = cluster;
    await primary.query("create table t (id int)");
    const sidecar = await startSidecar(standby);
    await sidecar.until("the guard", hasGuard);
    await createLogicalSlot(primary, "known");
    await sidecar.untilSlot("known", "synced");
    await pauseReplay(standby);
    const names = Array.from({ length: 12 }, (_, at) => `late_${at}`);
    for (const name of names) {
      await primary.query("insert into t select generate_series(1, 100)");
      await createLogicalSlot(primary, name);
    }
    await sidecar.until(
      "all to be guarded",
      ({ slots }) =>
        slots.length === 13 &&
        slots.every(({ name, protection }) => name === "known" || protection === "guarded"),
    );
    const exact = await slotsOf(primary);
    const watcher = await standby.connect();
    const wrong: string[] = [];
    let looks = 0;
    let stopped = false;
    const watching = (async () => {
      while (!stopped) {
        const { rows } = await watcher.query<{ name: string; confirmed: string | null }>(
          "select slot_name::text as name, confirmed_flush_lsn::text as confirmed from pg_catalog.pg_replication_slots where slot_name like 'late_%'",
        );
        looks += 1;
        for (const { name, confirmed } of rows)
          if (confirmed !== null && confirmed !== exact.get(name)?.confirmed)
            wrong.push(`${name} at ${confirmed}`);
      }
    })();
    await failOver(cluster, sidecar);
    stopped = true;
    await watching;
    await watcher.end();
    expect(wrong).toEqual([]);
    expect(looks).toBeGreaterThan(5);
    const left = await slotsOf(standby);
    for (const name of names) expect(left.get(name)?.confirmed).toBe(exact.get(name)?.confirmed);
  });

  test("a slot far behind does not keep the guard back, and is protected once its subscriber has caught up (G3)", async () => {
    const cluster = await startCluster({ major });
    const { primary, standby } = cluster;
    await primary.query("create table t (id int)");
    await createLogicalSlot(primary, "far");
    await primary.query("insert into t values (1)");
    const sidecar = await startSidecar(standby);
    await syncSlots(sidecar, primary, "near");
    await untilReason(sidecar, "far", "wal_or_rows_removed");
    const guard = () => parseLsn(sidecar.status?.guards[0]?.confirmedFlushLsn ?? "");
    const before = guard();
    await eventually(async () => [...(await slotsOf(standby)).values()].some(({ temporary }) => temporary), {
      what: "the hold",
    });
    await primary.query("insert into t values (2)");
    const between = await positionAtEnd(primary);
    await primary.query("insert into t values (3)");
    await writeWal(primary, 20 * MB);
    await confirm(primary, "near");
    await sidecar.until("the guard to pass it", () => guard() > between);
    expect(guard()).toBeGreaterThan(before);
    // past what the hold keeps, and behind the guard
    await confirm(primary, "far", formatLsn(between));
    await untilAllSynced(sidecar, primary);
    const promised = await promisedStreams(cluster, "far", "near");
    await failOver(cluster, sidecar);
    expect(await keptStreams(standby, ["far", "near"])).toEqual(promised);
  });

  test("many slots at one position are moved by one decoding, and stand exactly where the primary's do (G4, I1)", async () => {
    const cluster = await startCluster({ major });
    const { primary, standby } = cluster;
    await primary.query("create table t (id int)");
    const sidecar = await startSidecar(standby);
    const names = Array.from({ length: 20 }, (_, at) => `slot_${at}`);
    await syncSlots(sidecar, primary, ...names);
    const rode = () => sidecar.log.some((line) => line.includes("by a copy of the guard"));
    // a cycle in the middle of the confirming may have moved the guard past it: then the next round shows it
    for (let round = 0; round < 6 && !rode(); round += 1) {
      await writeWal(primary, 20 * MB);
      await primary.query("insert into t values (1)");
      const mid = await positionAtEnd(primary);
      await writeWal(primary, 20 * MB);
      await primary.query("insert into t values (2)");
      const to = await positionAtEnd(primary);
      await primary.query("insert into t values (3)");
      // two stay behind the others: they must not be taken along
      await primary.query(
        `select pg_catalog.pg_replication_slot_advance(name, case when name in ('slot_0', 'slot_1') then $2 else $3 end::pg_lsn)
           from unnest($1::text[]) as name`,
        [names, formatLsn(mid), formatLsn(to)],
      );
      await untilAllSynced(sidecar, primary);
    }
    for (const { slots } of sidecar.history)
      for (const slot of slots)
        expect(slot.lagBytes ?? 0, `${slot.name} is ahead of the primary's`).toBeGreaterThanOrEqual(0);
    expect(rode()).toBe(true);
    const promised = await promisedStreams(cluster, ...names);
    await failOver(cluster, sidecar);
    expect(await keptStreams(standby, names)).toEqual(promised);
  });
});

/** Subscribers that go on confirming, until their slots are past what the standby has kept and are made anew. */
async function catchUp(sidecar: TestSidecar, primary: PgServer, ...names: string[]): Promise<void> {
  await eventually(
    async () => {
      for (const name of names) await confirm(primary, name);
      return sidecar.status?.ready && sidecar.status.slots.every(({ protection }) => protection === "synced");
    },
    { what: "the slots to be made anew", intervalMs: 200 },
  );
  await untilAllSynced(sidecar, primary);
}

/** Writes WAL until the standby has removed what its idle slots need. */
async function removeWal({ primary, standby }: TestCluster, busy: string): Promise<void> {
  await switchSegments(primary, 4);
  await logRunningTransactions(primary);
  await confirm(primary, busy);
  await primary.query("checkpoint");
  await waitForReplay(primary, standby);
  await standby.query("checkpoint");
}

async function isConflicting(standby: PgServer, slot: string): Promise<boolean> {
  const rows = await standby.query(
    "select from pg_catalog.pg_replication_slots where slot_name = $1 and conflicting",
    [slot],
  );
  return rows.length > 0;
}

/** Makes a slot on the standby, as somebody else might. */
async function createForeign({ primary, standby }: TestCluster, name: string): Promise<void> {
  const creation = createLogicalSlot(standby, name);
  const nudge = setInterval(() => void logRunningTransactions(primary).catch(() => {}), 50);
  await creation.finally(() => clearInterval(nudge));
}

async function sessionOn(server: PgServer): Promise<PgSession> {
  const session = await openSession(parseConnInfo(server.dsn()), {
    applicationName: "test",
    statementTimeoutMs: 5_000,
    queryTimeoutMs: 6_000,
    connectTimeoutMs: 2_000,
  });
  onTestFinished(() => session.close());
  return session;
}

/** The server's libraries as links in a folder of the test's own, one left out. */
function librariesWithout({ workspace, standby }: TestCluster, plugin: string): string {
  const from = path.join(standby.binaries.binDir, "..", "lib", "postgresql");
  const folder = path.join(workspace.dir, "libraries");
  mkdirSync(folder);
  for (const name of readdirSync(from))
    if (name.endsWith(".so") && name !== `${plugin}.so`)
      symlinkSync(path.join(from, name), path.join(folder, name));
  return folder;
}

/** What sessions of that application have had logged by log_statement = all. */
function statementsOf(server: PgServer, application: string): string[] {
  const entries = server.logText().split(/^(?=\d{4}-\d\d-\d\d )/m);
  return entries.flatMap((entry) => {
    const match = /^\S+ \S+ \S+ \[\d+\] (.*?)LOG: {2}(?:statement|execute [^:]*): ([\s\S]*)$/.exec(entry);
    return match?.[1]?.startsWith(application) && match[2] ? [match[2]] : [];
  });
}

async function positionAtEnd(primary: PgServer): Promise<Lsn> {
  const [row] = await primary.query<{ lsn: string }>("select pg_catalog.pg_current_wal_lsn()::text as lsn");
  return parseLsn(row?.lsn ?? "");
}
