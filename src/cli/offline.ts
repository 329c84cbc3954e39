/** What `stage` and `seed` do where the standby does not run. */
import type { Command } from "commander";
import type { Config } from "../config/load.ts";
import { DataDirectoryError } from "../datadir/errors.ts";
import { isAlive, readIdentity } from "../datadir/identity.ts";
import { describeAction, type FileAction } from "../domain/action.ts";
import { LockedError } from "../journal/lock.ts";
import { createLogger } from "../log/logger.ts";
import { systemClock } from "../observe/clock.ts";
import { linkOptionsOf, policyOf, selectionOf } from "../sync/from-config.ts";
import { PrimaryLink } from "../sync/links.ts";
import { OfflineError, type OfflineResult, primaryConninfoIn, stageOffline } from "../sync/offline.ts";
import { CommandError, EXIT } from "./exit.ts";
import type { Output } from "./output.ts";
import { standbyName } from "./settings.ts";
import { holdState } from "./state.ts";
import { signalExit, stopOnSignals } from "./stopping.ts";
import { printable } from "./terminal.ts";

export interface StageFlags {
  dryRun?: boolean;
  json?: boolean;
}

/** The configured data directory. Throws CommandError when there is none. */
export function dataDirectoryOf(config: Config): string {
  const { dataDirectory } = config.standby;
  if (dataDirectory !== undefined) return dataDirectory;
  throw new CommandError(
    "standby.data_directory is not set: slot files are staged there; set it to the standby's data directory",
    EXIT.cannotTell,
  );
}

/** Stages into the directory of a server that is down; returns the exit code. */
export async function stageStopped(
  config: Config,
  command: string,
  flags: StageFlags,
  output: Output,
): Promise<number> {
  const directory = dataDirectoryOf(config);
  await refuseRunning(directory);
  const log = createLogger({
    level: config.log.level,
    format: "pretty",
    fd: 2,
    standby: standbyName(config),
  });
  const stopping = stopOnSignals();
  const link = linkOptionsOf(config, command, stopping.signal, (warning) => log.warn(warning));
  const primary = new PrimaryLink(config.primary, config.standby.conn.database ?? "postgres", link);
  try {
    const { lock, journal } = await holdState(config, command, log, () => stopping.stop());
    try {
      const result = await stageOffline(
        {
          directory,
          stateDirectory: config.stateDirectory,
          journal,
          primary,
          primaryConninfo: config.primary.dsn ? null : await primaryConninfoIn(directory),
          selection: selectionOf(config),
          policy: policyOf(config),
          log,
          clock: systemClock(),
        },
        flags.dryRun ?? false,
      );
      return tell(result, flags, output);
    } finally {
      await lock.release();
    }
  } catch (error) {
    if (stopping.by !== null) return signalExit(stopping);
    if (error instanceof OfflineError || error instanceof DataDirectoryError || error instanceof LockedError)
      throw new CommandError(error.message, EXIT.no, { cause: error });
    throw error;
  } finally {
    await primary.close();
    stopping.release();
  }
}

/** Throws CommandError while postmaster.pid names a process that lives. */
export async function refuseRunning(directory: string): Promise<void> {
  const { running } = await readIdentity(directory).catch((error: unknown) => {
    throw new CommandError(error instanceof Error ? error.message : String(error), EXIT.no, { cause: error });
  });
  if (running === null || !isAlive(running)) return;
  throw new CommandError(
    `a server runs in ${directory} (process ${running.pid}, port ${running.port}): slotsync stage works beside it, through standby.dsn`,
    EXIT.no,
  );
}

function tell({ actions, failures, staged }: OfflineResult, flags: StageFlags, output: Output): number {
  if (flags.json)
    output.json({ dryRun: flags.dryRun ?? false, actions: actions.map(plainAction), failures, staged });
  else {
    if (flags.dryRun) {
      for (const action of actions) output.print(`would ${printable(describeAction(action))}\n`);
    } else if (staged.length > 0)
      output.print(`staged for the next start: ${printable(staged.join(", "))}\n`);
    if (actions.length + failures.length === 0)
      output.print("nothing to stage: all that is wanted is there\n");
    for (const { slot, why } of failures) output.print(printable(`not staged: ${slot}: ${why}`).concat("\n"));
  }
  return failures.length > 0 ? EXIT.no : EXIT.ok;
}

function plainAction(action: FileAction): Record<string, unknown> {
  return { kind: action.kind, slot: action.slot, description: describeAction(action) };
}

/** Adds what both commands take. */
export function withStageFlags(command: Command): Command {
  return command
    .option("--dry-run", "only print what would be done; changes nothing")
    .option("--json", "print the result as JSON");
}
