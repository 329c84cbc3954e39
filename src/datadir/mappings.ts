/** Logical rewrite mappings: which row of a catalog went where when the catalog was rewritten (I16). */
import { constants } from "node:fs";
import { type FileHandle, open, readdir, stat, truncate } from "node:fs/promises";
import { join } from "node:path";
import { hasHole, MAPPING_BYTES, rewriteBegan } from "../pg/mapping-file.ts";
import { DataDirectoryError, errnoOf, readError, writeError } from "./errors.ts";
import {
  type BeforeStep,
  createFile,
  kindOf,
  noStep,
  ownershipOf,
  removeTree,
  renameUnlessThere,
  syncFolder,
  temporaryTag,
} from "./files.ts";

const FOLDER = join("pg_logical", "mappings");
/** PostgreSQL passes over what does not begin with "map-", and its checkpoints fail over a name that does and goes on otherwise. */
const TEMPORARY = "slotsync-";

/** Whole mappings at a time. */
const PIECE_BYTES = MAPPING_BYTES * 1_024;

/**
 * Places a file of mappings that the primary has. One that is there is not replaced, for the server's replay may be writing to it: where it
 * differs, the primary's bytes are written into it. Each byte has one right value at its place, so that whoever writes last, it is right
 * in the end: replay cuts the file off where a record begins, and writes what comes after. A part of a mapping at the end is left out: it is
 * just being written there, and its record is yet to be replayed here. Call {@link syncMappings} once all are placed.
 *
 * Throws RangeError for another name (I13), DataDirectoryError when it cannot be written; what the source throws comes through.
 */
export async function placeMapping(
  dir: string,
  name: string,
  chunks: AsyncIterable<Uint8Array>,
  { beforeStep = noStep }: { beforeStep?: BeforeStep } = {},
): Promise<void> {
  const path = mappingPath(dir, name);
  const temporary = join(dir, FOLDER, `${TEMPORARY}${temporaryTag()}.tmp`);
  const source = watched(chunks);
  try {
    await createFile(temporary, source.chunks, await ownershipOf(dir), beforeStep);
    const { size } = await stat(temporary);
    await truncate(temporary, size - (size % MAPPING_BYTES));
    if (await renameUnlessThere(temporary, path, beforeStep)) return;
    await writeDifferences(temporary, path, beforeStep);
    await removeTree(temporary, beforeStep);
  } catch (error) {
    if (source.failure() === null) throw writeError("placing rewrite mappings", path, error);
    await removeTree(temporary).catch(() => undefined);
    throw error;
  }
}

async function writeDifferences(from: string, to: string, before: BeforeStep): Promise<void> {
  const source = await open(from, constants.O_RDONLY | constants.O_NOFOLLOW);
  try {
    const target = await open(to, constants.O_RDWR | constants.O_NOFOLLOW | constants.O_NONBLOCK);
    try {
      if (!(await target.stat()).isFile()) throw new DataDirectoryError("not_writable", to, "is no file");
      for (let at = 0; ; at += PIECE_BYTES) {
        const piece = await readAt(source, at);
        if (piece.length === 0) break;
        if (piece.equals((await readAt(target, at)).subarray(0, piece.length))) continue;
        await before(`write ${to}`);
        await target.write(piece, 0, piece.length, at);
      }
      await before(`fsync ${to}`);
      await target.sync();
    } finally {
      await target.close();
    }
  } finally {
    await source.close();
  }
}

async function readAt(file: FileHandle, at: number): Promise<Buffer> {
  const { buffer, bytesRead } = await file.read(Buffer.alloc(PIECE_BYTES), 0, PIECE_BYTES, at);
  return buffer.subarray(0, bytesRead);
}

/** What is placed is on disk when the promise resolves. */
export async function syncMappings(dir: string): Promise<void> {
  const folder = join(dir, FOLDER);
  try {
    await syncFolder(folder);
  } catch (error) {
    throw writeError("placing rewrite mappings", folder, error);
  }
}

/** Removes what attempts that were cut off have left. One sidecar looks after a standby, and it places one after another. */
export async function removeMappingLeftovers(dir: string): Promise<void> {
  const folder = join(dir, FOLDER);
  try {
    for (const name of await readdir(folder))
      if (name.startsWith(TEMPORARY)) await removeTree(join(folder, name));
  } catch (error) {
    throw error instanceof DataDirectoryError ? error : readError(folder, error);
  }
}

/**
 * Whether a file of that name is here without a hole: replay that begins in the middle of a rewrite writes its later records where they
 * belong, and leaves zeros where the earlier ones were. What is missing at its end is yet to be replayed. Throws RangeError,
 * DataDirectoryError.
 */
export async function hasMapping(dir: string, name: string): Promise<boolean> {
  const path = mappingPath(dir, name);
  if ((await kindOf(path)) !== "file") return false;
  try {
    const file = await open(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
    try {
      for (let at = 0; ; at += PIECE_BYTES) {
        const piece = await readAt(file, at);
        // an empty one has not been written to yet
        if (piece.length === 0) return at > 0;
        if (hasHole(piece)) return false;
      }
    } finally {
      await file.close();
    }
  } catch (error) {
    if (errnoOf(error) === "ENOENT") return false;
    throw readError(path, error);
  }
}

function mappingPath(dir: string, name: string): string {
  if (rewriteBegan(name) === null)
    throw new RangeError(`not a name of rewrite mappings: ${JSON.stringify(name)}`);
  return join(dir, FOLDER, name);
}

/** The chunks, and what their source has thrown. */
function watched(chunks: AsyncIterable<Uint8Array>) {
  let failure: unknown = null;
  async function* pass() {
    try {
      yield* chunks;
    } catch (error) {
      failure = error;
      throw error;
    }
  }
  return { chunks: pass(), failure: () => failure };
}
