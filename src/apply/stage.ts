/**
 * Staging: the state file of a slot on the primary, under the name and in the place where the standby loads it at its next start, with
 * its snapshot kept beside the journal. A wrong file keeps PostgreSQL from starting (I11): everything is verified before the rename.
 */
import { removeSlotFolder, writeSlotFolder } from "../datadir/slot-folders.ts";
import type { Action } from "../domain/action.ts";
import { startsByItself } from "../domain/capability.ts";
import type { Staged } from "../domain/journal.ts";
import type { LogicalSlot } from "../domain/slot.ts";
import { type SlotRow, toLogicalSlots } from "../pg/rows.ts";
import { snapshotPositions } from "../pg/server-history.ts";
import type { PgSession } from "../pg/session.ts";
import { parseSlotState, rewriteSlotState, type SlotState } from "../pg/slot-state-file.ts";
import { SnapshotFileError, snapshotFileName, verifySnapshotFile } from "../pg/snapshot-file.ts";
import { lookAtSlot } from "../pg/sql.ts";
import { ReasonedError } from "./errors.ts";
import type { PinKeeper } from "./pin.ts";
import { MOST_SNAPSHOT_BYTES, MOST_STATE_BYTES, readServerFile } from "./primary-files.ts";
import type { SnapshotStore } from "./snapshot-store.ts";

type Stage = Extract<Action, { kind: "stage" }>;

export interface StageContext {
  /** The standby's data directory. */
  directory: string;
  /** A session on the primary in which reading may fail. */
  session: PgSession;
  pins: PinKeeper;
  snapshots: SnapshotStore;
  /** Records, before the file is written, that a slot like this under the name will be ours (I7, I10). */
  note: (name: string, staged: Staged) => Promise<void>;
  /** Throws when the standby has been started or stopped since it was looked at: then what is planned may be in its memory now. */
  assertSameRun: () => Promise<void>;
  now: () => number;
}

/** Stages all, under one pin. Reports each outcome; throws only what concerns all of them. */
export async function stageSlots(
  actions: readonly Stage[],
  context: StageContext,
  report: (action: Stage, error: unknown) => void,
): Promise<void> {
  const { session, pins } = context;
  const rows = new Map<string, LogicalSlot>();
  for (const { source } of actions) {
    if (source === null || rows.has(source)) continue;
    const slot = await lookAt(session, source);
    if (slot) rows.set(source, slot);
  }
  const copies = session.serverVersionNum >= 120_000;
  const held = [...rows.values()].filter((slot) => slot.restartLsn !== null);
  const pin = copies && held.length > 0 ? await pins.hold(held) : null;
  let fresh: string | null = null;
  let refused: unknown = null;
  // last those that wait for the transactions on the primary: one prepared and forgotten must not keep the others from being staged
  for (const action of actions.toSorted((a, b) => Number(a.source === null) - Number(b.source === null))) {
    try {
      if (action.source === null && refused !== null) throw refused;
      if (action.source === null)
        fresh ??= await pins.create().catch((error: unknown) => {
          refused = error;
          throw error;
        });
      await stageOne(action, action.source ?? fresh ?? "", pin ?? fresh, context);
      report(action, null);
    } catch (error) {
      report(action, error);
      if (!session.usable) throw error;
    }
  }
}

async function lookAt(session: PgSession, name: string): Promise<LogicalSlot | null> {
  const rows = await session.query<SlotRow>(lookAtSlot(session.serverVersionNum), [name], {
    what: `looking at slot "${name}" on the primary`,
  });
  return toLogicalSlots(rows)[0] ?? null;
}

async function stageOne(
  action: Stage,
  source: string,
  pin: string | null,
  context: StageContext,
): Promise<void> {
  const { session, directory, snapshots, note, now } = context;
  const major = Math.floor(session.serverVersionNum / 10_000);
  const slot = await lookAt(session, source);
  if (!slot) throw new ReasonedError("absent_on_primary", `slot "${source}" is gone from the primary`);
  const { bytes, state, snapshot } = await readConsistently(session, slot, major);
  const changed = rewriteSlotState(bytes, major, {
    name: action.slot,
    databaseOid: action.databaseOid,
    persistency: "persistent",
    // left from when that primary was a standby: here it would pass for one that this server keeps by itself, and is nobody's to prove
    synced: false,
    restartLsn: state.restartLsn,
    confirmedFlushLsn: state.confirmedFlushLsn,
    ...(state.catalogXmin === null ? {} : { catalogXmin: state.catalogXmin }),
    ...(action.guard === null ? {} : { plugin: "pgoutput", twoPhase: false as const }),
  });
  if (snapshot.kind === "kept") await snapshots.save(state.restartLsn, snapshot.bytes);
  const written = parseSlotState(changed, major);
  await note(action.slot, {
    databaseOid: written.databaseOid,
    plugin: written.plugin,
    twoPhase: written.twoPhase,
    restartLsn: written.restartLsn,
    confirmedFlushLsn: written.confirmedFlushLsn,
    snapshot: snapshot.kind,
    pin,
    at: now(),
    loadedBy: null,
  });
  // a file replaced under a slot in memory would be loaded at the next start as if it were that slot
  await context.assertSameRun();
  await writeSlotFolder(directory, action.slot, changed, major, { replace: action.again });
}

type Snapshot = { kind: "kept"; bytes: Buffer } | { kind: "absent" | "unusable" };

/** While its consumer goes on, the slot may move between two reads. */
const ATTEMPTS = 5;

/**
 * The state file and the snapshot of the very position that it names (I2 b). That there is none counts only if the slot is still there
 * in memory: it moves there first, and while its file is being written a checkpoint may already remove the snapshot (I2 e).
 */
async function readConsistently(
  session: PgSession,
  slot: LogicalSlot,
  major: number,
): Promise<{ bytes: Buffer; state: SlotState; snapshot: Snapshot }> {
  for (let attempt = 1; ; attempt += 1) {
    const { bytes, state } = await readState(session, slot, major);
    const content = await readServerFile(
      session,
      `pg_logical/snapshots/${snapshotFileName(state.restartLsn)}`,
      MOST_SNAPSHOT_BYTES,
    );
    if (content !== null) return { bytes, state, snapshot: judged(content, major) };
    const shown = await lookAt(session, slot.name);
    if (shown?.restartLsn === state.restartLsn) {
      const alone = await startsAlone(session, state);
      return { bytes, state, snapshot: { kind: alone ? "absent" : "unusable" } };
    }
    if (attempt === ATTEMPTS)
      throw new ReasonedError(
        "slot_in_use",
        `slot "${slot.name}" moves on faster than its files can be read`,
      );
  }
}

/**
 * I2 (e) holds only for a slot that found its consistent point by itself. Servers of before may have restored a snapshot that another
 * slot had written between this one's `restart_lsn` and its consistent point: the primary finds it there again, and the standby would
 * begin later. As long as the slot lives no checkpoint removes it, so where the folder may be listed it is seen.
 */
async function startsAlone(
  session: PgSession,
  { restartLsn, confirmedFlushLsn }: SlotState,
): Promise<boolean> {
  const positions = await snapshotPositions(session);
  if (positions === null) return startsByItself(session.serverVersionNum);
  return !positions.some((lsn) => lsn >= restartLsn && lsn <= confirmedFlushLsn);
}

function judged(content: Buffer, major: number): Snapshot {
  try {
    verifySnapshotFile(content, major);
    return { kind: "kept", bytes: content };
  } catch (error) {
    if (error instanceof SnapshotFileError) return { kind: "unusable" };
    throw error;
  }
}

async function readState(
  session: PgSession,
  slot: LogicalSlot,
  major: number,
): Promise<{ bytes: Buffer; state: SlotState }> {
  const bytes = await readServerFile(session, `pg_replslot/${slot.name}/state`, MOST_STATE_BYTES);
  if (bytes === null)
    throw new ReasonedError("absent_on_primary", `slot "${slot.name}" has no state file on the primary`);
  const state = parseSlotState(bytes, major);
  if (state.invalidated)
    throw new ReasonedError("slot_invalidated", `the primary has invalidated slot "${slot.name}"`);
  if (state.name !== slot.name || (state.databaseOid !== slot.databaseOid && !slot.temporary))
    throw new ReasonedError(
      "statement_failed",
      `the state file of "${slot.name}" is of slot "${state.name}"`,
    );
  if (slot.temporary) return { bytes, state: withPositions(state, slot) };
  if (state.confirmedFlushLsn === 0n)
    throw new ReasonedError("no_consistent_snapshot", `the creation of slot "${slot.name}" has not finished`);
  return { bytes, state };
}

/** The file of a temporary slot may lag behind the slot: what the server shows counts, for nobody moves a pin. */
function withPositions(
  state: SlotState,
  { name, restartLsn, confirmedFlushLsn, catalogXmin }: LogicalSlot,
): SlotState {
  if (restartLsn === null || confirmedFlushLsn === null)
    throw new ReasonedError("no_consistent_snapshot", `the creation of "${name}" has not finished`);
  return { ...state, restartLsn, confirmedFlushLsn, catalogXmin };
}

/** Takes a staged slot away again; one that is gone already is as good. */
export async function unstageSlot(directory: string, name: string): Promise<void> {
  await removeSlotFolder(directory, name);
}
