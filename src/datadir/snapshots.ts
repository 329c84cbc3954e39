/** Serialized snapshots, the evidence (b) of a consistent start (I2). */
import { constants } from "node:fs";
import { open, readdir } from "node:fs/promises";
import { join } from "node:path";
import type { Lsn } from "../domain/lsn.ts";
import { SnapshotFileError, snapshotFileName, verifySnapshotFile } from "../pg/snapshot-file.ts";
import { DataDirectoryError, errnoOf, readError, writeError } from "./errors.ts";
import {
  type BeforeStep,
  createFile,
  noStep,
  ownershipOf,
  removeTree,
  renameDurably,
  temporaryTag,
} from "./files.ts";

const FOLDER = join("pg_logical", "snapshots");

/**
 * Places the snapshot of this position, after the start that loaded its slot and before the slot is first advanced: without a slot in
 * memory that needs it, a restartpoint removes it. When the promise resolves it is on disk; a sound one that is there is left alone
 * ("present"), a damaged one is replaced. Throws SnapshotFileError for bytes that are no sound snapshot, DataDirectoryError when it
 * cannot be written.
 */
export async function placeSnapshot(
  dir: string,
  lsn: Lsn,
  bytes: Uint8Array,
  major: number,
  { beforeStep = noStep }: { beforeStep?: BeforeStep } = {},
): Promise<"placed" | "present"> {
  verifySnapshotFile(bytes, major);
  if (await hasSnapshot(dir, lsn, major)) return "present";
  const path = snapshotPath(dir, lsn);
  // begins like a snapshot's name: PostgreSQL takes the position from there, and removes what a crash left once no slot needs it
  const temporary = `${path}.${temporaryTag()}.tmp`;
  const owner = await ownershipOf(dir);
  try {
    await removeTree(temporary, beforeStep);
    await createFile(temporary, bytes, owner, beforeStep);
    await renameDurably(temporary, path, beforeStep);
  } catch (error) {
    throw writeError("placing a snapshot", path, error);
  }
  return "placed";
}

/** Whether a sound snapshot of this position is there. Throws DataDirectoryError when that cannot be told. */
export async function hasSnapshot(dir: string, lsn: Lsn, major: number): Promise<boolean> {
  const path = snapshotPath(dir, lsn);
  const { O_NOFOLLOW, O_NONBLOCK, O_RDONLY } = constants;
  try {
    const file = await open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK);
    try {
      if (!(await file.stat()).isFile()) throw new DataDirectoryError("unreadable", path, "is no file");
      verifySnapshotFile(await file.readFile(), major);
    } finally {
      await file.close();
    }
    return true;
  } catch (error) {
    if (error instanceof SnapshotFileError || errnoOf(error) === "ENOENT") return false;
    throw error instanceof DataDirectoryError ? error : readError(path, error);
  }
}

/** The names in the folder of snapshots. Throws DataDirectoryError. */
export async function listSnapshotNames(dir: string): Promise<string[]> {
  const folder = join(dir, FOLDER);
  try {
    return await readdir(folder);
  } catch (error) {
    throw readError(folder, error);
  }
}

function snapshotPath(dir: string, lsn: Lsn): string {
  return join(dir, FOLDER, snapshotFileName(lsn));
}
