/** WAL segments in a standby's `pg_wal`: which are missing, and how one that was fetched comes to lie there (I3). */
import { open, readdir, stat } from "node:fs/promises";
import { join } from "node:path";
import { formatLsn, type Lsn } from "../domain/lsn.ts";
import { errnoOf, readError, WalSegmentError, writeError } from "./errors.ts";
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

const FOLDER = "pg_wal";
const SEGMENT_NAME = /^[0-9A-F]{24}$/;

/** What a segment must say of itself. */
export interface ExpectedSegment {
  /** As `pg_control_system()` shows it. */
  systemIdentifier: string;
  segmentBytes: number;
  /** That of the file's name: pages may be of an older one, which the timeline branched off. */
  timeline: number;
  segmentNumber: number;
  major: number;
}

/** XLOG_PAGE_MAGIC of each major. */
const PAGE_MAGIC: Readonly<Record<number, number>> = {
  11: 0xd098,
  12: 0xd101,
  13: 0xd106,
  14: 0xd10d,
  15: 0xd110,
  16: 0xd113,
  17: 0xd116,
  18: 0xd118,
};

const LONG_HEADER = 0x0002;
const LONG_HEADER_BYTES = 40;
const SHORT_HEADER_BYTES = 24;

/** The file name of a segment: XLogFileName() of xlog_internal.h. */
export function segmentName(timeline: number, segmentNumber: number, segmentBytes: number): string {
  const perId = 0x1_0000_0000 / segmentBytes;
  const hex = (part: number) => part.toString(16).toUpperCase().padStart(8, "0");
  return `${hex(timeline)}${hex(Math.floor(segmentNumber / perId))}${hex(segmentNumber % perId)}`;
}

/** The number of the segment that the byte at this position lies in. */
export function segmentOf(lsn: Lsn, segmentBytes: number): number {
  return Number(lsn / BigInt(segmentBytes));
}

/** The numbers of the segments with a byte at or past `from` and before `to`; that of `from` unless it begins with `from` = `to`. */
export function segmentsBetween(from: Lsn, to: Lsn, segmentBytes: number): number[] {
  const first = segmentOf(from, segmentBytes);
  // the segment that begins with `to` need not exist yet
  const end = Number((to + BigInt(segmentBytes) - 1n) / BigInt(segmentBytes));
  return to < from ? [] : Array.from({ length: Math.max(0, end - first) }, (_, index) => first + index);
}

/**
 * Which of the segments of {@link segmentsBetween} have no file of their full size in `pg_wal`, whatever its timeline. For positions
 * that the standby has replayed: past them, a name may be that of a recycled file. Throws DataDirectoryError.
 */
export async function missingSegments(
  dir: string,
  from: Lsn,
  to: Lsn,
  segmentBytes: number,
): Promise<number[]> {
  const wanted = segmentsBetween(from, to, segmentBytes);
  if (wanted.length === 0) return [];
  const folder = join(dir, FOLDER);
  const files = new Map<string, string[]>();
  try {
    for (const name of await readdir(folder)) {
      if (!SEGMENT_NAME.test(name)) continue;
      const position = name.slice(8);
      files.set(position, [...(files.get(position) ?? []), name]);
    }
  } catch (error) {
    throw readError(folder, error);
  }
  const present = async (segmentNumber: number): Promise<boolean> => {
    for (const name of files.get(segmentName(0, segmentNumber, segmentBytes).slice(8)) ?? []) {
      if (await hasSize(join(folder, name), segmentBytes)) return true;
    }
    return false;
  };
  const missing: number[] = [];
  for (const segmentNumber of wanted) if (!(await present(segmentNumber))) missing.push(segmentNumber);
  return missing;
}

async function hasSize(path: string, bytes: number): Promise<boolean> {
  try {
    const found = await stat(path);
    return found.isFile() && found.size === bytes;
  } catch (error) {
    // removed since it was listed
    if (errnoOf(error) === "ENOENT") return false;
    throw readError(path, error);
  }
}

/**
 * Throws WalSegmentError unless this is that segment of that cluster, filled up to its end or to a switch (after which PostgreSQL
 * leaves nothing but zeros). `segment`: its bytes, or the path of its file.
 */
export async function verifySegment(segment: Uint8Array | string, expected: ExpectedSegment): Promise<void> {
  const pages = new PageVerifier(expected);
  if (typeof segment !== "string") {
    pages.take(Buffer.from(segment.buffer, segment.byteOffset, segment.byteLength));
  } else {
    await eachBlock(segment, (block) => pages.take(block));
  }
  pages.end();
}

/** A multiple of every page size. */
const BLOCK_BYTES = 1 << 20;

async function eachBlock(path: string, take: (block: Buffer) => void): Promise<void> {
  let file: Awaited<ReturnType<typeof open>>;
  try {
    file = await open(path, "r");
  } catch (error) {
    throw readError(path, error);
  }
  try {
    const block = Buffer.alloc(BLOCK_BYTES);
    for (let filled = BLOCK_BYTES; filled === BLOCK_BYTES; ) {
      filled = 0;
      while (filled < BLOCK_BYTES) {
        const { bytesRead } = await file.read(block, filled, BLOCK_BYTES - filled, null);
        if (bytesRead === 0) break;
        filled += bytesRead;
      }
      take(block.subarray(0, filled));
    }
  } finally {
    await file.close();
  }
}

/** Looks at the page headers of a segment that passes by. */
class PageVerifier {
  readonly #expected: ExpectedSegment;
  readonly #name: string;
  readonly #start: bigint;
  /** Bytes that were seen. */
  #length = 0;
  #pageBytes = 0;
  #timeline = 0;
  #ended = false;

  constructor(expected: ExpectedSegment) {
    this.#expected = expected;
    this.#name = segmentName(expected.timeline, expected.segmentNumber, expected.segmentBytes);
    this.#start = BigInt(expected.segmentNumber) * BigInt(expected.segmentBytes);
  }

  /** The next bytes: whole pages, but for the last ones. */
  take(bytes: Buffer): void {
    if (this.#length === 0 && bytes.length >= LONG_HEADER_BYTES) this.#firstPage(bytes);
    if (this.#pageBytes > 0) {
      for (let at = 0; at + SHORT_HEADER_BYTES <= bytes.length; at += this.#pageBytes) {
        this.#page(bytes.subarray(at, at + SHORT_HEADER_BYTES), this.#length + at);
      }
    }
    this.#length += bytes.length;
  }

  end(): void {
    const { segmentBytes } = this.#expected;
    if (this.#length !== segmentBytes) this.#fail(`it has ${this.#length} bytes, not ${segmentBytes}`);
  }

  #firstPage(bytes: Buffer): void {
    const { major, segmentBytes, systemIdentifier } = this.#expected;
    const magic = PAGE_MAGIC[major];
    if (magic === undefined) this.#fail(`the WAL of PostgreSQL ${major} is not known`);
    if (bytes.readUInt16LE(0) !== magic) {
      this.#fail(
        `its magic is ${hex(bytes.readUInt16LE(0))}, that of PostgreSQL ${major} is ${hex(magic ?? 0)}`,
      );
    }
    if ((bytes.readUInt16LE(2) & LONG_HEADER) === 0) this.#fail("it does not begin with a segment's header");
    const itsSystem = bytes.readBigUInt64LE(24).toString();
    if (itsSystem !== systemIdentifier)
      this.#fail(`it is of the cluster with system identifier ${itsSystem}, not ${systemIdentifier}`);
    const itsBytes = bytes.readUInt32LE(32);
    if (itsBytes !== segmentBytes) this.#fail(`its segments have ${itsBytes} bytes, not ${segmentBytes}`);
    const pageBytes = bytes.readUInt32LE(36);
    if (pageBytes < 1024 || pageBytes > 65_536 || (pageBytes & (pageBytes - 1)) !== 0)
      this.#fail(`its pages have ${pageBytes} bytes`);
    this.#pageBytes = pageBytes;
  }

  #page(header: Buffer, offset: number): void {
    const blank = header.every((byte) => byte === 0);
    if (this.#ended && !blank) this.#fail(`there is a page at offset ${offset} after one that is not there`);
    if (blank && offset > 0) {
      // PostgreSQL blanks the pages behind a switch; it never leaves one out
      this.#ended = true;
      return;
    }
    const { major, timeline } = this.#expected;
    if (header.readUInt16LE(0) !== PAGE_MAGIC[major])
      this.#fail(`the page at offset ${offset} has magic ${hex(header.readUInt16LE(0))}`);
    const address = header.readBigUInt64LE(8);
    const expected = this.#start + BigInt(offset);
    // a recycled file keeps its old pages until it is filled
    if (address !== expected)
      this.#fail(
        `the page at offset ${offset} is that of ${formatLsn(address as Lsn)}, not of ${formatLsn(expected as Lsn)}`,
      );
    const itsTimeline = header.readUInt32LE(4);
    // the segment in which a timeline branches off begins with a copy of its parent's pages: older, never newer, never back again
    if (itsTimeline < 1 || itsTimeline > timeline || itsTimeline < this.#timeline)
      this.#fail(`the page at offset ${offset} is of timeline ${itsTimeline}`);
    this.#timeline = itsTimeline;
  }

  #fail(problem: string): never {
    throw new WalSegmentError(this.#name, problem);
  }
}

function hex(value: number): string {
  return value.toString(16).toUpperCase().padStart(4, "0");
}

/**
 * Places a fetched segment, unless its file is there: that one is left as it is. When the promise resolves the segment is on disk,
 * verified as a whole; a crash leaves at most a file that PostgreSQL passes over and that the next call here removes. Throws
 * WalSegmentError when the chunks are not that segment (nothing is placed), RangeError when the name does not fit what is expected,
 * DataDirectoryError when it cannot be written; what the chunks' source throws comes through as it is.
 *
 * Only while a slot that needs the segment is in the server's memory: otherwise its next restartpoint removes it.
 */
export async function placeSegment(
  dir: string,
  name: string,
  chunks: AsyncIterable<Uint8Array>,
  expected: ExpectedSegment,
  { beforeStep = noStep }: { beforeStep?: BeforeStep } = {},
): Promise<void> {
  const { timeline, segmentNumber, segmentBytes } = expected;
  if (name !== segmentName(timeline, segmentNumber, segmentBytes)) {
    throw new RangeError(
      `${JSON.stringify(name)} is not the name of segment ${segmentNumber} of timeline ${timeline}`,
    );
  }
  const folder = join(dir, FOLDER);
  const path = join(folder, name);
  if ((await kindOf(path)) !== null) return;
  const temporary = join(folder, `${TEMPORARY}${temporaryTag().slice("slotsync-".length)}`);
  const owner = await ownershipOf(dir);
  const source = watched(chunks, segmentBytes, name);
  try {
    await removeLeftovers(folder, beforeStep);
    inProgress.add(temporary);
    await createFile(temporary, source.chunks, owner, beforeStep);
    await verifySegment(temporary, expected);
    await markArchived(folder, name, owner, beforeStep);
    if (!(await renameUnlessThere(temporary, path, beforeStep))) await removeTree(temporary, beforeStep);
    await syncFolder(folder, beforeStep);
  } catch (error) {
    if (error instanceof WalSegmentError || source.failed()) {
      await removeTree(temporary).catch(() => undefined);
      throw error;
    }
    throw writeError("placing a WAL segment", path, error);
  } finally {
    inProgress.delete(temporary);
  }
}

/** PostgreSQL's own prefix for a segment that is being made; from 12 on it removes those when it starts after a crash. */
const TEMPORARY = "xlogtemp.slotsync-";

const inProgress = new Set<string>();

/** Whatever carries our prefix and is not being written: one sidecar looks after a standby, so its writer is gone. */
async function removeLeftovers(folder: string, before: BeforeStep): Promise<void> {
  for (const name of await readdir(folder)) {
    const path = join(folder, name);
    if (name.startsWith(TEMPORARY) && !inProgress.has(path)) await removeTree(path, before);
  }
}

/** The chunks up to the segment's size, and whether they, and not what is done with them, were what failed. */
function watched(chunks: AsyncIterable<Uint8Array>, segmentBytes: number, name: string) {
  let failure = false;
  async function* pass() {
    let length = 0;
    try {
      for await (const chunk of chunks) {
        length += chunk.length;
        // before it fills the standby's disk
        if (length > segmentBytes) throw new WalSegmentError(name, `it has more than ${segmentBytes} bytes`);
        yield chunk;
      }
    } catch (error) {
      failure = true;
      throw error;
    }
  }
  return { chunks: pass(), failed: () => failure };
}

/**
 * As the server does for a segment it has received: without the mark, a server that archives would after its promotion send the
 * segment to the archive a second time, and many archive commands refuse what is there already, for ever.
 */
async function markArchived(
  folder: string,
  name: string,
  owner: Awaited<ReturnType<typeof ownershipOf>>,
  before: BeforeStep,
): Promise<void> {
  const status = join(folder, "archive_status");
  if ((await kindOf(status)) !== "folder") return;
  for (const mark of [`${name}.done`, `${name}.ready`])
    if ((await kindOf(join(status, mark))) !== null) return;
  await createFile(join(status, `${name}.done`), new Uint8Array(), owner, before).catch((error) => {
    if (errnoOf(error) !== "EEXIST") throw error;
  });
  await syncFolder(status, before);
}
