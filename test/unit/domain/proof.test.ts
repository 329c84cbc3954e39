/** What proves a slot that came by its file (I2, I3, I4), line by line. */
import { describe, expect, test } from "vitest";
import {
  type JournalState,
  PROVEN,
  type Proof,
  type Staged,
  UNPROVISIONED,
} from "../../../src/domain/journal.ts";
import type { PrimaryView, StandbyView } from "../../../src/domain/observation.ts";
import { feedbackNow, isLoadedFrom, isProven, proofNow, provisionOf } from "../../../src/domain/proof.ts";
import { type Xid, xidPrecedesOrEquals } from "../../../src/domain/xid.ts";
import { journalOf, lsn, NOW, primaryView, slot, standbyView } from "./build.ts";

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
  ...{ snapshot: "kept", pin: PIN, at: NOW, commonUntil: null },
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
  const NONE = { feedbackSince: null, feedbackXid: null, feedbackSession: null };
  const ANEW = { since: lsn(1_000), xid: xid(800), session: "s", walsender: null, kept: false };
  const KEPT = { since: lsn(0), xid: xid(600), session: "s", walsender: 4_711, kept: true };
  const GONE = { ...PHYSICAL, active: false, walsender: null, catalogXmin: xid(700) };
  const anew = (session: string) => ({ ...ANEW, session });

  test.each<[claim: string, seen: Seen, expected: ReturnType<typeof feedbackNow>]>([
    ["it goes on while nothing has changed", {}, KEPT],
    ["it begins with the first look that sees it", { journal: NONE }, ANEW],
    ["… also when only part of it was ever noted", { journal: { feedbackXid: null } }, ANEW],
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
  /** What the slot here needs. */
  needs: number | null;
  /** The physical slot's catalog_xmin. */
  physical?: number | null;
  original?: number | null;
  originalRestart?: number;
  pins?: Record<string, number>;
  pin?: string | null;
  /** Proven before. */
  before?: boolean;
  rows: boolean;
}

const ROWS: RowsCase[] = [
  { claim: "1 nothing older than the feedback is needed", needs: 600, physical: 600, rows: true },
  { claim: "2 older rows than the feedback began with may be gone", needs: 599, physical: 500, rows: false },
  {
    claim: "3 … unless the original needs rows as old",
    needs: 599,
    physical: 500,
    original: 599,
    rows: true,
  },
  { claim: "4 … or older ones", needs: 599, physical: 500, original: 300, rows: true },
  { claim: "5 … but not one that has gone on", needs: 599, physical: 500, original: 600, rows: false },
  { claim: "6 … or the pin holds them", needs: 599, physical: 500, pins: { [PIN]: 599 }, rows: true },
  {
    claim: "7 … not another's pin",
    needs: 599,
    physical: 500,
    pins: { slotsync_pin_0badcafe_2: 599 },
    rows: false,
  },
  { claim: "8 … not one that holds less", needs: 599, physical: 500, pins: { [PIN]: 600 }, rows: false },
  {
    claim: "9 … nor one where there was none",
    needs: 599,
    physical: 500,
    pins: { [PIN]: 599 },
    pin: null,
    rows: false,
  },
  {
    claim: "10 the physical slot must hold them from now on",
    needs: 599,
    physical: 600,
    original: 599,
    pins: { [PIN]: 599 },
    rows: false,
  },
  { claim: "11 … as old as needed is enough", needs: 599, physical: 599, original: 599, rows: true },
  {
    claim: "12 a physical slot that holds nothing proves nothing",
    needs: 600,
    physical: null,
    original: 600,
    rows: false,
  },
  {
    claim: "13 what was proven stays while the feedback goes on",
    needs: 550,
    physical: 550,
    before: true,
    rows: true,
  },
  {
    claim: "14 … not when the physical slot passes the slot",
    needs: 550,
    physical: 551,
    before: true,
    rows: false,
  },
  {
    claim: "15 … not when the feedback began anew",
    needs: 550,
    physical: 550,
    before: true,
    standby: { feedbackSession: "t" },
    rows: false,
  },
  {
    claim: "16 … then it is proven once more by the original",
    needs: 550,
    physical: 550,
    before: true,
    original: 550,
    standby: { feedbackSession: "t" },
    rows: true,
  },
  {
    claim: "17 … or once the slot has come to where the new feedback began",
    needs: 800,
    physical: 700,
    before: true,
    standby: { feedbackSession: "t" },
    rows: true,
  },
  {
    claim: "18 … not when it was switched off",
    needs: 800,
    physical: 700,
    before: true,
    standby: { hotStandbyFeedback: false },
    rows: false,
  },
  {
    claim: "19 a standby that has stopped to stream since the primary was asked keeps its proof",
    needs: 550,
    physical: 550,
    before: true,
    standby: { feedbackSession: "none", streaming: false },
    rows: true,
  },
  {
    claim: "20 a slot that does not say what it needs is not proven",
    needs: null,
    physical: 500,
    before: true,
    rows: false,
  },
  {
    claim: "21 while the primary does not answer, what was proven is not forgotten",
    needs: 550,
    before: true,
    primary: { physicalSlot: null, remembered: true },
    rows: true,
  },
  {
    claim: "21 b without the physical slot nothing holds rows any more",
    needs: 550,
    before: true,
    primary: { physicalSlot: null },
    rows: false,
  },
  {
    claim: "22 … and nothing is proven",
    needs: 900,
    original: 100,
    primary: { physicalSlot: null },
    rows: false,
  },
  {
    claim: "23 16 tells by itself when rows are removed",
    needs: 1,
    physical: 900,
    standby: { serverVersionNum: 160_014 },
    rows: true,
  },
  {
    claim: "24 across the wraparound, an id before it is older",
    needs: 5,
    physical: -5,
    original: -1,
    rows: true,
  },
  { claim: "25 … and one after it is newer", needs: -5, physical: 5, original: -5, rows: false },
  { claim: "26 … for the original as well", needs: -5, physical: -9, original: 3, rows: false },
  { claim: "27 … for the pin as well", needs: -5, physical: -9, pins: { [PIN]: 3 }, rows: false },
  {
    claim: "28 … and for the feedback",
    needs: 3,
    physical: -9,
    journal: { feedbackXid: xid(-2) },
    rows: true,
  },
  {
    claim: "29 … whose start lies past it",
    needs: -2,
    physical: -9,
    journal: { feedbackXid: xid(3) },
    rows: false,
  },
  {
    claim:
      "30 a slot made anew under the original's name may bear as old a catalog_xmin, and has kept nothing before",
    needs: 599,
    physical: 590,
    original: 590,
    originalRestart: 491,
    rows: false,
  },
];

describe("catalog rows are proven (I4)", () => {
  test.each(ROWS)("$claim", (each) => {
    const { needs, physical = 700, original = null, pins = {}, before = false, pin = PIN } = each;
    const seen = seenOf({
      ...each,
      primary: {
        physicalSlot: { ...PHYSICAL, catalogXmin: physical === null ? null : xid(physical) },
        pins: Object.entries(pins).map(([name, catalogXmin]) => ({ name, catalogXmin: xid(catalogXmin) })),
        ...each.primary,
      },
    });
    const local = slot("x", 500, { catalogXmin: needs === null ? null : xid(needs) });
    const provision = {
      staged: [],
      origin: { ...ORIGIN, pin },
      proof: { start: true, wal: true, rows: before },
    };
    const kept =
      original === null ? null : { restartLsn: lsn(each.originalRestart ?? 490), catalogXmin: xid(original) };
    const proof = proofNow(provision, local, kept, seen);
    expect(proof).toEqual({ start: true, wal: true, rows: each.rows });
    expect(isProven(proof)).toBe(each.rows);
  });
});

describe("start and WAL are proven (I2, I3)", () => {
  const proofOf = (proof: Proof, restart: number | null, origin: Staged | null = ORIGIN) => {
    const local = slot("x", 500, {
      restartLsn: restart === null ? null : lsn(restart),
      catalogXmin: xid(600),
    });
    const seen = seenOf({ primary: { physicalSlot: { ...PHYSICAL, catalogXmin: xid(500) } } });
    return proofNow({ staged: [], origin, proof }, local, null, seen);
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
    expect(proofOf(before, restart)).toEqual({ start, wal, rows: true });
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
    expect(provisionOf(creating, local)).toEqual({ staged: [], origin: ORIGIN, proof: UNPROVISIONED.proof });
    expect(provisionOf(creating, slot("x", 495, { restartLsn: lsn(490) })).origin).toBe(older);
    expect(provisionOf(twice, local).origin?.pin).toBe(PIN);
  });

  test("one that fits none was made by SQL", () => {
    expect(provisionOf(creating, slot("x", 900))).toEqual({ staged: [], origin: null, proof: PROVEN });
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
