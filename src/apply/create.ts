/** Failover slots come into being at their exact position (G2b): copy the source, advance the copy, copy that to the real name. */
import type { Action } from "../domain/action.ts";
import { formatLsn, type Lsn, parseLsn } from "../domain/lsn.ts";
import { type Xid, xidPrecedesOrEquals } from "../domain/xid.ts";
import { isPgError, SQLSTATE } from "../pg/errors.ts";
import { type SlotRow, toLogicalSlots } from "../pg/rows.ts";
import type { PgSession } from "../pg/session.ts";
import { advanceSlot, copySlot, dropSlot, lookAtSlot, type Role } from "../pg/sql.ts";
import { dropFailoverSlot } from "./drop.ts";
import { expectDone, missingPlugin, ReasonedError, SlotMovedError } from "./errors.ts";

export type Create = Pick<Extract<Action, { kind: "create" }>, "slot" | "plugin" | "from" | "to"> & {
  /** A slot of ours that has the name is dropped just before, if it still stands there (I7). */
  replaces?: Lsn;
  /** Where advancing runs ahead: it is not made when it would hold catalog rows only from a later transaction on (I4). */
  holds?: Xid;
};

/** Advancing has let go of catalog rows that the slot needs (see `advanceKeepsRows`): nothing was made, what has the name is untouched. */
export class RanAheadError extends Error {
  override readonly name = "RanAheadError";
}

/**
 * Creates slots, those that can share a working copy from the earliest position to the latest, so that its decoding is shared.
 * Reports each outcome; throws only when the session is lost.
 */
export async function createSlots<A extends Create>(
  session: PgSession,
  role: Role,
  work: string,
  creates: readonly A[],
  report: (create: A, error: unknown) => void,
): Promise<void> {
  const ordered = creates.toSorted((a, b) => a.from.localeCompare(b.from) || Number(a.to - b.to));
  let copy = null as { from: string; plugin: string; at: Lsn } | null;
  for (const create of ordered) {
    try {
      const { from, plugin, replaces } = create;
      // a slot is dropped only for a copy whose plugin has just loaded here: else there would be neither
      if (copy?.from !== from || (replaces !== undefined && copy.plugin !== plugin)) {
        if (copy) await dropWork(session, role, work);
        copy = { from, plugin, at: await makeWork(session, role, create, work) };
      }
      copy.at = await bringTo(session, role, work, copy.at, create.to);
      if (create.holds !== undefined) await expectHolding(session, work, create.holds);
      await takeName(session, role, work, create);
      report(create, null);
    } catch (error) {
      // an ERROR ends every temporary slot of its session: it has dropped the working copy, where it is the server's
      if (!(error instanceof SlotMovedError || error instanceof RanAheadError)) copy = null;
      report(create, error);
      if (!session.usable) throw error;
    }
  }
  if (copy) await dropWork(session, role, work);
}

/** With the plugin of the slot that is to be made: it must load in any case, and the guard's own may be refused by now. */
async function makeWork(
  session: PgSession,
  role: Role,
  { from, plugin }: Pick<Create, "from" | "plugin">,
  work: string,
): Promise<Lsn> {
  const what = `copying "${from}" to a temporary slot`;
  const copy = () =>
    session.query<{ done: string | null }>(copySlot(role), [from, work, true, plugin], { what });
  return parseLsn(expectDone(await loading(plugin, copy), what));
}

async function loading<T>(plugin: string, run: () => Promise<T>): Promise<T> {
  try {
    return await run();
  } catch (error) {
    throw isPgError(error, SQLSTATE.undefinedFile) ? missingPlugin(plugin, error) : error;
  }
}

async function bringTo(session: PgSession, role: Role, work: string, at: Lsn, to: Lsn): Promise<Lsn> {
  if (to < at)
    throw new ReasonedError(
      "wal_or_rows_removed",
      `the source stands at ${formatLsn(at)}, past ${formatLsn(to)}`,
    );
  if (to === at) return at;
  const what = `advancing a copy of the guard to ${formatLsn(to)}`;
  const rows = await session.query<{ done: string | null }>(advanceSlot(role), [work, formatLsn(to)], {
    what,
  });
  const reached = parseLsn(expectDone(rows, what));
  if (reached !== to)
    throw new ReasonedError(
      "wal_not_flushed",
      `${what} ended at ${formatLsn(reached)}: this server has no more WAL`,
    );
  return reached;
}

async function expectHolding(session: PgSession, work: string, needed: Xid): Promise<void> {
  const rows = await session.query<SlotRow>(lookAtSlot(session.serverVersionNum), [work], {
    what: "looking at a temporary slot",
  });
  const held = toLogicalSlots(rows)[0]?.catalogXmin ?? null;
  if (held === null || !xidPrecedesOrEquals(held, needed))
    throw new RanAheadError(
      `advancing would let go of catalog rows from transaction ${needed} on, which this release of PostgreSQL does too early`,
    );
}

/** Whether advancing our slot would do that: tried on a temporary copy (12 and later). Throws what the session throws. */
export async function wouldRunAhead(
  session: PgSession,
  role: Role,
  work: string,
  trial: Required<Pick<Create, "plugin" | "from" | "to" | "holds">>,
): Promise<boolean> {
  const at = await makeWork(session, role, trial, work);
  await bringTo(session, role, work, at, trial.to);
  try {
    await expectHolding(session, work, trial.holds);
    return false;
  } catch (error) {
    if (error instanceof RanAheadError) return true;
    throw error;
  } finally {
    if (session.usable) await dropWork(session, role, work);
  }
}

async function takeName(session: PgSession, role: Role, work: string, create: Create): Promise<void> {
  const what = `creating slot "${create.slot}" at ${formatLsn(create.to)}`;
  if (create.replaces !== undefined) await dropFailoverSlot(session, role, create.slot, create.replaces);
  const copy = () =>
    session.query<{ done: string | null }>(copySlot(role), [work, create.slot, false, create.plugin], {
      what,
    });
  expectDone(await loading(create.plugin, copy), what);
}

async function dropWork(session: PgSession, role: Role, work: string): Promise<void> {
  await session.query(dropSlot(role), [work], { what: "dropping a temporary slot" });
}
