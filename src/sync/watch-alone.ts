/**
 * While the standby is down the primary is still looked at (I15): where its failover slots stand is recorded without any claim about the
 * standby. A primary that dies before the standby is back has left a trace of what subscribers had confirmed by then.
 */
import { chooseSlots } from "../domain/choice.ts";
import { noteAlive, notePrimaryAlone, notePrimaryLost } from "../domain/journal-update.ts";
import type { PrimaryView } from "../domain/observation.ts";
import { askPulse, observePrimary } from "../observe/primary.ts";
import { describeError, isRefusal } from "../pg/errors.ts";
import { sleep } from "../pg/sleep.ts";
import type { Sidecar } from "./sidecar.ts";

/** How often the primary is asked for its WAL position meanwhile. */
const PULSE_MS = 900;

/** Watches for so long, or until the sidecar stops. Never throws: what is wrong with the primary is for the next cycle to tell. */
export async function watchPrimaryAlone(sidecar: Sidecar, forMs: number): Promise<void> {
  const { signal } = sidecar.options;
  const until = sidecar.now() + forMs;
  await lookAlone(sidecar);
  for (let left = until - sidecar.now(); left > 0 && !signal.aborted; left = until - sidecar.now()) {
    await sleep(Math.min(left, PULSE_MS), signal);
    if (!signal.aborted && left > PULSE_MS) await lookAlone(sidecar);
  }
}

async function lookAlone(sidecar: Sidecar): Promise<void> {
  const { journal, watching } = sidecar;
  // without a look at both there is nothing that could still hold, and after a promotion nothing that matters
  if (journal.observedAt === 0 || journal.phase !== "standby" || !watching) return;
  const askedAt = sidecar.now();
  try {
    const { primaryConninfo, view } = sidecar.lastLook;
    const session = await sidecar.primary.session(primaryConninfo);
    const { walLsn, slotsDigest } = await askPulse(session);
    const still = walLsn === journal.quietLsn && slotsDigest === sidecar.primarySlots;
    if (still && journal.alive === null) {
      if (sidecar.vouched) sidecar.quietUntil = askedAt;
      return;
    }
    await noteAlone(sidecar, await observePrimary(session, view.primarySlotName ?? ""));
  } catch (error) {
    await noteLost(sidecar, error, askedAt);
  }
}

async function noteAlone(sidecar: Sidecar, primary: PrimaryView): Promise<void> {
  const { journal, selection } = sidecar;
  const isIt = primary.systemIdentifier === journal.systemIdentifier && !primary.inRecovery;
  if (!isIt || sidecar.primary.problems.length > 0) return;
  const { chosen } = chooseSlots(primary, selection, journal);
  const quiet = { ...journal, quietUntil: Math.max(journal.quietUntil, sidecar.quietUntil) };
  await sidecar.record(notePrimaryAlone(quiet, primary, chosen, sidecar.now()));
  sidecar.alive = sidecar.journal.alive;
  sidecar.primarySlots = primary.slotsDigest ?? "";
}

async function noteLost(sidecar: Sidecar, error: unknown, lostAt: number): Promise<void> {
  const known = sidecar.journal;
  const lost = notePrimaryLost(known, sidecar.quietUntil, lostAt);
  const refusal = { at: sidecar.now(), lsn: lost.alive?.lsn ?? null, how: "refusal" as const };
  const next = noteAlive(lost, isRefusal(error) ? refusal : null);
  if (next === known) return;
  sidecar.log.warn(`the primary does not answer either: ${describeError(error)}`);
  await sidecar.record(next).catch((failure: unknown) => sidecar.log.error(describeError(failure)));
}
