/** `slotsync finish`: the finishing step after a promotion, once, for HA managers' hooks and where no sidecar was running. */
import type { Command } from "commander";
import type { Logger } from "pino";
import type { Config } from "../config/load.ts";
import { nowOn, onThisBoot, toWallTime } from "../domain/clock.ts";
import type { FinishReport } from "../domain/finish.ts";
import type { JournalState } from "../domain/journal.ts";
import { LockedError, type LockHolder, readLock } from "../journal/lock.ts";
import { readJournal } from "../journal/store.ts";
import { createLogger } from "../log/logger.ts";
import { systemClock } from "../observe/clock.ts";
import { observeStandby } from "../observe/standby.ts";
import { ConnectError, describeError, SessionLostError, sqlStateOf } from "../pg/errors.ts";
import { sleep } from "../pg/sleep.ts";
import { finishOnce } from "../sync/finish.ts";
import { blindMs, linkOptionsOf } from "../sync/from-config.ts";
import { StandbyLink } from "../sync/links.ts";
import { CommandError, EXIT } from "./exit.ts";
import { formatFinish } from "./format-finish.ts";
import type { Output } from "./output.ts";
import { afterPredecessor } from "./predecessor.ts";
import { configOf, parseSeconds, standbyName } from "./settings.ts";
import { type HeldState, holdState } from "./state.ts";
import { signalExit, stopOnSignals } from "./stopping.ts";

/** How often the server and the journal are looked at while waiting. */
const POLL_MS = 100;
/** A server in recovery that streams for so long is a standby that nobody promotes. */
const STREAMING_MS = 3_000;

interface FinishOptions {
  timeout: number;
  json?: boolean;
}

export function addFinish(program: Command, output: Output, setExit: (code: number) => void): void {
  program
    .command("finish")
    .description("after a promotion: bring every slot to its exact position, and print the gap report")
    .option(
      "--timeout <seconds>",
      "how long to wait for the end of recovery and for a running sidecar",
      parseSeconds,
      60,
    )
    .option("--json", "print the gap report as JSON")
    .addHelpText(
      "after",
      `
For the hooks of HA managers, and where no sidecar was running at the promotion. A running sidecar finishes by itself:
then this waits for it. Can be repeated: what has been done is not done again, and the same report is printed.

Exit codes: 0 finished, now or before; 1 not (still a standby, timed out, or a slot could not be brought to its
position: run it again); 2 the configuration or the command line is wrong.

Examples:
  pg_ctl promote && slotsync finish -c slotsync.yaml
  slotsync finish -c slotsync.yaml --timeout 300 --json | jq '.slots[] | select(.confirmedBeyondEndBytes > 0)'`,
    )
    .action(async (options: FinishOptions, command: Command) => {
      const config = configOf(command, output);
      const stopping = stopOnSignals();
      try {
        const report = await finish(config, options.timeout, stopping.signal, output);
        if (options.json) output.json(report);
        else if (report) output.print(formatFinish(report, output.paint));
        else
          output.print(
            `nothing to finish: no sidecar with the journal in ${config.stateDirectory} has seen this node follow a primary. If it did until now, look at each slot in pg_replication_slots before its subscriber uses it\n`,
          );
        setExit(report && !report.complete ? EXIT.no : EXIT.ok);
      } catch (error) {
        if (stopping.by === null) throw error;
        setExit(signalExit(stopping));
      } finally {
        stopping.release();
      }
    });
}

interface Context {
  config: Config;
  signal: AbortSignal;
  output: Output;
  log: Logger;
  /** By `performance.now()`. */
  deadline: number;
  timeout: number;
}

async function finish(
  config: Config,
  timeout: number,
  signal: AbortSignal,
  output: Output,
): Promise<FinishReport | null> {
  const log = createLogger({
    level: config.log.level,
    format: "pretty",
    fd: 2,
    standby: standbyName(config),
  });
  const context = { config, signal, output, log, timeout, deadline: performance.now() + timeout * 1_000 };
  await recoveryEnded(context);
  for (let told = false; ; ) {
    const holder = await readLock(config.stateDirectory);
    if (holder === null) {
      const state = await tryHold(context);
      if (state) return finishHolding(state, context);
    } else {
      const done = progress(await readJournal(config.stateDirectory));
      if (done?.complete) return done.report;
      if (!told) log.info(`waiting for ${describeHolder(holder)} to finish the promotion`);
      told = true;
      if (performance.now() > context.deadline) return timedOut(done?.report ?? null, holder, context);
    }
    await nap(context);
  }
}

/** How far the promotion that has made this node the primary is finished; the report is null when it never was a standby. */
function progress(journal: JournalState | null): { report: FinishReport | null; complete: boolean } | null {
  if (journal?.phase !== "primary") return null;
  return { report: journal.finish, complete: journal.finish?.complete ?? true };
}

/** What the sidecar has got to when time is up: its incomplete report, if there is one. */
function timedOut(done: FinishReport | null, holder: LockHolder, { timeout }: Context): FinishReport {
  if (done) return done;
  throw new CommandError(
    `${describeHolder(holder)} has not finished the promotion within ${timeout} s: see its log, or stop it and run slotsync finish again`,
    EXIT.no,
  );
}

/** Null when somebody else has just taken the lock. */
async function tryHold({ config, log }: Context): Promise<HeldState | null> {
  try {
    return await holdState(config, "finish", log, () => {
      log.fatal("the lock was lost: another process works in the state directory");
      process.exit(EXIT.no);
    });
  } catch (error) {
    if (error instanceof LockedError) return null;
    throw error;
  }
}

async function finishHolding({ lock, journal }: HeldState, context: Context): Promise<FinishReport | null> {
  const { config, log, signal } = context;
  try {
    if (journal.setAside !== null)
      throw new CommandError(
        `the journal was damaged and is set aside as ${journal.setAside}: what stood in it is not known, so no slot was touched. Look at each slot in pg_replication_slots before its subscriber uses it`,
        EXIT.no,
      );
    const link = new StandbyLink(
      config.standby.conn,
      linkOptionsOf(config, "finish", signal, (w) => log.warn(w)),
      true,
    );
    try {
      const control = await afterPredecessor(() => link.control(), signal);
      if (journal.state.observedAt === 0)
        log.warn(
          `the journal in ${config.stateDirectory} has never seen a primary of this node: there is nothing to finish. If a sidecar was at work here, check state_directory`,
        );
      const clock = systemClock();
      const { journal: state, axis } = onThisBoot(journal.state, clock);
      return await finishOnce({
        control,
        open: (database) => link.open(database, "finish", true),
        openReplication: () => link.openReplication("flag"),
        connections: config.finish.connections,
        directory: config.standby.dataDirectory ?? null,
        keepUnproven: config.slots.unproven === "keep",
        journal: state,
        record: (next) => journal.save(next),
        log,
        now: () => nowOn(axis, clock),
        toWallTime: toWallTime(axis, clock),
        blindMs: blindMs(config),
      });
    } finally {
      await link.close();
    }
  } finally {
    await lock.release();
  }
}

/** Waits until the server is out of recovery. Throws CommandError when it is a standby that nobody promotes, or time is up. */
async function recoveryEnded(context: Context): Promise<void> {
  const { config, signal, log, deadline, timeout } = context;
  const link = new StandbyLink(
    config.standby.conn,
    linkOptionsOf(config, "finish", signal, (w) => log.warn(w)),
    false,
  );
  let streamingSince: number | null = null;
  let why = "";
  try {
    for (let told = false; ; ) {
      try {
        const { view } = await observeStandby(await link.control());
        if (!view.inRecovery) return;
        why = "this server is still in recovery";
        streamingSince = view.streaming ? (streamingSince ?? performance.now()) : null;
        if (streamingSince !== null && performance.now() - streamingSince >= STREAMING_MS)
          throw new CommandError(
            "this server is a standby and streams from its primary: there is no promotion to finish. Promote it first",
            EXIT.no,
          );
      } catch (error) {
        if (signal.aborted || !mayPass(error)) throw error;
        why = describeError(error);
      }
      if (performance.now() > deadline)
        throw new CommandError(`${why}, and was for ${timeout} s: no promotion was finished`, EXIT.no);
      if (!told) log.info(`waiting for the end of recovery: ${why}`);
      told = true;
      await nap(context);
    }
  } finally {
    await link.close();
  }
}

/** A server on its way up is worth waiting for, a wrong password is not. */
function mayPass(error: unknown): boolean {
  if (!(error instanceof ConnectError || error instanceof SessionLostError)) return false;
  const state = sqlStateOf(error);
  return state === undefined || !/^(28|3D)/.test(state);
}

async function nap({ signal }: Context): Promise<void> {
  await sleep(POLL_MS, signal);
  signal.throwIfAborted();
}

function describeHolder({ pid, host, command }: LockHolder): string {
  return `process ${pid} on ${host} (${command})`;
}
