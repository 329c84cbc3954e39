/**
 * Folders of `pg_replslot`. PostgreSQL does not start over a slot folder without a sound state file, or over one too many (I11),
 * so a folder only ever appears and disappears whole, by a rename to and from `<name>.tmp`, which PostgreSQL passes over and
 * removes at its start. All of this is for slots that the running server does not have in memory: of one it has, its own next save
 * writes over the file, and a leftover `state.tmp` keeps it from saving or advancing the slot until its next start.
 */
import { constants } from "node:fs";
import { mkdir, open, readdir, rename } from "node:fs/promises";
import { join } from "node:path";
import { isValidSlotName } from "../domain/names.ts";
import { parseSlotState, type SlotState, SlotStateError } from "../pg/slot-state-file.ts";
import { DataDirectoryError, errnoOf, readError, writeError } from "./errors.ts";
import {
  type BeforeStep,
  createFile,
  giveFolder,
  kindOf,
  noStep,
  ownershipOf,
  removeTree,
  renameDurably,
  syncFolder,
} from "./files.ts";

const FOLDER = "pg_replslot";
const TEMPORARY = ".tmp";
const STATE = "state";

/** A slot as it lies on disk, loaded or not. */
export interface SlotFolder {
  /** The folder's, which hostile hands may have made: not necessarily a slot name. */
  name: string;
  /** null: not asked for, unreadable or damaged */
  state: SlotState | null;
  /** Why PostgreSQL would not start, or would start with two slots of one name; null when it is sound or was not read. */
  problem: string | null;
}

/**
 * All slot folders that the next start will load, each of which takes one of `max_replication_slots`. The state of those in `known`
 * is not read. Throws DataDirectoryError when the list itself cannot be had.
 */
export async function listSlotFolders(
  dir: string,
  major: number,
  { known = new Set() }: { known?: ReadonlySet<string> } = {},
): Promise<SlotFolder[]> {
  const folder = join(dir, FOLDER);
  let names: string[];
  try {
    const entries = await readdir(folder, { withFileTypes: true });
    // what is no folder PostgreSQL passes over, also a link to one
    names = entries.filter((entry) => entry.isDirectory()).map(({ name }) => name);
  } catch (error) {
    throw readError(folder, error);
  }
  const slots = names.filter((name) => !name.endsWith(TEMPORARY)).sort();
  const read = async (name: string): Promise<SlotFolder | null> =>
    known.has(name) ? { name, state: null, problem: null } : readSlotFolder(folder, name, major);
  return (await Promise.all(slots.map(read))).filter((slot) => slot !== null);
}

async function readSlotFolder(folder: string, name: string, major: number): Promise<SlotFolder | null> {
  const path = join(folder, name);
  let bytes: Buffer;
  try {
    bytes = await readWithoutLinks(join(path, STATE));
  } catch (error) {
    const code = errnoOf(error);
    // dropped since it was listed
    if (code === "ENOENT" && (await kindOf(path)) === null) return null;
    const problem = code === "ENOENT" ? "it has no state file" : `its state file cannot be read (${code})`;
    return { name, state: null, problem };
  }
  try {
    const state = parseSlotState(bytes, major);
    return { name, state, problem: state.name === name ? null : `its state file is of slot "${state.name}"` };
  } catch (error) {
    if (!(error instanceof SlotStateError)) throw error;
    return { name, state: null, problem: `its state file is damaged: ${error.message}` };
  }
}

/** A state file has a few hundred bytes: whatever else stands in its place is not read into memory. */
const MOST_STATE_BYTES = 65_536;

async function readWithoutLinks(path: string): Promise<Buffer> {
  const { O_NOFOLLOW, O_NONBLOCK, O_RDONLY } = constants;
  const file = await open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK);
  try {
    const { bytesRead, buffer } = await file.read(Buffer.alloc(MOST_STATE_BYTES), 0, MOST_STATE_BYTES, 0);
    return buffer.subarray(0, bytesRead);
  } finally {
    await file.close();
  }
}

export interface WriteOptions {
  /** An existing folder's state is replaced; without it, an existing folder is an error. */
  replace?: boolean;
  beforeStep?: BeforeStep;
}

/**
 * Stages a slot for the next start (I11): when the promise resolves the folder is whole and on disk; a crash at any moment leaves
 * either nothing that PostgreSQL looks at, or a whole folder. Throws RangeError for a name or a state that must not stand there
 * (I13), SlotStateError for a damaged state, DataDirectoryError when it cannot be written.
 */
export async function writeSlotFolder(
  dir: string,
  name: string,
  stateBytes: Uint8Array,
  major: number,
  { replace = false, beforeStep = noStep }: WriteOptions = {},
): Promise<void> {
  const path = slotPath(dir, name);
  const state = parseSlotState(stateBytes, major);
  if (state.name !== name)
    throw new RangeError(`the state file is of slot "${state.name}", not of "${name}"`);
  // PostgreSQL removes any other at its start
  if (state.persistency !== "persistent")
    throw new RangeError(`the state file of "${name}" is of a ${state.persistency} slot`);

  const kind = await kindOf(path);
  if (kind !== null && (kind !== "folder" || !replace)) {
    throw new DataDirectoryError(
      "not_writable",
      path,
      `exists already (${kind}), a slot was to be staged there`,
    );
  }
  try {
    if (kind === null) await stageFolder(dir, path, stateBytes, beforeStep);
    else await replaceState(dir, path, stateBytes, beforeStep);
  } catch (error) {
    throw wrapWrite("staging a slot", path, error);
  }
}

async function stageFolder(dir: string, path: string, bytes: Uint8Array, before: BeforeStep): Promise<void> {
  const owner = await ownershipOf(dir);
  const temporary = `${path}${TEMPORARY}`;
  // of an attempt that was cut off
  await removeTree(temporary, before);
  await before(`mkdir ${temporary}`);
  // open until it is the server's own: as root, one that a crash leaves is then still the server's to remove
  await mkdir(temporary, { mode: 0o755 });
  await giveFolder(temporary, owner, before);
  await createFile(join(temporary, STATE), bytes, owner, before);
  await syncFolder(temporary, before);
  // rename would take the place of an empty folder, which is what must never stand there
  if ((await kindOf(path)) !== null) throw new Error(`${path} appeared meanwhile`);
  await renameDurably(temporary, path, before);
  // a server that starts just now empties what it finds under a temporary name: without its file it would not start once more
  if ((await kindOf(join(path, STATE))) === "file") return;
  await removeTree(path, before);
  throw new Error("a server that starts has emptied it");
}

async function replaceState(dir: string, path: string, bytes: Uint8Array, before: BeforeStep): Promise<void> {
  const owner = await ownershipOf(dir);
  // PostgreSQL's own name for it, removed at its start
  const temporary = join(path, `${STATE}${TEMPORARY}`);
  await removeTree(temporary, before);
  await createFile(temporary, bytes, owner, before);
  await renameDurably(temporary, join(path, STATE), before);
}

/**
 * Takes a staged slot back: when the promise resolves, it is gone for good. One that is not there is no error; a crash leaves it whole
 * or under a name that PostgreSQL removes. Throws RangeError for a name that no slot has, DataDirectoryError otherwise.
 */
export async function removeSlotFolder(
  dir: string,
  name: string,
  { beforeStep = noStep }: { beforeStep?: BeforeStep } = {},
): Promise<void> {
  const path = slotPath(dir, name);
  const temporary = `${path}${TEMPORARY}`;
  const kind = await kindOf(path);
  if (kind !== null && kind !== "folder") {
    throw new DataDirectoryError("not_writable", path, "is no folder, a staged slot was to be removed there");
  }
  try {
    // a folder cannot be renamed over one that is not empty
    await removeTree(temporary, beforeStep);
    if (kind === "folder") {
      await beforeStep(`rename ${path}`);
      await rename(path, temporary);
    }
    await syncFolder(join(dir, FOLDER), beforeStep);
    if (await removeTree(temporary, beforeStep)) await syncFolder(join(dir, FOLDER), beforeStep);
  } catch (error) {
    throw wrapWrite("removing a staged slot", path, error);
  }
}

/** Removes what attempts at these slots left under temporary names. For slots that the server is not making or dropping itself. */
export async function removeLeftovers(dir: string, names: Iterable<string>): Promise<void> {
  for (const name of names) {
    const temporary = `${slotPath(dir, name)}${TEMPORARY}`;
    try {
      await removeTree(temporary);
    } catch (error) {
      throw wrapWrite("removing a leftover", temporary, error);
    }
  }
}

function slotPath(dir: string, name: string): string {
  if (!isValidSlotName(name)) throw new RangeError(`not a slot name: ${JSON.stringify(name)}`);
  return join(dir, FOLDER, name);
}

function wrapWrite(doing: string, path: string, error: unknown): unknown {
  return error instanceof DataDirectoryError ? error : writeError(doing, path, error);
}
