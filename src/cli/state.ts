/** The state directory in the hands of one process: its lock and its journal, then the sidecar on top of them. */
import { randomBytes } from "node:crypto";
import type { Logger } from "pino";
import { type Config, isOpenToAll, writersOf } from "../config/load.ts";
import type { Status } from "../domain/status.ts";
import { acquireLock, type Lock } from "../journal/lock.ts";
import { type Journal, openJournal } from "../journal/store.ts";
import { systemClock } from "../observe/clock.ts";
import { applicationNameOf, policyOf, restartOptionsOf, selectionOf } from "../sync/from-config.ts";
import { Sidecar } from "../sync/sidecar.ts";
import { CommandError, EXIT } from "./exit.ts";

export interface HeldState {
  lock: Lock;
  journal: Journal;
}

/** Takes the lock, then opens the journal. Throws CommandError for a directory that everybody may write to, LockedError, and what journal/errors.ts names; `onLost` as for the lock. */
export async function holdState(
  config: Config,
  command: string,
  log: Logger,
  onLost: () => void,
): Promise<HeldState> {
  const { stateDirectory } = config;
  if (isOpenToAll(stateDirectory))
    throw new CommandError(
      `state_directory ${stateDirectory} can be written by everybody, and the journal in it decides which slots are moved and dropped: chmod go-w ${stateDirectory}`,
      EXIT.cannotTell,
    );
  for (const warning of writersOf(stateDirectory, "state_directory")) log.warn(warning);
  const lock = await acquireLock(config.stateDirectory, { command: `slotsync ${command}`, onLost });
  try {
    const journal = await openJournal(config.stateDirectory, {
      now: Date.now,
      randomId: () => randomBytes(4).toString("hex"),
    });
    if (journal.setAside !== null)
      log.warn(
        `the journal was damaged (${journal.damage}) and is set aside as ${journal.setAside}; starting with an empty one: ` +
          "nothing is dropped on its word, and slots that are on this standby already count as somebody else's (name_conflict) " +
          "until you drop them there, or put a sound copy of the journal back while no sidecar runs",
      );
    return { lock, journal };
  } catch (error) {
    await lock.release();
    throw error;
  }
}

export interface SidecarParts {
  config: Config;
  command: string;
  journal: Journal;
  log: Logger;
  signal: AbortSignal;
  onStatus: (status: Status) => void;
}

/** A sidecar as the configuration describes it; nothing is connected yet. */
export function buildSidecar({ config, command, journal, log, signal, onStatus }: SidecarParts): Sidecar {
  return new Sidecar({
    selection: selectionOf(config),
    policy: policyOf(config),
    nap: config.nap,
    timeouts: config.timeouts,
    standbyConn: config.standby.conn,
    primary: config.primary,
    dataDirectory: config.standby.dataDirectory ?? null,
    stateDirectory: config.stateDirectory,
    restart: command === "run" ? restartOptionsOf(config) : null,
    finishConnections: config.finish.connections,
    applicationName: applicationNameOf(command),
    journal,
    log,
    clock: systemClock(),
    signal,
    onStatus,
  });
}
