// The files of serialized snapshots, pg_logical/snapshots/: SnapBuildOnDisk in PostgreSQL's snapbuild.c (from 17 on in
// snapbuild_internal.h). A C structure as it lay in memory, followed by arrays of transaction ids, so the layout is that of a
// little-endian machine with 64-bit pointers; every major was read on real servers.
import { formatLsn, type Lsn } from "../domain/lsn.ts";
import { crc32c } from "./crc32c.ts";

export interface SnapshotHeader {
  /** SNAPBUILD_VERSION of the server that wrote it */
  version: number;
  /** as the file says: all of its bytes, the header's included (the comment in PostgreSQL's source says otherwise) */
  length: number;
  /** what the file really has */
  sizeBytes: number;
}

/** A snapshot file that this code does not take: damaged, of another major, of another kind of machine. */
export class SnapshotFileError extends Error {
  override name = "SnapshotFileError";
}

/** SNAPBUILD_MAGIC */
const MAGIC = 0x51a1e001;
/** The part that no version changes: magic, checksum, version, length; 4 bytes each (SnapBuildOnDiskConstantSize). */
const HEADER_BYTES = 16;
/** The checksum covers everything from the version on, in the file's order (SnapBuildOnDiskNotChecksummedSize). */
const CHECKSUMMED_FROM = 8;
const CHECKSUM_AT = 4;
/** The first field after the header. */
const STATE_AT = 16;
/** SNAPBUILD_CONSISTENT: SnapBuildSerialize writes no other state, and SnapBuildRestore takes no other for a start. */
const STATE_CONSISTENT = 2;
const XID_BYTES = 4n;

/** One version of the file. */
interface Layout {
  /** SNAPBUILD_VERSION */
  version: number;
  /** sizeof(SnapBuildOnDisk); the arrays follow */
  fixedBytes: number;
  /** where the 8-byte numbers of elements in the arrays lie, in bytes from the file's start */
  countsAt: readonly number[];
}

/** was_running.was_xcnt_space (no longer used by 11 and later, and 0 there, but still read) and committed.xcnt. */
const VERSION_2: Layout = { version: 2, fixedBytes: 144, countsAt: [96, 112] };
/** committed.xcnt */
const VERSION_4: Layout = { version: 4, fixedBytes: 128, countsAt: [96] };
/** committed.xcnt and catchange.xcnt */
const VERSION_5: Layout = { version: 5, fixedBytes: 144, countsAt: [96, 128] };
/** In places as version 5: the in_slot_creation it added lies in what was padding. */
const VERSION_6: Layout = { ...VERSION_5, version: 6 };

const LAYOUTS: ReadonlyMap<number, Layout> = new Map([
  [11, VERSION_2],
  [12, VERSION_2],
  [13, VERSION_2],
  [14, VERSION_4],
  [15, VERSION_4],
  [16, VERSION_5],
  [17, VERSION_6],
  [18, VERSION_6],
]);

/** The file's name for the running-xacts record at `lsn`: `%X-%X.snap`, upper-case and not padded, in 11–18 alike. */
export function snapshotFileName(lsn: Lsn): string {
  return `${formatLsn(lsn).replace("/", "-")}.snap`;
}

/**
 * Verifies magic, version for this major, length, the CRC-32C over the whole and that it is of a consistent state; throws
 * SnapshotFileError. It is evidence for I2 only under the name of the slot's `restart_lsn`: the file does not hold its own.
 */
export function verifySnapshotFile(bytes: Uint8Array, major: number): SnapshotHeader {
  const layout = LAYOUTS.get(major);
  if (!layout) throw new SnapshotFileError(`the snapshot file of PostgreSQL ${major} is not known here`);
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const sizeBytes = view.byteLength;
  if (sizeBytes < HEADER_BYTES) throw new SnapshotFileError(`cut off: ${sizeBytes} bytes`);
  if (view.getUint32(0, true) !== MAGIC) {
    throw new SnapshotFileError(
      view.getUint32(0, false) === MAGIC
        ? "written by a big-endian machine, which is not supported"
        : `wrong magic number 0x${view.getUint32(0, true).toString(16)}`,
    );
  }
  const version = view.getUint32(8, true);
  if (version !== layout.version) {
    throw new SnapshotFileError(`version ${version}, but PostgreSQL ${major} writes ${layout.version}`);
  }
  const length = view.getUint32(12, true);
  if (length !== sizeBytes || sizeBytes < layout.fixedBytes) {
    throw new SnapshotFileError(`${sizeBytes} bytes, but its length says ${length}`);
  }
  if (crc32c(bytes.subarray(CHECKSUMMED_FROM)) !== view.getUint32(CHECKSUM_AT, true)) {
    throw new SnapshotFileError("wrong checksum");
  }
  const state = view.getInt32(STATE_AT, true);
  if (state !== STATE_CONSISTENT) throw new SnapshotFileError(`not of a consistent state, but of ${state}`);
  // a bigint: the counts have 64 bits, and one of a forged file must not wrap around to the right length
  let expectedBytes = BigInt(layout.fixedBytes);
  for (const at of layout.countsAt) expectedBytes += XID_BYTES * view.getBigUint64(at, true);
  if (expectedBytes !== BigInt(sizeBytes)) {
    throw new SnapshotFileError(`${sizeBytes} bytes, but its arrays make it ${expectedBytes}`);
  }
  return { version, length, sizeBytes };
}
