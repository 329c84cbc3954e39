/** One look at both servers, judged: what stands against syncing, which slots are chosen, what to do, who is ready. Pure. */
import type { Action } from "./action.ts";
import { auditServerSync } from "./audit.ts";
import { type Choice, choiceProblems, chooseSlots, type Selection } from "./choice.ts";
import type { JournalState } from "./journal.ts";
import type { PrimaryView, StandbyView } from "./observation.ts";
import { type Memory, type Plan, type Policy, plan } from "./plan.ts";
import { asConfirmed } from "./plan-served.ts";
import { planRetreat } from "./plan-stage.ts";
import {
  anyStop,
  leftoverProblems,
  type Problem,
  primaryProblems,
  standbyProblems,
  trustworthy,
} from "./prerequisites.ts";

export interface Judgement extends Choice {
  problems: Problem[];
  /** False when the primary may be the wrong server: nothing it says is recorded. */
  trusted: boolean;
  plan: Plan;
  /** While a prerequisite stands against acting, only what the standby's next start asks for (I11). */
  actions: Action[];
}

/** Judges what was seen. `extra` are problems that neither server shows. */
export function judge(
  primary: PrimaryView,
  standby: StandbyView,
  journal: JournalState,
  selection: Selection,
  policy: Policy,
  memory: Memory,
  extra: readonly Problem[] = [],
): Judgement {
  const chosenThere = chooseSlots(primary, selection, journal);
  const chosen = chosenThere.chosen.map((slot) => asConfirmed(slot, { standby, journal }));
  const choice = { ...chosenThere, chosen };
  const problems = [
    ...standbyProblems(standby, journal),
    ...primaryProblems(primary, standby, journal),
    ...choiceProblems(primary, selection, choice, journal),
    ...auditServerSync(primary, standby, choice.chosen, memory),
    ...leftoverProblems(primary, standby, journal),
    ...extra,
  ];
  const planned = plan({ primary, standby, chosen, journal, policy, memory });
  return {
    problems,
    trusted: trustworthy(problems),
    ...choice,
    plan: planned,
    actions: anyStop(problems) ? retreat(standby, journal, memory) : planned.actions,
  };
}

/** What is to be taken back lest the standby's next start fail (I11), whatever stands against syncing. */
export function retreat(
  standby: StandbyView,
  journal: JournalState,
  { filesBusy }: Pick<Memory, "filesBusy">,
): Action[] {
  return filesBusy || !standby.inRecovery ? [] : planRetreat({ standby, journal });
}
