/** Moving our slots forward by decoding, many in one statement (one round trip, one transaction). */
import type { Action } from "../domain/action.ts";
import { formatLsn, type Lsn } from "../domain/lsn.ts";
import type { PgSession } from "../pg/session.ts";
import {
  ADVANCE_SLOTS,
  advanceSeenSlot,
  advanceSlot,
  type Role,
  SET_STATEMENT_TIMEOUT,
  SHOW_STATEMENT_TIMEOUT,
} from "../pg/sql.ts";
import { expectDone, expectUnmoved, type Outcome, SlotMovedError, WrongRoleError } from "./errors.ts";

type Advance = Extract<Action, { kind: "advance" }>;

/** Advances all at once; when one of them fails, each by itself, so that one slot's failure stays its own (I9). */
export async function advanceSlots(session: PgSession, actions: readonly Advance[]): Promise<Outcome[]> {
  try {
    const names = actions.map((action) => action.slot);
    const seen = actions.map((action) => formatLsn(action.at));
    const positions = actions.map((action) => formatLsn(action.to));
    const what = `advancing ${actions.length} slot(s)`;
    const rows = await session.query<{ name: string; done: string | null }>(
      ADVANCE_SLOTS,
      [names, seen, positions],
      { what },
    );
    const done = new Map(rows.map((row) => [row.name, row.done]));
    return actions.map((action) => ({ action, error: done.get(action.slot) ? null : whyNot(action, done) }));
  } catch (error) {
    if (!session.usable || actions.length === 1) return actions.map((action) => ({ action, error }));
  }
  const outcomes: Outcome[] = [];
  for (const action of actions) outcomes.push({ action, error: await failureOfOne(session, action) });
  return outcomes;
}

function whyNot({ slot }: Advance, done: ReadonlyMap<string, string | null>): Error {
  return done.has(slot)
    ? new WrongRoleError(`advancing slot "${slot}": the server's role has changed`)
    : new SlotMovedError(`advancing slot "${slot}": it is not where it was seen any more`);
}

async function failureOfOne(session: PgSession, action: Advance): Promise<unknown> {
  try {
    const [outcome] = await advanceSlots(session, [action]);
    if (outcome?.error) throw outcome.error;
    return null;
  } catch (error) {
    return error;
  }
}

/**
 * Advances one of our copies of a failover slot, if it still stands where it was seen (I7). Throws what the server says, WrongRoleError, or
 * SlotMovedError when the slot does not stand there.
 */
export async function advanceSeen(
  session: PgSession,
  role: Role,
  slot: string,
  at: Lsn | null,
  to: Lsn,
): Promise<void> {
  const what = `advancing slot "${slot}" to ${formatLsn(to)}`;
  const seen = at === null ? null : formatLsn(at);
  expectUnmoved(await session.query(advanceSeenSlot(role), [slot, seen, formatLsn(to)], { what }), what);
}

/** Advances one slot of our own name. Throws what the server says, or WrongRoleError. */
export async function advanceOne(session: PgSession, role: Role, slot: string, to: string): Promise<void> {
  const what = `advancing slot "${slot}" to ${to}`;
  expectDone(await session.query(advanceSlot(role), [slot, to], { what }), what);
}

/** How long the server may look for a consistent point before it is told to stop. */
const BRIEF_MS = 2_000;

/**
 * Runs an advance that may not end: without a snapshot at its beginning the server waits, spinning, for every transaction that was
 * running there. Cancelled, it has done no harm, and is tried again later.
 */
export async function briefly<T>(session: PgSession, run: () => Promise<T>): Promise<T> {
  const [before] = await session.query<{ setting: string }>(SHOW_STATEMENT_TIMEOUT);
  await session.query(SET_STATEMENT_TIMEOUT, [String(BRIEF_MS)]);
  try {
    return await run();
  } finally {
    if (session.usable) await session.query(SET_STATEMENT_TIMEOUT, [before?.setting ?? "0"]);
  }
}
