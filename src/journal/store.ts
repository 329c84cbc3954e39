/**
 * The journal on disk. `journal.json` is replaced by rename only, once its successor is wholly on the device: at any crash it is
 * either the former or the new one (I10). Take the lock (lock.ts) first: two writers would overtake each other.
 */
import { access, readFile, rename, rm } from "node:fs/promises";
import { join } from "node:path";
import { emptyJournal, type JournalState } from "../domain/journal.ts";
import { decodeJournal, encodeJournal } from "./codec.ts";
import { errnoOf, JournalDamagedError, JournalReadError, JournalWriteError } from "./errors.ts";
import { ensureDirectory, syncDirectory, writeDurably } from "./files.ts";
import { INSTANCE_ID } from "./schema.ts";

const FILE = "journal.json";

export interface Journal {
  readonly path: string;
  /** As it was found, or an empty one. */
  readonly state: JournalState;
  /** Where a damaged journal was moved to, or null. */
  readonly setAside: string | null;
  /** What was wrong with that one, or null. */
  readonly damage: string | null;
  /**
   * Resolves when this state, or one that was given later, is on disk. One write at a time: what waits is overtaken by what
   * comes after it, and shares its outcome. Rejects with JournalWriteError; the file then holds what it held, and the next save
   * may succeed.
   */
  save(state: JournalState): Promise<void>;
}

export interface OpenOptions {
  now: () => number;
  /** Draws a new instance id: eight hexadecimal digits. */
  randomId: () => string;
}

/** Opens the journal for writing; makes the directory and the journal when there is none. */
export async function openJournal(directory: string, { now, randomId }: OpenOptions): Promise<Journal> {
  await ensureDirectory(directory);
  const path = join(directory, FILE);
  let found: JournalState | null = null;
  let setAside: string | null = null;
  let damage: string | null = null;
  try {
    found = await readJournal(directory);
  } catch (error) {
    if (!(error instanceof JournalDamagedError)) throw error;
    damage = error.problem;
    setAside = await moveAside(directory, path, now());
  }
  // a new id with a lost journal: what its predecessor left behind is nobody's, and never taken for ours (I7)
  const state = found ?? emptyJournal(newInstanceId(randomId));
  return { path, state, setAside, damage, save: saver(directory, path) };
}

/** Reads the journal and moves nothing; null when there is none. Throws JournalDamagedError, JournalVersionError, JournalReadError. */
export async function readJournal(directory: string): Promise<JournalState | null> {
  const path = join(directory, FILE);
  let text: string;
  try {
    text = await readFile(path, "utf8");
  } catch (error) {
    switch (errnoOf(error)) {
      case "ENOENT":
        return null;
      case "EISDIR":
        throw new JournalDamagedError(path, "it is a directory");
      case "ERR_FS_FILE_TOO_LARGE":
      case "ERR_STRING_TOO_LONG":
        throw new JournalDamagedError(path, "it is larger than any journal");
      default:
        throw new JournalReadError(path, error);
    }
  }
  return decodeJournal(text, path);
}

function newInstanceId(randomId: () => string): string {
  const id = randomId();
  if (!INSTANCE_ID.test(id)) throw new RangeError(`not an instance id: ${JSON.stringify(id)}`);
  return id;
}

async function moveAside(directory: string, path: string, now: number): Promise<string> {
  const stamp = new Date(now).toISOString().replaceAll(/[-:.]/g, "");
  let target = `${path}.damaged-${stamp}`;
  // what was set aside before is evidence: never written over
  for (let n = 2; await exists(target); n += 1) target = `${path}.damaged-${stamp}-${n}`;
  try {
    await rename(path, target);
    await syncDirectory(directory);
  } catch (error) {
    throw new JournalWriteError("setting the damaged journal aside as", target, error);
  }
  return target;
}

async function exists(path: string): Promise<boolean> {
  try {
    await access(path);
    return true;
  } catch {
    return false;
  }
}

function saver(directory: string, path: string): Journal["save"] {
  let latest: JournalState;
  let waiting: Promise<void> | null = null;
  let running: Promise<unknown> = Promise.resolve();
  return (state) => {
    latest = state;
    if (waiting) return waiting;
    const write = running.then(() => {
      waiting = null;
      return replaceFile(directory, path, latest);
    });
    waiting = write;
    running = write.catch(() => undefined);
    return write;
  };
}

async function replaceFile(directory: string, path: string, state: JournalState): Promise<void> {
  // left over from a crash or a full disk: written over
  const next = `${path}.tmp`;
  const text = encodeJournal(state);
  try {
    await writeDurably(next, text);
  } catch (error) {
    // half a file on a full disk helps nobody
    await rm(next, { force: true }).catch(() => undefined);
    throw new JournalWriteError("writing", next, error);
  }
  try {
    await rename(next, path);
    await syncDirectory(directory);
  } catch (error) {
    throw new JournalWriteError("replacing", path, error);
  }
}
