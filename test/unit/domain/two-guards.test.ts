/**
 * Two guards a database where they come by their files (G3), each proven by itself: which of them a slot is guarded by, and which it is
 * made out of after a promotion.
 */
import { describe, expect, test } from "vitest";
import { type FinishStep, planFinish } from "../../../src/domain/finish.ts";
import { type GuardRecord, PROVEN, type Proof } from "../../../src/domain/journal.ts";
import { plan } from "../../../src/domain/plan.ts";
import { rowsHeldNow } from "../../../src/domain/proof.ts";
import type { LogicalSlot } from "../../../src/domain/slot.ts";
import type { Xid } from "../../../src/domain/xid.ts";
import {
  GUARD,
  HOLD,
  journalOf,
  leftAt,
  lsn,
  memory,
  NOW,
  primaryView,
  record,
  SQL_MADE,
  slot,
  standbyView,
} from "./build.ts";

const LOW = GUARD.replace(/1$/, "2");
const NO_START: Proof = { start: false, wal: true, mappings: true };
const NO_WAL: Proof = { start: true, wal: false, mappings: true };
const CATALOG = 700 as Xid;

interface Guard {
  at: number;
  proof: Proof;
  maxTarget?: number;
  catalogXmin?: number;
}

interface Case {
  claim: string;
  version?: number;
  fresh: Guard | null;
  low: Guard | null;
  /** Where slot "x" stands on the primary. */
  position?: number;
  /** A slot of ours that was loaded from its file and is not proven wears its name. */
  loaded?: boolean;
  twoPhase?: boolean;
  /** What the primary's slot needs. */
  originalXmin?: number;
  /** False: the look before saw no feedback. */
  heldBefore?: boolean;
  /** `protection(reason)` of slot "x". */
  x: string;
  /** How far the guards go: `fresh>to`, `low>to`. */
  moves: string[];
  /** What slot "x" is made out of after a promotion: "fresh", "low" or what is done instead. */
  after: string;
}

const CASES: Case[] = [
  {
    claim:
      "1 where both are proven the fresh one serves, both wait for the slot (G1), the low one for where its decoding begins (I4)",
    fresh: { at: 300, proof: PROVEN },
    low: { at: 200, proof: PROVEN },
    x: "guarded",
    moves: ["fresh>500", "low>490"],
    after: "fresh",
  },
  {
    claim: "2 a fresh one whose start is not proven does not hide the low one (I2)",
    fresh: { at: 300, proof: NO_START },
    low: { at: 200, proof: PROVEN },
    x: "guarded",
    moves: ["fresh>500", "low>490"],
    after: "low",
  },
  {
    claim: "3 … nor one whose WAL is not, which is not even moved (I3)",
    fresh: { at: 300, proof: NO_WAL },
    low: { at: 200, proof: PROVEN },
    x: "guarded",
    moves: ["low>490"],
    after: "low",
  },
  {
    claim: "4 … nor one for which no rows are held that both the slot and it would need (I4)",
    fresh: { at: 300, proof: PROVEN, catalogXmin: 650 },
    low: { at: 200, proof: PROVEN },
    originalXmin: 690,
    x: "guarded",
    moves: ["fresh>500", "low>490"],
    after: "low",
  },
  {
    claim: "5 where neither is proven the slot waits, for what the fresh one lacks",
    fresh: { at: 300, proof: NO_START },
    low: { at: 200, proof: NO_WAL },
    x: "waiting(no_consistent_snapshot)",
    moves: ["fresh>500"],
    after: "none",
  },
  {
    claim: "6 an unproven low one serves nobody (I3)",
    fresh: { at: 510, proof: PROVEN },
    low: { at: 200, proof: NO_WAL },
    x: "waiting(wal_or_rows_removed)",
    // it cannot serve the slot: what it waits for is none of its positions
    moves: ["fresh>1000"],
    after: "none",
  },
  {
    claim: "7 a proven low one past the position does not reach back to it (G2)",
    fresh: { at: 300, proof: NO_START },
    low: { at: 501, proof: PROVEN },
    x: "waiting(no_consistent_snapshot)",
    moves: ["fresh>500"],
    after: "none",
  },
  {
    claim: "8 … nor one that a statement may be moving past it (G2)",
    fresh: { at: 300, proof: NO_START },
    low: { at: 200, proof: PROVEN, maxTarget: 501 },
    x: "waiting(no_consistent_snapshot)",
    moves: ["fresh>500", "low>490"],
    // by then the server shows where it stands
    after: "low",
  },
  {
    claim: "9 with no fresh one the low one serves alone",
    fresh: null,
    low: { at: 200, proof: PROVEN },
    x: "guarded",
    moves: ["low>490"],
    after: "low",
  },
  {
    claim:
      "10 a slot that is here and not proven is guarded by the low one meanwhile, and made out of it (I2, I6)",
    fresh: { at: 300, proof: NO_START },
    low: { at: 200, proof: PROVEN },
    loaded: true,
    x: "guarded",
    moves: ["fresh>500", "low>490"],
    after: "low after a drop",
  },
  {
    claim: "11 … and dropped where neither is proven (I6)",
    fresh: { at: 300, proof: NO_START },
    low: { at: 200, proof: NO_START },
    loaded: true,
    x: "waiting(no_consistent_snapshot)",
    // nothing is guarded by them: nothing holds them back
    moves: ["fresh>1000", "low>490"],
    after: "drop",
  },
  {
    claim: "12 a two_phase slot is guarded by neither (G5)",
    fresh: { at: 300, proof: NO_START },
    low: { at: 200, proof: PROVEN },
    twoPhase: true,
    x: "waiting(restart_pending)",
    moves: ["fresh>1000", "low>490"],
    after: "none",
  },
  {
    claim: "13 on 16 the low one is a temporary slot: it may be gone at the promotion, and guards nobody",
    version: 160_014,
    fresh: { at: 510, proof: PROVEN },
    low: { at: 200, proof: PROVEN },
    loaded: true,
    x: "waiting(no_consistent_snapshot)",
    moves: ["fresh>1000"],
    after: "low after a drop",
  },
  {
    claim:
      "14 rows that the primary's slot has kept until now are kept from now on as far back as the guard goes (I4)",
    fresh: { at: 300, proof: PROVEN },
    low: null,
    originalXmin: 690,
    x: "guarded",
    moves: ["fresh>500"],
    after: "fresh",
  },
  {
    claim: "15 … not by a feedback that has only just begun: they may have gone in between (I4)",
    fresh: { at: 300, proof: PROVEN },
    low: null,
    originalXmin: 690,
    heldBefore: false,
    x: "waiting(catalog_rows_unproven)",
    moves: ["fresh>500"],
    after: "none",
  },
  {
    claim: "16 … nor for a guard that goes further back than the physical slot (I4)",
    fresh: { at: 300, proof: PROVEN, catalogXmin: 699 },
    low: null,
    originalXmin: 690,
    x: "waiting(catalog_rows_unproven)",
    moves: ["fresh>500"],
    after: "none",
  },
  {
    claim: "17 … but for one that goes further back than it where that holds all that the slot needs (I4)",
    fresh: { at: 300, proof: PROVEN, catalogXmin: 650 },
    low: null,
    x: "guarded",
    moves: ["fresh>500"],
    // the copy is advanced without a catalog being read
    after: "fresh",
  },
];

const ORIGIN = {
  ...{
    databaseOid: 1,
    plugin: "pgoutput",
    twoPhase: false,
    snapshot: "unusable" as const,
    pin: null,
  },
  ...{ restartLsn: lsn(490), confirmedFlushLsn: lsn(500), at: NOW - 1_000, loadedBy: null },
};

function run({
  version = 140_020,
  fresh,
  low,
  position = 500,
  loaded = false,
  twoPhase = false,
  originalXmin = CATALOG,
  heldBefore = true,
}: Case) {
  const bySql = version >= 160_000;
  const here: LogicalSlot[] = [];
  const guards: { guards: Record<number, GuardRecord>; lowGuards: Record<number, GuardRecord> } = {
    guards: {},
    lowGuards: {},
  };
  const origin = { ...ORIGIN, restartLsn: lsn(90), confirmedFlushLsn: lsn(100) };
  for (const [name, each, records] of [
    [GUARD, fresh, guards.guards],
    [bySql ? HOLD : LOW, low, guards.lowGuards],
  ] as const) {
    if (!each) continue;
    const { at, proof, maxTarget = at, catalogXmin = CATALOG } = each;
    // its restart_lsn has not moved since: what is not proven yet is not proven by that
    here.push(
      slot(name, at, {
        restartLsn: origin.restartLsn,
        catalogXmin: catalogXmin as Xid,
        temporary: name === HOLD,
      }),
    );
    const identity = { name, database: "db1", databaseOid: 1, state: "owned" as const };
    // one whose start is proven without having moved begins by the snapshot that came with it
    const loaded = proof.start ? { ...origin, snapshot: "kept" as const } : origin;
    records[1] = { ...identity, ...SQL_MADE, origin: loaded, proof, maxTarget: lsn(maxTarget) };
  }
  const there = slot("x", position, { twoPhase, catalogXmin: originalXmin as Xid });
  if (loaded) here.push(slot("x", position));
  const known = loaded
    ? record("x", "owned", position, { origin: ORIGIN, proof: NO_START })
    : record("x", "seen", position, { twoPhase });
  const journal = journalOf([known], { ...guards, ...(heldBefore ? {} : { feedbackSince: null }) });
  const primary = primaryView([there], { serverVersionNum: version });
  const standby = standbyView(here, { serverVersionNum: version });
  const { verdicts, actions } = plan({
    primary,
    standby,
    chosen: [there],
    journal,
    policy: {
      guardDatabases: "auto",
      duty: 0.1,
      provision: "auto",
      restarts: false,
      onConflict: "adopt",
      releaseAfterMs: null,
    },
    memory: memory(),
  });
  const verdict = verdicts.get("x");
  if (!verdict) throw new Error("no verdict");
  const rows = rowsHeldNow(there, { primary, standby, journal });
  const seen = record("x", known.state, position, { ...known, ...verdict, rows });
  const [step] = planFinish({
    ...{ journal: journalOf([seen], guards), slots: here, own: leftAt(1_000) },
    serverVersionNum: version,
  });
  const moves = actions.flatMap((action) =>
    action.kind === "advance_guard" ? [`${nameOf(action.guard)}>${action.to}`] : [],
  );
  const x = verdict.reason ? `${verdict.protection}(${verdict.reason})` : verdict.protection;
  return { x, moves, after: step && shown(step) };
}

function nameOf(guard: string): string {
  return guard === GUARD ? "fresh" : "low";
}

function shown(step: FinishStep): string {
  if (step.kind !== "materialise") return step.kind;
  return `${nameOf(step.from)}${step.dropFirst === null ? "" : " after a drop"}`;
}

describe("a slot between two guards", () => {
  test.each(CASES)("$claim", (each) => {
    const { x, moves, after } = each;
    expect(run(each)).toEqual({ x, moves, after });
  });
});
