/**
 * One cycle of the sidecar, the whole system in one function:
 *
 *   observe both servers → judge (pure) → journal what was seen and what is about to be done → do it → say how things stand
 *
 * Everything that decides is under src/domain and never awaits; everything that touches a slot carries its own recovery condition.
 */

import { type Action, isFileAction } from "../domain/action.ts";
import { catalogTableProblems } from "../domain/catalog-tables.ts";
import { NOTHING_CHOSEN, undecided } from "../domain/choice.ts";
import { noteIntents, noteObservation, noteProblems, noteStandby } from "../domain/journal-update.ts";
import { judge } from "../domain/judge.ts";
import { poolerProblems } from "../domain/pooler.ts";
import { againstReadiness, anyStop } from "../domain/prerequisites.ts";
import { buildStatus } from "../domain/status.ts";
import { withSnapshots } from "./births.ts";
import { anyCopyUnprotected, positionsMoved } from "./changes.ts";
import { pooledKeys } from "./links.ts";
import { observeBoth } from "./observe-both.ts";
import { learnHistory } from "./past.ts";
import type { Sidecar } from "./sidecar.ts";

/** `again`: slots were made or dropped, so how they stand is not what was told. */
export type CycleResult = { kind: "promoted" } | { kind: "synced"; changed: boolean; again: boolean };

/** What is done from time to time on a server where nothing happens. */
const UPKEEP: readonly Action["kind"][] = ["advance_guard", "probe_plugin"];

/** Runs one cycle, doing what `only` lets through. Throws when a server does not answer or the journal cannot be written: then nothing has been done. */
export async function runCycle(
  sidecar: Sidecar,
  only: (action: Action) => boolean = () => true,
): Promise<CycleResult> {
  // before the look: what ends during it may be missing in what it shows
  const atWork = sidecar.atWork();
  const now = sidecar.now();
  sidecar.primary.lookAbout();
  const seenBoth = await observeBoth(sidecar.standby, sidecar.primary, sidecar.lastLook, sidecar.directory);
  const look = { ...seenBoth.look, view: await withSnapshots(sidecar, seenBoth.look.view) };
  const primary = { ...seenBoth.primary, openTransactions: sidecar.haste.openTransactions };
  sidecar.lastLook = look;
  sidecar.primaryWalLsn = primary.walLsn;
  sidecar.primarySlots = primary.slotsDigest ?? "";
  sidecar.vouched = false;
  if (!look.view.inRecovery) return { kind: "promoted" };
  await sidecar.keepInUse(look.view);
  await learnHistory(sidecar, primary, look.view);

  const memory = sidecar.memory.at(now, atWork);
  const judged = judge(primary, look.view, sidecar.journal, sidecar.selection, sidecar.policy, memory, [
    ...sidecar.primary.problems,
    ...catalogTableProblems(sidecar.catalogTables.tables),
    ...poolerProblems(pooledKeys(sidecar.standby, sidecar.primary), sidecar.strayPins),
  ]);
  const { chosen, plan, problems } = judged;
  const actions = judged.actions.filter(only);
  // that nothing was chosen the journal shows by itself
  const against = againstReadiness(problems)
    .filter(({ code }) => code !== NOTHING_CHOSEN)
    .map((problem) => problem.message);
  const before = sidecar.journal;
  const seen = {
    primary,
    standby: look.view,
    chosen,
    plan,
    problems: against,
    busy: atWork.busyDatabases,
    filesBusy: atWork.filesBusy,
    undecided: undecided(judged.notChosen),
    now,
  };
  // written before anything is done on the strength of it: a crash then finds its own traces (I10)
  const next = judged.trusted
    ? noteIntents(noteObservation(before, seen), actions)
    : noteProblems(before, against);
  await sidecar.record(noteStandby(next, look.view, look.startedEpochS));
  if (judged.trusted) {
    sidecar.alive = null;
    sidecar.vouched = look.view.flushedLsn >= primary.walLsn;
  }
  sidecar.watching = true;
  if (before.primaryLostAt !== null && next.primaryLostAt === null)
    sidecar.log.info(
      `the primary answers again: nothing was seen of it for ${Math.round((now - before.primaryLostAt) / 1_000)} s`,
    );

  if (!anyStop(problems)) sidecar.memory.spend(plan.budgetMs, plan.rests);
  const again = await sidecar.act(actions);
  sidecar.considerRestart(plan.awaitingRestart, again || actions.some(isFileAction));
  await sidecar.tidy(judged.trusted ? primary : { pins: [] });
  sidecar.catalogTables.lookAbout(sidecar, look.view);
  const hastened = await sidecar.haste.hasten(sidecar, look.view);
  sidecar.report(buildStatus(sidecar.journal, look.view, problems, "live", judged.notChosen));
  const busy = actions.some(({ kind }) => !UPKEEP.includes(kind)) || sidecar.applier.busyDatabases.size > 0;
  const changed =
    busy || hastened || positionsMoved(before, sidecar.journal) || anyCopyUnprotected(sidecar.journal);
  return { kind: "synced", changed, again };
}
