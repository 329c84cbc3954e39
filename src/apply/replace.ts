/** Bringing many slots forward at the price of the guard's one decoding (G4). */
import type { Action } from "../domain/action.ts";
import { formatLsn } from "../domain/lsn.ts";
import type { PgSession } from "../pg/session.ts";
import { REPLACE_SLOT } from "../pg/sql.ts";
import { expectUnmoved } from "./errors.ts";

type Replace = Extract<Action, { kind: "replace" }>;

/**
 * Drops the slot and copies the guard in its place, in one statement, provided both stand where the plan said. Between the two
 * the slot is guarded. Throws what the server says; a slot that is in use is left as it is.
 */
export async function replaceSlot(session: PgSession, action: Replace): Promise<void> {
  const what = `replacing slot "${action.slot}" by a copy of the guard at ${formatLsn(action.to)}`;
  expectUnmoved(
    await session.query(
      REPLACE_SLOT,
      [action.guard, action.slot, action.plugin, formatLsn(action.to), formatLsn(action.at)],
      {
        what,
      },
    ),
    what,
  );
}
