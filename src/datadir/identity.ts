/**
 * Whose data directory a path is. Nothing is written into one before it is known to be the very directory of the server that is
 * asked by SQL: on a machine with several standbys, or with a copy of one mounted, all of them carry the same system identifier.
 */
import { access, constants, readFile, stat } from "node:fs/promises";
import { join } from "node:path";
import { DataDirectoryError, errnoOf, readError } from "./errors.ts";
import { asksForStandby } from "./settings.ts";

/** The server's state as pg_control says; "other" while it starts, stops or recovers from a crash. */
type ControlState = "shut_down" | "shut_down_in_recovery" | "in_recovery" | "in_production" | "other";

/** What postmaster.pid says of the server that runs here, or ran when its machine died. */
export interface RunningServer {
  /** In the process table of the server's own container. */
  pid: number;
  /** The postmaster's start, seconds since 1970. */
  startEpochS: number;
  /** The server's own, as `show port` tells it. */
  port: number;
}

/** What a data directory says of itself. */
export interface DirectoryIdentity {
  major: number;
  /** As `pg_control_system()` shows it. */
  systemIdentifier: string;
  /** Whether the next start is a standby's: standby.signal, before 12 a recovery.conf that asks for it. */
  standby: boolean;
  primaryState: ControlState;
  /** null when there is no postmaster.pid */
  running: RunningServer | null;
}

/** What the server says of itself by SQL. */
export interface ExpectedDirectory {
  systemIdentifier: string;
  major: number;
  /** `pg_postmaster_start_time()` and the setting `port` of the server; null when none could be asked. */
  server: { startEpochS: number; port: number } | null;
}

/** postmaster.pid has whole seconds and is written a moment before the time that `pg_postmaster_start_time()` shows. */
const START_TOLERANCE_S = 2;

/** Reads what the directory says of itself. Throws DataDirectoryError ("missing", "not_a_data_directory", "unreadable"). */
export async function readIdentity(dir: string): Promise<DirectoryIdentity> {
  const major = await readMajor(dir);
  const { systemIdentifier, primaryState } = await readControl(dir);
  return {
    major,
    systemIdentifier,
    primaryState,
    standby: await isStandby(dir, major),
    running: await readPostmasterPid(dir),
  };
}

/**
 * Throws DataDirectoryError unless this is the directory of the expected server, and one that we may write slots into. With a
 * server given, postmaster.pid must name its start (within 2 s) and its port.
 */
export async function verifyDirectory(dir: string, expected: ExpectedDirectory): Promise<void> {
  const found = await readIdentity(dir);
  if (found.systemIdentifier !== expected.systemIdentifier) {
    throw new DataDirectoryError(
      "another_cluster",
      dir,
      `has system identifier ${found.systemIdentifier}, the standby's is ${expected.systemIdentifier}`,
    );
  }
  if (found.major !== expected.major) {
    throw new DataDirectoryError(
      "another_major",
      dir,
      `is a PostgreSQL ${found.major} directory, the standby is PostgreSQL ${expected.major}`,
    );
  }
  if (expected.server) verifyRunning(dir, found.running, expected.server);
  await verifyWritable(dir);
}

function verifyRunning(
  dir: string,
  running: RunningServer | null,
  server: { startEpochS: number; port: number },
): void {
  const asked = `the standby that was asked has port ${server.port} and started at ${isoTime(server.startEpochS)}`;
  if (running === null) {
    throw new DataDirectoryError("another_server", dir, `has no postmaster.pid, and ${asked}`);
  }
  if (
    Math.abs(running.startEpochS - server.startEpochS) > START_TOLERANCE_S ||
    running.port !== server.port
  ) {
    const itsOwn = `port ${running.port} and started at ${isoTime(running.startEpochS)}`;
    throw new DataDirectoryError(
      "another_server",
      dir,
      `is that of a server with ${itsOwn} (postmaster.pid), ${asked}`,
    );
  }
}

function isoTime(epochS: number): string {
  return new Date(epochS * 1000).toISOString();
}

async function verifyWritable(dir: string): Promise<void> {
  const folder = join(dir, "pg_replslot");
  let owner: number;
  try {
    owner = (await stat(folder)).uid;
  } catch (error) {
    throw readError(folder, error);
  }
  const self = process.geteuid?.();
  // PostgreSQL opens its files as its owner alone: one of another account would keep it from starting (I11)
  if (self !== undefined && self !== 0 && self !== owner) {
    throw new DataDirectoryError(
      "not_writable",
      folder,
      `belongs to the account with id ${owner}, this runs as ${self}`,
    );
  }
  try {
    await access(folder, constants.W_OK | constants.X_OK);
  } catch (error) {
    throw new DataDirectoryError("not_writable", folder, `cannot be written (${errnoOf(error)})`, {
      cause: error,
    });
  }
}

async function readMajor(dir: string): Promise<number> {
  let text: string;
  try {
    text = await readFile(join(dir, "PG_VERSION"), "utf8");
  } catch (error) {
    if (errnoOf(error) !== "ENOENT" && errnoOf(error) !== "ENOTDIR") throw readError(dir, error);
    const directory = await stat(dir).catch((cause) => {
      throw readError(dir, cause);
    });
    const found = directory.isDirectory() ? "has no PG_VERSION" : "is not a directory";
    throw new DataDirectoryError("not_a_data_directory", dir, found, { cause: error });
  }
  const version = /^(\d+)(?:\.\d+)?\s*$/.exec(text)?.[1];
  if (version === undefined) {
    throw new DataDirectoryError("not_a_data_directory", dir, "has a PG_VERSION that names no version");
  }
  return Number(version);
}

const CONTROL_STATES: Readonly<Record<number, ControlState>> = {
  1: "shut_down",
  2: "shut_down_in_recovery",
  5: "in_recovery",
  6: "in_production",
};

async function readControl(dir: string): Promise<{ systemIdentifier: string; primaryState: ControlState }> {
  const path = join(dir, "global", "pg_control");
  let bytes: Buffer;
  try {
    bytes = await readFile(path);
  } catch (error) {
    if (errnoOf(error) === "ENOENT") {
      throw new DataDirectoryError("not_a_data_directory", dir, "has no global/pg_control", { cause: error });
    }
    throw readError(path, error);
  }
  // the control version is the major times 100, at most a few majors old: what else is there is no control file of this byte order
  const controlVersion = bytes.length >= 20 ? bytes.readUInt32LE(8) : 0;
  if (controlVersion < 900 || controlVersion > 9999) {
    throw new DataDirectoryError(
      "not_a_data_directory",
      dir,
      "has a global/pg_control that cannot be understood",
    );
  }
  return {
    systemIdentifier: bytes.readBigUInt64LE(0).toString(),
    primaryState: CONTROL_STATES[bytes.readUInt32LE(16)] ?? "other",
  };
}

async function isStandby(dir: string, major: number): Promise<boolean> {
  const name = major < 12 ? "recovery.conf" : "standby.signal";
  try {
    if (major >= 12) return (await stat(join(dir, name))).isFile();
    return await asksForStandby(dir);
  } catch (error) {
    if (errnoOf(error) === "ENOENT") return false;
    throw readError(join(dir, name), error);
  }
}

async function readPostmasterPid(dir: string): Promise<RunningServer | null> {
  const path = join(dir, "postmaster.pid");
  let text: string;
  try {
    text = await readFile(path, "utf8");
  } catch (error) {
    if (errnoOf(error) === "ENOENT") return null;
    throw readError(path, error);
  }
  const [pid, , startEpochS, port] = text.split("\n").map(Number);
  if (!pid || !startEpochS || !port) {
    throw new DataDirectoryError("unreadable", path, "is not complete, as while a server starts (try again)");
  }
  return { pid, startEpochS, port };
}

/** Whether the process that postmaster.pid names lives, as far as this process table tells. */
export function isAlive({ pid }: RunningServer): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return errnoOf(error) === "EPERM";
  }
}
