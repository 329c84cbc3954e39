/** The command line against real servers, as an operator and an HA manager's hook use it. */
import { existsSync, readdirSync, writeFileSync } from "node:fs";
import path from "node:path";
import { beforeAll, describe, expect, test } from "vitest";
import type { FinishReport } from "../../src/domain/finish.ts";
import { isAlive } from "../../src/sandbox/processes.ts";
import type { PgServer } from "../../src/sandbox/server.ts";
import { buildCli, type CliConfig, cli, type RunningCli, startCli, writeConfig } from "../support/cli.ts";
import { startCluster } from "../support/cluster-fixture.ts";
import { createLogicalSlot, readSlot } from "../support/consumer.ts";
import { testedMajors } from "../support/majors.ts";
import { eventually } from "../support/wait.ts";

beforeAll(buildCli);

interface Slot {
  name: string;
  active: boolean;
  temporary: boolean;
  position: string;
}

async function slotsOf(server: PgServer): Promise<Slot[]> {
  return server.query<Slot>(
    `select slot_name as name, active, temporary, confirmed_flush_lsn::text as position
     from pg_catalog.pg_replication_slots where slot_type = 'logical' order by 1`,
  );
}

const ownSlots = (slots: readonly Slot[]) => slots.filter(({ name }) => name.startsWith("slotsync_"));

/** Has a slot's subscriber confirm all that has been written. A slot from before the guard is protected from then on. */
async function confirmAll(primary: PgServer, ...slots: string[]): Promise<void> {
  await primary.query("select pg_catalog.pg_logical_emit_message(true, 'test', 'something to read')");
  for (const slot of slots) await readSlot(primary, slot);
}

/** Runs `sync` twice: the first makes the guard, then the subscribers read on, the second brings the slots. */
async function syncAll(config: CliConfig, primary: PgServer, ...slots: string[]): Promise<void> {
  expect((await cli(["sync", "-c", config.file])).code).toBe(1);
  await confirmAll(primary, ...slots);
  const { code, stdout, stderr } = await cli(["sync", "-c", config.file]);
  expect(code, stdout + stderr).toBe(0);
}

/** Starts `run` for the slot `app` and waits until `check` says that the standby is ready. */
async function runUntilReady(config: CliConfig, primary: PgServer): Promise<RunningCli> {
  const running = startCli(["run", "-c", config.file]);
  await running.logged(/cycle \d+: 1 (waiting \(wal_or_rows_removed\)|guarded|synced)/);
  await confirmAll(primary, "app");
  // the sidecar's own word: check, which looks for itself, may know it first
  await running.logged(/cycle \d+: 1 (guarded|synced)$/);
  await untilReady(config);
  return running;
}

async function untilReady(config: CliConfig): Promise<void> {
  await eventually(async () => (await cli(["check", "-c", config.file])).code === 0, {
    what: "check to say that the standby is ready",
    timeoutMs: 30_000,
  });
}

describe.each(testedMajors())("PostgreSQL %i", (major) => {
  test("run makes the standby ready; check and status say so; SIGTERM ends it and harms nothing", async () => {
    const { primary, standby } = await startCluster({ major });
    await createLogicalSlot(primary, "app");
    const config = writeConfig(standby, { standby: { dsn: standby.dsn(), name: "db2" } });
    const running = await runUntilReady(config, primary);
    const check = (...more: string[]) => cli(["check", "-c", config.file, ...more]);

    expect(await check()).toMatchObject({
      code: 0,
      stdout: "ready: 1 failover slot is safe on this standby\n",
      stderr: "",
    });
    expect(await check("--slot", "app")).toMatchObject({ code: 0 });
    expect(await check("--slot", "ap")).toMatchObject({
      code: 1,
      stdout: 'not ready: no failover slot is named "ap"; did you mean "app"?\n',
    });
    const json = JSON.parse((await check("--json")).stdout);
    expect(json).toMatchObject({
      code: 0,
      line: expect.stringMatching(/^ready/),
      status: { standby: "db2", ready: true },
    });

    const told = JSON.parse((await cli(["status", "-c", config.file, "--json"])).stdout);
    expect(told).toMatchObject({
      standby: "db2",
      role: "standby",
      ready: true,
      source: "live",
      problems: [],
    });
    expect(Object.keys(told.slots[0]).toSorted()).toEqual(
      [
        "name",
        "database",
        "plugin",
        "chosenBy",
        "protection",
        "reason",
        "detail",
        "primaryConfirmedFlushLsn",
        "standbyConfirmedFlushLsn",
        "restartLsn",
        "lagBytes",
        "since",
      ].toSorted(),
    );
    const table = await cli(["status", "-c", config.file]);
    expect(table.code).toBe(0);
    expect(table.stdout).toMatch(/^db2: ready: 1 failover slot is safe/);
    expect(table.stdout).toMatch(/^NAME +DATABASE +PROTECTION +REASON +LAG +SINCE +CHOSEN BY$/m);
    expect(table.stdout).toMatch(/^app +postgres +synced +- +\d+ B +\d+ s +rule name_like "%"$/m);
    expect(table.stdout).toContain(`sidecar: process ${running.pid} on `);
    expect(table.stdout).not.toContain("\u001b");
    const watch = startCli(["status", "-c", config.file, "--watch", "--json"]);
    await eventually(() => watch.log.length >= 2, { what: "two looks" });
    watch.kill("SIGINT");
    expect(await watch.ended).toMatchObject({ code: 0, stderr: "" });
    expect(watch.log[1]).toMatchObject({ ready: true });

    running.kill("SIGTERM");
    expect(await running.ended).toMatchObject({ code: 0, signal: null, stderr: "" });
    expect(running.log.at(-1)).toMatchObject({ msg: "stopped", level: "info", standby: "db2" });
    const left = await slotsOf(standby);
    expect(left.map(({ name, active, temporary }) => ({ name, active, temporary }))).toEqual([
      { name: "app", active: false, temporary: false },
      { name: expect.stringMatching(/^slotsync_guard_/), active: false, temporary: false },
    ]);
    await eventually(
      async () =>
        (await standby.query("select from pg_stat_activity where application_name like 'pg-slotsync%'"))
          .length === 0,
      { what: "the sidecar's sessions to be gone" },
    );
    expect(isAlive(running.pid)).toBe(false);
    // and the next one goes on from there
    const next = await runUntilReady(config, primary);
    expect(next.stdout).not.toContain("name_conflict");
    expect((await slotsOf(standby)).map(({ name }) => name)).toEqual(left.map(({ name }) => name));
  });

  test("a second run is refused, naming the first, by state_directory and by the standby itself", async () => {
    const { primary, standby } = await startCluster({ major });
    const config = writeConfig(standby);
    const first = startCli(["run", "-c", config.file]);
    await first.logged(/cycle \d+: /);
    const second = await cli(["run", "-c", config.file]);
    expect(second).toMatchObject({ code: 1 });
    expect(second.stderr).toMatch(
      new RegExp(`^slotsync: the state directory .* is in use by process ${first.pid} on `),
    );
    expect(await cli(["sync", "-c", config.file])).toMatchObject({
      code: 1,
      stderr: expect.stringContaining(`process ${first.pid} on `),
    });
    const elsewhere = writeConfig(standby);
    const third = await cli(["run", "-c", elsewhere.file]);
    expect(third.code).toBe(1);
    expect(third.stderr).toMatch(
      new RegExp(`another sidecar works on this standby: "pg-slotsync run ${first.pid}@`),
    );
    // advisory locks are each database's own
    await primary.query("create database other");
    await eventually(
      async () => (await standby.query("select from pg_database where datname = 'other'")).length === 1,
      { what: "the other database on the standby" },
    );
    const other = writeConfig(standby, {
      standby: { dsn: standby.dsn("other"), data_directory: standby.dataDir },
    });
    const fourth = await cli(["run", "-c", other.file]);
    expect(fourth).toMatchObject({
      code: 1,
      stderr: expect.stringContaining(
        `another sidecar works on this standby: "pg-slotsync run ${first.pid}@`,
      ),
    });
    expect(first.log.some(({ level }) => level === "error" || level === "fatal")).toBe(false);
  });

  test("when the primary is dead, check answers from the journal: 0 with a sidecar, 2 when nobody has looked since", async () => {
    const { primary, standby } = await startCluster({ major });
    await createLogicalSlot(primary, "app");
    const config = writeConfig(standby, {
      nap: { min_ms: 100, max_ms: 500 },
      timeouts: { connect_ms: 700, statement_ms: 1_000, answer_ms: 1_200 },
    });
    const running = await runUntilReady(config, primary);
    await primary.kill();
    await running.logged(/the primary does not answer/);
    const dead = await cli(["check", "-c", config.file]);
    expect(dead).toMatchObject({
      code: 0,
      stdout: expect.stringMatching(/^ready: 1 .*\(as last seen at .*; the primary does not answer: .*\)$/m),
    });
    // it keeps: the sidecar has written down when the primary was lost
    running.kill("SIGTERM");
    await running.ended;
    expect(await cli(["check", "-c", config.file])).toMatchObject({ code: 0 });

    await primary.start();
    const again = await runUntilReady(config, primary);
    again.kill("SIGTERM");
    await again.ended;
    await primary.kill();
    const unsure = await eventually(
      async () => {
        const result = await cli(["check", "-c", config.file]);
        return result.code === 2 ? result : null;
      },
      { what: "the journal to be too old to tell" },
    );
    expect(unsure.stdout).toMatch(
      /^cannot tell: the journal last saw the primary at .*no sidecar has been running since/,
    );
    expect(await cli(["status", "-c", config.file])).toMatchObject({ code: 2 });
  });

  test("check answers within the timeouts while the primary hangs, and 2 while the standby does", async () => {
    const { primary, standby } = await startCluster({ major });
    await createLogicalSlot(primary, "app");
    const timeouts = { connect_ms: 700, statement_ms: 1_000, answer_ms: 1_200 };
    const config = writeConfig(standby, { timeouts });
    await runUntilReady(config, primary);
    primary.pause();
    try {
      const started = performance.now();
      const result = await cli(["check", "-c", config.file]);
      expect(performance.now() - started).toBeLessThan(5_000);
      expect(result.stdout).toMatch(/as last seen|cannot tell|not ready/);
      await eventually(async () => /as last seen/.test((await cli(["check", "-c", config.file])).stdout), {
        what: "an answer from the journal",
      });
    } finally {
      primary.resume();
    }
    standby.pause();
    try {
      const started = performance.now();
      expect(await cli(["check", "-c", config.file])).toMatchObject({
        code: 2,
        stdout: expect.stringMatching(
          /^cannot tell: standby\.dsn: the server does not answer in time: .*connecting to /,
        ),
      });
      expect(performance.now() - started).toBeLessThan(5_000);
    } finally {
      standby.resume();
    }
    await untilReady(config);
  });

  test("sync --dry-run says what sync would do and changes nothing; sync then does it, with the guard made", async () => {
    const { primary, standby } = await startCluster({ major });
    await createLogicalSlot(primary, "app");
    await createLogicalSlot(primary, "other");
    const config = writeConfig(standby);
    const before = await slotsOf(primary);
    const dry = await cli(["sync", "-c", config.file, "--dry-run"]);
    expect(dry.code).toBe(1);
    expect(dry.stdout).toMatch(/^would create guard "slotsync_guard_\d+_\w+" in database "postgres"$/m);
    expect(await slotsOf(standby)).toEqual([]);
    expect(await slotsOf(primary)).toEqual(before);
    expect(existsSync(config.stateDirectory)).toBe(false);
    const { actions, status } = JSON.parse(
      (await cli(["sync", "-c", config.file, "--dry-run", "--json"])).stdout,
    );
    expect(actions).toContainEqual(
      expect.objectContaining({ kind: "create_guard", description: expect.any(String) }),
    );
    expect(status.ready).toBe(false);

    await syncAll(config, primary, "app", "other");
    expect((await slotsOf(standby)).map(({ name }) => name)).toEqual([
      "app",
      "other",
      expect.stringMatching(/^slotsync_guard_/),
    ]);
    expect(ownSlots(await slotsOf(primary))).toEqual([]);
    const again = await cli(["sync", "-c", config.file, "--dry-run"]);
    expect(again.code).toBe(0);
    expect(again.stdout).not.toMatch(/would (create|drop)/);
    expect(again.stdout).toContain("sidecar_not_running");
  });

  test("finish after a promotion without a sidecar brings every slot to its exact position; again, it says the same", async () => {
    const { primary, standby } = await startCluster({ major });
    await primary.query("create table written (id int)");
    await createLogicalSlot(primary, "app");
    await createLogicalSlot(primary, "idle");
    const config = writeConfig(standby);
    await syncAll(config, primary, "app", "idle");
    await primary.query("insert into written select generate_series(1, 100)");
    await readSlot(primary, "app");
    expect((await cli(["sync", "-c", config.file])).code).toBe(0);
    const seen = await slotsOf(primary);

    expect(await cli(["finish", "-c", config.file])).toMatchObject({
      code: 1,
      stderr: expect.stringContaining("this server is a standby and streams from its primary"),
    });
    await primary.kill();
    standby.promote();
    // right away, as a hook does: it waits for the end of recovery
    const first = await cli(["finish", "-c", config.file, "--json"]);
    expect(first.code, first.stderr).toBe(0);
    const report = JSON.parse(first.stdout) as FinishReport;
    expect(report.complete).toBe(true);
    expect(
      report.slots.map(({ name, lastSeenLsn, positionLsn, confirmedBeyondEndBytes }) => ({
        name,
        lastSeenLsn,
        positionLsn,
        confirmedBeyondEndBytes,
      })),
    ).toEqual(
      seen.map(({ name, position }) => ({
        name,
        lastSeenLsn: position,
        positionLsn: position,
        confirmedBeyondEndBytes: 0,
      })),
    );
    const after = await slotsOf(standby);
    expect(after.map(({ name, position }) => ({ name, position }))).toEqual(
      seen.map(({ name, position }) => ({ name, position })),
    );

    const second = await cli(["finish", "-c", config.file, "--json"]);
    expect(second).toMatchObject({ code: 0, stdout: first.stdout });
    const table = await cli(["finish", "-c", config.file]);
    expect(table.stdout).toMatch(/^app +postgres +\w+ +[\dA-F]+\/[\dA-F]+ +[\dA-F]+\/[\dA-F]+ +-$/m);
    expect(table.stdout).toMatch(
      /^promotion finished in \d+ ms: .*no subscriber was seen to have more than this node$/m,
    );
    expect(await slotsOf(standby)).toEqual(after);
    expect(await cli(["check", "-c", config.file])).toMatchObject({
      code: 1,
      stdout: "not ready: this node is a primary, not a standby\n",
    });
    expect((await cli(["status", "-c", config.file])).stdout).toContain("The last promotion, ");
  });

  test("finish waits for a running sidecar that finishes by itself, and prints its report", async () => {
    const { primary, standby } = await startCluster({ major });
    await createLogicalSlot(primary, "app");
    const config = writeConfig(standby);
    const running = await runUntilReady(config, primary);
    const finishing = cli(["finish", "-c", config.file, "--json"]);
    await primary.kill();
    standby.promote();
    const result = await finishing;
    expect(result.code, result.stderr).toBe(0);
    const { gapReport } = await running.logged(/^promotion finished/);
    expect(JSON.parse(result.stdout)).toEqual(gapReport);
    expect(JSON.parse((await cli(["finish", "-c", config.file, "--json"])).stdout)).toEqual(gapReport);
    expect(ownSlots(await slotsOf(standby))).toEqual([]);
    running.kill("SIGINT");
    expect(await running.ended).toMatchObject({ code: 0 });
    expect(JSON.parse((await cli(["finish", "-c", config.file, "--json"])).stdout)).toEqual(gapReport);
  });

  test("finish on a primary that never was a standby has nothing to do, with a sidecar and without", async () => {
    const { primary } = await startCluster({ major, standbys: 0 });
    await createLogicalSlot(primary, "app");
    const before = await slotsOf(primary);
    const config = writeConfig(primary);
    const running = startCli(["run", "-c", config.file]);
    await running.logged(/for the standby/);
    const waited = await cli(["finish", "-c", config.file]);
    expect(waited).toMatchObject({ code: 0, stdout: expect.stringMatching(/^nothing to finish/) });
    running.kill("SIGTERM");
    expect(await running.ended).toMatchObject({ code: 0 });
    expect(await cli(["finish", "-c", config.file])).toMatchObject({ code: 0, stdout: waited.stdout });
    const fresh = writeConfig(primary);
    expect(await cli(["finish", "-c", fresh.file])).toMatchObject({
      code: 0,
      stderr: expect.stringContaining("check state_directory"),
    });
    expect(await slotsOf(primary)).toEqual(before);
  });

  test("finish and run touch nothing with another cluster's journal, or a damaged one", async () => {
    const [ours, other] = await Promise.all([startCluster({ major }), startCluster({ major, fresh: true })]);
    await createLogicalSlot(ours.primary, "app");
    const config = writeConfig(ours.standby);
    await syncAll(config, ours.primary, "app");
    await createLogicalSlot(other.primary, "app");
    const theirs = await slotsOf(other.primary);
    const wrong = await cli(["finish", "-c", config.file, "--set", `standby.dsn=${other.primary.dsn()}`]);
    expect(wrong).toMatchObject({
      code: 1,
      stderr: expect.stringContaining("the journal of another cluster"),
    });
    expect(await slotsOf(other.primary)).toEqual(theirs);
    const running = startCli(["run", "-c", config.file, "--set", `standby.dsn=${other.primary.dsn()}`]);
    await running.logged(/the journal of another cluster/);
    expect(await slotsOf(other.primary)).toEqual(theirs);
    running.kill("SIGTERM");
    expect(await running.ended).toMatchObject({ code: 0 });

    await ours.primary.kill();
    ours.standby.promote();
    await ours.standby.waitPromoted();
    const before = await slotsOf(ours.standby);
    writeFileSync(path.join(config.stateDirectory, "journal.json"), "{}");
    const damaged = await cli(["finish", "-c", config.file]);
    expect(damaged).toMatchObject({ code: 1, stderr: expect.stringContaining("set aside as") });
    expect(await slotsOf(ours.standby)).toEqual(before);
  });

  test("run stays up through what is wrong with the servers, and recovers when it is mended", async () => {
    const { primary, standby } = await startCluster({ major });
    await createLogicalSlot(primary, "app");
    await standby.stop();
    const config = writeConfig(standby);
    const running = startCli(["run", "-c", config.file]);
    await running.logged(/this node's server cannot be worked on/);
    expect(await cli(["check", "-c", config.file])).toMatchObject({
      code: 2,
      stdout: expect.stringMatching(/^cannot tell: /),
    });
    standby.settings = { ...standby.settings, hot_standby_feedback: "off" };
    await standby.start();
    await running.logged(/set hot_standby_feedback = on/);
    expect(await cli(["check", "-c", config.file])).toMatchObject({
      code: 1,
      stdout: expect.stringContaining("set hot_standby_feedback = on"),
    });
    standby.configure({ hot_standby_feedback: "on" });
    await running.logged(/cycle \d+: 1 waiting \(wal_or_rows_removed\)/);
    await confirmAll(primary, "app");
    await untilReady(config);
    running.kill("SIGTERM");
    expect(await running.ended).toMatchObject({ code: 0, stderr: "" });
  });

  test("what run cannot start with is said at once: state_directory, http.listen, the configuration", async () => {
    const { standby } = await startCluster({ major });
    const config = writeConfig(standby);
    writeFileSync(config.stateDirectory, "a file");
    expect(await cli(["run", "-c", config.file])).toMatchObject({
      code: 1,
      stderr: expect.stringContaining("something that is not a directory stands in the path"),
    });
    const taken = writeConfig(standby, { http: { listen: `127.0.0.1:${standby.port}` } });
    expect(await cli(["run", "-c", taken.file])).toMatchObject({
      code: 1,
      stderr: `slotsync: http.listen = 127.0.0.1:${standby.port}: the port is in use by another process; give http.listen a free one\n`,
    });
    expect(readdirSync(taken.stateDirectory).filter((name) => name.endsWith(".json"))).toEqual([]);
    for (const command of ["run", "sync", "status", "check", "finish"])
      expect(await cli([command, "-c", config.file, "--set", "nap.min_sm=5"]), command).toMatchObject({
        code: 2,
        stdout: "",
        stderr: expect.stringContaining("did you mean nap.min_ms?"),
      });
    const empty = writeConfig(standby, { slots: {} });
    expect(await cli(["check", "-c", empty.file])).toMatchObject({
      code: 2,
      stdout: expect.stringContaining("cannot tell: no slot is chosen, so none is protected: flag those"),
    });
  });

  test("a damaged journal is set aside with a warning; what is on the standby then is nobody's and stays", async () => {
    const { primary, standby } = await startCluster({ major });
    await createLogicalSlot(primary, "app");
    const config = writeConfig(standby);
    await syncAll(config, primary, "app");
    const before = await slotsOf(standby);
    writeFileSync(path.join(config.stateDirectory, "journal.json"), "not a journal");
    expect(await cli(["check", "-c", config.file])).toMatchObject({
      code: 2,
      stdout: expect.stringContaining("is damaged"),
    });
    const running = startCli(["run", "-c", config.file]);
    expect(await running.logged(/the journal was damaged/)).toMatchObject({ level: "warn" });
    await running.logged(/name_conflict/);
    expect(await cli(["check", "-c", config.file])).toMatchObject({
      code: 1,
      stdout: expect.stringContaining("name_conflict"),
    });
    expect((await slotsOf(standby)).filter(({ name }) => before.some((slot) => slot.name === name))).toEqual(
      before,
    );
  });
});
