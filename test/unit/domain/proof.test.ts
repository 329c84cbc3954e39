/** What proves a slot that came by its file (I2, I3, I4, I16), line by line. */
import { describe, expect, test } from "vitest";
import {
  type JournalState,
  PROVEN,
  type Proof,
  type SlotRecord,
  type Staged,
  UNPROVISIONED,
} from "../../../src/domain/journal.ts";
import type { PrimaryView, StandbyView } from "../../../src/domain/observation.ts";
import {
  feedbackNow,
  holdsRows,
  isLoadedFrom,
  isProven,
  proofNow,
  provisionOf,
  rowsHeldNow,
  rowsOf,
} from "../../../src/domain/proof.ts";
import { type Xid, xidPrecedesOrEquals } from "../../../src/domain/xid.ts";
import { journalOf, lsn, NOW, primaryView, record, slot, standbyView } from "./build.ts";

const xid = (value: number) => (value < 0 ? 2 ** 32 + value : value) as Xid;
const PIN = "slotsync_pin_0badcafe_1";
const ORIGIN: Staged = {
  ...{
    databaseOid: 1,
    plugin: "pgoutput",
    twoPhase: false,
    restartLsn: lsn(490),
    confirmedFlushLsn: lsn(500),
  },
  ...{ snapshot: "kept", pin: PIN, at: NOW, loadedBy: null },
};
const PHYSICAL = { name: "standby1", active: true, walsender: 4_711 };

interface Seen {
  primary?: Partial<PrimaryView>;
  standby?: Partial<StandbyView>;
  journal?: Partial<JournalState>;
}

function seenOf({ primary, standby, journal }: Seen) {
  return {
    primary: primaryView([], { serverVersionNum: 150_018, ...primary }),
    standby: standbyView([], { serverVersionNum: 150_018, ...standby }),
    journal: journalOf([], journal),
  };
}

describe("since when the standby's feedback has held catalog rows", () => {
  const NONE = { feedbackSince: null, feedbackSession: null };
  const ANEW = { since: lsn(1_000), session: "s", walsender: null };
  const KEPT = { since: lsn(0), session: "s", walsender: 4_711 };
  const GONE = { ...PHYSICAL, active: false, walsender: null, catalogXmin: xid(700) };
  const anew = (session: string) => ({ ...ANEW, session });

  test.each<[claim: string, seen: Seen, expected: ReturnType<typeof feedbackNow>]>([
    ["it goes on while nothing has changed", {}, KEPT],
    ["it begins with the first look that sees it", { journal: NONE }, ANEW],
    ["… or no session", { journal: { feedbackSession: null } }, ANEW],
    ["not while it is switched off", { standby: { hotStandbyFeedback: false } }, null],
    ["not while the primary has no physical slot of ours", { primary: { physicalSlot: null } }, null],
    [
      "not before it has reached the primary",
      { primary: { physicalSlot: { ...PHYSICAL, catalogXmin: null } } },
      null,
    ],
    ["another walreceiver begins it anew", { standby: { feedbackSession: "t" } }, anew("t")],
    [
      "a walreceiver that has ended since the primary was asked, where its walsender still was, had held all",
      { standby: { feedbackSession: "none", streaming: false } },
      KEPT,
    ],
    [
      "… not one whose walsender had gone by then: others may have come in between, unseen",
      { standby: { feedbackSession: "none", streaming: false }, primary: { physicalSlot: GONE } },
      anew("none"),
    ],
    [
      "… or was another",
      {
        standby: { feedbackSession: "none", streaming: false },
        primary: { physicalSlot: { ...PHYSICAL, catalogXmin: xid(700), walsender: 4_712 } },
      },
      anew("none"),
    ],
    [
      "… or was never known for certain",
      { standby: { feedbackSession: "none", streaming: false }, journal: { feedbackWalsender: null } },
      anew("none"),
    ],
    [
      "… nor while none comes: what was there at the last look may have come after the one before",
      { standby: { feedbackSession: "s", streaming: false }, primary: { physicalSlot: GONE } },
      anew("s"),
    ],
    [
      "the walsender of a session is known once that has been seen twice",
      { journal: { feedbackWalsender: null } },
      KEPT,
    ],
    [
      "without one it may begin: what is there stays",
      { standby: { feedbackSession: "none", streaming: false }, journal: NONE },
      anew("none"),
    ],
  ])("%s", (_claim, seen, expected) => {
    expect(feedbackNow(seenOf(seen))).toEqual(expected);
  });
});

interface RowsCase extends Seen {
  claim: string;
  /** The catalog_xmin of our slot, of the primary's physical slot, and of the primary's slot. */
  needs: number | null;
  physical: number | null;
  original: number | null;
  invalidation?: string;
  /** Where our slot stands; the primary's begins to decode at 490. */
  at?: number;
  rows: boolean;
}

const OLD = { standby: { serverVersionNum: 120_022 } };
const NOT_BEFORE = { feedbackSince: null, feedbackSession: null };

const ROWS: RowsCase[] = [
  {
    claim: "1 the physical slot holds what the primary's slot needs: however old ours is",
    ...{ needs: 500, physical: 600, original: 600, rows: true },
  },
  {
    claim: "2 … or what ours needs, which may be less",
    ...{ needs: 600, physical: 600, original: 500, rows: true },
  },
  {
    claim: "3 … not where it holds less than either: when the primary's slot moves on they may be removed",
    ...{ needs: 599, physical: 600, original: 599, rows: false },
  },
  {
    claim: "4 what happened to the feedback before does not matter: the primary's slot has kept its rows",
    ...{ needs: 599, physical: 599, original: 700, journal: { feedbackSession: "t" }, rows: true },
  },
  {
    claim: "5 a physical slot that holds nothing proves nothing",
    ...{ needs: 600, physical: null, original: 600, rows: false },
  },
  {
    claim: "6 … nor one that was not seen to hold anything in the look before",
    ...{ needs: 600, physical: 600, original: 600, journal: NOT_BEFORE, rows: false },
  },
  {
    claim: "7 … nor one that was seen on another primary",
    ...{ needs: 600, physical: 600, original: 600, journal: { primaryTimeline: 2 }, rows: false },
  },
  {
    claim: "8 … nor while feedback is switched off here: it is about to go",
    ...{ needs: 600, physical: 600, original: 600, standby: { hotStandbyFeedback: false }, rows: false },
  },
  {
    claim: "9 … nor while the standby has no physical slot there",
    ...{ needs: 600, physical: 600, original: 600, primary: { physicalSlot: null }, rows: false },
  },
  {
    claim: "10 a slot that the primary has invalidated promises nothing",
    ...{ needs: 600, physical: 600, original: 600, invalidation: "wal_removed", rows: false },
  },
  {
    claim: "11 … nor does one that is not there",
    ...{ needs: 600, physical: 600, original: null, rows: false },
  },
  {
    claim: "12 a slot of ours that does not say what it needs is not proven",
    ...{ needs: null, physical: 600, original: 600, rows: false },
  },
  {
    claim: "13 16 tells by itself when rows are removed",
    ...{ needs: 1, physical: 900, original: null, standby: { serverVersionNum: 160_014 }, rows: true },
  },
  {
    claim: "14 across the wraparound, an id before it is older",
    ...{ needs: -9, physical: -5, original: 5, rows: true },
  },
  {
    claim: "15 … for ours as well",
    ...{ needs: 5, physical: -5, original: -9, rows: true },
  },
  {
    claim: "16 … and one after it is newer",
    ...{ needs: -5, physical: 5, original: -5, rows: false },
  },
  {
    claim:
      "17 where advancing runs ahead, a slot that shows a younger catalog_xmin than the primary's is not safe",
    ...{ needs: 601, physical: 600, original: 600, ...OLD, rows: false },
  },
  {
    claim: "18 … one that shows the same or an older one is",
    ...{ needs: 600, physical: 600, original: 600, ...OLD, rows: true },
  },
  {
    claim:
      "19 … or that stands where the primary's begins to decode: it was never moved past what that needs",
    ...{ needs: 601, physical: 600, original: 600, at: 490, ...OLD, rows: true },
  },
  {
    claim: "20 … and not just past that",
    ...{ needs: 601, physical: 600, original: 600, at: 491, ...OLD, rows: false },
  },
  {
    claim: "21 … on 16 as well, where the server tells of removed rows and not of this",
    ...{ needs: 601, physical: 600, original: 600, standby: { serverVersionNum: 160_008 }, rows: false },
  },
  {
    claim: "22 … which 16.9 mends",
    ...{ needs: 601, physical: 600, original: 600, standby: { serverVersionNum: 160_009 }, rows: true },
  },
];

describe("catalog rows are proven (I4)", () => {
  test.each(ROWS)("$claim", ({ needs, physical, original, invalidation = null, at = 500, rows, ...more }) => {
    const catalogXmin = physical === null ? null : xid(physical);
    const seen = seenOf({
      ...more,
      primary: { physicalSlot: { ...PHYSICAL, catalogXmin }, ...more.primary },
    });
    const there = original === null ? null : slot("x", 500, { catalogXmin: xid(original), invalidation });
    const held = rowsHeldNow(there, seen);
    const { serverVersionNum } = seen.standby;
    expect(
      holdsRows(held, slot("x", at, { catalogXmin: needs === null ? null : xid(needs) }), serverVersionNum),
    ).toBe(rows);
  });

  test("while the primary does not answer, what was proven is not forgotten, and nothing is proven", () => {
    const rows = { physical: xid(600), original: xid(600), begins: lsn(490) };
    const known = (more: Partial<SlotRecord>) => ({
      ...seenOf({ primary: { remembered: true, physicalSlot: null } }),
      journal: journalOf([record("x", "owned", 500, more)]),
    });
    expect(rowsOf("x", null, known({ rows }))).toEqual(rows);
    expect(rowsOf("x", slot("x", 500), known({ rows: null }))).toBeNull();
    expect(rowsOf("y", slot("y", 500), known({ rows }))).toBeNull();
  });
});

describe("start and WAL are proven (I2, I3)", () => {
  const proofOf = (proof: Proof, restart: number | null, origin: Staged | null = ORIGIN) => {
    const local = slot("x", 500, {
      restartLsn: restart === null ? null : lsn(restart),
      catalogXmin: xid(600),
    });
    return proofNow({ ...UNPROVISIONED, origin, proof }, local);
  };
  const nothing = UNPROVISIONED.proof;

  test.each<[claim: string, before: Proof, restart: number | null, start: boolean, wal: boolean]>([
    ["not by being loaded", nothing, 490, false, false],
    ["by an advance that has moved restart_lsn (d)", nothing, 491, true, true],
    ["not by one that is behind where it was loaded", nothing, 489, false, false],
    ["not without a restart_lsn", nothing, null, false, false],
    ["once for all: WAL", { ...nothing, wal: true }, 490, false, true],
    ["once for all: start", { ...nothing, start: true }, 490, true, false],
  ])("%s", (_claim, before, restart, start, wal) => {
    expect(proofOf(before, restart)).toEqual({ start, wal, mappings: false });
  });

  test.each<[claim: string, loadedBy: number | null, restart: number | null, mappings: boolean]>([
    ["not by an advance that has not passed the start that loaded it", 600, 600, false],
    ["by one that has", 600, 601, true],
    ["not while nobody has seen it loaded", null, 601, false],
    ["not without a restart_lsn", 600, null, false],
  ])("rewrite mappings: %s (I16)", (_claim, loadedBy, restart, mappings) => {
    const origin = { ...ORIGIN, loadedBy: loadedBy === null ? null : lsn(loadedBy) };
    expect(proofOf(nothing, restart, origin).mappings).toBe(mappings);
    expect(proofOf({ ...nothing, mappings: true }, 490, origin).mappings, "once for all").toBe(true);
    expect(isProven({ ...PROVEN, mappings })).toBe(mappings);
  });

  test("what was made by SQL is what the server has seen to", () => {
    expect(proofOf(PROVEN, 490, null)).toEqual(PROVEN);
    expect(proofOf(nothing, 491, null)).toEqual(nothing);
  });
});

describe("which file a slot was loaded from", () => {
  const older = { ...ORIGIN, confirmedFlushLsn: lsn(495) };
  const local = slot("x", 500);
  const creating = { ...UNPROVISIONED, state: "creating", staged: [older, ORIGIN] };

  test.each<[claim: string, change: Partial<typeof local>]>([
    ["another restart_lsn", { restartLsn: lsn(491) }],
    ["another confirmed_flush_lsn", { confirmedFlushLsn: lsn(501) }],
    ["a temporary slot", { temporary: true }],
    ["another database", { databaseOid: 2 }],
    ["another plugin", { plugin: "wal2json" }],
    ["another two_phase", { twoPhase: true }],
  ])("not from one with %s", (_claim, change) => {
    expect(isLoadedFrom(local, ORIGIN)).toBe(true);
    expect(isLoadedFrom({ ...local, ...change }, ORIGIN)).toBe(false);
  });

  test("the latest attempt that fits, and nothing of it is proven", () => {
    const twice = { ...creating, staged: [{ ...ORIGIN, pin: null }, ORIGIN] };
    expect(provisionOf(creating, local)).toEqual({ ...UNPROVISIONED, origin: ORIGIN });
    expect(provisionOf(creating, slot("x", 495, { restartLsn: lsn(490) })).origin).toBe(older);
    expect(provisionOf(twice, local).origin?.pin).toBe(PIN);
  });

  test("one that fits none was made by SQL", () => {
    expect(provisionOf(creating, slot("x", 900))).toEqual({ ...UNPROVISIONED, proof: PROVEN });
  });

  test("a guard that was to come by its file, and came by one that nobody knows, is not proven", () => {
    const staging = { ...creating, state: "staging" };
    expect(provisionOf(staging, local).origin).toBe(ORIGIN);
    expect(provisionOf(staging, slot("x", 900))).toEqual(UNPROVISIONED);
  });

  test("one that the journal has noted is what it says", () => {
    const owned = { ...UNPROVISIONED, state: "owned", origin: ORIGIN };
    expect(provisionOf(owned, slot("x", 900))).toBe(owned);
  });
});

describe("transaction ids compared modulo 2^32", () => {
  test.each<[a: number, b: number, precedes: boolean]>([
    [700, 700, true],
    [699, 700, true],
    [701, 700, false],
    [-1, 3, true],
    [3, -1, false],
    [-1, 2 ** 31 - 2, true],
    [3, 3 + 2 ** 31 - 1, true],
    [3, 3 + 2 ** 31 + 1, false],
    [2, 3, true],
    [2, -1, true],
    [3, 2, false],
    [0, 0, true],
  ])("%i is no newer than %i: %s", (a, b, precedes) => {
    expect(xidPrecedesOrEquals(xid(a), xid(b))).toBe(precedes);
  });
});
