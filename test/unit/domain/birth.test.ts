/** When a slot of ours may be copied to a failover slot's name (K4). */
import { describe, expect, test } from "vitest";
import { beginningNow, hasUnsettled, isSettled } from "../../../src/domain/birth.ts";
import { type Beginning, SETTLED, type Staged, UNPROVISIONED } from "../../../src/domain/journal.ts";
import { noteDone, noteIntents } from "../../../src/domain/journal-update.ts";
import type { Lsn } from "../../../src/domain/lsn.ts";
import { GUARD, guard, journalOf, lsn, OURS, planFor, record, SQL_MADE, slot, standbyView } from "./build.ts";

const at = (restart: number | null) =>
  slot(GUARD, 500, { restartLsn: restart === null ? null : lsn(restart) });
const bornAt = (seen: number | null, settled: number | null = null): Beginning => ({
  seen: seen === null ? null : lsn(seen),
  settled: settled === null ? null : lsn(settled),
});
const loaded = (snapshot: Staged["snapshot"]): Staged => ({
  ...OURS,
  restartLsn: lsn(490),
  confirmedFlushLsn: lsn(500),
  snapshot,
  pin: null,
  loadedBy: null,
  at: 0,
});

describe("what is known of a slot's beginning (I2, K4)", () => {
  test.each<[string, Beginning, number | null, number[] | null, Beginning]>([
    ["1 first seen, it may be new", bornAt(null), 490, null, bornAt(490)],
    ["2 where it was first seen, it still may", bornAt(490), 490, null, bornAt(490)],
    ["3 it has moved: to a serialized snapshot", bornAt(490), 495, null, bornAt(490, 495)],
    ["4 the snapshot is here, though it was never seen to move", bornAt(null), 490, [490], bornAt(null, 490)],
    ["5 another's snapshot says nothing", bornAt(null), 490, [485, 495], bornAt(490)],
    ["6 taken back before it counted, it begins anew", bornAt(490), 480, null, bornAt(480)],
    ["7 once known it stays known", bornAt(490, 495), 495, [], bornAt(490, 495)],
    ["8 without a position nothing is known", bornAt(490), null, null, bornAt(490)],
  ])("%s", (_, beginning, restart, snapshots, expected) => {
    const asked = snapshots === null ? null : new Set<Lsn>(snapshots.map(lsn));
    expect(beginningNow({ ...SQL_MADE, beginning }, at(restart), { snapshots: asked })).toEqual(expected);
  });

  test.each<[string, Beginning, number | null, boolean]>([
    ["1 a new one does not count", bornAt(490), 490, false],
    ["2 nor one that nobody has seen", bornAt(null), 490, false],
    ["3 one that has moved counts", bornAt(490, 495), 495, true],
    ["4 … and does not when a crash has taken it back", bornAt(490, 495), 490, false],
    ["5 a copy of one that counts does from its first moment on", SETTLED, 490, true],
    ["6 nothing counts without a position", SETTLED, null, false],
  ])("%s", (_, beginning, restart, expected) => {
    expect(isSettled({ ...SQL_MADE, beginning }, at(restart))).toBe(expected);
  });

  test.each<[string, Staged["snapshot"], number, boolean]>([
    ["1 a guard loaded with its snapshot counts", "kept", 490, true],
    ["2 one without, born on the primary as a pin, does not", "absent", 490, false],
    ["3 … until it has moved", "absent", 495, true],
  ])("%s", (_, snapshot, restart, expected) => {
    expect(isSettled({ ...UNPROVISIONED, origin: loaded(snapshot) }, at(restart))).toBe(expected);
  });
});

describe("a new guard", () => {
  const guards = (beginning: Beginning) => ({
    guards: {
      1: {
        ...{ name: GUARD, database: "db1", databaseOid: 1, state: "owned" as const, maxTarget: null },
        ...{ ...SQL_MADE, beginning },
      },
    },
  });
  const situation = (beginning: Beginning) => ({
    there: [slot("x", 600)],
    here: [guard(500)],
    journal: journalOf([record("x", "seen", 600, { reason: null })], guards(beginning)),
  });

  test("protects nobody, is copied to no name and by no hold, and goes to the next slot: there it may come to count (K4, I19)", () => {
    const { verdicts, actions } = planFor(situation(bornAt(490)));
    expect(verdicts.get("x")).toMatchObject({ protection: "waiting", reason: "no_consistent_snapshot" });
    expect(actions).toMatchObject([{ kind: "advance_guard", to: 600n }]);
  });

  test("goes past a slot where it has not come to count: else it would never serve anybody (K4)", () => {
    const at = situation(bornAt(490));
    const { actions } = planFor({
      ...at,
      there: [slot("x", 500)],
      here: [guard(500, { restartLsn: lsn(490) })],
    });
    expect(actions).toMatchObject([{ kind: "advance_guard", to: 1_000n }]);
  });

  test("that has moved is copied, and waits for the slot (G1, K4)", () => {
    const { verdicts, actions } = planFor(situation(bornAt(490, 490)));
    expect(verdicts.get("x")).toMatchObject({ protection: "guarded" });
    expect(actions.map(({ kind }) => kind)).toContain("create");
    for (const action of actions)
      if (action.kind === "advance_guard") expect(action.to).toBeLessThanOrEqual(600n);
  });

  test("names the oldest transactions of the primary as what it may be waiting for", () => {
    const openTransactions = [{ who: "process 17", database: "db1", seconds: 90 }];
    const { verdicts } = planFor({ ...situation(bornAt(490)), primary: { openTransactions } });
    expect(verdicts.get("x")?.detail).toContain('process 17 in database "db1", open for 90 s');
  });
});

test("a slot that an earlier release copied is not ready until its beginning is known, and a guard that counts makes it meanwhile (K4)", () => {
  const early = record("x", "owned", 600, { beginning: bornAt(null) });
  const here = [guard(500), slot("x", 600)];
  const run = (snapshots: number[]) =>
    planFor({
      there: [slot("x", 600)],
      here: [slot("x", 600)],
      journal: journalOf([early]),
      standby: { snapshots: new Set(snapshots.map(lsn)) },
    }).verdicts.get("x");
  expect(run([])).toMatchObject({ reason: "no_consistent_snapshot" });
  expect(run([590])).toMatchObject({ protection: "synced" });
  expect(hasUnsettled(journalOf([early]), standbyView(here))).toBe(true);
  const guarded = planFor({ there: [slot("x", 600)], here, journal: journalOf([early]) });
  expect(guarded.verdicts.get("x")).toMatchObject({ protection: "guarded" });
});

test("a copy of a guard that counts begins as that does, also when nobody was told that it had come (I10, K4)", () => {
  const create = {
    ...{ kind: "create" as const, slot: "x", database: "db1", databaseOid: 1, plugin: "pgoutput" },
    ...{ from: GUARD, to: lsn(600) },
  };
  const intent = noteIntents(journalOf([record("x", "seen", null)]), [create]);
  expect(intent.slots.get("x")?.births).toMatchObject([{ at: 600n, settled: true }]);
  expect(noteDone(intent, create).slots.get("x")?.beginning).toEqual(SETTLED);
});
