/** What a review found, each as a small history: seen, planned, promoted. The letters are the review's. */
import { describe, expect, test } from "vitest";
import type { Action } from "../../../src/domain/action.ts";
import { type FinishStep, finishedSlot, planFinish } from "../../../src/domain/finish.ts";
import type { JournalState } from "../../../src/domain/journal.ts";
import { noteDone, noteIntents, noteObservation } from "../../../src/domain/journal-update.ts";
import type { LogicalSlot } from "../../../src/domain/slot.ts";
import {
  GUARD,
  guard,
  HOLD,
  hold,
  journalOf,
  leftAt,
  lsn,
  NOW,
  planFor,
  primaryView,
  record,
  type Situation,
  SQL_MADE,
  slot,
  standbyView,
} from "./build.ts";

/** One cycle: what it plans, and the journal before anything of it is done. */
function cycle(situation: Situation, busy: number[] = []) {
  const { there, here, excluded = [] } = situation;
  const journal = situation.journal ?? journalOf();
  const busyDatabases = new Set(busy);
  const planned = planFor({ ...situation, memory: { busyDatabases, ...situation.memory } });
  const seen = noteObservation(journal, {
    primary: primaryView(there, situation.primary),
    standby: standbyView(here, situation.standby),
    chosen: there.filter(({ name }) => !excluded.includes(name)),
    plan: planned,
    busy: busyDatabases,
    filesBusy: false,
    problems: [],
    now: NOW,
  });
  const verdict = (name: string) => {
    const told = planned.verdicts.get(name);
    return told && [told.protection, told.reason].filter((word) => word !== null).join(" ");
  };
  return { actions: planned.actions, verdict, journal: noteIntents(seen, planned.actions) };
}

function promote(journal: JournalState, slots: LogicalSlot[]): Map<string, FinishStep> {
  const steps = planFinish({ journal, slots, own: leftAt(1_000), serverVersionNum: 160_014 });
  return new Map(steps.map((step) => [step.record.name, step]));
}

const ownedX = (more: Partial<JournalState> = {}) => journalOf([record("x", "owned", 400)], more);
const of = (actions: readonly Action[], kind: Action["kind"]) =>
  actions.filter((action) => action.kind === kind);

describe("A: a slot that is missing may just be coming (I7, I10)", () => {
  test("1 made while a look was under way, it is kept at its position by a promotion", () => {
    const first = cycle({ there: [slot("x", 500)], here: [guard(400)] });
    const create = first.actions.find((action) => action.kind === "create");
    if (!create) throw new Error("x was to be made");
    // the second look is taken while the first cycle's lane is at work, and judged when that is through
    const second = cycle(
      { there: [slot("x", 500)], here: [guard(500)], journal: noteDone(first.journal, create) },
      [1],
    );
    expect(second.actions).toEqual([]);
    expect(promote(second.journal, [guard(500), slot("x", 500)]).get("x")).toMatchObject({ kind: "keep" });
  });

  test("2 it comes after its killed sender's successor has tried again: of whichever attempt, it is ours", () => {
    const first = cycle({ there: [slot("x", 500)], here: [guard(400)] });
    const second = cycle({ there: [slot("x", 600)], here: [guard(500)], journal: first.journal });
    expect(of(second.actions, "create")).toMatchObject([{ to: 600n }]);
    expect(promote(second.journal, [guard(500), slot("x", 500)]).get("x")).toMatchObject({
      kind: "advance",
      to: 600n,
    });
    const third = cycle({
      there: [slot("x", 600)],
      here: [guard(600), slot("x", 500)],
      journal: second.journal,
    });
    expect(of(third.actions, "advance")).toMatchObject([{ slot: "x", at: 500n, to: 600n }]);
  });
});

describe("B: recreated on the primary as another slot, and promoted before ours was dropped (I5, I6)", () => {
  test.each<[string, Partial<LogicalSlot>, LogicalSlot[], object]>([
    ["1 another plugin: ours goes", { plugin: "test_decoding" }, [], { kind: "drop" }],
    [
      "2 another plugin, and a guard behind it: it is made as what it is now",
      { plugin: "test_decoding" },
      [guard(400)],
      {
        kind: "materialise",
        to: 500n,
        dropFirst: expect.stringContaining("another one"),
        record: { plugin: "test_decoding" },
      },
    ],
    ["3 two_phase: ours goes, for a copy is none (G5)", { twoPhase: true }, [guard(400)], { kind: "drop" }],
    [
      "4 another database: ours goes, although a guard of its old one is there",
      { database: "db2", databaseOid: 2 },
      [guard(400)],
      { kind: "drop" },
    ],
  ])("%s", (_, more, guards, step) => {
    const here = [...guards, slot("x", 400)];
    const { journal } = cycle({ there: [slot("x", 500, more)], here, journal: ownedX() });
    expect(promote(journal, here).get("x")).toMatchObject(step);
  });
});

describe("C: recreated in a database that has not come here yet (I5, I6)", () => {
  const there = [slot("x", 500, { database: "db9", databaseOid: 9 })];
  const here = [guard(1_000), slot("x", 400)];

  test("1 ours is dropped all the same, in its own database", () => {
    const { actions } = cycle({ there, here, journal: ownedX() });
    expect(actions).toMatchObject([{ kind: "drop", slot: "x", databaseOid: 1, at: 400n }]);
  });

  test("2 not while the lane of that is busy", () => {
    expect(cycle({ there, here, journal: ownedX() }, [1]).actions).toEqual([]);
  });

  test("3 promoted before, it goes", () => {
    expect(promote(cycle({ there, here, journal: ownedX() }).journal, here).get("x")).toMatchObject({
      kind: "drop",
    });
  });
});

describe("D, E: invalidated on the primary while ours cannot be dropped (I6)", () => {
  const there = [slot("x", 400, { invalidation: "wal_removed" })];

  test("1 in use here, it is dropped at a promotion once its reader has gone", () => {
    const here = [guard(100), slot("x", 400, { activePid: 42 })];
    const { actions, verdict, journal } = cycle({ there, here, journal: ownedX() });
    expect(of(actions, "drop")).toEqual([]);
    expect(verdict("x")).toBe("blocked slot_in_use");
    expect(promote(journal, [guard(100), slot("x", 400)]).get("x")).toMatchObject({ kind: "drop" });
  });

  test("2 still in use then, the report says that changes may be skipped", () => {
    const here = [guard(100), slot("x", 400, { activePid: 42 })];
    const step = promote(cycle({ there, here, journal: ownedX() }).journal, here).get("x");
    expect(step && finishedSlot(step, { journal: journalOf(), own: leftAt(1_000) }, null)).toMatchObject({
      outcome: "in_use",
      detail: expect.stringContaining("CHANGES MAY BE SKIPPED"),
    });
  });

  test("3 moved on here by somebody, and taken back by a crash before the promotion, it is dropped", () => {
    const { verdict, journal } = cycle({ there, here: [slot("x", 450)], journal: ownedX() });
    expect(verdict("x")).toBe("blocked name_conflict");
    expect(promote(journal, [slot("x", 400)]).get("x")).toMatchObject({ kind: "drop" });
  });

  test("4 not here, it is not made although a guard is behind it", () => {
    expect(promote(cycle({ there, here: [guard(100)] }).journal, [guard(100)]).get("x")).toMatchObject({
      kind: "none",
    });
  });
});

describe("F: no failover slot any more, and promoted before ours was dropped (I6)", () => {
  const here = [guard(1_000), slot("x", 400)];

  test.each<[string, Partial<Situation>]>([
    ["1 gone from the primary", { there: [] }],
    ["2 not chosen any more", { there: [slot("x", 400)], excluded: ["x"] }],
  ])("%s, it is dropped", (_, more) => {
    const { actions, journal } = cycle({ there: [], here, journal: ownedX(), ...more });
    expect(of(actions, "drop")).toMatchObject([{ slot: "x", at: 400n }]);
    expect(promote(journal, here).get("x")).toMatchObject({ kind: "drop" });
  });

  test("3 what is not here is not made", () => {
    const { journal } = cycle({ there: [], here: [guard(100)], journal: ownedX() }, [1]);
    expect(promote(journal, [guard(100)]).get("x")).toBeUndefined();
  });

  test("4 back again, it is a failover slot like any other", () => {
    const gone = cycle({ there: [], here, journal: ownedX() }).journal;
    const back = cycle({ there: [slot("x", 450)], here: [guard(400)], journal: gone });
    expect(back.journal.slots.get("x")).toMatchObject({ obsolete: false, protection: "guarded" });
  });
});

describe("G: after a failover of the primary its slots may come back for a minute (G1, I10)", () => {
  const situation: Situation = {
    there: [],
    here: [guard(350)],
    journal: journalOf([record("x", "seen", null, { primaryConfirmedFlushLsn: lsn(400) })]),
    primary: { timeline: 2 },
    guardDatabases: [],
  };

  test("1 their database's guard stays, and behind them", () => {
    const { actions, verdict } = cycle(situation);
    expect(actions).toMatchObject([{ kind: "advance_guard", to: 400n }]);
    expect(verdict("x")).toBe("waiting absent_on_primary");
  });

  test("2 promoted meanwhile, they are made", () => {
    expect(promote(cycle(situation).journal, [guard(350)]).get("x")).toMatchObject({
      kind: "materialise",
      to: 400n,
    });
  });

  test("3 then they are forgotten, and the guard goes", () => {
    const later = { ...situation, primary: { timeline: 1 } };
    const first = cycle(later);
    expect(first.journal.slots.size).toBe(0);
    expect(cycle({ ...later, journal: first.journal }).actions).toMatchObject([
      { kind: "drop_leftover", slot: GUARD },
    ]);
  });
});

describe("H: being recreated on the primary, without a position yet (I5, I6, G1)", () => {
  const there = [slot("x", null, { restartLsn: lsn(450) })];
  const here = [guard(300), slot("x", 400)];

  test("1 ours is dropped, and the guard stays behind the new one's start", () => {
    const { actions, verdict } = cycle({ there, here, journal: ownedX() });
    expect(actions).toMatchObject([
      { kind: "drop", slot: "x" },
      { kind: "advance_guard", to: 450n },
    ]);
    expect(verdict("x")).toBe("waiting wal_or_rows_removed");
  });

  test("2 promoted before, ours goes and none is made", () => {
    const { journal } = cycle({ there, here, journal: ownedX() });
    expect(journal.slots.get("x")).toMatchObject({ primaryConfirmedFlushLsn: null });
    expect(promote(journal, here).get("x")).toMatchObject({ kind: "drop" });
    expect(promote(journal, [guard(300)]).get("x")).toMatchObject({ kind: "none" });
  });
});

describe("K: a slot whose making failed (G1)", () => {
  const failed = (retryAt: number) => ({
    backoff: new Map([
      ["x", { reason: "statement_failed", detail: "it broke", retryAt, failures: 1 } as const],
    ]),
  });

  test("1 tried again, it is copied out of a guard that has not passed it", () => {
    const { actions, verdict } = cycle({
      there: [slot("x", 500)],
      here: [guard(400)],
      memory: failed(NOW),
    });
    expect(actions).toMatchObject([
      { kind: "advance_guard", to: 500n },
      { kind: "create", slot: "x", to: 500n },
    ]);
    expect(verdict("x")).toBe("waiting statement_failed");
  });

  test("2 while it rests the guard goes on for the others, and a hold waits for it (G3)", () => {
    const { actions } = cycle({ there: [slot("x", 500)], here: [guard(400)], memory: failed(NOW + 1) });
    expect(actions).toMatchObject([
      { kind: "create_hold", from: GUARD },
      { kind: "advance_guard", to: 1_000n },
    ]);
  });
});

describe("L: room for every slot that is called guarded, and the working copy (I1)", () => {
  const db2 = { database: "db2", databaseOid: 2 };
  const databases = [
    { oid: 1, name: "db1" },
    { oid: 2, name: "db2" },
  ];
  const at = (maxReplicationSlots: number, usedSlots: number) => ({
    standby: { maxReplicationSlots, usedSlots },
  });

  test("1 one slot is kept free for the working copy", () => {
    const there = [slot("x", 500), slot("y", 500)];
    const told = (max: number) => {
      const { verdict } = cycle({ there, here: [guard(400)], ...at(max, 1) });
      return [verdict("x"), verdict("y")];
    };
    expect(told(4)).toEqual(["guarded", "guarded"]);
    expect(told(3)).toEqual(["guarded", "waiting too_many_slots"]);
    expect(told(2)).toEqual(["waiting too_many_slots", "waiting too_many_slots"]);
  });

  test("2 one in each database with slots that are missing", () => {
    const guard2 = guard(400, { name: GUARD.replace("_1_", "_2_"), ...db2 });
    const journal = journalOf([], {
      guards: {
        1: { name: GUARD, database: "db1", databaseOid: 1, state: "owned", maxTarget: null, ...SQL_MADE },
        2: { name: guard2.name, ...db2, state: "owned", maxTarget: null, ...SQL_MADE },
      },
    });
    const there = [slot("x", 500), slot("y", 500, db2)];
    const told = (max: number) => {
      const standby = { databases, maxReplicationSlots: max };
      const { verdict } = cycle({ there, here: [guard(400), guard2], journal, standby });
      return [verdict("x"), verdict("y")];
    };
    expect(told(6)).toEqual(["guarded", "guarded"]);
    expect(told(5)).toEqual(["guarded", "waiting too_many_slots"]);
  });

  test("3 a guard does not take the slot of one that another guard protects", () => {
    const standby = { databases, maxReplicationSlots: 3 };
    const { actions, verdict } = cycle({
      there: [slot("x", 500)],
      here: [guard(400)],
      standby,
    });
    expect(of(actions, "create_guard")).toEqual([]);
    expect(verdict("x")).toBe("guarded");
  });

  test("4 nor does a hold", () => {
    const there = [slot("x", 500), slot("behind", 300)];
    const { actions, verdict } = cycle({ there, here: [guard(400)], ...at(3, 1) });
    expect(of(actions, "create_hold")).toEqual([]);
    expect(verdict("x")).toBe("guarded");
    expect(of(cycle({ there, here: [guard(400)], ...at(4, 1) }).actions, "create_hold")).toHaveLength(1);
  });
});

describe("statements that are still at work (G2, I1)", () => {
  test("1 a guard covers nothing before the position that it may be on its way to", () => {
    const journal = journalOf([], {
      guards: {
        1: { name: GUARD, database: "db1", databaseOid: 1, state: "owned", maxTarget: lsn(600), ...SQL_MADE },
      },
    });
    const told = (position: number) =>
      cycle({ there: [slot("x", position)], here: [guard(400)], journal }, [1]).verdict("x");
    expect(told(599)).toBe("waiting wal_or_rows_removed");
    expect(told(600)).toBe("guarded");
  });

  test("2 where a guard is moved to is written down before it is moved", () => {
    const { actions, journal } = cycle({ there: [], here: [guard(400)] });
    expect(actions).toMatchObject([{ kind: "advance_guard", to: 1_000n }]);
    expect(journal.guards[1]).toMatchObject({ maxTarget: 1_000n });
  });

  test("3 a slot that is moved while the primary goes back is not called synced (I1)", () => {
    const journal = journalOf([record("x", "owned", 500)]);
    const here = [guard(1_000), slot("x", 400)];
    expect(cycle({ there: [slot("x", 450)], here, journal }, [1]).verdict("x")).toBe(
      "waiting wal_or_rows_removed",
    );
    expect(cycle({ there: [slot("x", 500)], here, journal }, [1]).verdict("x")).toBe("synced");
  });
});

describe("a hold serves those that the guard has passed (G3)", () => {
  test("1 it goes once the guard is behind all of them", () => {
    const planned = (position: number) =>
      cycle({
        there: [slot("x", position)],
        here: [guard(500), hold(300)],
        standby: { replayLsn: lsn(500) },
      });
    expect(planned(500).actions).toMatchObject([
      { kind: "release_hold", hold: HOLD },
      { kind: "create", from: GUARD },
    ]);
    expect(planned(499).actions).toMatchObject([{ kind: "create", from: HOLD, to: 499n }]);
    expect(planned(499).verdict("x")).toBe("waiting wal_or_rows_removed");
  });
});
