import { expect, test } from "vitest";
import type { Action } from "../../../src/domain/action.ts";
import type { JournalState, SlotRecord } from "../../../src/domain/journal.ts";
import { noteDone, noteFailure, noteIntents, noteObservation } from "../../../src/domain/journal-update.ts";
import type { LogicalSlot } from "../../../src/domain/slot.ts";
import {
  GUARD,
  journalOf,
  lsn,
  memory,
  NOW,
  OURS,
  planFor,
  primaryView,
  record,
  slot,
  standbyView,
} from "./build.ts";

function observe(
  journal: JournalState,
  there: LogicalSlot[],
  here: LogicalSlot[],
  primary = {},
  busy: number[] = [],
): JournalState {
  const plan = planFor({ there, here, journal, primary, memory: memory() });
  const seen = { primary: primaryView(there, primary), standby: standbyView(here), chosen: there };
  return noteObservation(journal, { ...seen, plan, busy: new Set(busy), problems: [], now: NOW });
}

const x = (journal: JournalState): SlotRecord | undefined => journal.slots.get("x");
const base = { database: "db1", databaseOid: 1 };
const create: Action = { kind: "create", slot: "x", ...base, plugin: "pgoutput", from: GUARD, to: lsn(500) };
const advance: Action = { kind: "advance", slot: "x", ...base, at: lsn(500), to: lsn(600) };

test("a slot seen for the first time is recorded with the position its subscriber had confirmed (I1)", () => {
  expect(x(observe(journalOf(), [slot("x", 500)], []))).toMatchObject({
    state: "seen",
    maxTarget: null,
    primaryConfirmedFlushLsn: 500n,
    seenAt: NOW,
  });
});

test("a slot that was here before anything was recorded never becomes ours by being seen (I7)", () => {
  const twice = observe(
    observe(journalOf(), [slot("x", 500)], [slot("x", 400)]),
    [slot("x", 500)],
    [slot("x", 400)],
  );
  expect(x(twice)).toMatchObject({ state: "seen", reason: "name_conflict" });
});

test("what is about to be made is recorded with its exact position before it is made (I10)", () => {
  const noted = noteIntents(observe(journalOf(), [slot("x", 500)], []), [create]);
  expect(x(noted)).toMatchObject({ state: "creating", maxTarget: 500n });
});

test("an intent whose outcome was lost is settled by the next look: there is ours (I10)", () => {
  const noted = noteIntents(observe(journalOf(), [slot("x", 500)], []), [create]);
  expect(x(observe(noted, [slot("x", 600)], [slot("x", 500)]))).toMatchObject({
    state: "owned",
    maxTarget: 500n,
  });
});

test("the furthest target only grows while we move our slot, and never by what others do (I7)", () => {
  const journal = journalOf([record("x", "owned", 500)]);
  const back: Action = { ...advance, to: lsn(450) };
  expect(x(noteIntents(journal, [advance]))).toMatchObject({ maxTarget: 600n });
  expect(x(noteIntents(journal, [back]))).toMatchObject({ maxTarget: 500n });
  expect(x(observe(journal, [slot("x", 900)], [slot("x", 800)]))).toMatchObject({ maxTarget: 500n });
});

test("the record describes the primary's slot, and beside it what ours is (I5, I7)", () => {
  const journal = journalOf([record("x", "owned", 500)]);
  const there = [slot("x", 600, { plugin: "test_decoding" })];
  const noted = observe(journal, there, [slot("x", 500)]);
  expect(x(noted)).toMatchObject({ plugin: "test_decoding", state: "owned", ours: OURS });
  expect(x(observe(noted, there, []))).toMatchObject({ plugin: "test_decoding", state: "seen", ours: null });
});

test("what is dropped is ours no longer (I7)", () => {
  const drop: Action = { kind: "drop", slot: "x", ...base, at: lsn(500), why: "" };
  expect(x(noteDone(journalOf([record("x", "owned", 500)]), drop))).toMatchObject({
    state: "seen",
    ours: null,
    bornAt: [],
  });
});

test("a slot that is gone there and not here is forgotten; one that is spared is not (I10)", () => {
  const journal = journalOf([record("x", "seen", 500)]);
  expect(x(observe(journal, [], []))).toBeUndefined();
  expect(x(observe(journal, [], [], { timeline: 2 }))).toMatchObject({
    reason: "absent_on_primary",
    absentSince: NOW,
  });
});

test("the grace after a switch of the primary is counted from when it was first seen", () => {
  expect(observe(journalOf(), [], [], { timeline: 2 })).toMatchObject({
    primaryTimeline: 2,
    timelineSince: NOW,
  });
  expect(observe(journalOf(), [], [])).toMatchObject({ primaryTimeline: 1, timelineSince: 0 });
});

test("each guard gets a name of its own (I7, I10)", () => {
  const guard = "slotsync_guard_1_0badcafe_2";
  const action: Action = { kind: "create_guard", ...base, guard };
  const noted = noteIntents(journalOf(), [action]);
  expect(noted.guardSerial).toBe(2);
  expect(noted.guards[1]).toMatchObject({ name: guard, state: "creating" });
  expect(noteDone(noted, action).guards[1]).toMatchObject({ name: guard, state: "owned" });
  expect(noteDone(noted, { kind: "drop_leftover", slot: guard, ...base }).guards).toEqual({});
});

test("a failure stays on the record until an action on that slot succeeds (I9)", () => {
  const failure = { reason: "statement_failed", detail: "it broke" } as const;
  const journal = noteFailure(
    journalOf([record("x", "owned", 500), record("y", "owned", 500)]),
    "x",
    failure,
  );
  expect(journal.slots.get("y")?.failure).toBeNull();
  expect(x(journal)?.failure).toEqual(failure);
  expect(x(noteDone(journal, advance))?.failure).toBeNull();
});

test("slots named like an object's own parts are slots like any other (I13)", () => {
  const names = ["__proto__", "constructor", "name"];
  const journal = observe(
    journalOf(),
    names.map((name) => slot(name, 500)),
    [],
  );
  expect([...journal.slots.keys()]).toEqual(names);
  expect(journal.slots.get("__proto__")).toMatchObject({ state: "seen" });
});

test("nothing that is noted changes the journal it is noted in", () => {
  const journal = Object.freeze(journalOf([record("x", "owned", 500)]));
  const before = structuredClone(journal);
  noteIntents(journal, [create, advance]);
  noteDone(journal, create);
  noteFailure(journal, "x", { reason: "statement_failed", detail: "" });
  observe(journal, [slot("x", 700)], [slot("x", 500)]);
  expect(journal).toEqual(before);
});
