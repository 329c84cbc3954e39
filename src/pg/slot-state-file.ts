// The file of a replication slot, pg_replslot/<name>/state: ReplicationSlotOnDisk in PostgreSQL's slot.c. It is a C structure as
// it lay in memory, so its layout is that of a little-endian machine with 64-bit pointers; every major was read on real servers.
import type { Lsn } from "../domain/lsn.ts";
import { isValidSlotName } from "../domain/names.ts";
import type { Xid } from "../domain/xid.ts";
import { crc32c } from "./crc32c.ts";

export interface SlotState {
  name: string;
  /** 0 for a physical slot */
  databaseOid: number;
  persistency: "persistent" | "ephemeral" | "temporary";
  xmin: Xid | null;
  catalogXmin: Xid | null;
  /** 0 when unset, as in a physical slot that has never been used */
  restartLsn: Lsn;
  /** 0 when unset, as in a physical slot */
  confirmedFlushLsn: Lsn;
  /** false before 13, which has no such thing */
  invalidated: boolean;
  /** false before 14 */
  twoPhase: boolean;
  /** null before 14, and when unset */
  twoPhaseAt: Lsn | null;
  /** "" for a physical slot */
  plugin: string;
  /** false before 17 */
  synced: boolean;
  /** false before 17 */
  failover: boolean;
}

/** What {@link rewriteSlotState} can change. */
export interface SlotStateChanges {
  name?: string;
  persistency?: "persistent";
  plugin?: string;
  /** also unsets two_phase_at; nothing to change before 14 */
  twoPhase?: false;
  /** nothing to change before 17 */
  synced?: false;
  /** positions and snapshots are the cluster's: a slot of one database can be turned into one of another */
  databaseOid?: number;
  catalogXmin?: Xid;
  restartLsn?: Lsn;
  confirmedFlushLsn?: Lsn;
}

/** A state file that this code does not take: damaged, of another major, of another kind of machine. */
export class SlotStateError extends Error {
  override name = "SlotStateError";
}

/** SLOT_MAGIC */
const MAGIC = 0x1051ca1;
/** The part that no version changes: magic, checksum, version, length; 4 bytes each (ReplicationSlotOnDiskConstantSize). */
const HEADER_BYTES = 16;
/** The checksum covers everything from the version on (ReplicationSlotOnDiskNotChecksummedSize). */
const CHECKSUMMED_FROM = 8;
const CHECKSUM_AT = 4;
/** NAMEDATALEN: of a name and of a plugin, with at least one zero byte at the end. */
const NAME_BYTES = 64;

/** ReplicationSlotPersistency in slot.h. */
const PERSISTENCIES = ["persistent", "ephemeral", "temporary"] as const;

// The same place in every major.
const NAME_AT = 16;
const DATABASE_AT = 80;
const PERSISTENCY_AT = 84;
const XMIN_AT = 88;
const CATALOG_XMIN_AT = 92;
const RESTART_LSN_AT = 96;

/** Where a major keeps the rest, in bytes from the file's start; null for what it does not have. */
interface Layout {
  /** SLOT_VERSION */
  version: number;
  fileBytes: number;
  /** 13–15 `invalidated_at`, an LSN; 16+ `invalidated`, a 4-byte cause (RS_INVAL_NONE is 0) with 4 bytes of padding behind */
  invalidated: { at: number; bytes: 4 | 8 } | null;
  confirmedFlushLsnAt: number;
  twoPhaseAtAt: number | null;
  twoPhaseAt: number | null;
  pluginAt: number;
  syncedAt: number | null;
  failoverAt: number | null;
}

const LAYOUT_11: Layout = {
  version: 2,
  fileBytes: 176,
  invalidated: null,
  confirmedFlushLsnAt: 104,
  twoPhaseAtAt: null,
  twoPhaseAt: null,
  pluginAt: 112,
  syncedAt: null,
  failoverAt: null,
};

const LAYOUT_13: Layout = {
  ...LAYOUT_11,
  fileBytes: 184,
  invalidated: { at: 104, bytes: 8 },
  confirmedFlushLsnAt: 112,
  pluginAt: 120,
};

const LAYOUT_14: Layout = {
  ...LAYOUT_13,
  fileBytes: 200,
  twoPhaseAtAt: 120,
  twoPhaseAt: 128,
  pluginAt: 129,
};

const LAYOUT_16: Layout = { ...LAYOUT_14, version: 3, invalidated: { at: 104, bytes: 4 } };

const LAYOUT_17: Layout = { ...LAYOUT_16, version: 5, syncedAt: 193, failoverAt: 194 };

const LAYOUTS: ReadonlyMap<number, Layout> = new Map([
  [11, LAYOUT_11],
  [12, LAYOUT_11],
  [13, LAYOUT_13],
  [14, LAYOUT_14],
  [15, LAYOUT_14],
  [16, LAYOUT_16],
  [17, LAYOUT_17],
  [18, LAYOUT_17],
]);

/** Reads a state file that a server of this major wrote. Throws SlotStateError when any part of it is not as that server writes it. */
export function parseSlotState(bytes: Uint8Array, major: number): SlotState {
  const layout = layoutOf(major);
  const view = viewOf(bytes);
  verifyEnvelope(view, layout, major);

  const name = readText(view, NAME_AT, "name");
  if (!isValidSlotName(name)) throw new SlotStateError(`not a slot name: ${JSON.stringify(name)}`);
  const persistency = PERSISTENCIES[view.getUint32(PERSISTENCY_AT, true)];
  if (persistency === undefined) {
    throw new SlotStateError(`unknown persistency ${view.getUint32(PERSISTENCY_AT, true)}`);
  }
  return {
    name,
    databaseOid: view.getUint32(DATABASE_AT, true),
    persistency,
    xmin: readXid(view, XMIN_AT),
    catalogXmin: readXid(view, CATALOG_XMIN_AT),
    restartLsn: readLsn(view, RESTART_LSN_AT),
    confirmedFlushLsn: readLsn(view, layout.confirmedFlushLsnAt),
    invalidated: isInvalidated(view, layout),
    twoPhase: readFlag(view, layout.twoPhaseAt, "two_phase"),
    twoPhaseAt: layout.twoPhaseAtAt === null ? null : readLsn(view, layout.twoPhaseAtAt) || null,
    plugin: readText(view, layout.pluginAt, "plugin"),
    synced: readFlag(view, layout.syncedAt, "synced"),
    failover: readFlag(view, layout.failoverAt, "failover"),
  };
}

/**
 * New bytes with these fields changed and the checksum made anew; everything else byte for byte as it was. Throws SlotStateError
 * for bytes that {@link parseSlotState} does not take, and for a name or plugin that PostgreSQL would not: a server does not
 * start with a state file it cannot read (I11).
 */
export function rewriteSlotState(bytes: Uint8Array, major: number, changes: SlotStateChanges): Buffer {
  parseSlotState(bytes, major);
  const layout = layoutOf(major);
  const rewritten = Buffer.from(bytes);
  if (changes.name !== undefined) {
    if (!isValidSlotName(changes.name)) {
      throw new SlotStateError(`not a slot name: ${JSON.stringify(changes.name)}`);
    }
    writeText(rewritten, NAME_AT, changes.name, "name");
  }
  if (changes.persistency !== undefined) {
    rewritten.writeUInt32LE(PERSISTENCIES.indexOf(changes.persistency), PERSISTENCY_AT);
  }
  if (changes.plugin !== undefined) {
    if (changes.plugin === "") throw new SlotStateError("a plugin's name is not empty");
    writeText(rewritten, layout.pluginAt, changes.plugin, "plugin");
  }
  if (changes.twoPhase === false && layout.twoPhaseAt !== null && layout.twoPhaseAtAt !== null) {
    rewritten.writeUInt8(0, layout.twoPhaseAt);
    rewritten.writeBigUInt64LE(0n, layout.twoPhaseAtAt);
  }
  if (changes.synced === false && layout.syncedAt !== null) rewritten.writeUInt8(0, layout.syncedAt);
  if (changes.databaseOid !== undefined) rewritten.writeUInt32LE(changes.databaseOid, DATABASE_AT);
  if (changes.catalogXmin !== undefined) rewritten.writeUInt32LE(changes.catalogXmin, CATALOG_XMIN_AT);
  if (changes.restartLsn !== undefined) rewritten.writeBigUInt64LE(changes.restartLsn, RESTART_LSN_AT);
  if (changes.confirmedFlushLsn !== undefined)
    rewritten.writeBigUInt64LE(changes.confirmedFlushLsn, layout.confirmedFlushLsnAt);
  rewritten.writeUInt32LE(crc32c(rewritten.subarray(CHECKSUMMED_FROM)), CHECKSUM_AT);
  return rewritten;
}

function layoutOf(major: number): Layout {
  const layout = LAYOUTS.get(major);
  if (!layout) throw new SlotStateError(`the slot state file of PostgreSQL ${major} is not known here`);
  return layout;
}

/** What does not depend on the slot, in the order in which RestoreSlotFromDisk checks it. Nothing is read past the end after this. */
function verifyEnvelope(view: DataView, layout: Layout, major: number): void {
  const fileBytes = view.byteLength;
  if (fileBytes < HEADER_BYTES) throw new SlotStateError(`cut off: ${fileBytes} bytes`);
  if (view.getUint32(0, true) !== MAGIC) {
    throw new SlotStateError(
      view.getUint32(0, false) === MAGIC
        ? "written by a big-endian machine, which is not supported"
        : `wrong magic number 0x${view.getUint32(0, true).toString(16)}`,
    );
  }
  const version = view.getUint32(8, true);
  if (version !== layout.version) {
    throw new SlotStateError(`version ${version}, but PostgreSQL ${major} writes ${layout.version}`);
  }
  const length = view.getUint32(12, true);
  if (length !== layout.fileBytes - HEADER_BYTES || fileBytes !== layout.fileBytes) {
    throw new SlotStateError(
      `${fileBytes} bytes with a length of ${length}, but PostgreSQL ${major} writes ${layout.fileBytes} bytes with a length of ${layout.fileBytes - HEADER_BYTES}`,
    );
  }
  const covered = new Uint8Array(
    view.buffer,
    view.byteOffset + CHECKSUMMED_FROM,
    fileBytes - CHECKSUMMED_FROM,
  );
  if (crc32c(covered) !== view.getUint32(CHECKSUM_AT, true)) throw new SlotStateError("wrong checksum");
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

/** Null for InvalidTransactionId. */
function readXid(view: DataView, at: number): Xid | null {
  return (view.getUint32(at, true) || null) as Xid | null;
}

function readLsn(view: DataView, at: number): Lsn {
  return view.getBigUint64(at, true) as Lsn;
}

/** False for what this major does not have. */
function readFlag(view: DataView, at: number | null, field: string): boolean {
  const value = at === null ? 0 : view.getUint8(at);
  if (value > 1) throw new SlotStateError(`${field} is neither true nor false: ${value}`);
  return value === 1;
}

function isInvalidated(view: DataView, { invalidated }: Layout): boolean {
  if (invalidated === null) return false;
  const { at, bytes } = invalidated;
  return bytes === 8 ? view.getBigUint64(at, true) !== 0n : view.getUint32(at, true) !== 0;
}

/** A name[NAMEDATALEN]: the text, then zeros to the end, as namestrcpy leaves it. */
function readText(view: DataView, at: number, field: string): string {
  const bytes = new Uint8Array(view.buffer, view.byteOffset + at, NAME_BYTES);
  const end = bytes.indexOf(0);
  if (end < 0) throw new SlotStateError(`${field} does not end`);
  if (bytes.subarray(end).some((byte) => byte !== 0))
    throw new SlotStateError(`${field} goes on after its end`);
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes.subarray(0, end));
  } catch (cause) {
    throw new SlotStateError(`${field} is not UTF-8`, { cause });
  }
}

function writeText(target: Buffer, at: number, text: string, field: string): void {
  const encoded = Buffer.from(text, "utf8");
  if (encoded.includes(0) || encoded.length >= NAME_BYTES || encoded.toString("utf8") !== text) {
    throw new SlotStateError(`${field} does not fit into the file: ${JSON.stringify(text)}`);
  }
  target.fill(0, at, at + NAME_BYTES);
  encoded.copy(target, at);
}
