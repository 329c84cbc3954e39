/**
 * The life of the process:
 *
 *   standby ──(promotion seen)──> promoting ──(recovery has ended)──> finish ──> primary
 *      ^  └───────────<──(it did not come to it)──┘                                │
 *      └──────────────────────────<──(a standby again: start over)─────────────────┘
 */

import { assessFromJournal } from "../domain/assess.ts";
import { describeFinish } from "../domain/finish.ts";
import { longestNapMs } from "../domain/idle.ts";
import type { JournalState } from "../domain/journal.ts";
import {
  noteAlive,
  noteHalted,
  noteNotHalted,
  notePrimaryLost,
  noteStandby,
  startOver,
} from "../domain/journal-update.ts";
import { retreat } from "../domain/judge.ts";
import { nextNap, retryDelay } from "../domain/nap.ts";
import { buildStatus } from "../domain/status.ts";
import type { Alive } from "../domain/vouch.ts";
import { JournalWriteError } from "../journal/errors.ts";
import { isStandby, observeStandby, pulseOfStandby, type StandbyLook } from "../observe/standby.ts";
import { ConnectError, describeError, isRefusal } from "../pg/errors.ts";
import { sleep } from "../pg/sleep.ts";
import { type CycleResult, runCycle } from "./cycle.ts";
import { finishOnce } from "./finish.ts";
import { blindMs, quietMs } from "./from-config.ts";
import { StandbyLockedError } from "./links.ts";
import { PrimaryUnreachableError } from "./observe-both.ts";
import { noteLife } from "./past.ts";
import { PromotionWatch } from "./promotion-watch.ts";
import type { Sidecar } from "./sidecar.ts";
import { keepVigil, napUntil, Sign } from "./vigil.ts";
import { watchPrimaryAlone } from "./watch-alone.ts";

/** After slots were made or dropped, how they stand now is looked at and told at once. */
const AGAIN_MS = 10;
/** How often the end of recovery is asked for once a promotion has been seen. */
const PROMOTING_PULSE_MS = 10;
/** … and once it turns out that much WAL is left to replay. */
const SLOW_PROMOTION_PULSE_MS = 100;
/** How often it is asked whether the node is a standby still while standby.signal stays away. */
const SIGNAL_GONE_PULSE_MS = 50;
/** A sign that was none: the standby goes on streaming for so long after it. */
const FALSE_SIGN_MS = 5_000;
/** How often the standby is looked for while it is being restarted. */
const RESTART_PULSE_MS = 250;
/** How often a primary is asked whether it has become a standby, and how its slots look. */
const PRIMARY_PULSE_MS = 1_000;

/** Runs until the signal aborts. Throws StandbyLockedError at the start when another sidecar is at work; nothing else ends it. */
export async function runLoop(sidecar: Sidecar): Promise<void> {
  const { signal } = sidecar.options;
  const sign = new Sign();
  const watch = new PromotionWatch(sidecar.options.dataDirectory, {
    onPromote: () => sign.give(),
    onSignalGone: () => void askWhetherPromoted(sidecar, sign),
  });
  let unwatched: string | null = null;
  try {
    for (let failures = 0, started = false; !signal.aborted; ) {
      try {
        const look = await sidecar.look();
        sidecar.lastLook = look;
        started = true;
        failures = 0;
        // what is at its path by now may be another directory
        watch.rearm();
        if (watch.failed !== null && watch.failed !== unwatched)
          sidecar.log.warn(
            `the data directory cannot be watched, promotions are noticed by asking: ${watch.failed}`,
          );
        unwatched = watch.failed;
        if (look.view.inRecovery) await liveAsStandby(sidecar, sign);
        else await liveAsPrimary(sidecar);
      } catch (error) {
        if (signal.aborted) return;
        if (error instanceof StandbyLockedError && !started) throw error;
        failures += 1;
        const message = `this node's server cannot be worked on: ${describeError(error)}`;
        sidecar.log.warn(message);
        reportProblem(sidecar, "standby_unreachable", message);
        // a standby that we restart ourselves is back soon
        const back = sidecar.restarts?.running ?? false;
        await watchPrimaryAlone(sidecar, back ? RESTART_PULSE_MS : retryDelay(failures, Math.random()));
      }
    }
  } finally {
    watch.close();
  }
}

/** standby.signal has gone: by the end of recovery, which the server then says itself within moments, or by somebody's hand. */
async function askWhetherPromoted(sidecar: Sidecar, sign: Sign): Promise<void> {
  const since = performance.now();
  while (!sign.given && !sidecar.options.signal.aborted && performance.now() - since < FALSE_SIGN_MS) {
    // what is wrong with the server is for the cycle to find
    const { current } = sidecar.standby;
    const standby = current && (await isStandby(current).catch(() => null));
    if (standby === null) return;
    if (!standby) return sign.give();
    await sleep(SIGNAL_GONE_PULSE_MS, sidecar.options.signal);
  }
}

/** Syncs until the server is a standby no more. Throws when the standby is lost. */
async function liveAsStandby(sidecar: Sidecar, sign: Sign): Promise<void> {
  const { signal, nap } = sidecar.options;
  if (sidecar.journal.phase === "primary") await recordIfPossible(sidecar, startOver(sidecar.journal));
  await sidecar.resetApplier();
  // a promotion that an earlier process saw may still be on its way (I8)
  sign.given = sidecar.journal.phase === "promoting";
  for (let napMs = nap.minMs, failures = 0; !signal.aborted; ) {
    let changed = false;
    let again = false;
    const lostBefore = sidecar.primary.current === null ? sidecar.now() : null;
    try {
      const result = await cycleOrPromotion(sidecar, sign);
      failures = 0;
      if (result.kind === "promoted") {
        if (await promotionSeen(sidecar, sign)) return promote(sidecar, sign);
        continue;
      }
      ({ changed, again } = result);
    } catch (error) {
      if (!(error instanceof PrimaryUnreachableError || error instanceof JournalWriteError)) throw error;
      failures += 1;
      // where none could be connected to, that is when the primary was lost, and not when the last of its hosts had been tried
      const connected = !(error.cause instanceof ConnectError);
      await noteFailedCycle(sidecar, error, connected ? sidecar.now() : (lostBefore ?? sidecar.now()));
    }
    napMs = failures > 0 ? retryDelay(failures, Math.random()) : nextNap(changed, napMs, nap);
    const longest = again ? AGAIN_MS : longestNapMs(sidecar.lastLook.view);
    const end = await napUntil(sidecar, sign, Math.min(longest, napMs));
    if (end === "news") napMs = nap.minMs;
    if (end === "promotion" && (await promotionSeen(sidecar, sign))) return promote(sidecar, sign);
  }
}

/**
 * Runs a cycle, with an eye on the standby meanwhile: a primary that was cut off may keep the cycle waiting for its answer while the
 * standby is promoted in its place. A cycle that is overtaken so is ended before anything else happens.
 */
async function cycleOrPromotion(sidecar: Sidecar, sign: Sign): Promise<CycleResult> {
  if (sign.given) return { kind: "promoted" };
  const over = new AbortController();
  const cycle = runCycle(sidecar).finally(() => over.abort());
  const vigil = keepVigil(sidecar, sign, over.signal);
  const first = await Promise.race([cycle, vigil]);
  if (first !== null) return first;
  sidecar.primary.abandon();
  await sidecar.applier.halt(await sidecar.standby.control());
  await cycle.catch(() => {});
  return { kind: "promoted" };
}

/** For steps that a full disk must not hold up: the state in memory goes on, and repeats are all that can come of it. */
async function recordIfPossible(sidecar: Sidecar, journal: JournalState): Promise<void> {
  await sidecar.record(journal).catch((error: unknown) => sidecar.log.error(describeError(error)));
}

async function noteFailedCycle(sidecar: Sidecar, error: Error, lostAt: number): Promise<void> {
  const message = describeError(error);
  if (error instanceof PrimaryUnreachableError) {
    const known = sidecar.journal;
    const lost = notePrimaryLost(known, sidecar.quietUntil, lostAt);
    if (known !== lost) sidecar.log.warn(message);
    await reportFromJournal(sidecar, lost, message, isRefusal(error));
    return;
  }
  sidecar.log.error(message);
  reportProblem(sidecar, "journal_not_writable", message);
}

/** What `check` says when the primary is gone, for that is when readiness is asked for most. */
async function reportFromJournal(
  sidecar: Sidecar,
  lost: JournalState,
  whyNot: string,
  refused: boolean,
): Promise<void> {
  const { options, selection, policy } = sidecar;
  const known = sidecar.journal;
  // whatever becomes of the look: it was lost then
  sidecar.journal = lost;
  const look = await sidecar.look();
  // it may follow another primary by now: the next cycle asks the one that it names
  sidecar.lastLook = look;
  const { view, messageAgeMs } = look;
  const signs = { flushedLsn: view.flushedLsn, messageAgeMs, refused };
  sidecar.hear(signs);
  const heard = noteAlive(lost, sidecar.watching ? sidecar.alive : unwatched(sidecar, look));
  const seen = noteStandby(heard, view, look.startedEpochS);
  sidecar.watching = true;
  if (seen !== known) await recordIfPossible(sidecar, seen);
  const { journal } = sidecar;
  // promoted in the meantime: the nap sees it
  if (!view.inRecovery) return;
  await sidecar.keepInUse(view);
  // I11: whoever restarts the standby now does not wait for the primary
  await sidecar.act(retreat(view, journal, sidecar.atWork()));
  const { nap, timeouts } = options;
  const facts = {
    selection,
    policy,
    sidecarRunning: true,
    primaryProblems: [],
    quietSince: 0,
    quietMs: quietMs({ nap, timeouts }),
    blindMs: blindMs({ timeouts }),
    signs,
    standbyStartedS: look.startedEpochS,
    toWallTime: sidecar.toWallTime,
  };
  const now = sidecar.now();
  sidecar.tell(assessFromJournal({ ...facts, journal, standby: view, now }, whyNot).status);
}

/**
 * A sidecar that has just begun, beside a standby that has been started since its predecessor looked: while neither was there, no WAL of a
 * living primary could show (I15).
 */
function unwatched(sidecar: Sidecar, { startedEpochS }: StandbyLook): Alive | null {
  const { alive } = sidecar;
  const { standbyStartedS } = sidecar.journal;
  if (standbyStartedS === null || standbyStartedS === startedEpochS) return alive;
  return { at: sidecar.now(), lsn: alive?.lsn ?? null, how: "unwatched" };
}

function reportProblem(sidecar: Sidecar, code: string, message: string): void {
  sidecar.tell(buildStatus(sidecar.journal, null, [{ code, severity: "stop", message }], "live"));
}

/** After a sign: waits for the end of recovery. False when the standby went on streaming: it was a false alarm. */
async function promotionSeen(sidecar: Sidecar, sign: Sign): Promise<boolean> {
  const { signal } = sidecar.options;
  sidecar.log.info("a promotion of this standby has been asked for: syncing halts");
  sidecar.journal = noteAlive(noteHalted(sidecar.journal, sidecar.quietUntil, sidecar.now()), sidecar.alive);
  reportProblem(sidecar, "promoting", "this standby is being promoted");
  const control = await sidecar.standby.control();
  await sidecar.applier.halt(control);
  await recordIfPossible(sidecar, sidecar.journal);
  const since = sidecar.now();
  let usedAt = since;
  while (!signal.aborted) {
    const pulse = await pulseOfStandby(control);
    if (!pulse.inRecovery) {
      sidecar.journal = noteAlive(sidecar.journal, sidecar.alive);
      return true;
    }
    // until the walreceiver has ended WAL may come
    sidecar.hear({ ...pulse, refused: false });
    // much WAL may be left to replay
    if (sidecar.now() - usedAt >= longestNapMs(sidecar.lastLook.view)) {
      usedAt = sidecar.now();
      await sidecar.keepInUse((await observeStandby(control)).view);
    }
    if (sidecar.now() - since > FALSE_SIGN_MS && (await observeStandby(control)).view.streaming) break;
    await sleep(sidecar.now() - since < FALSE_SIGN_MS ? PROMOTING_PULSE_MS : SLOW_PROMOTION_PULSE_MS, signal);
  }
  if (signal.aborted) return false;
  sidecar.log.info("the promotion did not come about: syncing goes on");
  sign.given = false;
  sidecar.journal = noteNotHalted(sidecar.journal);
  await sidecar.resetApplier();
  return false;
}

/** Halts whatever is still running, and finishes. */
async function promote(sidecar: Sidecar, sign: Sign): Promise<void> {
  const control = await sidecar.standby.control();
  await sidecar.applier.halt(control);
  await finish(sidecar);
  await sidecar.releasePins();
  sign.given = false;
  await sidecar.resetApplier();
}

async function finish(sidecar: Sidecar): Promise<void> {
  const { options } = sidecar;
  const before = sidecar.journal.finish;
  const report = await finishOnce({
    control: await sidecar.standby.control(),
    open: (database) => sidecar.standby.open(database, "finish", true),
    openReplication: () => sidecar.standby.openReplication("flag"),
    connections: options.finishConnections,
    directory: options.dataDirectory,
    keepUnproven: sidecar.policy.keepUnproven ?? false,
    journal: sidecar.journal,
    record: (journal) => recordIfPossible(sidecar, journal),
    log: sidecar.log,
    now: () => sidecar.now(),
    toWallTime: sidecar.toWallTime,
    blindMs: blindMs(options),
  });
  if (report === null || report === before) return;
  const log = report.complete ? sidecar.log.info : sidecar.log.error;
  log.call(sidecar.log, { gapReport: report }, describeFinish(report));
}

/** Finishes what a promotion left to do, then waits until the node is a standby again. Throws when the server is lost. */
async function liveAsPrimary(sidecar: Sidecar): Promise<void> {
  const { signal } = sidecar.options;
  for (let failures = 0; !signal.aborted; ) {
    await finish(sidecar);
    await noteLife(sidecar);
    sidecar.tell(buildStatus(sidecar.journal, null, [], "live"));
    const incomplete = sidecar.journal.finish?.complete === false;
    failures = incomplete ? failures + 1 : 0;
    const until =
      sidecar.now() + (incomplete ? retryDelay(failures + 2, Math.random()) : Number.POSITIVE_INFINITY);
    while (!signal.aborted && sidecar.now() < until) {
      await sleep(PRIMARY_PULSE_MS, signal);
      if (signal.aborted || (await isStandby(await sidecar.standby.control()))) return;
      await noteLife(sidecar);
    }
  }
}
