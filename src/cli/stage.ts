/** `slotsync stage` and `slotsync unstage`: prepare this standby's next start, and undo it. */
import type { Command } from "commander";
import type { Config } from "../config/load.ts";
import { readIdentity } from "../datadir/identity.ts";
import { type Action, describeAction, isFileAction } from "../domain/action.ts";
import { noteDone } from "../domain/journal-update.ts";
import { type Status, standsAgainst } from "../domain/status.ts";
import { LockedError, readLock } from "../journal/lock.ts";
import { createLogger } from "../log/logger.ts";
import { observePromoted } from "../observe/standby.ts";
import { ConnectError } from "../pg/errors.ts";
import { sleep } from "../pg/sleep.ts";
import { assess } from "../sync/assess.ts";
import { linkOptionsOf } from "../sync/from-config.ts";
import { StandbyLink } from "../sync/links.ts";
import { unstageAll } from "../sync/unstage.ts";
import { CommandError, EXIT } from "./exit.ts";
import { dataDirectoryOf, refuseRunning, type StageFlags, stageStopped, withStageFlags } from "./offline.ts";
import type { Output } from "./output.ts";
import { configOf, parseSeconds, standbyName } from "./settings.ts";
import { buildSidecar, holdState } from "./state.ts";
import { signalExit, stopOnSignals } from "./stopping.ts";
import { settle } from "./sync.ts";
import { printable } from "./terminal.ts";

type Flags = StageFlags & { timeout: number };

const POLL_MS = 300;
/** For a slot that has only just been seen: a running sidecar may be a long nap away from it. */
const CLEAR_MS = 10_000;

export function addStage(program: Command, output: Output, setExit: (code: number) => void): void {
  withStageFlags(program.command("stage"))
    .description("prepare this standby's next start: put the files of slots and guards where it loads them")
    .option("--timeout <seconds>", "how long to wait for what has been started", parseSeconds, 60)
    .addHelpText(
      "after",
      `
PostgreSQL 11 to 15 load a slot on a standby only when it starts (16 and later: only with slots.provision). A running
sidecar stages by itself: then this waits for it and says what is staged. Where none runs, it is done here, beside a
running standby or into the data directory of a stopped one. Nothing is loaded, and nothing changes on the primary,
until the standby is started again; slotsync unstage takes it back.

Exit codes: 0 all that a start can add is staged, or is here already; 1 not, the output says why; 2 the
configuration or the command line is wrong.

Examples:
  slotsync stage -c slotsync.yaml --dry-run
  slotsync stage -c slotsync.yaml && pg_ctl restart -D /var/lib/postgresql/15/main`,
    )
    .action(async (flags: Flags, command: Command) => {
      const config = configOf(command, output);
      dataDirectoryOf(config);
      setExit(
        (await isDown(config))
          ? await stageStopped(config, "stage", flags, output)
          : await stage(config, flags, output),
      );
    });
}

/** Whether nobody answers at standby.dsn, and nobody is at work in the directory either. */
async function isDown(config: Config): Promise<boolean> {
  const link = new StandbyLink(
    config.standby.conn,
    linkOptionsOf(config, "stage", new AbortController().signal, () => {}),
    false,
  );
  try {
    await link.control();
    return false;
  } catch (error) {
    if (!(error instanceof ConnectError)) throw error;
    const { running } = await readIdentity(dataDirectoryOf(config)).catch(() => ({ running: null }));
    if (running === null) return true;
    await refuseRunning(dataDirectoryOf(config)).catch(() => {
      throw error;
    });
    return true;
  } finally {
    await link.close();
  }
}

async function stage(config: Config, flags: Flags, output: Output): Promise<number> {
  const stopping = stopOnSignals();
  try {
    if (flags.dryRun) {
      const reading = await assess(config, "stage", stopping.signal, (warning) =>
        output.tell(`warning: ${warning}`),
      );
      if (reading.status.source !== "live" || !reading.certain)
        throw new CommandError(
          `cannot tell what would be staged: ${reading.status.problems.map(({ message }) => message).join("; ")}`,
          EXIT.cannotTell,
        );
      return tell(reading.status, reading.actions.filter(isFileAction), flags, output);
    }
    const status = (await readLock(config.stateDirectory))
      ? await waitForSidecar(config, flags, stopping.signal, output)
      : await stageHere(config, flags, stopping.stop, stopping.signal);
    return tell(status, [], flags, output);
  } catch (error) {
    if (stopping.by !== null) return signalExit(stopping);
    throw error;
  } finally {
    stopping.release();
  }
}

async function stageHere(
  config: Config,
  flags: Flags,
  stop: () => void,
  signal: AbortSignal,
): Promise<Status> {
  const log = createLogger({
    level: config.log.level,
    format: "pretty",
    fd: 2,
    standby: standbyName(config),
  });
  const { lock, journal } = await holdState(config, "stage", log, stop);
  try {
    const latest: { status: Status | null } = { status: null };
    const sidecar = buildSidecar({
      config,
      command: "stage",
      journal,
      log,
      signal,
      onStatus: (status) => {
        latest.status = status;
      },
    });
    try {
      await settle(sidecar, latest, flags.timeout * 1_000, config.nap.minMs, log, isFileAction);
    } finally {
      await sidecar.close();
    }
    if (latest.status === null) throw new CommandError("cannot tell: no cycle has ended", EXIT.cannotTell);
    return latest.status;
  } finally {
    await lock.release();
  }
}

/** A running sidecar has it done within a cycle or two. */
async function waitForSidecar(
  config: Config,
  flags: Flags,
  signal: AbortSignal,
  output: Output,
): Promise<Status> {
  const began = performance.now();
  for (;;) {
    const { status } = await assess(config, "stage", signal, (warning) => output.tell(`warning: ${warning}`));
    const unfinished = missing(status).length > 0;
    const unclear = held(status).some(({ protection }) => protection === "waiting");
    const patience = unfinished
      ? flags.timeout * 1_000
      : unclear
        ? Math.min(flags.timeout * 1_000, CLEAR_MS)
        : 0;
    if (performance.now() - began >= patience) return status;
    await sleep(POLL_MS, signal);
    signal.throwIfAborted();
  }
}

/** Slots that a start would not add and that need one. */
function missing({ slots, restart }: Status): Status["slots"] {
  return slots.filter(
    ({ name, reason, standbyConfirmedFlushLsn, tableSync }) =>
      reason === "restart_pending" &&
      standbyConfirmedFlushLsn === null &&
      // a guard holds those, never a file
      tableSync === undefined &&
      !restart?.staged.includes(name),
  );
}

/** Slots that are not protected, whether or not a start would help. */
function held({ slots, restart }: Status): Status["slots"] {
  return slots.filter(
    (slot) =>
      standsAgainst(slot) && slot.reason !== "restart_pending" && !restart?.staged.includes(slot.name),
  );
}

function tell(status: Status, would: readonly Action[], flags: Flags, output: Output): number {
  const staged = status.restart?.staged ?? [];
  const about = new Set(would.flatMap((action) => (action.kind === "stage" ? action.slot : [])));
  const left = [...missing(status), ...held(status)].filter(({ name }) => !about.has(name));
  if (flags.json)
    output.json({
      dryRun: flags.dryRun ?? false,
      actions: would.map((action) => ({ kind: action.kind, description: describeAction(action) })),
      staged,
      notStaged: left.map(({ name, reason, detail }) => ({ slot: name, reason, detail })),
    });
  else {
    for (const action of would) output.print(`would ${printable(describeAction(action))}\n`);
    if (staged.length > 0) output.print(`staged for the next start: ${printable(staged.join(", "))}\n`);
    if (staged.length + would.length + left.length === 0)
      output.print("nothing is staged: no slot needs a start\n");
    for (const { name, reason, detail } of left)
      output.print(printable(`not staged: ${name}: ${reason}: ${detail}`).concat("\n"));
  }
  return left.length === 0 ? EXIT.ok : EXIT.no;
}

export function addUnstage(program: Command, output: Output, setExit: (code: number) => void): void {
  program
    .command("unstage")
    .description("take back what is staged: the next start of this standby adds nothing")
    .option("--json", "print the result as JSON")
    .addHelpText(
      "after",
      `
Only what this state_directory's journal knows as ours and the server has not loaded. A running sidecar would stage it
again: stop it first, or exclude the slots.

Exit codes: 0 nothing is staged any more; 1 a sidecar is running, or it could not be taken back; 2 the configuration or
the command line is wrong.

Examples:
  slotsync unstage -c slotsync.yaml`,
    )
    .action(async (flags: { json?: boolean }, command: Command) => {
      const removed = await unstage(configOf(command, output), output);
      if (flags.json) output.json({ removed });
      else
        output.print(
          removed.length > 0 ? `taken back: ${printable(removed.join(", "))}\n` : "nothing was staged\n",
        );
      setExit(EXIT.ok);
    });
}

async function unstage(config: Config, output: Output): Promise<string[]> {
  const directory = dataDirectoryOf(config);
  const log = createLogger({
    level: config.log.level,
    format: "pretty",
    fd: 2,
    standby: standbyName(config),
  });
  const stopping = stopOnSignals();
  const down = await isDown(config);
  const link = new StandbyLink(
    config.standby.conn,
    linkOptionsOf(config, "unstage", stopping.signal, (warning) => output.tell(`warning: ${warning}`)),
    false,
  );
  try {
    const { lock, journal } = await holdState(config, "unstage", log, () => stopping.stop());
    try {
      const identity = await readIdentity(directory);
      const { state } = journal;
      const owned = [
        ...state.slots.values(),
        ...Object.values(state.guards),
        ...Object.values(state.lowGuards),
      ]
        .filter((record) => record.state === "owned")
        .map(({ name }) => name);
      const loaded = down ? owned : (await observePromoted(await link.control())).slotNames;
      const removed = await unstageAll({
        directory,
        journal: state,
        systemIdentifier: state.systemIdentifier ?? identity.systemIdentifier,
        serverVersionNum: identity.major * 10_000,
        loaded: new Set(loaded),
      });
      let next = state;
      for (const slot of removed)
        next = noteDone(next, {
          kind: "unstage",
          slot,
          database: "",
          databaseOid: 0,
          why: "slotsync unstage",
        });
      await journal.save(next);
      return removed;
    } finally {
      await lock.release();
    }
  } catch (error) {
    if (error instanceof LockedError)
      throw new CommandError(
        `${error.message}. It would stage again what is taken back: stop it first`,
        EXIT.no,
        { cause: error },
      );
    throw error;
  } finally {
    await link.close();
    stopping.release();
  }
}
