/** Completing a slot that a start has loaded from its file: its snapshot (I2 b), then the WAL that is missing (I3). */
import { placeSnapshot } from "../datadir/snapshots.ts";
import { missingSegments, placeSegment, segmentName } from "../datadir/wal.ts";
import type { Action } from "../domain/action.ts";
import { formatLsn, type Lsn } from "../domain/lsn.ts";
import type { PgSession } from "../pg/session.ts";
import { snapshotFileName } from "../pg/snapshot-file.ts";
import { SEGMENT_NAME } from "../pg/sql.ts";
import { ReasonedError } from "./errors.ts";
import { MOST_SNAPSHOT_BYTES, readServerFile, readServerFileInPieces } from "./primary-files.ts";
import type { SnapshotStore } from "./snapshot-store.ts";

type Complete = Extract<Action, { kind: "complete" }>;

export interface CompleteContext {
  directory: string;
  major: number;
  systemIdentifier: string;
  walSegmentBytes: number;
  snapshots: SnapshotStore;
  /** A session on the primary, opened only when something is missing here. */
  session: () => Promise<PgSession>;
  /** The snapshot is nowhere to be had: the slot's start is proven only once it has moved by itself (I2 d). */
  noteSnapshotLost: (name: string) => Promise<void>;
}

/** Places what is missing. Throws ReasonedError when WAL is gone on both servers: such a slot can never be decoded. */
export async function completeSlot(action: Complete, context: CompleteContext): Promise<void> {
  const { directory, walSegmentBytes } = context;
  if (action.snapshot) await completeSnapshot(action, context);
  for (const number of await missingSegments(directory, action.restart, action.upTo, walSegmentBytes))
    await fetchSegment(number, action, context);
}

async function completeSnapshot(action: Complete, context: CompleteContext): Promise<void> {
  const { directory, major, snapshots } = context;
  const bytes = (await snapshots.load(action.restart)) ?? (await readFromPrimary(action.restart, context));
  if (bytes === null) return context.noteSnapshotLost(action.slot);
  await placeSnapshot(directory, action.restart, bytes, major);
}

async function readFromPrimary(lsn: Lsn, { session }: CompleteContext): Promise<Buffer | null> {
  return readServerFile(
    await session(),
    `pg_logical/snapshots/${snapshotFileName(lsn)}`,
    MOST_SNAPSHOT_BYTES,
  );
}

/** The segment may have been written on an older timeline than the primary's present one; so many are tried. */
const TIMELINES_TRIED = 32;

async function fetchSegment(number: number, action: Complete, context: CompleteContext): Promise<void> {
  const { walSegmentBytes, directory, major, systemIdentifier } = context;
  const session = await context.session();
  const position = formatLsn((BigInt(number) * BigInt(walSegmentBytes) + 1n) as Lsn);
  const [row] = await session.query<{ name: string }>(SEGMENT_NAME, [position], {
    what: "naming a WAL segment",
  });
  const newest = Number.parseInt(row?.name.slice(0, 8) ?? "1", 16);
  for (let timeline = newest; timeline > 0 && timeline > newest - TIMELINES_TRIED; timeline -= 1) {
    const name = segmentName(timeline, number, walSegmentBytes);
    if (!(await exists(session, name))) continue;
    const expected = {
      systemIdentifier,
      segmentBytes: walSegmentBytes,
      timeline,
      segmentNumber: number,
      major,
    };
    return placeSegment(directory, name, readServerFileInPieces(session, `pg_wal/${name}`), expected);
  }
  throw new ReasonedError(
    "wal_or_rows_removed",
    `WAL segment ${segmentName(newest, number, walSegmentBytes)}, which slot "${action.slot}" needs from ${formatLsn(action.restart)} on, is neither here nor on the primary`,
  );
}

async function exists(session: PgSession, name: string): Promise<boolean> {
  for await (const piece of readServerFileInPieces(session, `pg_wal/${name}`)) return piece.length > 0;
  return false;
}
