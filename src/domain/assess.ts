/**
 * Readiness as `check` and `status` tell it: from both servers when they answer, else from the journal held against what the standby
 * shows now. Pure. A wrong "ready" is the worst there is: whatever is not known for certain is not ready.
 */
import type { Action } from "./action.ts";
import { assertNever } from "./assert-never.ts";
import { NOTHING_CHOSEN, nothingChosen, type Selection, undecided } from "./choice.ts";
import type { JournalState, SlotRecord } from "./journal.ts";
import { noteObservation } from "./journal-update.ts";
import { judge } from "./judge.ts";
import { formatLsn, type Lsn } from "./lsn.ts";
import type { PrimaryView, StandbyView } from "./observation.ts";
import { type Memory, type Policy, plan } from "./plan.ts";
import { failureKeys } from "./plan-guard.ts";
import { asConfirmed } from "./plan-served.ts";
import { againstReadiness, type Problem, standbyProblems, timelineProblem } from "./prerequisites.ts";
import { isFailoverReady, type Verdict, waiting } from "./protection.ts";
import type { PrimarySlot } from "./slot.ts";
import { asPromoted, heldToRule, whyNotKept } from "./standing.ts";
import { buildStatus, type Status, standsAgainst } from "./status.ts";
import { latestAlive, type SignsOfLife, unseenUntil } from "./vouch.ts";
import type { Xid } from "./xid.ts";

export interface AssessInput {
  journal: JournalState;
  standby: StandbyView;
  selection: Selection;
  policy: Policy;
  now: number;
  /** Whether a sidecar holds the lock of the state directory. */
  sidecarRunning: boolean;
  /** The longest that a healthy sidecar leaves its journal as it is, ms. */
  quietMs: number;
  /** When the standby's server, or the sidecar, was started, whichever was later; ms since the epoch. */
  quietSince: number;
  /** What stands against believing the primary that was asked. */
  primaryProblems: readonly Problem[];
  /** The longest that it takes a sidecar to see that the primary is gone, ms. */
  blindMs: number;
  /** What shows that the primary lives on, where it cannot be asked. */
  signs: SignsOfLife;
  /** When the standby's server started, s since the epoch by its own clock. */
  standbyStartedS: number;
  /** What to add to a time of the journal's for the wall clock's. */
  toWallTime: number;
}

export interface Assessment {
  status: Status;
  /** What a cycle would do now; empty when the primary does not answer. */
  actions: Action[];
  /** False when nothing certain can be said: `check` answers 2. */
  certain: boolean;
}

/** Both servers answered. */
export function assessLive(input: AssessInput, primary: PrimaryView): Assessment {
  const { journal, standby, selection, policy, now } = input;
  const extra = [...input.primaryProblems, ...sidecarProblems(input)];
  const judged = judge(primary, standby, journal, selection, policy, memoryFrom(journal, now), extra);
  const verdicts = new Map(judged.plan.verdicts);
  const asRecorded = asPromoted(journal, standby);
  for (const slot of judged.chosen) {
    const protection = verdicts.get(slot.name)?.protection ?? "waiting";
    if (!isFailoverReady(protection)) continue;
    const known = journal.slots.get(slot.name);
    const why = whyNotKept(known, protection, slot, asRecorded) ?? whyUnwatched(known, slot, input);
    if (why !== null) verdicts.set(slot.name, unrecorded(input, why));
  }
  const seen = noteObservation(journal, {
    primary,
    standby,
    chosen: judged.chosen,
    plan: { ...judged.plan, verdicts },
    busy: new Set(),
    filesBusy: true,
    undecided: undecided(judged.notChosen),
    problems: [],
    now,
  });
  // what a running sidecar has to say about itself stays
  const state: JournalState = { ...seen, phase: journal.phase === "promoting" ? "promoting" : "standby" };
  return {
    status: buildStatus(state, standby, judged.problems, "live", judged.notChosen),
    actions: judged.actions,
    certain: judged.trusted,
  };
}

/**
 * I4: a promotion would bring the slot to the recorded position, and the rows for that are proven as of the look that recorded it.
 * The primary's slot has held them only as long as it stood there. Nor does a server of 16 or later tell of all rows that are gone: a
 * rewrite of a catalog (`VACUUM FULL`) removes them without a word.
 */
function whyUnwatched(
  known: SlotRecord | undefined,
  { confirmedFlushLsn }: PrimarySlot,
  { sidecarRunning }: AssessInput,
): string | null {
  const at = known?.primaryConfirmedFlushLsn ?? null;
  // what the server syncs it moves itself, and gives up itself
  if (sidecarRunning || known?.served || at === confirmedFlushLsn) return null;
  return `its subscriber has gone on from ${at === null ? "no position" : formatLsn(at)} since, and nobody has watched whether the catalog rows for that were kept on the primary`;
}

function unrecorded({ sidecarRunning }: AssessInput, why: string): Verdict {
  return waiting(
    "not_recorded",
    `a promotion goes by the journal, and by that it would be lost (${why}): ${
      sidecarRunning
        ? "the sidecar records how it stands in its next cycle"
        : "no sidecar is running that could record how it stands; start slotsync run"
    }`,
  );
}

/** The primary does not answer: what was seen last, held against what the standby still has. */
export function assessFromJournal(input: AssessInput, whyNot: string): Assessment {
  const { journal, standby, policy, now } = input;
  const here = standbyProblems(standby, journal).map((problem) => asLeaderless(problem, journal));
  const { primaryTimeline } = journal;
  // what was seen last is not true any more of a standby that follows another primary by now
  const differs = primaryTimeline === null ? null : timelineProblem(primaryTimeline, standby, journal);
  if (differs) here.push(differs);
  const toldHere = new Set(here.map((problem) => problem.message));
  const problems = [...here, ...journal.problems.filter((message) => !toldHere.has(message)).map(asProblem)];
  const stale = staleness(input);
  if (stale) problems.push({ code: "journal_stale", severity: "stop", message: `${stale}; ${whyNot}` });
  else problems.push({ code: UNREACHABLE, severity: "warning", message: whyNot });

  const remembered = [...journal.slots.values()].filter((record) => !record.obsolete);
  if (remembered.length === 0 && journal.observedAt > 0)
    problems.push(nothingChosen(input.selection, [], null));
  const { verdicts } = plan({
    primary: lastPrimary(journal, standby),
    standby,
    chosen: remembered.map((record) => asConfirmed(asPrimarySlot(record), { standby, journal })),
    journal,
    policy,
    memory: memoryFrom(journal, now),
  });
  const asRecorded = asPromoted(journal, standby);
  const slots = new Map(
    [...journal.slots].map(([name, record]) => [
      name,
      heldToRule(record, withLastVerdict(record, verdicts.get(name)), asRecorded),
    ]),
  );
  const status = buildStatus({ ...journal, slots }, standby, problems, "journal");
  return { status, actions: [], certain: stale === null };
}

/**
 * An HA manager clears primary_slot_name of every standby while there is no leader, just when readiness is asked for. What was proven
 * while there was one does not hang on it; where the last look at the primary found it unset, it stands against readiness still.
 */
function asLeaderless(problem: Problem, { problems }: JournalState): Problem {
  const cleared = problem.code === "primary_slot_name_unset" && !problems.includes(problem.message);
  return cleared ? { ...problem, severity: "warning" } : problem;
}

/** Ready only when it was and still is; what was not ready then can have become so only by WAL that came in. */
function withLastVerdict(record: SlotRecord, verdict: Verdict | undefined): SlotRecord {
  if (!verdict) return record;
  const could = isFailoverReady(record.protection) || record.reason === "wal_not_flushed";
  return could || !isFailoverReady(verdict.protection) ? { ...record, ...verdict } : record;
}

/**
 * Why the journal is no ground for an answer, or null (I15). Between the last moment in which the primary was seen to have written nothing
 * new and its loss, subscribers may have gone on: that time must be no more than it takes to notice, and nothing may show that the primary
 * has lived on.
 */
function staleness(input: AssessInput): string | null {
  const { journal, now, sidecarRunning, quietMs, blindMs, toWallTime } = input;
  if (journal.observedAt === 0) return "the journal has never seen the primary";
  const told = `the journal last saw the primary at ${new Date(journal.quietUntil + toWallTime).toISOString()}`;
  const livedOn = whyUnseen(input);
  if (livedOn !== null) return `${told}, and ${livedOn}${confirmedPast(input)}`;
  const age = now - journal.quietUntil;
  if (journal.primaryLostAt !== null) {
    const unseen = journal.primaryLostAt - journal.quietUntil;
    return unseen > blindMs
      ? `${told}, ${seconds(unseen)} before it was lost: much may have happened in between`
      : null;
  }
  // a sidecar at work has looked for new WAL all the time since, and found none
  if (age <= (sidecarRunning ? quietMs : blindMs)) return null;
  return sidecarRunning
    ? `${told}, ${seconds(age)} ago, and the sidecar seems to hang`
    : `${told}, ${seconds(age)} ago, and no sidecar has been running since to say when the primary was lost`;
}

/** What shows that the primary was alive after the journal last saw it, or may have been, in words; null when nothing does. */
function whyUnseen({ journal, signs, now, sidecarRunning, standbyStartedS }: AssessInput): string | null {
  if (!sidecarRunning && journal.standbyStartedS !== null && journal.standbyStartedS !== standbyStartedS)
    return "this standby has been started since, with no sidecar running to watch the primary: no look at both since";
  // a sidecar that has the primary's ear asks it all the time: then a message is no news
  const heard = sidecarRunning && journal.primaryLostAt === null ? { ...signs, messageAgeMs: null } : signs;
  const alive = latestAlive(journal, heard, now);
  const unseen = unseenUntil(journal, alive);
  if (alive === null || unseen === null) return null;
  const later = `${seconds(unseen.to - unseen.from)} later`;
  switch (alive.how) {
    case "wal":
      return `WAL of it that nobody has looked at has come to this standby up to ${later}: no look at both since`;
    case "message":
      return `this standby still heard from it ${later}: no look at both since`;
    case "refusal":
      return `it refused an answer ${later}, so it is not dead: no look at both since`;
    case "looked":
      return `it went on without this standby, up to ${later} at least: no look at both since`;
    case "unwatched":
      return `neither the sidecar nor this standby was there all the time up to ${later}: no look at both since`;
    default:
      return assertNever(alive.how);
  }
}

/** Subscribers that were seen to have confirmed more than this standby has, while it was down. */
function confirmedPast({ journal, standby }: AssessInput): string {
  const past = [...journal.slots.values()].filter(
    ({ primaryConfirmedFlushLsn: at, obsolete }) => !obsolete && at !== null && at > standby.flushedLsn,
  );
  if (past.length === 0) return "";
  const named = past.slice(0, 3).map(({ name }) => `"${name}"`);
  const more = past.length > 3 ? ` and ${past.length - 3} more` : "";
  return `; confirmed past this standby's WAL: ${named.join(", ")}${more}`;
}

function sidecarProblems(input: AssessInput): Problem[] {
  const { journal, now, sidecarRunning, quietMs } = input;
  const guarded = [...journal.slots.values()].some((record) => record.protection === "guarded");
  if (!sidecarRunning)
    return [
      {
        code: "sidecar_not_running",
        severity: "warning",
        message: `no sidecar is running for this state_directory: positions fall behind${guarded ? ", and slots that only a guard holds need `slotsync finish` after a promotion" : ""}; start slotsync run`,
      },
    ];
  // a server that has just come back, and a sidecar that has just been started, have had no time yet
  if (now - Math.max(journal.observedAt, input.quietSince) <= quietMs) return [];
  const age = now - journal.observedAt;
  return [
    {
      code: "sidecar_stalled",
      severity: "stop",
      message: `a sidecar is running, but has recorded nothing ${journal.observedAt === 0 ? "yet" : `for ${seconds(age)}`}: see its log`,
    },
  ];
}

/** The planner's memory of a process that has none of its own: failures of the running sidecar count, its clocks do not. */
function memoryFrom(journal: JournalState, now: number): Memory {
  const backoff = new Map(
    [...journal.slots.values()].flatMap((record) => {
      const { failure } = record;
      if (!failure) return [];
      return failureKeys(record).map((key) => [key, { ...failure, retryAt: 0, failures: 1 }] as const);
    }),
  );
  return {
    now,
    budgetMs: Number.MAX_SAFE_INTEGER,
    backoff,
    busyDatabases: new Set(),
    creatingGuards: new Set(),
    serverSync: null,
    guardAdvancedAt: new Map(),
    restUntil: new Map(),
    filesBusy: false,
  };
}

function lastPrimary(journal: JournalState, standby: StandbyView): PrimaryView {
  return {
    systemIdentifier: standby.systemIdentifier,
    inRecovery: false,
    timeline: journal.primaryTimeline ?? 0,
    walLevel: "logical",
    serverVersionNum: standby.serverVersionNum,
    walLsn: 0n as Lsn,
    physicalSlot: null,
    slots: [],
    registry: { kind: "unreadable", why: "the primary does not answer" },
    maySnapshot: true,
    mayReadFiles: true,
    stalledStandbySlots: [],
    prepared: [],
    remembered: true,
    oldestXid: 0 as Xid,
    pins: [],
  };
}

function asPrimarySlot(record: SlotRecord): PrimarySlot {
  return {
    name: record.name,
    database: record.database,
    databaseOid: record.databaseOid,
    plugin: record.plugin,
    twoPhase: record.twoPhase,
    temporary: false,
    activePid: null,
    restartLsn: record.primaryRestartLsn,
    confirmedFlushLsn: record.primaryConfirmedFlushLsn,
    catalogXmin: null,
    invalidation: record.primaryInvalidation,
    failover: record.failover,
    synced: false,
  };
}

function asProblem(message: string): Problem {
  return { code: "last_seen", severity: "stop", message };
}

function seconds(ms: number): string {
  return `${Math.round(ms / 1_000)} s`;
}

/** Problems that keep one from telling at all, rather than from being ready. */
const CANNOT_TELL = [
  "journal_stale",
  "standby_unreachable",
  "system_identifier_differs",
  "primary_in_recovery",
  "journal_of_another_cluster",
  "timeline_differs",
  "timeline_hidden",
  "split_brain",
];

/** False when something keeps the sidecar itself from telling how the standby stands. */
export function isCertain(problems: readonly Problem[]): boolean {
  return !problems.some(({ code }) => CANNOT_TELL.includes(code));
}
const UNREACHABLE = "primary_unreachable";

/** `check`'s answer: 0 failover-ready, 1 not, 2 cannot tell; and one line that says why. */
export interface Answer {
  code: 0 | 1 | 2;
  line: string;
}

/** Answers for the whole standby, or for one slot. */
export function answer(
  { status, certain }: Pick<Assessment, "status" | "certain">,
  slotName?: string,
): Answer {
  const whyNot =
    status.problems.find(({ code }) => code === UNREACHABLE)?.message ?? "the primary does not answer";
  const asOf =
    status.source === "journal" ? ` (as last seen at ${status.observedAt ?? "no time"}; ${whyNot})` : "";
  const stops = againstReadiness(status.problems).map((problem) => problem.message);
  // also of a node that was a primary when it was last seen
  if (!certain && status.role !== "standby") return { code: 2, line: `cannot tell: ${stops.join("; ")}` };
  if (status.role !== "standby")
    return {
      code: 1,
      line: `not ready: this node is ${status.role === "primary" ? "a primary" : "being promoted"}, not a standby`,
    };
  if (!certain) return { code: 2, line: `cannot tell: ${stops.join("; ")}` };
  const nothing = status.problems.find(({ code }) => code === NOTHING_CHOSEN);
  if (nothing) return { code: 2, line: `cannot tell: ${nothing.message}` };

  const chosen =
    slotName === undefined ? status.slots : status.slots.filter((slot) => slot.name === slotName);
  if (slotName !== undefined && chosen.length === 0)
    return { code: 1, line: `not ready: no failover slot is named "${slotName}"${asOf}` };
  if (stops.length > 0) return { code: 1, line: `not ready: ${stops.join("; ")}${asOf}` };
  const bad = chosen.filter(standsAgainst);
  if (bad.length > 0) {
    const named = bad
      .slice(0, 3)
      .map((slot) => `"${slot.name}" is ${slot.protection} (${slot.reason}): ${slot.detail}`);
    const more = bad.length > 3 ? `; and ${bad.length - 3} more` : "";
    return {
      code: 1,
      line: `not ready: ${bad.length} of ${chosen.length} failover slots: ${named.join("; ")}${more}${asOf}`,
    };
  }
  const count = chosen.length === 1 ? "1 failover slot is" : `${chosen.length} failover slots are`;
  return { code: 0, line: `ready: ${count} safe on this standby${asOf}` };
}
