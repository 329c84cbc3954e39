/** A slot of a failover slot's name that is not ours: each rule of what becomes of it, one case each (I7). */
import { describe, expect, test } from "vitest";
import { type ConflictPolicy, decideConflict, isUnmoved } from "../../../src/domain/adopt.ts";
import type { JournalState } from "../../../src/domain/journal.ts";
import { noteAdopted } from "../../../src/domain/journal-update.ts";
import type { PrimaryView } from "../../../src/domain/observation.ts";
import { isOurs } from "../../../src/domain/ownership.ts";
import { plan } from "../../../src/domain/plan.ts";
import type { LogicalSlot } from "../../../src/domain/slot.ts";
import { commonUntil, type PrimaryLife, type TimelineHistory } from "../../../src/domain/timeline.ts";
import { parseTimelineHistory } from "../../../src/pg/server-history.ts";
import { guard, journalOf, lsn, memory, NOW, primaryView, record, slot, standbyView } from "./build.ts";

const LIFE: PrimaryLife = { timeline: 1, history: [], unmoved: [] };
/** Timeline 2 left timeline 1 at 500. */
const FORKED = [{ timeline: 1, until: lsn(500) }];
const HISTORY = { timeline: 2, forks: FORKED };

interface Case {
  claim: string;
  there?: Partial<LogicalSlot>;
  here?: Partial<LogicalSlot>;
  journal?: Partial<JournalState>;
  primary?: Partial<PrimaryView>;
  onConflict?: ConflictPolicy;
  decision: string;
  says?: string;
}

const cases: Case[] = [
  {
    claim: "1 one of this node's own past, at the fork and behind the primary's, is adopted",
    decision: "adopt",
  },
  {
    claim: "2 read on the old primary after the fork, it is not (I2)",
    here: { confirmedFlushLsn: lsn(501) },
    decision: "quarantine",
    says: "past 0/1F4",
  },
  {
    claim: "3 made on the old primary after the fork, it is not, though the primary has gone on beyond that",
    here: { restartLsn: lsn(510), confirmedFlushLsn: lsn(520) },
    decision: "quarantine",
    says: "made or read afterwards",
  },
  {
    claim: "4 where no sidecar saw this node as a primary, nothing says whose it is",
    journal: { life: null },
    decision: "quarantine",
    says: "no sidecar",
  },
  {
    claim: "5 the history of another timeline than the primary's proves nothing",
    primary: { timeline: 3 },
    decision: "quarantine",
    says: "timeline 3 is not known",
  },
  {
    claim: "6 nor does any while the primary does not answer",
    primary: { remembered: true },
    decision: "quarantine",
    says: "not known yet",
  },
  {
    claim: "7 a node that was a primary on a timeline of its own has no past in common with the primary",
    journal: { life: { ...LIFE, timeline: 2, history: FORKED }, history: { timeline: 3, forks: FORKED } },
    primary: { timeline: 3 },
    decision: "quarantine",
    says: "does not descend",
  },
  {
    claim: "8 … also when both have the same number and began elsewhere",
    journal: {
      life: { ...LIFE, timeline: 2, history: [{ timeline: 1, until: lsn(300) }] },
      history: { timeline: 3, forks: [...FORKED, { timeline: 2, until: lsn(900) }] },
    },
    primary: { timeline: 3 },
    decision: "quarantine",
    says: "does not descend",
  },
  {
    claim: "9 of a later life on the same line it is adopted",
    journal: {
      life: { ...LIFE, timeline: 2, history: FORKED },
      history: { timeline: 3, forks: [...FORKED, { timeline: 2, until: lsn(900) }] },
    },
    primary: { timeline: 3 },
    here: { confirmedFlushLsn: lsn(500) },
    decision: "adopt",
  },
  {
    claim: "10 another plugin is another slot (I5)",
    here: { plugin: "wal2json" },
    decision: "quarantine",
    says: "another one",
  },
  {
    claim: "11 another database is another slot (I5)",
    here: { databaseOid: 2 },
    decision: "quarantine",
    says: "another one",
  },
  {
    claim: "12 so is another two_phase (I5)",
    here: { twoPhase: true },
    decision: "quarantine",
    says: "another one",
  },
  {
    claim: "13 one that is in use is left alone",
    here: { activePid: 7 },
    decision: "quarantine",
    says: "process 7",
  },
  { claim: "14 so is a temporary one", here: { temporary: true }, decision: "quarantine" },
  {
    claim: "15 one that this server has invalidated is of no use",
    here: { invalidation: "rows_removed" },
    decision: "quarantine",
    says: "rows_removed",
  },
  {
    claim: "16 one that has no position is none",
    here: { restartLsn: null },
    decision: "quarantine",
    says: "no position",
  },
  {
    claim: "17 ahead of the primary's, it waits until that has come up to it (I1)",
    there: { confirmedFlushLsn: lsn(490) },
    decision: "wait",
    says: "0/1EA",
  },
  { claim: "18 and while the primary's is being made", there: { confirmedFlushLsn: null }, decision: "wait" },
  {
    claim: "19 a primary's slot that is invalid is no reason to take anything over",
    there: { invalidation: "wal_removed" },
    decision: "quarantine",
    says: "wal_removed",
  },
  {
    claim: "20 with two_phase, only while the primary's slot is seen to be of before the fork (G5)",
    there: { twoPhase: true, restartLsn: lsn(501) },
    here: { twoPhase: true },
    decision: "quarantine",
    says: "two_phase",
  },
  {
    claim: "21 … and then it is",
    there: { twoPhase: true, restartLsn: lsn(500) },
    here: { twoPhase: true },
    decision: "adopt",
  },
  { claim: "22 refused, nothing is adopted", onConflict: "refuse", decision: "quarantine", says: "refuse" },
  { claim: "23 recreated instead of adopted", onConflict: "recreate", decision: "recreate" },
  {
    claim: "24 one that nobody can use any more is recreated whosever it was",
    onConflict: "recreate",
    journal: { life: null },
    here: { invalidation: "rows_removed" },
    decision: "recreate",
  },
  {
    claim: "25 what is not proven to be of this node's past is not dropped either",
    onConflict: "recreate",
    here: { confirmedFlushLsn: lsn(501) },
    decision: "quarantine",
  },
  {
    claim: "26 nor is one in use",
    onConflict: "recreate",
    here: { activePid: 7, invalidation: "rows_removed" },
    decision: "quarantine",
  },
];

const there = (more: Partial<LogicalSlot> = {}) => slot("x", 700, { restartLsn: lsn(650), ...more });
const here = (more: Partial<LogicalSlot> = {}) => slot("x", 500, { restartLsn: lsn(400), ...more });
const policyOf = (onConflict: ConflictPolicy) =>
  ({
    guardDatabases: "auto",
    duty: 0.1,
    provision: "auto",
    restarts: false,
    onConflict,
    releaseAfterMs: null,
  }) as const;

function inputOf(each: Case) {
  return {
    primary: primaryView([], { timeline: 2, ...each.primary }),
    journal: journalOf([], { life: LIFE, history: HISTORY, ...each.journal }),
    policy: policyOf(each.onConflict ?? "adopt"),
  };
}

describe("a slot of the name that is not ours (I7)", () => {
  test.each(cases)("$claim", (each) => {
    const decision = decideConflict(there(each.there), here(each.here), inputOf(each));
    expect(decision.kind).toBe(each.decision);
    if (each.says) expect(decision).toMatchObject({ why: expect.stringContaining(each.says) });
  });
});

describe("the plan", () => {
  const local = here();
  const planOf = (
    onConflict: ConflictPolicy,
    version: number,
    others: LogicalSlot[] = [],
    busy: number[] = [],
  ) =>
    plan({
      primary: primaryView([there()], { timeline: 2, serverVersionNum: version }),
      standby: standbyView([local, ...others], { serverVersionNum: version }),
      chosen: [there()],
      journal: journalOf([record("x", "seen", null)], { primaryTimeline: 2, life: LIFE, history: HISTORY }),
      policy: policyOf(onConflict),
      memory: memory({ busyDatabases: new Set(busy) }),
    });
  const about = ({ actions }: ReturnType<typeof planOf>) =>
    actions.flatMap((action) => ("slot" in action && action.slot === "x" ? [action.kind] : []));
  const verdict = ({ verdicts }: ReturnType<typeof planOf>) => verdicts.get("x");

  test("adopts it, and does not call it ready before (I7)", () => {
    const planned = planOf("adopt", 160_014);
    expect(about(planned)).toEqual(["adopt"]);
    expect(verdict(planned)).toMatchObject({ protection: "waiting", reason: "name_conflict" });
    expect(about(planOf("adopt", 160_014, [], [1]))).toEqual([]);
  });

  test("recreates it only once a guard protects the name: there is no moment without protection", () => {
    expect(about(planOf("recreate", 160_014))).toEqual([]);
    expect(about(planOf("recreate", 160_014, [guard(701)]))).toEqual([]);
    const covered = planOf("recreate", 160_014, [guard(690)]);
    expect(about(covered)).toEqual(["drop"]);
    // while it wears the name, a promotion would leave it there
    expect(verdict(covered)).toMatchObject({ protection: "waiting", reason: "name_conflict" });
    expect(covered.actions).toContainEqual(expect.objectContaining({ kind: "advance_guard", to: lsn(700) }));
    expect(about(planOf("recreate", 130_023, [guard(690)]))).toEqual(["drop"]);
    expect(about(planOf("recreate", 110_022, [guard(690)]))).toEqual([]);
  });

  test("names the command that resolves what is left alone", () => {
    expect(verdict(planOf("refuse", 160_014))).toMatchObject({
      protection: "blocked",
      reason: "name_conflict",
      detail: expect.stringContaining("slotsync release x"),
    });
  });
});

describe("once adopted", () => {
  const action = {
    kind: "adopt" as const,
    slot: "x",
    database: "db1",
    databaseOid: 1,
    plugin: "pgoutput",
    twoPhase: false,
    at: lsn(500),
    restart: lsn(400),
    unmoved: false,
  };
  const before = journalOf([record("x", "seen", null)], { primaryTimeline: 2 });
  const adopted = (start: boolean, wal: boolean, mappings = true) =>
    noteAdopted(before, action, { start, wal, mappings }, NOW).slots.get("x");

  test("it is ours where it stands, and not beyond (I7)", () => {
    expect(isOurs(here(), adopted(true, true))).toBe(true);
    expect(isOurs(here({ confirmedFlushLsn: lsn(501) }), adopted(true, true))).toBe(false);
  });

  test("what was not found of it is not proven (I2, I3, I16)", () => {
    expect(adopted(true, true)?.proof).toEqual({ start: true, wal: true, mappings: true });
    expect(adopted(false, true)?.proof).toEqual({ start: false, wal: true, mappings: true });
    expect(adopted(true, false)?.proof).toEqual({ start: false, wal: false, mappings: true });
    expect(adopted(true, true, false)?.proof).toMatchObject({ mappings: false });
    // with its WAL fetched, a start that was found counts, and one that was not does not
    expect(adopted(true, false)?.origin?.snapshot).toBe("absent");
    expect(adopted(false, false)?.origin?.snapshot).toBe("unusable");
  });
});

describe("a slot that stands where it was created (I2 e)", () => {
  const unmoved = { name: "x", databaseOid: 1, plugin: "pgoutput", restartLsn: lsn(400) };
  const seen = (more: object) => ({
    journal: journalOf([], { life: { ...LIFE, unmoved: [{ ...unmoved, ...more }] } }),
  });
  test("is known by where it stood when this node was the primary", () => {
    expect(isUnmoved(here(), seen({}))).toBe(true);
    expect(isUnmoved(here(), seen({ restartLsn: lsn(401) }))).toBe(false);
    expect(isUnmoved(here(), seen({ name: "y" }))).toBe(false);
    expect(isUnmoved(here(), seen({ databaseOid: 2 }))).toBe(false);
    expect(isUnmoved(here(), seen({ plugin: "wal2json" }))).toBe(false);
    expect(isUnmoved(here(), { journal: journalOf() })).toBe(false);
  });
});

describe("timelines", () => {
  const history = (...forks: [number, number][]): TimelineHistory =>
    forks.map(([timeline, until]) => ({ timeline, until: lsn(until) }));
  test.each<[string, number, TimelineHistory, TimelineHistory, number | null]>([
    ["the first's child", 1, [], history([1, 500]), 500],
    ["its grandchild", 1, [], history([1, 500], [2, 900]), 500],
    ["the second's child", 2, history([1, 500]), history([1, 500], [2, 900]), 900],
    ["itself", 2, history([1, 500]), history([1, 500]), null],
    [
      "the first's child that is no child of this one",
      2,
      history([1, 500]),
      history([1, 500], [3, 900]),
      null,
    ],
    [
      "one of the same numbers that forked elsewhere",
      2,
      history([1, 400]),
      history([1, 500], [2, 900]),
      null,
    ],
    ["an ancestor", 3, history([1, 500], [2, 900]), history([1, 500]), null],
  ])("what it has in common with %s", (_, timeline, own, other, common) => {
    expect(commonUntil({ timeline, history: own }, other)).toBe(common === null ? null : lsn(common));
  });

  test("a history file is read as PostgreSQL reads it, and nothing else is", () => {
    expect(
      parseTimelineHistory("1\t0/1F4\tno recovery target specified\n\n# a comment\n2\t1/0\tbefore 2000\n"),
    ).toEqual([
      { timeline: 1, until: lsn(500) },
      { timeline: 2, until: lsn(0x1_0000_0000) },
    ]);
    expect(parseTimelineHistory("")).toEqual([]);
    for (const bad of ["1\n", "1\tnowhere\n", "2\t0/1\tx\n1\t0/2\tx\n", "x"])
      expect(() => parseTimelineHistory(bad)).toThrow(/history/);
  });
});
