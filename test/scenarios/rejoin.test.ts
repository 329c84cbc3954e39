/** A former primary that follows again: what becomes of the slots that it brings along (I7), and of what is left behind on it. */

import { cpSync } from "node:fs";
import { expect, test } from "vitest";
import type { Status } from "../../src/domain/status.ts";
import type { PgServer } from "../../src/sandbox/server.ts";
import { buildCli, cli, writeConfig } from "../support/cli.ts";
import { startCluster } from "../support/cluster-fixture.ts";
import { createLogicalSlot } from "../support/consumer.ts";
import { isReady, QUICK, slotIn, untilTold } from "../support/file-way.ts";
import { describeEach, testedMajors } from "../support/majors.ts";
import { startSidecar, type TestSidecar, type TestSidecarOptions } from "../support/sidecar.ts";
import { confirm, slotsOf } from "../support/slots.ts";
import {
  hasGuard,
  keptStreams,
  promisedStreams,
  untilFinished,
  untilProblem,
  untilStaged,
} from "../support/steps.ts";
import {
  comeBack,
  rebuildFrom,
  restoreSlot,
  switchOver,
  type TestNode,
  untilNoted,
} from "../support/switchover.ts";
import { eventually } from "../support/wait.ts";
import { logRunningTransactions, waitForReplay } from "../support/wal.ts";

const REFUSE = {
  guardDatabases: "auto",
  duty: 0.05,
  provision: "auto",
  restarts: false,
  onConflict: "refuse",
  releaseAfterMs: null,
} as const;

/** Two nodes with a sidecar beside each, and these slots kept on the standby. */
async function startPair(major: number, names: readonly string[], options: TestSidecarOptions = {}) {
  const cluster = await startCluster({ major });
  const { primary, standby } = cluster;
  await primary.query("create table t (id int primary key, note text)");
  const former: TestNode = {
    server: primary,
    sidecar: await startSidecar(primary, { nap: QUICK, ...options }),
  };
  const heir: TestNode = { server: standby, sidecar: await startSidecar(standby, { nap: QUICK }) };
  await heir.sidecar.until(
    "the guard, or its file",
    ({ guards, restart }) =>
      guards.some(({ confirmedFlushLsn }) => confirmedFlushLsn !== null) ||
      (restart?.guards ?? 0) > 0 ||
      major === 11,
  );
  for (const name of names) await createLogicalSlot(primary, name);
  if (major < 16) {
    await untilStaged(heir.sidecar, ...names);
    await standby.restart();
  }
  for (const name of names) await heir.sidecar.untilSlot(name, "synced");
  return { cluster, former, heir };
}

/** Waits until these slots are synced to where they stand on the primary now. */
async function untilInStep(sidecar: TestSidecar, primary: PgServer, ...names: string[]): Promise<void> {
  const there = await slotsOf(primary);
  await sidecar.until("the slots to be in step", (status) =>
    names.every((name) => {
      const slot = slotIn(status, name);
      return slot?.protection === "synced" && slot.standbyConfirmedFlushLsn === there.get(name)?.confirmed;
    }),
  );
}

function rejoins(major: number): void {
  test("the slots that a former primary brings along are adopted, and a second failover loses nothing (I1, I2, I3, I4, I7)", async () => {
    const { former, heir } = await startPair(major, ["idle", "busy"]);
    const [a, b] = [former.server, heir.server];
    await a.query("insert into t select generate_series(1, 10)");
    await logRunningTransactions(a);
    await a.query("alter table t add column more int default 7");
    await a.query("insert into t select generate_series(11, 20)");
    await confirm(a, "busy");
    await logRunningTransactions(a);
    await a.query("insert into t select generate_series(21, 30)");
    await untilNoted(former, "idle");
    await heir.sidecar.until("all to be ready", ({ ready }) => ready);

    await switchOver(former, heir);
    await b.query("insert into t select generate_series(31, 40)");
    await confirm(b, "busy");
    await comeBack(former, heir);
    for (const name of ["idle", "busy"]) await former.sidecar.untilSlot(name, "synced");
    await b.query("alter table t drop column note");
    await b.query("insert into t select generate_series(41, 50)");
    await confirm(b, "busy");
    await b.query("insert into t select generate_series(51, 60)");
    await untilInStep(former.sidecar, b, "idle", "busy");

    const promised = await promisedStreams({ primary: b, standby: a }, "idle", "busy");
    await waitForReplay(b, a);
    await b.kill();
    a.promote();
    await untilFinished(former.sidecar);
    expect(await keptStreams(a, promised.keys())).toEqual(promised);
    expect(promised.get("idle")?.length).toBeGreaterThan(60);
  });

  test("a slot that was made, or read, after the fork is left alone and never called ready (I2, I7)", async () => {
    const { former, heir } = await startPair(major, ["idle", "read"]);
    const [a, b] = [former.server, heir.server];
    await untilNoted(former, "idle");
    const spare = `${a.dataDir}/../after-the-fork`;
    // the standby is gone when the primary writes on: what follows there is no part of the new primary's past
    await heir.sidecar.until("all to be ready", ({ ready }) => ready);
    await waitForReplay(a, b);
    b.promote();
    await untilFinished(heir.sidecar);
    await a.query("insert into t select generate_series(101, 200)");
    await confirm(a, "read");
    await createLogicalSlot(a, "made");
    await a.query("insert into t values (201)");
    await former.sidecar.until("what it is now to be noted", () =>
      (former.sidecar.sidecar.journal.life?.unmoved ?? []).some(({ name }) => name === "made"),
    );
    await a.stop();
    // as after a rewind that has kept the slots: the new primary's data, and this node's old slots
    cpSync(`${a.dataDir}/pg_replslot`, spare, { recursive: true });
    await rebuildFrom(b, a);
    for (const name of ["idle", "read", "made"]) restoreSlot(a, spare, name);
    await createLogicalSlot(b, "made");
    await b.query("insert into t select generate_series(301, 400)");
    for (const name of ["read", "made"]) await confirm(b, name);
    await b.query("select pg_catalog.pg_switch_wal()");
    await comeBack(former, heir);

    for (const name of ["read", "made"])
      await untilTold(former.sidecar, name, "name_conflict", "made or read afterwards");
    expect(isReady(former.sidecar.status as Status, "read")).toBe(false);
    expect(former.sidecar.status?.ready).toBe(false);
    // the one that stood before the fork is of this node's past
    await former.sidecar.until(
      "the idle one to be adopted",
      (status) => slotIn(status, "idle")?.reason !== "name_conflict",
    );
    expect((await slotsOf(a)).has("read")).toBe(true);
    for (const { slots } of former.sidecar.history)
      for (const { name, protection } of slots)
        if (name === "read" || name === "made") expect(["waiting", "blocked"]).toContain(protection);
  });

  test("refused, they are left alone and told; what a former primary is left with is reported, and released but for what is in use (I7)", async () => {
    const { former, heir } = await startPair(major, ["kept"], { policy: REFUSE });
    const [a, b] = [former.server, heir.server];
    await createLogicalSlot(a, "unwanted");
    await heir.sidecar.stop();
    await waitForReplay(a, b);
    await a.stop();
    b.promote();
    await b.waitPromoted();
    await comeBack(former, heir);
    await untilTold(former.sidecar, "kept", "name_conflict", "slots.on_conflict is refuse");
    const told = await untilProblem(former.sidecar, "leftover_slots");
    const message = told.problems.find(({ code }) => code === "leftover_slots")?.message ?? "";
    expect(message).toContain(`"${b.name}" (physical, `);
    expect(message).toContain('"unwanted" (logical, ');
    expect(message).not.toContain('"kept"');

    await buildCli();
    const { file } = writeConfig(a, { state_directory: former.sidecar.stateDirectory });
    const release = (...args: string[]) => cli(["release", "-c", file, ...args]);
    expect(await release()).toMatchObject({ code: 2 });
    const dry = await release("--all-inactive", "--dry-run");
    expect(dry).toMatchObject({ code: 0, stdout: expect.stringContaining("would release: unwanted") });
    expect(dry.stdout).toContain(`would release: ${b.name}`);
    expect([...(await slotsOf(a)).keys()].filter((name) => !name.startsWith("slotsync_"))).toEqual([
      "kept",
      "unwanted",
    ]);
    // a standby of this standby that comes back to its slot
    const downstream = await a.connect("postgres", "postgres", { replication: "database" } as object);
    const [here] = await a.query<{ lsn: string }>("select pg_catalog.pg_last_wal_replay_lsn()::text as lsn");
    await downstream.query("IDENTIFY_SYSTEM");
    const streaming = downstream
      .query(`START_REPLICATION SLOT ${b.name} PHYSICAL ${here?.lsn}`)
      .catch(() => {});
    await eventually(
      async () =>
        (
          await a.query("select from pg_catalog.pg_replication_slots where slot_name = $1 and active", [
            b.name,
          ])
        ).length > 0,
      { what: "a downstream to stream" },
    );
    const [ours] = [...(await slotsOf(a)).keys()].filter((name) => name.startsWith("slotsync_"));
    const refused = await release(b.name, "nothing", ...(ours === undefined ? [] : [ours]));
    expect(refused).toMatchObject({ code: 1, stdout: expect.stringContaining("a standby streams from it") });
    expect(refused.stdout).toContain("refused: nothing (there is no such slot");
    if (ours !== undefined) expect(refused.stdout).toContain(`refused: ${ours} (it is the sidecar's own`);
    await downstream.end().catch(() => {});
    await streaming;
    await eventually(
      async () =>
        (
          await a.query("select from pg_catalog.pg_replication_slots where slot_name = $1 and active", [
            b.name,
          ])
        ).length === 0,
      { what: "the downstream to be gone" },
    );
    expect(await release("--all-inactive")).toMatchObject({
      code: 0,
      stdout: expect.stringContaining("released: unwanted"),
    });
    await former.sidecar.until("nothing to be left", ({ problems }) =>
      problems.every(({ code }) => code !== "leftover_slots"),
    );
    // and what is in the way goes by its name alone
    expect((await slotsOf(a)).has("kept")).toBe(true);
    expect(await release("kept")).toMatchObject({ code: 0 });
    await former.sidecar.until(
      "the name to be free",
      (status) => slotIn(status, "kept")?.reason !== "name_conflict",
    );
  });

  test("recreated, a slot makes room for its successor only behind a guard: there is no moment without protection (I7, G2)", async () => {
    const recreate = { ...REFUSE, onConflict: "recreate" } as const;
    const { former, heir } = await startPair(major, ["idle", "busy"], { policy: recreate });
    const [a, b] = [former.server, heir.server];
    await heir.sidecar.until("all to be ready", ({ ready }) => ready);
    await switchOver(former, heir);
    await comeBack(former, heir);
    for (const name of ["busy", "idle"])
      await untilTold(former.sidecar, name, "name_conflict", "reaches back to");
    if (major < 16) {
      await former.sidecar.until("the guards to be staged", ({ restart }) => (restart?.guards ?? 0) > 0);
      await a.restart();
    }
    await former.sidecar.until("the guard", hasGuard);
    await b.query("insert into t values (1)");
    // past the guard, wherever that stands, and past what the primary's feedback holds
    await eventually(
      async () => {
        await confirm(b, "busy");
        await logRunningTransactions(b);
        return isReady(former.sidecar.status as Status, "busy");
      },
      { what: "the busy one to be made anew", intervalMs: 200 },
    );
    const told = former.sidecar.history.flatMap((status) => slotIn(status, "busy") ?? []);
    const last = told.findLastIndex(({ reason }) => reason === "name_conflict");
    expect(last).toBeGreaterThan(0);
    for (const { protection, reason } of told.slice(last + 1))
      expect([reason, protection]).toEqual([null, protection]);
    // the idle one, to which no guard reaches back, is as it was
    expect(slotIn(former.sidecar.status as Status, "idle")?.reason).toBe("name_conflict");
    expect((await slotsOf(a)).has("idle")).toBe(true);
  });
}

const MAJORS = [13, 16];
const used = process.env.PG_MAJORS === undefined ? MAJORS : testedMajors();
describeEach(process.env.PG_MAJORS === undefined ? MAJORS : used, used, rejoins);
