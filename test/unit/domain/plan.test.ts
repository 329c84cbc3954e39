import { describe, expect, test } from "vitest";
import { type Action, describeAction } from "../../../src/domain/action.ts";
import type { Backoff } from "../../../src/domain/plan.ts";
import {
  GUARD,
  guard,
  HOLD,
  hold,
  journalOf,
  lsn,
  NOW,
  planFor,
  record,
  type Situation,
  slot,
} from "./build.ts";

const owned = (name: string, maxTarget: number) => journalOf([record(name, "owned", maxTarget)]);
const failed: Backoff = { reason: "statement_failed", detail: "it broke", retryAt: NOW + 1, failures: 1 };

interface Case extends Situation {
  claim: string;
  /** The whole plan, an action per line as `kind name@position`. */
  actions: string[];
  /** `protection` or `protection(reason)` of slot "x". */
  x?: string;
}

const CASES: Case[] = [
  {
    claim: "1 a database without a guard gets one, and its slots wait meanwhile",
    there: [slot("x", 100)],
    here: [],
    journal: journalOf([], { guards: {} }),
    actions: ["create_guard slotsync_guard_1_0badcafe_2"],
    x: "waiting(no_consistent_snapshot)",
  },
  {
    claim:
      "2 a slot at or past the guard is protected at once and copied out of it at its exact position (G2, G2b)",
    there: [slot("x", 500)],
    here: [guard(100)],
    actions: [`advance_guard ${GUARD}@500`, "create x@500"],
    x: "guarded",
  },
  {
    claim: "3 the guard stays behind every slot that relies on it (G1)",
    there: [slot("x", 300), slot("y", 200)],
    here: [guard(100)],
    actions: [`advance_guard ${GUARD}@200`, "create x@300", "create y@200"],
    x: "guarded",
  },
  {
    claim: "4 the guard never passes what is replayed here (G1)",
    there: [],
    here: [guard(100)],
    standby: { replayLsn: lsn(400) },
    actions: [`advance_guard ${GUARD}@400`],
  },
  {
    claim: "5 the guard never passes the primary's WAL as it was before the slots were read (G1)",
    there: [],
    here: [guard(100)],
    primary: { walLsn: lsn(300) },
    actions: [`advance_guard ${GUARD}@300`],
  },
  {
    claim: "6 a slot in creation on the primary keeps the guard behind its start (G1)",
    there: [slot("x", null, { restartLsn: lsn(250) })],
    here: [guard(100)],
    actions: [`advance_guard ${GUARD}@250`],
    x: "waiting(no_consistent_snapshot)",
  },
  {
    claim: "7 one that is far behind does not stop the guard for the others; a hold waits for it (G3)",
    there: [slot("x", 50), slot("y", 200)],
    here: [guard(100)],
    actions: [`create_hold ${HOLD}`, `advance_guard ${GUARD}@200`, "create y@200"],
    x: "waiting(wal_or_rows_removed)",
  },
  {
    claim: "8 one that lags is made from the hold as soon as it has reached it (G3)",
    there: [slot("x", 60)],
    here: [guard(100), hold(55)],
    actions: [`advance_guard ${GUARD}@1000`, `create x@60`],
    x: "waiting(wal_or_rows_removed)",
  },
  {
    claim: "9 a hold that nobody needs is released",
    there: [slot("x", 500)],
    here: [guard(1000), hold(55), slot("x", 500)],
    journal: owned("x", 500),
    actions: [`release_hold ${HOLD}`],
    x: "synced",
  },
  {
    claim: "10 our slot follows its subscriber, never past it (I1)",
    there: [slot("x", 500)],
    here: [guard(1000), slot("x", 400)],
    journal: owned("x", 400),
    actions: ["advance x@500"],
    x: "synced",
  },
  {
    claim: "11 our slot is not moved past what is replayed here (I1)",
    there: [slot("x", 500)],
    here: [guard(450), slot("x", 400)],
    journal: owned("x", 400),
    standby: { replayLsn: lsn(450) },
    actions: ["advance x@450"],
    x: "synced",
  },
  {
    claim: "12 a subscriber that has more than this standby makes the slot not ready (I1)",
    there: [slot("x", 2_000)],
    here: [guard(1_000), slot("x", 1_000)],
    journal: owned("x", 1_000),
    actions: [],
    x: "waiting(wal_not_flushed)",
  },
  {
    claim: "12a … but not where it adds 1 to what it has: no record ends there (I1, K7)",
    there: [slot("x", 1_001)],
    here: [guard(1_000), slot("x", 1_000)],
    journal: owned("x", 1_000),
    actions: [],
    x: "synced",
  },
  {
    claim: "12b … and it is made where this standby ends, to be brought on by that byte later (I1, G2b)",
    there: [slot("x", 1_001)],
    here: [guard(1_000)],
    actions: ["create x@1000"],
    x: "guarded",
  },
  {
    claim: "12c … nor is ours ahead that sends the same records (I1)",
    there: [slot("x", 801)],
    here: [guard(200), slot("x", 807)],
    journal: owned("x", 807),
    actions: [`advance_guard ${GUARD}@1000`],
    x: "synced",
  },
  {
    claim:
      "13 a slot of ours that is ahead of the primary's is dropped, and the guard waits for its position (I1, I6)",
    there: [slot("x", 300)],
    here: [guard(200), slot("x", 400)],
    journal: owned("x", 400),
    actions: ["drop x", `advance_guard ${GUARD}@300`],
    x: "waiting(no_consistent_snapshot)",
  },
  {
    claim:
      "13a … but not right after a switchover: the new primary's comes up to it when its consumer goes on (I1)",
    there: [slot("x", 300)],
    here: [guard(300), slot("x", 400)],
    journal: { ...owned("x", 400), timelineSince: NOW - 59_000 },
    actions: [],
    x: "guarded",
  },
  {
    claim: "13b … nor is it called ready where no guard protects it (I1)",
    there: [slot("x", 300)],
    here: [guard(301), slot("x", 400)],
    journal: { ...owned("x", 400), primaryTimeline: 7 },
    actions: [`create_hold ${HOLD}`, `advance_guard ${GUARD}@1000`],
    x: "waiting(no_consistent_snapshot)",
  },
  {
    claim: "13c … and what is wrong with it otherwise is no matter of time",
    there: [slot("x", 300)],
    here: [guard(300), slot("x", 300)],
    journal: journalOf([record("x", "owned", 300, { dropping: true })], { timelineSince: NOW - 59_000 }),
    actions: ["drop x"],
    x: "waiting(no_consistent_snapshot)",
  },
  {
    claim:
      "14 a slot of the name that the journal does not know is left alone, and the others go on (I7, I9)",
    there: [slot("x", 500), slot("y", 500)],
    here: [guard(500), slot("x", 400)],
    standby: { replayLsn: lsn(500) },
    actions: ["create y@500"],
    x: "blocked(name_conflict)",
  },
  {
    claim: "15 a slot beyond the furthest position we ever meant is no longer ours (I7)",
    there: [slot("x", 500)],
    here: [guard(500), slot("x", 450)],
    journal: owned("x", 400),
    standby: { replayLsn: lsn(500) },
    actions: [],
    x: "blocked(name_conflict)",
  },
  {
    claim: "16 a creation that was cut off is ours only at the position it was meant for (I7, I10)",
    there: [slot("x", 500)],
    here: [guard(500), slot("x", 450)],
    journal: journalOf([record("x", "creating", 480)]),
    standby: { replayLsn: lsn(500) },
    actions: [],
    x: "blocked(name_conflict)",
  },
  {
    claim: "17 a creation that was cut off after its copy is taken over (I10)",
    there: [slot("x", 500)],
    here: [guard(1_000), slot("x", 480)],
    journal: journalOf([record("x", "creating", 480)]),
    actions: ["advance x@500"],
    x: "synced",
  },
  {
    claim: "18 a slot of ours that somebody reads is neither moved nor dropped (I7)",
    there: [slot("x", 300)],
    here: [guard(1_000), slot("x", 400, { activePid: 42 })],
    journal: owned("x", 400),
    actions: [],
    x: "blocked(slot_in_use)",
  },
  {
    claim: "19 a slot that was recreated with another plugin is another slot: ours goes (I5, I6)",
    there: [slot("x", 500, { plugin: "test_decoding" })],
    here: [guard(400), slot("x", 400)],
    journal: owned("x", 400),
    actions: ["drop x", `advance_guard ${GUARD}@500`],
    x: "waiting(no_consistent_snapshot)",
  },
  {
    claim: "20 what the primary has invalidated goes here as well (I6)",
    there: [slot("x", 400, { invalidation: "wal_removed" })],
    here: [guard(400), slot("x", 400)],
    journal: owned("x", 400),
    actions: ["drop x"],
    x: "blocked(slot_invalidated)",
  },
  {
    claim: "21 what this standby has invalidated is dropped and made anew (I3, I4)",
    there: [slot("x", 400)],
    here: [guard(400), slot("x", 400, { invalidation: "rows_removed" })],
    journal: owned("x", 400),
    actions: ["drop x"],
    x: "waiting(no_consistent_snapshot)",
  },
  {
    claim: "22 an invalidated guard is replaced, and protects nobody (G2)",
    there: [slot("x", 500)],
    here: [guard(400, { invalidation: "rows_removed" })],
    actions: ["create_guard slotsync_guard_1_0badcafe_2"],
    x: "waiting(no_consistent_snapshot)",
  },
  {
    claim: "23 a slot that is gone from the primary is dropped here (I6)",
    there: [],
    here: [guard(1_000), slot("x", 400)],
    journal: owned("x", 400),
    actions: ["drop x"],
  },
  {
    claim: "24 one that is gone there and not ours here is left alone (I7)",
    there: [],
    here: [guard(1_000), slot("x", 450)],
    journal: owned("x", 400),
    actions: [],
  },
  {
    claim: "25 right after a failover of the primary, what is missing there is kept for a while (I10)",
    there: [],
    here: [guard(400), slot("x", 400)],
    journal: owned("x", 400),
    primary: { timeline: 2 },
    actions: [],
    x: "waiting(absent_on_primary)",
  },
  {
    claim: "26 a slot that is no longer chosen is dropped here although it is still there",
    there: [slot("x", 400)],
    here: [guard(1_000), slot("x", 400)],
    journal: owned("x", 400),
    excluded: ["x"],
    actions: ["drop x"],
  },
  {
    claim: "27 with no room left a slot is not called protected, and the guard waits for it (I9)",
    there: [slot("x", 500)],
    here: [guard(100)],
    standby: { maxReplicationSlots: 2 },
    actions: [`advance_guard ${GUARD}@500`],
    x: "waiting(too_many_slots)",
  },
  {
    claim: "28 a two_phase slot is not protected, and says so (G5)",
    there: [slot("x", 500, { twoPhase: true })],
    here: [guard(1_000)],
    actions: [],
    x: "blocked(prepared_transactions_pending)",
  },
  {
    claim: "29 a hostile name touches nothing (I13)",
    there: [slot("../x", 500)],
    here: [guard(1_000)],
    actions: [],
  },
  {
    claim: "29b no server is asked to load a plugin by a path (I13)",
    there: [slot("x", 1_000, { plugin: "/tmp/evil" }), slot("y", 1_000, { plugin: "../evil" })],
    here: [guard(1_000)],
    actions: [],
    x: "blocked(plugin_missing)",
  },
  {
    claim: "30 a failed action rests, and the slot is not called ready meanwhile (I9)",
    there: [slot("x", 500)],
    here: [guard(1_000), slot("x", 400)],
    journal: owned("x", 400),
    memory: { backoff: new Map([["x", failed]]) },
    actions: [],
    x: "waiting(statement_failed)",
  },
  {
    claim: "31 a slot that stands where it should is ready, whatever failed before",
    there: [slot("x", 500)],
    here: [guard(1_000), slot("x", 500)],
    journal: owned("x", 500),
    memory: { backoff: new Map([["x", failed]]) },
    actions: [],
    x: "synced",
  },
  {
    claim: "32 a guard does not protect a slot whose plugin was never loaded here; it is tried first",
    there: [slot("x", 900, { plugin: "wal2json" })],
    here: [guard(800)],
    standby: { replayLsn: lsn(800) },
    actions: ["probe_plugin wal2json"],
    x: "waiting(plugin_unproven)",
  },
  {
    claim: "33 a slot in a database that is not here yet waits for it",
    there: [slot("x", 500, { database: "db9", databaseOid: 9 })],
    here: [guard(1_000)],
    actions: [],
    x: "waiting(database_missing)",
  },
  {
    claim: "34 while a database's lane is busy nothing more is planned for it",
    there: [slot("x", 500)],
    here: [guard(100)],
    memory: { busyDatabases: new Set([1]) },
    actions: [],
    x: "guarded",
  },
  {
    claim: "35 a server that is no standby is not touched (I8)",
    there: [slot("x", 500)],
    here: [guard(100), slot("x", 900)],
    journal: owned("x", 900),
    standby: { inRecovery: false },
    actions: [],
  },
  {
    claim: "36 leftovers of our own are cleared away, those of another sidecar are not (I7)",
    there: [],
    here: [guard(1_000), slot("slotsync_guard_1_0badcafe_0", 5), slot("slotsync_guard_1_deadbeef_1", 5)],
    actions: ["drop_leftover slotsync_guard_1_0badcafe_0"],
  },
  {
    claim:
      "37 a slot in creation that started behind the guard does not stop it; a hold waits for that one (G1, G3)",
    there: [slot("x", null, { restartLsn: lsn(50) })],
    here: [guard(100)],
    actions: [`create_hold ${HOLD}`, `advance_guard ${GUARD}@1000`],
    x: "waiting(no_consistent_snapshot)",
  },
];

test.each(CASES)("$claim", ({ actions, x, ...situation }) => {
  const planned = planFor(situation);
  expect(planned.actions.map(brief)).toEqual(actions);
  const verdict = planned.verdicts.get("x");
  const told = verdict && `${verdict.protection}${verdict.reason === null ? "" : `(${verdict.reason})`}`;
  if (x !== undefined) expect(told).toBe(x);
  for (const action of planned.actions) expect(describeAction(action)).not.toMatch(/undefined|\[object/);
});

function brief(action: Action): string {
  switch (action.kind) {
    case "create_guard":
      return `create_guard ${action.guard}`;
    case "advance_guard":
      return `advance_guard ${action.guard}@${action.to}`;
    case "create_hold":
    case "release_hold":
      return `${action.kind} ${action.hold}`;
    case "probe_plugin":
      return `probe_plugin ${action.plugin}`;
    case "drop":
    case "drop_leftover":
      return `${action.kind} ${action.slot}`;
    case "stage":
    case "unstage":
    case "complete":
    case "fetch_mappings":
    case "adopt":
    case "release":
      return `${action.kind} ${action.slot}`;
    case "sync_slots":
      return action.kind;
    default:
      return `${action.kind} ${action.slot}@${action.to}`;
  }
}

describe("a ride: many slots that are far behind are replaced by copies of the guard, which decodes once (G4)", () => {
  const MB = 1024 * 1024;
  const names = Array.from({ length: 20 }, (_, index) => `s${index}`);
  /** All at 10 MB here; the first has a subscriber that lags behind the others. */
  const ride = (first: number, more: Partial<Situation> = {}) => {
    const confirmed = (index: number) => (index === 0 ? first : 300 + index) * MB;
    const planned = planFor({
      there: names.map((name, index) => slot(name, confirmed(index))),
      here: [guard(100 * MB), ...names.map((name) => slot(name, 10 * MB, { restartLsn: lsn(9 * MB) }))],
      journal: journalOf(names.map((name) => record(name, "owned", 10 * MB))),
      primary: { walLsn: lsn(400 * MB) },
      ...more,
      standby: {
        maxReplicationSlots: 100,
        replayLsn: lsn(400 * MB),
        flushedLsn: lsn(400 * MB),
        ...more.standby,
      },
    });
    const guardTo = planned.actions.find((action) => action.kind === "advance_guard")?.to;
    const moved = planned.actions.filter((action) => action.kind === "replace");
    const decoded = planned.actions.filter((action) => action.kind === "advance");
    for (const action of moved) {
      expect(action).toMatchObject({ to: guardTo, at: lsn(10 * MB) });
      expect(action.to).toBeLessThanOrEqual(lsn(confirmed(Number(action.slot.slice(1)))));
    }
    return {
      moved: moved.map((action) => action.slot),
      decoded: decoded.map((action) => action.slot),
      guardTo,
    };
  };

  test("1 it goes no further than the one that lags, where that is at or past the guard (I1)", () => {
    expect(ride(120)).toMatchObject({ guardTo: lsn(120 * MB), decoded: [] });
    expect(ride(120).moved).toEqual(names);
  });

  test("2 those that would be carried past their subscribers are not taken along, and decode for themselves (I1)", () => {
    const { moved, decoded, guardTo } = ride(20);
    expect(moved).toEqual(names.slice(2));
    expect(decoded).toEqual(["s1", "s0"]);
    expect(guardTo).toBe(lsn(302 * MB));
  });

  test("3 it does not go past replay, the primary's WAL as it was read, or a slot that relies on the guard (G1)", () => {
    expect(ride(300, { standby: { replayLsn: lsn(250 * MB) } }).guardTo).toBe(lsn(250 * MB));
    expect(ride(300, { primary: { walLsn: lsn(240 * MB) } }).guardTo).toBe(lsn(240 * MB));
    const there = [...names.map((name) => slot(name, 300 * MB)), slot("new", 230 * MB)];
    expect(ride(300, { there }).guardTo).toBe(lsn(230 * MB));
  });

  test("4 with every replication slot in use there is none: cut off in the middle, a slot could not be made anew (I10)", () => {
    expect(ride(120, { standby: { maxReplicationSlots: 22 } }).moved).toEqual(names);
    const { moved, decoded } = ride(120, { standby: { maxReplicationSlots: 21 } });
    expect(moved).toEqual([]);
    expect(decoded.length).toBeGreaterThan(0);
  });

  test("4a what could not be copied again is not dropped for it, and decodes for itself: an advance needs no plugin (I18)", () => {
    const refused = { value: "test_decoding", ofOurRole: false, roleOid: 10, overrides: [] };
    const { moved, decoded } = ride(120, { standby: { plugins: { rules: refused, libraries: null } } });
    expect(moved).toEqual([]);
    expect(decoded.length).toBeGreaterThan(0);
  });

  test("5 a few bytes are decoded by each slot for itself, which is cheaper", () => {
    const there = names.map((name) => slot(name, 10 * MB + 100));
    const { moved, decoded } = ride(120, {
      there,
      here: [guard(9 * MB), ...names.map((name) => slot(name, 10 * MB))],
    });
    expect(moved).toEqual([]);
    expect(decoded.toSorted()).toEqual(names.toSorted());
  });
});
