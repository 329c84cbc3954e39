/**
 * What must be right on both servers before anything is synced, as `validate_remote_info` and `ValidateSlotSyncParams` in
 * slotsync.c ask, and further. Checked in every cycle; each failure is one message that says what to set where.
 */
import { advanceKeepsRows, advanceMendedIn, createsOnStandby } from "./capability.ts";
import { cascadeProblem } from "./cascade.ts";
import { inGrace } from "./grace.ts";
import type { JournalState } from "./journal.ts";
import { describeLeftovers, leftoversOf } from "./leftovers.ts";
import { isForeignGuard } from "./names.ts";
import type { PrimaryView, StandbyView } from "./observation.ts";
import { patroniProblems } from "./patroni.ts";
import { timelineHere } from "./timeline.ts";

/**
 * A `stop` keeps the sidecar from acting and the standby from being ready, a `doubt` only the standby from being ready; a `warning` is
 * only told.
 */
export interface Problem {
  code: string;
  severity: "stop" | "doubt" | "warning";
  message: string;
  /** Of a message with figures that grow by themselves: what has to change for it to be news. */
  gist?: string;
}

const OLDEST_SUPPORTED = 110_000;

const stop = (code: string, message: string): Problem => ({ code, severity: "stop", message });
const warning = (code: string, message: string): Problem => ({ code, severity: "warning", message });

/** Problems that the standby alone shows; answered even when the primary is gone. */
export function standbyProblems(standby: StandbyView, journal: JournalState): Problem[] {
  const problems: Problem[] = [];
  if (standby.serverVersionNum < OLDEST_SUPPORTED)
    problems.push(
      stop(
        "version_unsupported",
        `the standby runs PostgreSQL ${Math.floor(standby.serverVersionNum / 10_000)}: this release of pg-slotsync supports 11 and later`,
      ),
    );
  if (standby.walLevel !== "logical")
    problems.push(
      stop(
        "standby_wal_level",
        `wal_level is "${standby.walLevel}" on the standby: set wal_level = logical there and restart it`,
      ),
    );
  if (!standby.hotStandbyFeedback)
    problems.push(
      stop(
        "feedback_off",
        "hot_standby_feedback is off on the standby, so the primary may remove catalog rows that the slots need: set hot_standby_feedback = on there and reload",
      ),
    );
  if (standby.primarySlotName === null)
    problems.push(
      stop(
        "standby_settings_hidden",
        standby.serverVersionNum < 120_000
          ? "PostgreSQL 11 tells primary_slot_name only in recovery.conf: correct standby.data_directory, and run the sidecar where it can read and write there"
          : "the role in standby.dsn may not see primary_slot_name: GRANT pg_monitor TO it on the primary",
      ),
    );
  else if (standby.primarySlotName === "")
    problems.push(
      stop(
        "primary_slot_name_unset",
        "primary_slot_name is not set on the standby: create a physical replication slot on the primary, name it there and reload",
      ),
    );
  if (!standby.mayReplicate)
    problems.push(
      stop(
        "standby_permission_denied",
        "the role in standby.dsn may not manage replication slots: ALTER ROLE … REPLICATION (and GRANT pg_monitor) on the primary",
      ),
    );
  if (journal.systemIdentifier !== null && journal.systemIdentifier !== standby.systemIdentifier)
    problems.push(
      stop(
        "journal_of_another_cluster",
        `state_directory holds the journal of another cluster (system identifier ${journal.systemIdentifier}, this standby has ${standby.systemIdentifier}): give this sidecar a state_directory of its own`,
      ),
    );
  const strays = standby.slots.filter((slot) => isForeignGuard(slot.name, journal.instanceId));
  if (strays.length > 0)
    problems.push(
      warning(
        "guards_of_a_lost_journal",
        `${strays.length} guard slot(s) on the standby belong to no journal known here and hold WAL: if no other sidecar uses them, drop them there (${strays
          .slice(0, 3)
          .map((slot) => `SELECT pg_drop_replication_slot('${slot.name}')`)
          .join("; ")})`,
      ),
    );
  problems.push(...advanceProblem(standby));
  if (standby.files?.problem) problems.push(warning("data_directory_unusable", standby.files.problem.detail));
  else if (
    standby.files === null &&
    standby.serverVersionNum >= OLDEST_SUPPORTED &&
    !createsOnStandby(standby.serverVersionNum)
  )
    problems.push(
      warning(
        "data_directory_unset",
        `PostgreSQL ${Math.floor(standby.serverVersionNum / 10_000)} takes a slot on a standby only from its data directory: set standby.data_directory to it, and run the sidecar where it can write there`,
      ),
    );
  if (standby.files?.patroni) problems.push(...patroniProblems(standby.files.patroni));
  const free = standby.maxReplicationSlots - standby.usedSlots;
  if (free < 2)
    problems.push(
      warning(
        "too_many_slots",
        `the standby has ${standby.usedSlots} of max_replication_slots = ${standby.maxReplicationSlots} in use: raise it on the standby and restart it, or new slots cannot be protected`,
      ),
    );
  return problems;
}

/** Slots that are brought on here may let go of catalog rows too early (I4). */
function advanceProblem({ serverVersionNum }: StandbyView): Problem[] {
  if (serverVersionNum < OLDEST_SUPPORTED || advanceKeepsRows(serverVersionNum)) return [];
  const mended = advanceMendedIn(serverVersionNum);
  return [
    warning(
      "advance_runs_ahead",
      `in this release of PostgreSQL, advancing a slot may let go of catalog rows that open transactions still need: a slot to which that happens is not ready, and a promotion may leave one short of its position, so that its subscriber receives changes again. ${mended === null ? "No release of this major version mends it: upgrade to 13.21 or later" : `Upgrade to ${mended} or later`}`,
    ),
  ];
}

/**
 * The standby must be on the very timeline that the positions are of, `primaryTimeline`: past a fork, a position of one timeline names other WAL than
 * the same position of another, and a subscriber's on the new one may lie beyond what a standby of the old one can ever replay (I1). A standby
 * whose timeline cannot be seen, since it is not streaming, may be on the primary's as long as that is the one seen before.
 */
export function timelineProblem(
  primaryTimeline: number,
  standby: StandbyView,
  journal: Pick<JournalState, "primaryTimeline" | "standbyTimeline">,
): Problem | null {
  const { receivedTimeline, streaming } = standby;
  const { primaryTimeline: known } = journal;
  const differs = (here: string, told: string) =>
    stop(
      "timeline_differs",

      `the primary is on timeline ${primaryTimeline}, ${here}: nothing is synced until this standby follows that primary; ${told}`,
    );
  const here = timelineHere(standby, journal);
  if (here === primaryTimeline) return null;
  if (here > primaryTimeline)
    return differs(
      `this standby on ${here} already`,
      "the one that was asked is not the one it follows: correct primary.dsn, and see whether a former primary is still running",
    );
  if (receivedTimeline !== null)
    return differs(
      `and this standby still receives ${receivedTimeline}`,
      'if it does not come to that by itself, let primary_conninfo lead there with recovery_target_timeline = latest; "forked off" in its log means that it has WAL which that primary lacks: pg_rewind it',
    );
  if (known === null || known === primaryTimeline) return null;
  return differs(
    `it was on ${known} before, and ${streaming ? "the role in standby.dsn may not see what this standby receives" : "this standby is not streaming"}`,
    streaming
      ? "GRANT pg_monitor TO it on the primary"
      : "see the standby's log, primary_conninfo and pg_stat_wal_receiver",
  );
}

/** Problems between the two servers. */
export function primaryProblems(
  primary: PrimaryView,
  standby: StandbyView,
  journal: Pick<JournalState, "primaryTimeline" | "standbyTimeline">,
): Problem[] {
  const problems: Problem[] = [];
  if (primary.systemIdentifier !== standby.systemIdentifier) {
    problems.push(
      stop(
        "system_identifier_differs",
        `primary.dsn, or primary_conninfo on the standby, leads to another cluster (system identifier ${primary.systemIdentifier}, the standby has ${standby.systemIdentifier}): nothing is synced until it names this standby's primary`,
      ),
    );
    return problems;
  }
  if (primary.inRecovery)
    problems.push(
      stop(
        "primary_in_recovery",
        "the server that primary.dsn, or primary_conninfo on the standby, leads to is a standby itself: let primary.dsn name the primary (a standby of a standby is protected from there)",
      ),
    );
  else {
    const differs = timelineProblem(primary.timeline, standby, journal);
    if (differs) problems.push(differs);
    else if (standby.streaming && standby.receivedTimeline === null && !primary.physicalSlot?.active)
      problems.push(
        stop(
          "timeline_hidden",
          "this standby streams from another server than the primary that was asked, and the role in standby.dsn may not see on which timeline: GRANT pg_monitor TO it on the primary",
        ),
      );
  }
  if (primary.walLevel !== "logical")
    problems.push(
      stop(
        "primary_wal_level",
        `wal_level is "${primary.walLevel}" on the primary: set wal_level = logical there and restart it`,
      ),
    );
  const cascade = primary.upstream ? cascadeProblem(primary, standby, primary.upstream) : null;
  if (cascade) problems.push(cascade);
  else if (standby.primarySlotName) {
    if (primary.physicalSlot === null)
      problems.push(
        stop(
          "physical_slot_missing",
          `the primary has no physical replication slot "${standby.primarySlotName}", which primary_slot_name on the standby names: SELECT pg_create_physical_replication_slot('${standby.primarySlotName}') there, or correct primary_slot_name`,
        ),
      );
    else if (!primary.physicalSlot.active || !standby.streaming)
      problems.push(
        stop(
          "physical_slot_inactive",
          `the physical replication slot "${primary.physicalSlot.name}" is not active on the primary, or not by this standby, which is not streaming (see the standby's log, primary_conninfo and pg_stat_wal_receiver)`,
        ),
      );
  }
  if (!primary.maySnapshot && createsOnStandby(primary.serverVersionNum))
    problems.push(
      warning(
        "snapshot_not_granted",
        "the role on the primary may not call pg_log_standby_snapshot(), so a new guard waits up to 15 s, or for the next checkpoint when the primary is idle: GRANT EXECUTE ON FUNCTION pg_log_standby_snapshot() TO it",
      ),
    );
  return problems;
}

/** What stands against being ready. */
export function againstReadiness(problems: readonly Problem[]): Problem[] {
  return problems.filter((problem) => problem.severity !== "warning");
}

/** What holds WAL on the standby for nobody; it does not stand against being ready. */
export function leftoverProblems(
  primary: PrimaryView,
  standby: StandbyView,
  journal: JournalState,
): Problem[] {
  if (primary.systemIdentifier !== standby.systemIdentifier || !standby.inRecovery) return [];
  const leftovers = leftoversOf(primary, standby, journal);
  if (leftovers.length === 0) return [];
  const gist = leftovers.map(({ name }) => name).toSorted();
  return [{ ...warning("leftover_slots", describeLeftovers(leftovers)), gist: gist.join(", ") }];
}

/** Why what the primary shows does not tell which slots it lacks, or null. `extra` are problems that neither server shows. */
export function whyLacksUnknown(
  primary: PrimaryView,
  standby: StandbyView,
  journal: JournalState,
  now: number,
  extra: readonly Problem[] = [],
): string | null {
  const wrong = [...primaryProblems(primary, standby, journal), ...extra].find(isOfWrongServer);
  if (wrong) return wrong.message;
  return inGrace(journal, primary, now)
    ? "the primary has changed a moment ago, and what it lacks may be being made there just now: name them, or try again when the sidecar has followed that primary for a minute"
    : null;
}

/** True when something stands against syncing and against being ready. */
export function anyStop(problems: readonly Problem[]): boolean {
  return problems.some((problem) => problem.severity === "stop");
}

const WRONG_SERVER = [
  "system_identifier_differs",
  "primary_in_recovery",
  "journal_of_another_cluster",
  "timeline_differs",
  "timeline_hidden",
  "split_brain",
];

/** False when the other server may not be this standby's primary, or its positions not of the standby's WAL: what it says must not be recorded. */
export function trustworthy(problems: readonly Problem[]): boolean {
  return !problems.some(isOfWrongServer);
}

function isOfWrongServer({ code }: Problem): boolean {
  return WRONG_SERVER.includes(code);
}
