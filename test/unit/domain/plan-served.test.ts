/** Slots that the server syncs by itself (17+): each rule once, while it is a standby and after a promotion. */
import { describe, expect, test } from "vitest";
import { finishedSlot, planFinish } from "../../../src/domain/finish.ts";
import type { JournalState, SlotRecord } from "../../../src/domain/journal.ts";
import { noteObservation } from "../../../src/domain/journal-update.ts";
import { judge } from "../../../src/domain/judge.ts";
import type { UpstreamView } from "../../../src/domain/observation.ts";
import { afterServerSync } from "../../../src/domain/plan-served.ts";
import type { LogicalSlot } from "../../../src/domain/slot.ts";
import type { Xid } from "../../../src/domain/xid.ts";
import {
  GUARD,
  guard,
  journalOf,
  leftAt,
  lsn,
  memory,
  NOW,
  planFor,
  primaryView,
  record,
  type Situation,
  slot,
  standbyView,
} from "./build.ts";

const PG17 = { serverVersionNum: 170_010 };
const there = (position: number | null, more: Partial<LogicalSlot> = {}) =>
  slot("x", position, { failover: true, ...more });
const here = (position: number, more: Partial<LogicalSlot> = {}) =>
  slot("x", position, { failover: true, synced: true, ...more });

function planServed(situation: Omit<Situation, "there"> & { there?: LogicalSlot[] }) {
  const planned = planFor({
    there: [there(500)],
    ...situation,
    primary: { ...PG17, ...situation.primary },
    standby: { ...PG17, syncsSlots: true, ...situation.standby },
  });
  const { protection = "none", reason = null } = planned.verdicts.get("x") ?? {};
  return {
    is: reason === null ? protection : `${protection} ${reason}`,
    does: planned.actions.map((action) => ("slot" in action ? `${action.kind} ${action.slot}` : action.kind)),
  };
}

describe("on a standby", () => {
  test.each<[string, LogicalSlot[], string, LogicalSlot?]>([
    ["synced by the server: ready by the same checks as ours", [here(500), guard(900)], "synced"],
    ["behind, as the server will bring it on, or the finishing step", [here(400), guard(900)], "synced"],
    ["ahead of the primary's, and a guard covers it (I1)", [here(600), guard(450)], "guarded"],
    [
      "ahead of the primary's, and nothing covers it (I1)",
      [here(600), guard(900)],
      "waiting wal_or_rows_removed",
    ],
    ["given up by this server (I3)", [here(500, { invalidation: "rows_removed" }), guard(450)], "guarded"],
    [
      "another one than the primary's (I5)",
      [here(500, { plugin: "other" }), guard(900)],
      "waiting wal_or_rows_removed",
    ],
    [
      "needs older rows than the primary keeps (I4)",
      [here(500, { catalogXmin: 650 as never }), guard(900)],
      "waiting catalog_rows_unproven",
    ],
    ["still temporary: the guard's", [here(500, { temporary: true }), guard(450)], "guarded"],
    ["not there, idle: the guard's", [guard(450)], "guarded"],
    ["not there, and behind the guard (G2)", [guard(900)], "waiting wal_or_rows_removed"],
    ["confirmed past what is here (I1)", [here(500), guard(450)], "waiting wal_not_flushed", there(2_000)],
    [
      "two_phase, and not there: no guard can stand in (G5)",
      [guard(450)],
      "waiting no_consistent_snapshot",
      there(500, { twoPhase: true }),
    ],
    [
      "two_phase, synced by the server",
      [here(500, { twoPhase: true }), guard(450)],
      "synced",
      there(500, { twoPhase: true }),
    ],
    [
      "invalidated on the primary",
      [here(500), guard(450)],
      "blocked slot_invalidated",
      there(500, { invalidation: "idle_timeout" }),
    ],
    [
      "unflagged meanwhile: the server will drop it",
      [here(500), guard(450)],
      "guarded",
      there(500, { failover: false }),
    ],
  ])("%s", (_, local, is, remote = there(500)) => {
    const planned = planServed({ there: [remote], here: local });
    expect(planned.is).toBe(is);
    // never made, moved or dropped by us
    expect(planned.does.filter((action) => action.endsWith(" x"))).toEqual([]);
  });

  test("17 leaves out what was prepared before two_phase was seen, and such a slot is not ready meanwhile (G5)", () => {
    const twoPhase = { twoPhase: true };
    const known = (twoPhaseXid: number | null) =>
      journalOf([record("x", "owned", 500, { ...twoPhase, twoPhaseXid: twoPhaseXid as Xid | null })]);
    const isReady = (prepared: number, journal: JournalState, serverVersionNum = 170_010, database = "db1") =>
      planServed({
        there: [there(500, twoPhase)],
        here: [here(500, twoPhase), guard(450)],
        journal,
        primary: { prepared: [{ database, xid: prepared as Xid }] },
        standby: { serverVersionNum },
      }).is;
    const pending = "waiting prepared_transactions_pending";
    expect(isReady(749, known(750))).toBe(pending);
    expect(isReady(750, known(750))).toBe("synced");
    expect(isReady(749, known(750), 180_004)).toBe("synced");
    expect(isReady(749, known(750), 170_010, "db2")).toBe("synced");
    // seen a second time, with 800 the next one; never seen before
    expect(isReady(800, known(null))).toBe("synced");
    expect(isReady(799, known(null))).toBe(pending);
    expect(isReady(900, journalOf())).toBe(pending);
  });

  test.each<[string, Partial<LogicalSlot>, Partial<LogicalSlot>]>([
    ["confirmed past what is here", { confirmedFlushLsn: lsn(2_000) }, {}],
    ["rows not known to be kept", {}, { catalogXmin: 650 as never }],
    ["unflagged meanwhile", { failover: false }, {}],
  ])("no doubt that passes hides a transaction that 17 would leave out (G5): %s", (_, remote, local) => {
    const twoPhase = { twoPhase: true };
    const { is } = planServed({
      there: [there(500, { ...twoPhase, ...remote })],
      here: [here(500, { ...twoPhase, ...local }), guard(450)],
      journal: journalOf([record("x", "owned", 500, { ...twoPhase, twoPhaseXid: 750 as Xid })]),
      primary: { prepared: [{ database: "db1", xid: 749 as Xid }] },
    });
    expect(is).toBe("waiting prepared_transactions_pending");
  });

  test("a slot of ours in the server's way is dropped once the guard covers it, and not before", () => {
    const ours = slot("x", 500);
    const journal = journalOf([record("x", "owned", 500)]);
    expect(planServed({ here: [ours, guard(450)], journal })).toMatchObject({
      is: "guarded",
      does: expect.arrayContaining(["drop x"]),
    });
    expect(planServed({ here: [ours, guard(900)], journal }).does).not.toContain("drop x");
    expect(planServed({ here: [ours, guard(900)], journal }).is).toBe("synced");
  });

  test("a slot of ours stays where the guard could not make it anew, and the server's own is dropped by nobody here (I1, I7)", () => {
    const journal = journalOf([record("x", "owned", 500)]);
    const unflushed = planServed({ there: [there(2_000)], here: [slot("x", 500), guard(450)], journal });
    expect(unflushed.does).not.toContain("drop x");
    const excluded = planServed({ here: [here(500), guard(450)], journal, excluded: ["x"] });
    expect(excluded.does).not.toContain("drop x");
  });

  test("the guard waits for what the server has not synced, and for nothing else (G1)", () => {
    const movesTo = (local: LogicalSlot[]) =>
      planFor({
        there: [there(500)],
        here: [...local, guard(400)],
        primary: PG17,
        standby: { ...PG17, syncsSlots: true },
      }).actions.find((action) => action.kind === "advance_guard");
    expect(movesTo([])).toMatchObject({ to: lsn(500) });
    expect(movesTo([here(500)])).toMatchObject({ to: lsn(1_000) });
  });

  test("the sync is called where the worker is off and something is left to do, with longer and longer naps", () => {
    const calls = (situation: Parameters<typeof planServed>[0]) =>
      planServed({ ...situation, standby: { syncsSlots: false, ...situation.standby } }).does.includes(
        "sync_slots",
      );
    expect(calls({ here: [guard(450)] })).toBe(true);
    expect(calls({ here: [guard(450)], standby: { syncsSlots: true } })).toBe(false);
    expect(calls({ here: [guard(450)], standby: { conninfoHasDatabase: false } })).toBe(false);
    // the server refuses to sync from a standby
    expect(calls({ here: [guard(450)], primary: { upstream: {} as UpstreamView } })).toBe(false);
    expect(calls({ here: [here(500), guard(450)] })).toBe(false);
    expect(calls({ here: [here(400), guard(450)] })).toBe(true);
    // past the end of WAL here, be it by a byte, the server raises, and the slots behind it are left out
    expect(calls({ here: [here(400), guard(450)], standby: { flushedLsn: lsn(499) } })).toBe(false);
    // one that the primary has no more, or not flagged, is the server's to drop
    expect(calls({ there: [], here: [here(400), guard(450)] })).toBe(true);
    expect(calls({ there: [there(500, { failover: false })], here: [guard(450)] })).toBe(false);

    const state = "x:0/1EA:0/1F4";
    const again = (at: number, napMs: number) =>
      calls({ here: [guard(450)], memory: { serverSync: { state, at: NOW - at, napMs } } });
    expect([again(1_500, 1_000), again(1_500, 2_000), again(500, 1_000)]).toEqual([true, false, false]);
    let remembered = afterServerSync(null, state, NOW);
    const naps = [remembered.napMs];
    for (let round = 0; round < 7; round++) {
      remembered = afterServerSync(remembered, state, NOW);
      naps.push(remembered.napMs);
    }
    expect(naps).toEqual([1_000, 2_000, 4_000, 8_000, 16_000, 30_000, 30_000, 30_000]);
    expect(afterServerSync(remembered, "moved", NOW).napMs).toBe(1_000);
  });
});

describe("in the journal", () => {
  const noted = (local: LogicalSlot[], known: SlotRecord[] = []) =>
    noteObservation(journalOf(known), {
      primary: primaryView([there(500)], PG17),
      standby: standbyView(local, PG17),
      chosen: [there(500)],
      plan: { verdicts: new Map(), spared: new Set() },
      busy: new Set(),
      filesBusy: false,
      problems: [],
      now: NOW,
    }).slots.get("x");

  test("what the server has synced is noted with its position, and forgotten when it has gone (I7)", () => {
    const served = noted([here(400)]);
    expect(served).toMatchObject({ state: "owned", served: true, failover: true, maxTarget: lsn(400) });
    expect(noted([], served && [served])).toMatchObject({ state: "seen", served: false, ours: null });
    // a slot of the name that the server has not made is somebody else's
    expect(noted([slot("x", 400)], served && [served])).toMatchObject({ state: "seen", served: false });
    expect(noted([here(400, { temporary: true })])).toMatchObject({ state: "seen", served: false });
  });
});

describe("brought on by the server after the primary was asked", () => {
  const looked = (known: SlotRecord[], position = 600) => {
    const primary = primaryView([there(500)], PG17);
    const standby = standbyView([here(position), guard(900)], { ...PG17, syncsSlots: true });
    const journal = journalOf(known);
    const policy = {
      ...({ guardDatabases: "auto", duty: 0.1, provision: "auto", restarts: false } as const),
      ...({ onConflict: "adopt", releaseAfterMs: null } as const),
    };
    const { chosen, plan } = judge(primary, standby, journal, { include: [], exclude: [] }, policy, memory());
    const seen = noteObservation(journal, {
      ...{
        primary,
        standby,
        chosen,
        plan,
        busy: new Set<number>(),
        filesBusy: false,
        problems: [],
        now: NOW,
      },
    });
    const [step] = planFinish({
      journal: seen,
      slots: standby.slots,
      own: leftAt(1_000),
      serverVersionNum: 170_010,
    });
    const { protection, reason } = seen.slots.get("x") ?? {};
    return { is: reason === null ? protection : `${protection} ${reason}`, seen, step };
  };
  const served = (maxTarget: number) =>
    record("x", "owned", maxTarget, { failover: true, served: true, maxTarget: lsn(maxTarget) });

  test.each<[string, SlotRecord[]]>([
    ["it was at the primary's in the look before", [served(500)]],
    ["it was behind it", [served(400)]],
    ["it was not there yet", [record("x", "seen", 400, { failover: true })]],
  ])("is ready, and kept: what the server tells is news of its subscriber (I1): %s", (_, known) => {
    const { is, seen, step } = looked(known);
    expect(is).toBe("synced");
    expect(seen.slots.get("x")).toMatchObject({ primaryConfirmedFlushLsn: lsn(600), maxTarget: lsn(600) });
    expect(step).toMatchObject({ kind: "keep", position: lsn(600) });
    // the primary's went back, or it was no news: seen so twice, it is ahead
    expect(looked([...seen.slots.values()]).is).toBe("waiting wal_or_rows_removed");
  });

  test.each<[string, SlotRecord[]]>([
    ["it was ahead in the look before", [served(550)]],
    ["nothing is known of it", []],
  ])("may be ahead of the primary's, and must not wear its name (I1, I6): %s", (_, known) => {
    const { is, step } = looked(known);
    expect(is).toBe("waiting wal_or_rows_removed");
    expect(step).toMatchObject({ kind: "drop" });
  });
});

describe("after a promotion", () => {
  const finish = (local: LogicalSlot[], known: Partial<SlotRecord>) => {
    const served = record("x", "owned", 500, { failover: true, served: true, ...known });
    const [step] = planFinish({
      journal: journalOf([served]),
      slots: local,
      own: leftAt(1_000),
      serverVersionNum: 170_010,
    });
    return step;
  };

  test.each<[string, LogicalSlot[], Partial<SlotRecord>, object]>([
    ["at its position: kept", [here(500)], {}, { kind: "keep" }],
    ["behind it: advanced", [here(400)], { maxTarget: lsn(400) }, { kind: "advance", to: lsn(500) }],
    ["brought further by the server since the last look: kept", [here(700)], {}, { kind: "keep" }],
    [
      "seen ahead of the primary's (I1): made anew out of the guard",
      [here(700), guard(450)],
      { maxTarget: lsn(700), protection: "waiting" },
      { kind: "materialise", from: GUARD, to: lsn(500), dropFirst: expect.stringMatching(/ahead/) },
    ],
    [
      "the same without a guard: it must not wear its name (I6)",
      [here(700)],
      { maxTarget: lsn(700), protection: "waiting" },
      { kind: "drop" },
    ],
    [
      "given up by this server",
      [here(500, { invalidation: "wal_removed" }), guard(450)],
      {},
      { kind: "materialise", to: lsn(500) },
    ],
    [
      "not relied on when last seen: the guard's",
      [here(500), guard(450)],
      { protection: "guarded" },
      { kind: "materialise", from: GUARD, dropFirst: expect.any(String) },
    ],
    [
      "synced by the server only after the last look, and two_phase (G5): kept as the server made it",
      [here(500, { twoPhase: true }), guard(450)],
      { served: false, state: "seen", ours: null, maxTarget: null, twoPhase: true, protection: "waiting" },
      { kind: "keep" },
    ],
    [
      "two_phase, with a transaction that the new primary would take for sent (G5)",
      [here(500, { twoPhase: true })],
      { twoPhase: true, protection: "waiting", reason: "prepared_transactions_pending" },
      { kind: "drop" },
    ],
    ["taken up by its subscriber", [here(500, { activePid: 7 })], {}, { kind: "leave", outcome: "in_use" }],
    [
      "never synced: the guard's",
      [guard(450)],
      { served: false, state: "seen", ours: null, protection: "guarded" },
      { kind: "materialise" },
    ],
    ["a foreign slot in the place of the server's (I7)", [slot("x", 400), guard(450)], {}, { kind: "leave" }],
  ])("%s", (_, local, known, step) => {
    expect(finish(local, known)).toMatchObject(step);
  });

  test.each<[string, boolean, string[], object]>([
    [
      "flagged, and a standby is missing",
      true,
      ["gone"],
      { kind: "keep", position: lsn(400), why: /"gone"/ },
    ],
    ["flagged, and none is missing", true, [], { kind: "advance" }],
    ["not flagged", false, ["gone"], { kind: "advance" }],
  ])(
    "an advance that would wait for synchronized_standby_slots is left out: %s",
    (_, failover, stalled, step) => {
      const served = record("x", "owned", 500, { failover, served: true, maxTarget: lsn(400) });
      const [planned] = planFinish({
        journal: journalOf([served]),
        slots: [here(400, { failover })],
        own: leftAt(1_000),
        serverVersionNum: 170_010,
        stalledStandbySlots: stalled,
      });
      const { why, ...rest } = step as { why?: RegExp };
      expect(planned).toMatchObject(rest);
      if (why)
        expect(
          planned && finishedSlot(planned, { journal: journalOf(), own: leftAt(1_000) }, null).detail,
        ).toMatch(why);
    },
  );

  test("slots that are flagged do not share a copy: it would lose the flag", () => {
    const far = lsn(500_000_000);
    const records = ["a", "b"].map((name) =>
      record(name, "owned", 100, { failover: true, served: true, primaryConfirmedFlushLsn: far }),
    );
    const slots = ["a", "b"].map((name) => slot(name, 100, { failover: true, synced: true }));
    const steps = planFinish({
      journal: journalOf(records),
      slots: [...slots, guard(499_000_000)],
      own: leftAt(far),
      serverVersionNum: 170_010,
    });
    expect(steps.map(({ kind }) => kind)).toEqual(["advance", "advance"]);
  });
});
