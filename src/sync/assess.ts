/** Reads both servers and the journal, changes nothing, and says how this standby stands. What `check` and `status` run. */
import type { Config } from "../config/load.ts";
import { type AssessInput, type Assessment, assessFromJournal, assessLive } from "../domain/assess.ts";
import { type Clock, nowOn, onThisBoot, toWallTime } from "../domain/clock.ts";
import { emptyJournal, knowsStandby } from "../domain/journal.ts";
import type { PrimaryView } from "../domain/observation.ts";
import { poolerProblems } from "../domain/pooler.ts";
import type { Problem } from "../domain/prerequisites.ts";
import { buildStatus, inWallTime } from "../domain/status.ts";
import { type LockHolder, readLock } from "../journal/lock.ts";
import { readJournal } from "../journal/store.ts";
import { systemClock } from "../observe/clock.ts";
import { type DataDirectory, directoryOf } from "../observe/files.ts";
import { observeStandby, type StandbyLook } from "../observe/standby.ts";
import { describeError, isRefusal } from "../pg/errors.ts";
import { sleep } from "../pg/sleep.ts";
import { blindMs, linkOptionsOf, policyOf, quietMs, selectionOf } from "./from-config.ts";
import { PrimaryLink, pooledKeys, StandbyLink } from "./links.ts";
import { observeBoth, PrimaryUnreachableError } from "./observe-both.ts";

/** A sidecar at work notes the loss of the primary within a pulse and a write of the journal. */
const NOTED_WITHIN_MS = 3_000;
const NOTED_PULSE_MS = 100;
const NO_JOURNAL = emptyJournal("00000000");

export interface Reading extends Assessment {
  /** The running sidecar of this state directory, or null. */
  sidecar: LockHolder | null;
}

/** Assesses the standby. Never throws for a server's or a file's sake: what cannot be read is a problem in the status. */
export async function assess(
  config: Config,
  command: string,
  signal: AbortSignal,
  onWarning: (warning: string) => void,
  clock: Clock = systemClock(),
): Promise<Reading> {
  const options = linkOptionsOf(config, command, signal, onWarning);
  const standby = new StandbyLink(config.standby.conn, options, false);
  const primary = new PrimaryLink(config.primary, config.standby.conn.database ?? "postgres", options);
  const sidecar = await readLock(config.stateDirectory).catch(() => null);
  const facts = {
    selection: selectionOf(config),
    policy: policyOf(config),
    sidecarRunning: sidecar !== null,
    quietMs: quietMs(config),
    blindMs: blindMs(config),
  };
  try {
    const seen = await lookAround(standby, primary, directoryOf(config.standby.dataDirectory));
    // read after the servers: a running sidecar writes down what it is about to do before it does it, so a journal that is younger
    // than the look explains everything in it, and an older one might not
    for (const patience = clock.boot() + NOTED_WITHIN_MS; ; ) {
      const { journal, axis } = onThisBoot((await readJournal(config.stateDirectory)) ?? NO_JOURNAL, clock);
      const { view, messageAgeMs, startedEpochS } = seen.look;
      const input: AssessInput = {
        ...facts,
        journal,
        standby: view,
        primaryProblems: [...primary.problems, ...poolerProblems(pooledKeys(standby, primary), [])],
        now: nowOn(axis, clock),
        quietSince:
          quietSinceOf([startedEpochS * 1_000, sidecar?.since ?? 0], clock.wall()) - toWallTime(axis, clock),
        signs: { flushedLsn: view.flushedLsn, messageAgeMs, refused: seen.primary === null && seen.refused },
        standbyStartedS: startedEpochS,
        toWallTime: toWallTime(axis, clock),
      };
      const assessed = assessSeen(input, seen);
      // the sidecar knows better how long the primary was quiet, and is about to write that down
      const mayTell = seen.primary === null && sidecar !== null && journal.primaryLostAt === null;
      if (assessed.certain || !mayTell || clock.boot() > patience)
        return { ...assessed, status: inWallTime(assessed.status, input.toWallTime), sidecar };
      await sleep(NOTED_PULSE_MS, signal);
    }
  } catch (error) {
    return { ...unknown({ code: "cannot_tell", severity: "stop", message: describeError(error) }), sidecar };
  } finally {
    await Promise.all([standby.close(), primary.close()]);
  }
}

/** The latest of these times that the clock here has come to. */
function quietSinceOf(times: readonly number[], now: number): number {
  return Math.max(0, ...times.filter((time) => time <= now));
}

type Around = { look: StandbyLook } & (
  | { primary: PrimaryView }
  | { primary: null; whyNot: string; refused: boolean }
);

async function lookAround(
  standby: StandbyLink,
  primary: PrimaryLink,
  directory: DataDirectory | null,
): Promise<Around> {
  const known = await observeStandby(await standby.control(), directory);
  if (!known.view.inRecovery) return { look: known, primary: null, whyNot: "", refused: false };
  try {
    return await observeBoth(standby, primary, known, directory);
  } catch (error) {
    if (!(error instanceof PrimaryUnreachableError)) throw error;
    const look = await observeStandby(await standby.control(), directory);
    return { look, primary: null, whyNot: describeError(error), refused: isRefusal(error) };
  }
}

function assessSeen(input: AssessInput, seen: Around): Assessment {
  if (!seen.look.view.inRecovery) return promoted(input);
  return seen.primary ? assessLive(input, seen.primary) : assessFromJournal(input, seen.whyNot);
}

/** A node that is no standby: a primary whose promotion has been finished, or has not. */
function promoted({ journal }: AssessInput): Assessment {
  const finished = journal.phase === "primary" || !knowsStandby(journal);
  const problem: Problem = {
    code: "not_finished",
    severity: "warning",
    message: "this node has been promoted, and the finishing step has not run: slotsync finish",
  };
  const state = { ...journal, phase: finished ? ("primary" as const) : ("promoting" as const) };
  return { status: buildStatus(state, null, finished ? [] : [problem], "live"), actions: [], certain: true };
}

function unknown(problem: Problem): Assessment {
  return {
    status: buildStatus(emptyJournal("00000000"), null, [problem], "journal"),
    actions: [],
    certain: false,
  };
}
