/** Taking over a slot of this node's own past: what of its evidence is here (I2, I3, I16). The slot itself is not touched. */
import { hasSnapshot } from "../datadir/snapshots.ts";
import { segmentName, segmentsBetween } from "../datadir/wal.ts";
import type { Action } from "../domain/action.ts";
import { formatLsn, type Lsn, parseLsn } from "../domain/lsn.ts";
import { type SlotRow, toLogicalSlots } from "../pg/rows.ts";
import { snapshotPositions } from "../pg/server-history.ts";
import type { PgSession } from "../pg/session.ts";
import { LOOK_AT_WAL, lookAtSlot } from "../pg/sql.ts";
import { ReasonedError, SlotMovedError } from "./errors.ts";

type Adopt = Extract<Action, { kind: "adopt" }>;

/** What was found of the slot. */
export interface Evidence {
  /** Decoding begins there as it did when this node was the primary (I2 b, e). */
  start: boolean;
  /** All WAL from its `restart_lsn` on is here (I3). */
  wal: boolean;
  /** No rewrite mappings can be missing (I16): without the data directory no slot has ever come here by its file. */
  mappings: boolean;
}

/**
 * Looks for the slot's snapshot and its WAL. Throws SlotMovedError when it is not as it was seen, ReasonedError when WAL is missing that
 * nobody could fetch.
 */
export async function examineSlot(
  session: PgSession,
  action: Adopt,
  directory: string | null,
): Promise<Evidence> {
  const what = `looking at slot "${action.slot}"`;
  const rows = await session.query<SlotRow>(lookAtSlot(session.serverVersionNum), [action.slot], { what });
  const slot = toLogicalSlots(rows)[0];
  if (
    !slot ||
    slot.confirmedFlushLsn !== action.at ||
    slot.restartLsn !== action.restart ||
    slot.activePid !== null
  )
    throw new SlotMovedError(`${what}: it is not as it was seen any more`);
  const start = action.unmoved || (await isSnapshotHere(session, action.restart, directory));
  const missing = await missingWal(session, action.restart);
  // with the data directory, it is fetched from the primary
  if (missing !== null && directory === null)
    throw new ReasonedError(
      "wal_or_rows_removed",
      `slot "${action.slot}", which is left from when this node was the primary, needs WAL from ${formatLsn(action.restart)} on, and segment ${missing} is not here: drop it (slotsync release ${action.slot})`,
    );
  return { start, wal: missing === null, mappings: directory === null };
}

async function isSnapshotHere(session: PgSession, restart: Lsn, directory: string | null): Promise<boolean> {
  if (directory !== null)
    return hasSnapshot(directory, restart, Math.floor(session.serverVersionNum / 10_000));
  return (await snapshotPositions(session))?.includes(restart) ?? false;
}

interface WalRow {
  names: string | null;
  segment_bytes: string;
  replay_lsn: string | null;
}

/** The first segment that is missing between the position and what has been replayed, whatever its timeline; or null. */
async function missingWal(session: PgSession, restart: Lsn): Promise<string | null> {
  const [row] = await session.query<WalRow>(LOOK_AT_WAL, [], { what: "listing the WAL segments" });
  const bytes = Number(row?.segment_bytes);
  const here = new Set((row?.names ?? "").split(" ").map((name) => name.slice(8)));
  const replayed = row?.replay_lsn ? parseLsn(row.replay_lsn) : restart;
  const number = segmentsBetween(restart, replayed, bytes).find(
    (each) => !here.has(segmentName(0, each, bytes).slice(8)),
  );
  return number === undefined ? null : segmentName(0, number, bytes).slice(8);
}
