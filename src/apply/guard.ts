/** Creating and advancing guards. */
import { formatLsn, type Lsn } from "../domain/lsn.ts";
import type { PgSession } from "../pg/session.ts";
import { sleep } from "../pg/sleep.ts";
import { CREATE_GUARD } from "../pg/sql.ts";
import { advanceOne } from "./advance.ts";
import { expectDone } from "./errors.ts";

/** When to ask the primary for a running-xacts record while a guard waits for one: after these many ms, then every last. */
const NUDGES_MS = [30, 150, 500, 2_000];

/**
 * Creates a guard; waits until the transactions that run now have ended. `nudge` asks the primary for a running-xacts record, which
 * is what the creation waits for; its failures do not matter, for such a record comes by itself in time.
 */
export async function createGuard(
  session: PgSession,
  guard: string,
  nudge: () => Promise<void>,
): Promise<void> {
  const waiting = new AbortController();
  const nudging = keepNudging(nudge, waiting.signal);
  try {
    const what = `creating guard "${guard}"`;
    expectDone(await session.query(CREATE_GUARD, [guard], { what }), what);
  } finally {
    waiting.abort();
    await nudging;
  }
}

async function keepNudging(nudge: () => Promise<void>, signal: AbortSignal): Promise<void> {
  for (let round = 0; ; round += 1) {
    await sleep(NUDGES_MS[Math.min(round, NUDGES_MS.length - 1)] ?? 0, signal);
    if (signal.aborted) return;
    await nudge().catch(() => {});
  }
}

/** Advances a guard (G1). */
export async function advanceGuard(session: PgSession, guard: string, to: Lsn): Promise<void> {
  await advanceOne(session, "standby", guard, formatLsn(to));
}
