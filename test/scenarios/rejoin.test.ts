/** A former primary that follows again: what becomes of the slots that it brings along (I7), and of what is left behind on it. */
import { expect, test } from "vitest";
import type { PgServer } from "../../src/sandbox/server.ts";
import { startCluster } from "../support/cluster-fixture.ts";
import { createLogicalSlot } from "../support/consumer.ts";
import { QUICK, slotIn } from "../support/file-way.ts";
import { describeEach, testedMajors } from "../support/majors.ts";
import { startSidecar, type TestSidecar, type TestSidecarOptions } from "../support/sidecar.ts";
import { confirm, slotsOf } from "../support/slots.ts";
import { keptStreams, promisedStreams, untilFinished, untilStaged } from "../support/steps.ts";
import { comeBack, switchOver, type TestNode } from "../support/switchover.ts";
import { eventually } from "../support/wait.ts";
import { logRunningTransactions, waitForReplay } from "../support/wal.ts";

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

/** Waits until its sidecar has seen that the slot stands where it was created. */
async function untilNoted({ sidecar: { sidecar } }: TestNode, slot: string): Promise<void> {
  await eventually(() => sidecar.journal.life?.unmoved.some(({ name }) => name === slot) ?? false, {
    what: `slot "${slot}" to be noted on its primary`,
  });
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
}

const MAJORS = [13, 16];
const used = process.env.PG_MAJORS === undefined ? MAJORS : testedMajors();
describeEach(process.env.PG_MAJORS === undefined ? MAJORS : used, used, rejoins);
