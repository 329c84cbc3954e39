/**
 * Files in a directory that a PostgreSQL server owns: what is written is on disk when the promise resolves, belongs to the server's
 * account, and no link is followed on the way to it. Nothing is cleaned up after a failure: what is left behind lies under a
 * temporary name that PostgreSQL ignores, just as after a crash.
 */
import { constants } from "node:fs";
import { link, lstat, open, rename, rm, stat, unlink } from "node:fs/promises";
import { dirname } from "node:path";
import { errnoOf, readError } from "./errors.ts";

let serial = 0;

/** Tells our temporary files apart: within this process by a number, from those of others by its id. */
export function temporaryTag(): string {
  serial += 1;
  return `slotsync-${process.pid}-${serial}`;
}

/**
 * Called before each file-system call that changes something, with its name. A test that throws here leaves the disk as a crash at
 * this point would.
 */
export type BeforeStep = (step: string) => void | Promise<void>;

export const noStep: BeforeStep = () => {};

/** Who files in the data directory belong to, and how open they are to the server's group. */
export interface Ownership {
  uid: number;
  gid: number;
  folderMode: number;
  fileMode: number;
}

/** Like what the server itself makes beside it. Throws DataDirectoryError. */
export async function ownershipOf(dataDirectory: string): Promise<Ownership> {
  try {
    const { uid, gid, mode } = await stat(dataDirectory);
    // 0700, or 0750 in a cluster that its group may read: PostgreSQL starts on nothing more open
    const folderMode = 0o700 | (mode & 0o050);
    return { uid, gid, folderMode, fileMode: folderMode & 0o640 };
  } catch (error) {
    throw readError(dataDirectory, error);
  }
}

/** Makes a file that is not there yet, whole. `bytes` may be given in pieces. */
export async function createFile(
  path: string,
  bytes: Uint8Array | AsyncIterable<Uint8Array>,
  owner: Ownership,
  before: BeforeStep = noStep,
): Promise<void> {
  const { O_CREAT, O_EXCL, O_NOFOLLOW, O_WRONLY } = constants;
  await before(`create ${path}`);
  const file = await open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0o600);
  try {
    // a server that cannot open a file of a slot does not start (I11)
    if (process.geteuid?.() === 0) {
      await before(`chown ${path}`);
      await file.chown(owner.uid, owner.gid);
    }
    await before(`chmod ${path}`);
    await file.chmod(owner.fileMode);
    await before(`write ${path}`);
    if (bytes instanceof Uint8Array) await file.writeFile(bytes);
    else for await (const piece of bytes) await file.writeFile(piece);
    await before(`fsync ${path}`);
    await file.sync();
  } finally {
    await file.close();
  }
}

/** Gives a folder that was just made to the server's account. */
export async function giveFolder(path: string, owner: Ownership, before: BeforeStep = noStep): Promise<void> {
  const { O_DIRECTORY, O_NOFOLLOW, O_RDONLY } = constants;
  const folder = await open(path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW);
  try {
    if (process.geteuid?.() === 0) {
      await before(`chown ${path}`);
      await folder.chown(owner.uid, owner.gid);
    }
    await before(`chmod ${path}`);
    await folder.chmod(owner.folderMode);
  } finally {
    await folder.close();
  }
}

/** A name in a folder is only on disk once the folder is. */
export async function syncFolder(path: string, before: BeforeStep = noStep): Promise<void> {
  await before(`fsync ${path}`);
  const folder = await open(path, "r");
  try {
    await folder.sync();
  } finally {
    await folder.close();
  }
}

/** Renames within or between folders of ours and has it on disk. */
export async function renameDurably(from: string, to: string, before: BeforeStep = noStep): Promise<void> {
  await before(`rename ${from}`);
  await rename(from, to);
  await syncFolder(dirname(to), before);
}

/** A rename that never takes the place of a file that the server has made meanwhile. False when there is one: then `from` is left. */
export async function renameUnlessThere(
  from: string,
  to: string,
  before: BeforeStep = noStep,
): Promise<boolean> {
  await before(`link ${from}`);
  try {
    await link(from, to);
  } catch (error) {
    // a file system without hard links
    const unsupported = ["EPERM", "ENOSYS", "ENOTSUP", "EOPNOTSUPP"].includes(errnoOf(error));
    if (!unsupported && errnoOf(error) !== "EEXIST") throw error;
    if (!unsupported || (await kindOf(to)) !== null) return false;
    await rename(from, to);
    return true;
  }
  await before(`remove ${from}`);
  await unlink(from);
  return true;
}

/** What lies there, a link as itself: null when nothing does. */
export async function kindOf(path: string): Promise<"file" | "folder" | "other" | null> {
  try {
    const found = await lstat(path);
    if (found.isDirectory()) return "folder";
    return found.isFile() ? "file" : "other";
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return null;
    throw readError(path, error);
  }
}

/** Removes a file or a folder with what is in it, links as themselves; true when there was one. */
export async function removeTree(path: string, before: BeforeStep = noStep): Promise<boolean> {
  const kind = await kindOf(path);
  if (kind === null) return false;
  await before(`remove ${path}`);
  await rm(path, { recursive: true, force: true });
  return true;
}
