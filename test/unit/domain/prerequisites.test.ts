import { expect, test } from "vitest";
import { auditServerSync } from "../../../src/domain/audit.ts";
import type { JournalState } from "../../../src/domain/journal.ts";
import type { PrimaryView, StandbyView } from "../../../src/domain/observation.ts";
import {
  anyStop,
  type Problem,
  primaryProblems,
  standbyProblems,
  trustworthy,
  whyLacksUnknown,
} from "../../../src/domain/prerequisites.ts";
import { journalOf, NOW, primaryView, slot, standbyView } from "./build.ts";

interface Case {
  claim: string;
  primary?: Partial<PrimaryView>;
  standby?: Partial<StandbyView>;
  journal?: Partial<JournalState>;
  code: string;
  severity: "stop" | "warning";
  /** What the message must tell the operator to set, and where. */
  names: RegExp;
}

const CASES: Case[] = [
  {
    claim: "1 too old a server",
    standby: { serverVersionNum: 100_023 },
    code: "version_unsupported",
    severity: "stop",
    names: /PostgreSQL 10/,
  },
  {
    claim: "2 wal_level on the standby",
    standby: { walLevel: "replica" },
    code: "standby_wal_level",
    severity: "stop",
    names: /wal_level = logical/,
  },
  {
    claim: "3 hot_standby_feedback off (I4)",
    standby: { hotStandbyFeedback: false },
    code: "feedback_off",
    severity: "stop",
    names: /hot_standby_feedback = on/,
  },
  {
    claim: "4 no primary_slot_name",
    standby: { primarySlotName: "" },
    code: "primary_slot_name_unset",
    severity: "stop",
    names: /physical replication slot/,
  },
  {
    claim: "5 a role that may not see it",
    standby: { primarySlotName: null },
    code: "standby_settings_hidden",
    severity: "stop",
    names: /pg_monitor/,
  },
  {
    claim: "6 a role that may not manage slots",
    standby: { mayReplicate: false },
    code: "standby_permission_denied",
    severity: "stop",
    names: /REPLICATION/,
  },
  {
    claim: "7 the journal of another cluster (I7)",
    journal: { systemIdentifier: "2" },
    code: "journal_of_another_cluster",
    severity: "stop",
    names: /state_directory/,
  },
  {
    claim: "9 no free slot",
    standby: { maxReplicationSlots: 2, usedSlots: 1 },
    code: "too_many_slots",
    severity: "warning",
    names: /max_replication_slots = 2/,
  },
  {
    claim: "10 a primary of another cluster (I5)",
    primary: { systemIdentifier: "2" },
    code: "system_identifier_differs",
    severity: "stop",
    names: /primary\.dsn/,
  },
  {
    claim: "11 a primary that is a standby itself",
    primary: { inRecovery: true },
    code: "primary_in_recovery",
    severity: "stop",
    names: /primary\.dsn/,
  },
  {
    claim: "12 wal_level on the primary",
    primary: { walLevel: "replica" },
    code: "primary_wal_level",
    severity: "stop",
    names: /on the primary/,
  },
  {
    claim: "13 the physical slot is missing",
    primary: { physicalSlot: null },
    code: "physical_slot_missing",
    severity: "stop",
    names: /pg_create_physical_replication_slot\('standby1'\)/,
  },
  {
    claim: "14 the physical slot is not in use",
    primary: { physicalSlot: { name: "standby1", active: false, walsender: null, catalogXmin: null } },
    code: "physical_slot_inactive",
    severity: "stop",
    names: /not streaming/,
  },
  {
    claim: "15 no right to ask for a snapshot",
    primary: { maySnapshot: false },
    code: "snapshot_not_granted",
    severity: "warning",
    names: /GRANT EXECUTE ON FUNCTION pg_log_standby_snapshot/,
  },
  {
    claim: "16 guards that no journal known here has made (I7)",
    standby: {
      slots: [
        slot("slotsync_guard_1_0badcafe_7", 1),
        slot("slotsync_guard_1_deadbeef_1", 1),
        slot("slotsync_guard_2_deadbeef_2", 1),
        slot("slotsync_hold_1_deadbeef", 1, { temporary: true }),
      ],
    },
    code: "guards_of_a_lost_journal",
    severity: "warning",
    names:
      /^2 guard.*pg_drop_replication_slot\('slotsync_guard_1_deadbeef_1'\).*'slotsync_guard_2_deadbeef_2'/,
  },
  {
    claim: "16b the same, remembered from when it streamed (I1)",
    standby: { receivedTimeline: null },
    journal: { standbyTimeline: 2 },
    code: "timeline_differs",
    severity: "stop",
    names: /timeline 1, this standby on 2 already/,
  },
  {
    claim: "17 a physical slot that somebody uses while the standby does not stream",
    standby: { streaming: false, receivedTimeline: null },
    code: "physical_slot_inactive",
    severity: "stop",
    names: /not streaming/,
  },
  {
    claim: "18 a primary that has branched off, and the standby does not follow it yet (I1)",
    primary: { timeline: 2 },
    code: "timeline_differs",
    severity: "stop",
    names: /timeline 2, and this standby still receives 1/,
  },
  {
    claim: "19 a former primary, while the standby follows another by now (I1)",
    standby: { receivedTimeline: 2 },
    code: "timeline_differs",
    severity: "stop",
    names: /timeline 1, this standby on 2 already/,
  },
  {
    claim: "20 the same, told by the control file alone, of a role that may not see what is received (I1)",
    standby: { receivedTimeline: null, leastTimeline: 2 },
    code: "timeline_differs",
    severity: "stop",
    names: /timeline 1, this standby on 2 already/,
  },
];

/** 17+: what the server's own slot sync goes by. */
const AUDIT: (Pick<Case, "claim" | "primary" | "standby" | "code" | "names"> & { failed?: boolean })[] = [
  {
    claim: "no database in primary_conninfo",
    standby: { conninfoHasDatabase: false },
    code: "sync_needs_dbname",
    names: /dbname=postgres/,
  },
  {
    claim: "a call that failed",
    failed: true,
    code: "server_sync_failed",
    names: /guards stand in: same name slot/,
  },
  {
    claim: "subscribers that wait for a standby that is gone",
    primary: { stalledStandbySlots: ["gone"] },
    code: "standby_slots_stalled",
    names: /synchronized_standby_slots on the primary names "gone"/,
  },
  {
    claim: "leftovers of a switchover",
    standby: { slots: ["a", "b", "c", "d"].map((name) => slot(name, 1, { failover: true })) },
    code: "failover_slots_unsynced",
    names: /"a", "b", "c" and 1 more.*pg_drop_replication_slot\('a'\)/,
  },
  {
    claim: "synced left true on a primary",
    primary: {
      slots: [slot("left", 1, { synced: true }), slot("fine", 1, { synced: true, failover: true })],
    },
    code: "synced_on_primary",
    names: /"left" still says synced.*slotsync flag left/,
  },
];

test.each(AUDIT)("$claim: told with its remedy, from 17 on", ({ code, names, failed, primary, standby }) => {
  const auditOn = (serverVersionNum: number) =>
    auditServerSync(
      primaryView([], primary),
      standbyView([slot("s", 1, { failover: true, synced: true })], { serverVersionNum, ...standby }),
      [slot("x", 1, { failover: true })],
      {
        backoff: new Map(
          failed
            ? [
                [
                  "server:sync",
                  { reason: "statement_failed", detail: "same name slot", failures: 1, retryAt: 0 },
                ] as const,
              ]
            : [],
        ),
      },
    );
  expect(auditOn(170_010)).toEqual([{ code, severity: "warning", message: expect.stringMatching(names) }]);
  expect(auditOn(160_014)).toEqual([]);
});

const problemsOf = ({ primary, standby, journal }: Pick<Case, "primary" | "standby" | "journal">) => {
  const here = standbyView([slot("x", 1)], standby);
  return [
    ...standbyProblems(here, journalOf([], journal)),
    ...primaryProblems(primaryView([], primary), here, journalOf([], journal)),
  ];
};

test.each(CASES)("$claim: one message, naming what to set", ({ code, severity, names, ...situation }) => {
  const problems = problemsOf(situation);
  expect(problems).toEqual([{ code, severity, message: expect.stringMatching(names) }]);
  expect(anyStop(problems)).toBe(severity === "stop");
});

test("a healthy pair has no problem", () => {
  expect(problemsOf({})).toEqual([]);
});

test("what the wrong server says is not believed (I5, I10)", () => {
  expect(trustworthy(problemsOf({ primary: { systemIdentifier: "2" } }))).toBe(false);
  expect(trustworthy(problemsOf({ primary: { inRecovery: true } }))).toBe(false);
  expect(trustworthy(problemsOf({ standby: { hotStandbyFeedback: false } }))).toBe(true);
});

test("another timeline than before is believed only of a primary that the standby is seen to follow (I1)", () => {
  const switched = { primary: { timeline: 2 }, journal: { primaryTimeline: 1 } };
  const unseen = { streaming: false, receivedTimeline: null };
  const codes = (standby: Partial<StandbyView>) =>
    problemsOf({ ...switched, standby }).map(({ code }) => code);
  expect(codes({ receivedTimeline: 2 })).toEqual([]);
  expect(codes(unseen)).toContain("timeline_differs");
  expect(trustworthy(problemsOf({ ...switched, standby: unseen }))).toBe(false);
  expect(trustworthy(problemsOf({ standby: unseen }))).toBe(true);
});

test("whether a standby follows a primary at which its slot is not in use must be seen (I1)", () => {
  const inactive = { physicalSlot: { name: "standby1", active: false, catalogXmin: null } };
  const hidden = problemsOf({ primary: inactive, standby: { receivedTimeline: null } });
  expect(hidden.map(({ code }) => code)).toEqual(["timeline_hidden", "physical_slot_inactive"]);
  expect(trustworthy(hidden)).toBe(false);
  expect(trustworthy(problemsOf({ primary: inactive }))).toBe(true);
});

test.each<[string, Partial<PrimaryView>, Partial<JournalState>, Problem["code"] | null, RegExp | null]>([
  ["the primary followed for long", {}, {}, null, null],
  ["another cluster's", { systemIdentifier: "2" }, {}, null, /another cluster/],
  ["a standby", { inRecovery: true }, {}, null, /standby itself/],
  ["a former primary that still runs", { timeline: 1 }, { standbyTimeline: 2 }, null, /timeline/],
  ["beside another one", {}, {}, "split_brain", /told elsewhere/],
  [
    "a new one, whose slots may be being made",
    {},
    { timelineSince: NOW - 30_000 },
    null,
    /changed a moment ago/,
  ],
  ["a new one that no sidecar has seen yet", {}, { primaryTimeline: 1 }, null, /changed a moment ago/],
])(
  "which slots a primary lacks is believed of none but the right one (I7): %s",
  (_, there, known, told, why) => {
    const primary = primaryView([], { timeline: 2, ...there });
    const standby = standbyView([], { receivedTimeline: 2 });
    const journal = journalOf([], { primaryTimeline: 2, timelineSince: 0, ...known });
    const extra: Problem[] =
      told === null ? [] : [{ code: told, severity: "stop", message: "told elsewhere" }];
    const answer = whyLacksUnknown(primary, standby, journal, NOW, extra);
    if (why === null) expect(answer).toBeNull();
    else expect(answer).toMatch(why);
  },
);

test("a failed call of the server's sync is told as long as something is left to sync, and not for ever (I9)", () => {
  const failure = { reason: "statement_failed", detail: "x", failures: 1, retryAt: 0 } as const;
  const flagged = slot("x", 500, { failover: true });
  const told = (here: ReturnType<typeof slot>[]) =>
    auditServerSync(primaryView([flagged]), standbyView(here, { serverVersionNum: 180_004 }), [flagged], {
      backoff: new Map([["server:sync", failure]]),
    }).map(({ code }) => code);
  expect(told([])).toEqual(["server_sync_failed"]);
  expect(told([slot("x", 400, { failover: true, synced: true })])).toEqual(["server_sync_failed"]);
  expect(told([slot("x", 500, { failover: true, synced: true })])).toEqual([]);
});
