import { expect, test } from "vitest";
import type { Action } from "../../../src/domain/action.ts";
import type { JournalState, SlotRecord } from "../../../src/domain/journal.ts";
import {
  noteAlive,
  noteDone,
  noteFailure,
  noteIntents,
  noteObservation,
  noteStandby,
} from "../../../src/domain/journal-update.ts";
import type { LogicalSlot } from "../../../src/domain/slot.ts";
import { SEEN_WITHIN_MS } from "../../../src/domain/vouch.ts";
import {
  birth,
  GUARD,
  guard,
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
  return noteObservation(journal, {
    ...seen,
    plan,
    busy: new Set(busy),
    filesBusy: false,
    problems: [],
    now: NOW,
  });
}

const x = (journal: JournalState): SlotRecord | undefined => journal.slots.get("x");
const base = { database: "db1", databaseOid: 1 };
const create: Action = { kind: "create", slot: "x", ...base, plugin: "pgoutput", from: GUARD, to: lsn(500) };
const replace: Action = {
  kind: "replace",
  slot: "x",
  ...base,
  plugin: "pgoutput",
  guard: GUARD,
  at: lsn(500),
  to: lsn(600),
};
const advance: Action = { kind: "advance", slot: "x", ...base, at: lsn(500), to: lsn(600), unsure: false };

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
  expect(x(noted)).toMatchObject({ state: "creating", births: [birth(500, { since: NOW })] });
});

test("a copy that ends after its killed sender's successor has looked is ours, of whichever attempt it is (I7, I10)", () => {
  const first = noteIntents(observe(journalOf(), [slot("x", 500)], []), [create]);
  const missing = observe(first, [slot("x", 550)], []);
  expect(x(missing)).toMatchObject({ state: "creating" });
  const second = noteIntents(missing, [{ ...create, to: lsn(550) }]);
  for (const position of [500, 550])
    expect(x(observe(second, [slot("x", 600)], [slot("x", position)]))).toMatchObject({
      state: "owned",
      maxTarget: BigInt(position),
      reason: null,
    });
  expect(x(observe(second, [slot("x", 600)], [slot("x", 540)]))).toMatchObject({ reason: "name_conflict" });
});

test("a copy on its way is ours as what it was to be, whatever the primary's slot has become since (I5, I7)", () => {
  const first = noteIntents(observe(journalOf(), [slot("x", 500)], []), [create]);
  const there = [slot("x", 550, { plugin: "test_decoding" })];
  const second = noteIntents(observe(first, there, []), [
    { ...create, plugin: "test_decoding", to: lsn(550) },
  ]);
  const late = observe(second, there, [slot("x", 500)]);
  expect(x(late)).toMatchObject({ state: "owned", ours: OURS, plugin: "test_decoding" });
  expect(planFor({ there, here: [guard(500), slot("x", 500)], journal: late }).actions).toMatchObject([
    { kind: "drop", slot: "x", at: 500n },
    { kind: "advance_guard" },
  ]);
});

test("a copy that has not come in ten minutes will not, unless nobody looked meanwhile (I7)", () => {
  const sent = (ago: number) =>
    journalOf([record("x", "creating", null, { births: [birth(500, { since: NOW - ago })] })]);
  expect(x(observe(sent(600_000), [slot("x", 600)], []))).toMatchObject({ state: "creating" });
  expect(x(observe(sent(600_001), [slot("x", 600)], []))).toMatchObject({ state: "seen", births: [] });
  expect(x(observe(sent(9e9), [slot("x", 600)], [slot("x", 500)]))).toMatchObject({ state: "owned" });
});

test("a slot that is being replaced when its sender dies is ours before, between and after (I7, I10)", () => {
  const journal = noteIntents(journalOf([record("x", "owned", 500)], { observedAt: NOW }), [replace]);
  const there = [slot("x", 600)];
  expect(x(observe(journal, there, [slot("x", 500)]))).toMatchObject({ state: "owned" });
  const between = observe(journal, there, []);
  expect(x(between)).toMatchObject({ state: "creating", ours: null });
  expect(x(observe(between, there, [slot("x", 600)]))).toMatchObject({ state: "owned", maxTarget: 600n });
});

test("what is missing while we are at work in its database is not given up; in another database it is (I7, I10)", () => {
  const journal = journalOf([record("x", "owned", 500)]);
  const there = [slot("x", 600)];
  expect(x(observe(journal, there, [], {}, [1]))).toMatchObject({ state: "owned", ours: OURS });
  expect(x(observe(journal, there, [], {}, [2]))).toMatchObject({ state: "seen", ours: null });
  expect(x(observe(journal, [], [], {}, [1]))).toMatchObject({ state: "owned", obsolete: true });
  expect(x(observe(journal, [], [], {}, [2]))).toBeUndefined();
});

test("a copy that ends while a look from before is judged is known by the next look all the same (I10)", () => {
  const done = noteDone(noteIntents(observe(journalOf(), [slot("x", 500)], []), [create]), create);
  expect(x(done)).toMatchObject({ state: "owned", ours: OURS, maxTarget: 500n });
  // made anew in another database meanwhile, whose lane is idle
  const elsewhere = { database: "db2", databaseOid: 2 };
  const there = [slot("x", 550, elsewhere)];
  const again = noteIntents(observe(done, there, [], {}, [1]), [{ ...create, ...elsewhere, to: lsn(550) }]);
  expect(x(observe(again, there, [slot("x", 500)]))).toMatchObject({ state: "owned", ours: OURS });
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

test("a slot whose drop has been sent is not called synced, though it has become safe since (I1, I10)", () => {
  const drop: Action = { kind: "drop", slot: "x", ...base, at: lsn(500), why: "" };
  const sent = noteIntents(journalOf([record("x", "owned", 500)]), [drop]);
  const there = [slot("x", 500)];
  const here = [guard(1_000), slot("x", 500)];
  // its lane may be slow, or its answer lost
  for (const busy of [[1], []])
    expect(x(observe(sent, there, here, {}, busy))).toMatchObject({ state: "owned", protection: "waiting" });
  expect(planFor({ there, here, journal: sent }).actions[0]).toMatchObject({ kind: "drop", at: 500n });
  const gone = observe(sent, there, []);
  expect(x(gone)).toMatchObject({ state: "seen", dropping: false });
  const again = noteIntents(gone, [create]);
  expect(x(observe(again, there, [guard(500), slot("x", 500)]))).toMatchObject({ protection: "synced" });
});

test("what is dropped is ours no longer (I7)", () => {
  const drop: Action = { kind: "drop", slot: "x", ...base, at: lsn(500), why: "" };
  expect(x(noteDone(journalOf([record("x", "owned", 500)]), drop))).toMatchObject({
    state: "seen",
    ours: null,
    maxTarget: null,
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

test("each guard gets a name of its own, and is forgotten before it is dropped (I7, I10)", () => {
  const second = "slotsync_guard_1_0badcafe_2";
  const action: Action = { kind: "create_guard", ...base, guard: second };
  const noted = noteIntents(journalOf(), [action]);
  expect(noted.guardSerial).toBe(2);
  expect(noted.guards[1]).toMatchObject({ name: second, state: "creating" });
  expect(noteDone(noted, action).guards[1]).toMatchObject({ name: second, state: "owned" });
  const dropped = { kind: "drop_leftover", slot: second, ...base } as const;
  expect(noteIntents(noted, [dropped]).guards).toEqual({});
  expect(noteDone(noted, { kind: "drop_leftover", slot: second, ...base }).guards).toEqual({});
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

test("the timeline that the standby received is remembered while it does not stream (I1)", () => {
  const seen = noteStandby(journalOf(), { receivedTimeline: 3 }, 1);
  expect(seen.standbyTimeline).toBe(3);
  expect(noteStandby(seen, { receivedTimeline: null }, 1)).toBe(seen);
  expect(noteStandby(seen, { receivedTimeline: 2 }, 1).standbyTimeline).toBe(2);
});

test("signs of one life are written down no more than once a second, but the first one that is too late for the journal to vouch is (I15)", () => {
  const sign = (after: number) => ({ at: NOW + after, lsn: lsn(900), how: "refusal" as const });
  const first = noteAlive(journalOf([], { quietUntil: NOW }), sign(SEEN_WITHIN_MS - 500));
  expect(noteAlive(first, sign(SEEN_WITHIN_MS - 100))).toBe(first);
  const late = noteAlive(first, sign(SEEN_WITHIN_MS + 1));
  expect(late.alive).toEqual(sign(SEEN_WITHIN_MS + 1));
  expect(noteAlive(late, sign(SEEN_WITHIN_MS + 900))).toBe(late);
  expect(noteAlive(late, { ...sign(SEEN_WITHIN_MS + 900), lsn: lsn(901) })).not.toBe(late);
  // what was covered by the last quiet moment is no news
  expect(noteAlive(journalOf([], { quietUntil: NOW }), sign(0)).alive).toBeNull();
});
