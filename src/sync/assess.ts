/** Reads both servers and the journal, changes nothing, and says how this standby stands. What `check` and `status` run. */
import type { Config } from "../config/load.ts";
import { type AssessInput, type Assessment, assessFromJournal, assessLive } from "../domain/assess.ts";
import { emptyJournal, knowsStandby } from "../domain/journal.ts";
import type { PrimaryView, StandbyView } from "../domain/observation.ts";
import { poolerProblems } from "../domain/pooler.ts";
import type { Problem } from "../domain/prerequisites.ts";
import { buildStatus } from "../domain/status.ts";
import { type LockHolder, readLock } from "../journal/lock.ts";
import { readJournal } from "../journal/store.ts";
import { type DataDirectory, directoryOf } from "../observe/files.ts";
import { observeStandby } from "../observe/standby.ts";
import { describeError } from "../pg/errors.ts";
import { blindMs, linkOptionsOf, policyOf, quietMs, selectionOf } from "./from-config.ts";
import { PrimaryLink, pooledKeys, StandbyLink } from "./links.ts";
import { observeBoth, PrimaryUnreachableError } from "./observe-both.ts";

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
    const journal = (await readJournal(config.stateDirectory)) ?? emptyJournal("00000000");
    const pooled = poolerProblems(pooledKeys(standby, primary), []);
    const primaryProblems = [...primary.problems, ...pooled];
    const now = Date.now();
    const quietSince = quietSinceOf([seen.startedEpochS * 1_000, sidecar?.since ?? 0], now);
    const input: AssessInput = {
      ...facts,
      journal,
      standby: seen.standby,
      primaryProblems,
      now,
      quietSince,
    };
    if (!seen.standby.inRecovery) return { ...promoted(input), sidecar };
    if (seen.primary) return { ...assessLive(input, seen.primary), sidecar };
    return { ...assessFromJournal(input, seen.whyNot), sidecar };
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

type Around = { standby: StandbyView; startedEpochS: number } & (
  | { primary: PrimaryView }
  | { primary: null; whyNot: string }
);

async function lookAround(
  standby: StandbyLink,
  primary: PrimaryLink,
  directory: DataDirectory | null,
): Promise<Around> {
  const known = await observeStandby(await standby.control(), directory);
  const { startedEpochS } = known;
  if (!known.view.inRecovery) return { standby: known.view, startedEpochS, primary: null, whyNot: "" };
  try {
    const seen = await observeBoth(standby, primary, known, directory);
    return { standby: seen.look.view, startedEpochS, primary: seen.primary };
  } catch (error) {
    if (!(error instanceof PrimaryUnreachableError)) throw error;
    const look = await observeStandby(await standby.control(), directory);
    return { standby: look.view, startedEpochS, primary: null, whyNot: describeError(error) };
  }
}

/** A node that is no standby: a primary whose promotion has been finished, or has not; or that never was a standby under this journal. */
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
