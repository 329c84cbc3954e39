/** Positions with their timelines (I14): the table behind test/unit/domain/timelines.property.test.ts. */
import { describe, expect, test } from "vitest";
import { gapOf } from "../../../src/domain/common-end.ts";
import { describeFinish, finishedSlot, planFinish } from "../../../src/domain/finish.ts";
import type { SlotRecord } from "../../../src/domain/journal.ts";
import { noteObservation } from "../../../src/domain/journal-update.ts";
import type { StandbyView } from "../../../src/domain/observation.ts";
import { repairOf } from "../../../src/domain/repair.ts";
import type { LogicalSlot } from "../../../src/domain/slot.ts";
import { buildStatus } from "../../../src/domain/status.ts";
import { historyIfPromoted, limitOn, type OwnHistory, sightingOf } from "../../../src/domain/timeline.ts";
import {
  GUARD,
  guard,
  journalOf,
  lsn,
  NOW,
  planFor,
  primaryView,
  record,
  slot,
  standbyView,
} from "./build.ts";

/** Timeline 1 was left at 400, timeline 2 at 904. */
const OWN: OwnHistory = {
  timeline: 3,
  forks: [
    { timeline: 1, until: lsn(400) },
    { timeline: 2, until: lsn(904) },
  ],
  whole: true,
};

describe("how far a timeline is also this node's (I14)", () => {
  test.each([
    ["an ancestor, up to where it was left", OWN, 1, 800, { kind: "fork", until: lsn(400) }],
    ["the latest ancestor", OWN, 2, null, { kind: "fork", until: lsn(904) }],
    ["one that is no ancestor, not at all", OWN, 7, 800, { kind: "unknown" }],
    [
      "its own, where no fork tells what it received: as far as it was seen",
      OWN,
      3,
      800,
      { kind: "seen", until: lsn(800) },
    ],
    [
      "any, where the history cannot be read: as far as it was seen",
      null,
      1,
      800,
      { kind: "seen", until: lsn(800) },
    ],
    ["without having been seen on it, not at all", null, 1, null, { kind: "unknown" }],
    ["an unknown one, not at all", OWN, null, 800, { kind: "unknown" }],
    [
      "one before the part that is known: as far as it was seen",
      { ...OWN, forks: OWN.forks.slice(1), whole: false },
      1,
      300,
      { kind: "seen", until: lsn(300) },
    ],
  ] as const)("%s", (_, own, timeline, seen, limit) => {
    expect(limitOn(own, timeline, seen === null ? null : lsn(seen))).toEqual(limit);
  });

  test("were the standby promoted now, at the end of its WAL, after what is known of before", () => {
    const standby = { receivedTimeline: 2, leastTimeline: 1, flushedLsn: lsn(904) };
    const forks = OWN.forks.slice(0, 1);
    expect(historyIfPromoted(standby, { standbyTimeline: 2, history: { timeline: 2, forks } })).toEqual(OWN);
    expect(historyIfPromoted(standby, { standbyTimeline: 2, history: null })).toMatchObject({ whole: false });
  });
});

describe("where a subscriber was seen (I14)", () => {
  const known = { ...sightingOf(undefined, 1, lsn(800), lsn(400)), primaryConfirmedFlushLsn: lsn(800) };

  test("a new primary that shows an earlier position does not take from the subscriber what it has", () => {
    expect(sightingOf(known, 2, lsn(400), lsn(500))).toEqual({
      timeline: 2,
      commonLsn: lsn(500),
      formerly: [{ timeline: 1, lsn: lsn(800) }],
    });
  });

  test("it is forgotten once the new primary shows a further one, and never kept of the same timeline", () => {
    const later = { ...sightingOf(known, 2, lsn(400), lsn(500)), primaryConfirmedFlushLsn: lsn(400) };
    expect(sightingOf(later, 2, lsn(600), lsn(600)).formerly).toHaveLength(1);
    expect(sightingOf(later, 2, lsn(800), lsn(800)).formerly).toEqual([]);
    expect(sightingOf(known, 1, lsn(400), lsn(500)).formerly).toEqual([]);
  });

  test("what the standby was seen to have of a timeline stays true of that timeline, and of no other", () => {
    expect(sightingOf(known, 1, lsn(800), null).commonLsn).toBe(lsn(400));
    expect(sightingOf(known, 1, lsn(800), lsn(300)).commonLsn).toBe(lsn(400));
    expect(sightingOf(known, 2, lsn(800), null).commonLsn).toBeNull();
  });

  const note = (standby: Partial<StandbyView>) =>
    noteObservation(journalOf([], { primaryTimeline: 2 }), {
      primary: primaryView([slot("x", 800)], { timeline: 2 }),
      standby: standbyView([], { replayLsn: lsn(500), ...standby }),
      chosen: [slot("x", 800)],
      plan: { verdicts: new Map(), spared: new Set() },
      busy: new Set(),
      filesBusy: false,
      problems: [],
      now: NOW,
    }).slots.get("x");

  test("a standby that does not show to be on the primary's timeline has nothing of it for certain", () => {
    expect(note({ receivedTimeline: 2 })).toMatchObject({ timeline: 2, commonLsn: lsn(500) });
    expect(note({ receivedTimeline: null, streaming: false })).toMatchObject({
      timeline: 2,
      commonLsn: null,
    });
    expect(note({ receivedTimeline: 2, replayLsn: lsn(0) }), "one that is not running").toMatchObject({
      commonLsn: null,
    });
  });

  test("between positions of two timelines there is no distance", () => {
    const entry = (timeline: number) =>
      record("x", "owned", 400, { timeline, primaryConfirmedFlushLsn: lsn(800) });
    const lag = (timeline: number) =>
      buildStatus(
        journalOf([entry(timeline)], { primaryTimeline: 2 }),
        { slots: [slot("x", 400)], files: null },
        [],
        "live",
      ).slots[0]?.lagBytes;
    expect([lag(1), lag(2)]).toEqual([null, 400]);
  });
});

describe("after a promotion (I14)", () => {
  const seenAt = (position: number, more: Partial<SlotRecord> = {}, maxTarget = 320) =>
    record("x", "owned", maxTarget, { primaryConfirmedFlushLsn: lsn(position), ...more });
  const finish = (entry: SlotRecord, here: LogicalSlot[], own: OwnHistory | null = OWN) => {
    const promoted = { journal: journalOf([entry]), own };
    const [step] = planFinish({ ...promoted, slots: here, serverVersionNum: 160_014 });
    if (!step) throw new Error("nothing is planned");
    return { step, line: finishedSlot(step, promoted, null) };
  };

  test.each([
    [
      "past the fork of its timeline, the slot is brought to the fork",
      seenAt(800),
      OWN,
      { kind: "advance", to: lsn(400) },
    ],
    [
      "of a later timeline, to that one's fork",
      seenAt(1_000, { timeline: 2 }),
      OWN,
      { kind: "advance", to: lsn(904) },
    ],
    ["before the fork, exactly there", seenAt(360), OWN, { kind: "advance", to: lsn(360) }],
    [
      "where the history cannot be read, to what this node was seen to have",
      seenAt(800, { commonLsn: lsn(392) }),
      null,
      { kind: "advance", to: lsn(392) },
    ],
    [
      "seen on a timeline that is none of this node's history, it is taken away",
      seenAt(800, { timeline: 7 }),
      OWN,
      { kind: "drop" },
    ],
    ["neither read nor seen, it is taken away", seenAt(800, { commonLsn: null }), null, { kind: "drop" }],
  ] as const)("%s (I6)", (_, entry, own, step) => {
    expect(finish(entry, [slot("x", 320)], own).step).toMatchObject(step);
  });

  test("a journal that did not write timelines down yet counts by what its last look was of (I10)", () => {
    const entry = seenAt(800, { timeline: null });
    const promoted = {
      journal: journalOf([entry], { standbyFlushedLsn: lsn(384) }),
      own: null as OwnHistory | null,
    };
    const to = (own: OwnHistory | null) =>
      planFinish({ ...promoted, own, slots: [slot("x", 320)], serverVersionNum: 160_014 })[0];
    expect(to(OWN)).toMatchObject({ kind: "advance", to: lsn(400) });
    expect(to(null)).toMatchObject({ kind: "advance", to: lsn(384) });
  });

  test("a slot of ours that stands past the fork is made out of the guard, or taken away (I6)", () => {
    const entry = seenAt(800, {}, 480);
    expect(finish(entry, [slot("x", 480)]).step).toMatchObject({
      kind: "drop",
      why: expect.stringContaining("past 0/190"),
    });
    expect(finish(entry, [guard(304), slot("x", 480)]).step).toMatchObject({
      kind: "materialise",
      from: GUARD,
      to: lsn(400),
    });
  });

  test("what the server itself has synced is never taken back for a timeline that we did not see (17)", () => {
    const entry = seenAt(800, { served: true, timeline: 7 }, 800);
    const local = slot("x", 880, { synced: true, failover: true });
    expect(finish(entry, [local]).step).toMatchObject({ kind: "keep", position: lsn(880) });
  });

  test("the report counts from the fork of the timeline on which the subscriber was seen, and does not call unknown clean", () => {
    expect(finish(seenAt(800), [slot("x", 320)]).line).toMatchObject({
      timeline: 1,
      endOfWalLsn: "0/190",
      certain: true,
      confirmedBeyondEndBytes: 400,
    });
    const { line } = finish(seenAt(800, { timeline: 7 }), [slot("x", 320)]);
    expect(line).toMatchObject({ certain: false, endOfWalLsn: null, confirmedBeyondEndBytes: 0 });
    const report = {
      finishedAt: 0,
      durationMs: 0,
      timeline: 3,
      endOfWalLsn: "0/384",
      historyError: null,
      unseen: null,
      complete: true,
    };
    const text = describeFinish({ ...report, slots: [line] });
    expect(text).toContain("of 1 subscriber(s) it is not known how much they have that this node lacks: x");
  });

  test("a subscriber that was ahead of an earlier failover is named until it was seen to go on past that", () => {
    const gap = (position: number) =>
      gapOf(seenAt(position, { timeline: 2, formerly: [{ timeline: 1, lsn: lsn(800) }] }), {
        journal: journalOf(),
        own: OWN,
      });
    expect(gap(400)).toMatchObject({
      until: lsn(400),
      beyondBytes: 400,
      seen: { timeline: 1, lsn: lsn(800) },
    });
    expect(gap(408)).toMatchObject({ beyondBytes: 0, until: lsn(904) });
    const twice = seenAt(400, {
      timeline: 3,
      formerly: [
        { timeline: 1, lsn: lsn(800) },
        { timeline: 2, lsn: lsn(504) },
      ],
    });
    const own = {
      timeline: 4,
      forks: [1, 2, 3].map((timeline) => ({ timeline, until: lsn(400) })),
      whole: true,
    };
    expect(
      gapOf(twice, { journal: journalOf(), own }),
      "put back after the first, and ahead of the second",
    ).toMatchObject({ beyondBytes: 104, seen: { timeline: 2 } });
  });

  test("a native subscription gets the statements for its own database; others, and what is not certain, get none", () => {
    const { line } = finish(seenAt(800), [slot("x", 320)]);
    expect(line.repair).toContain("pg_replication_origin_advance('pg_' || s.oid, '0/190')");
    for (const text of line.repair?.split("\n").filter((each) => each.includes("origin_advance")) ?? [])
      expect(text).toContain(
        "s.subdbid = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())",
      );
    for (const more of [
      { plugin: "wal2json" },
      { certain: false },
      { outcome: "dropped" as const },
      { confirmedBeyondEndBytes: 0 },
      { name: "x'; DROP TABLE t; --" },
    ])
      expect(repairOf({ ...line, ...more }), JSON.stringify(more)).toBeNull();
  });
});

test("a guard waits for a slot that the new primary lacks where it may have to be made: not past what this standby had of the old timeline (I14, G1)", () => {
  const gone = record("x", "seen", null, {
    ...{
      timeline: 1,
      commonLsn: lsn(400),
      primaryConfirmedFlushLsn: lsn(800),
      protection: "waiting" as const,
    },
  });
  const { actions } = planFor({
    there: [],
    here: [guard(320)],
    journal: journalOf([gone], { primaryTimeline: 1, timelineSince: NOW }),
    primary: { timeline: 2 },
    standby: { receivedTimeline: 2 },
  });
  expect(actions).toMatchObject([{ kind: "advance_guard", to: lsn(400) }]);
});
