/** One look at both servers, judged: what stands against syncing, which slots are chosen, what to do, who is ready. Pure. */
import type { Action } from "./action.ts";
import type { JournalState } from "./journal.ts";
import { isOwnSlotName } from "./names.ts";
import type { PrimaryView, StandbyView } from "./observation.ts";
import { type Memory, type Plan, type Policy, plan } from "./plan.ts";
import { planRetreat } from "./plan-stage.ts";
import { anyStop, type Problem, primaryProblems, standbyProblems, trustworthy } from "./prerequisites.ts";
import { matchSelectors, type Selector } from "./selector.ts";
import type { PrimarySlot } from "./slot.ts";

/** Which slots are failover slots. */
export interface Selection {
  include: readonly Selector[];
  exclude: readonly Selector[];
}

export interface Judgement {
  problems: Problem[];
  /** False when the primary may be the wrong server: nothing it says is recorded. */
  trusted: boolean;
  chosen: PrimarySlot[];
  plan: Plan;
  /** While a prerequisite stands against acting, only what the standby's next start asks for (I11). */
  actions: Action[];
}

/** The primary's slots that the selectors choose; temporary ones and a sidecar's own never. */
function chooseSlots(slots: readonly PrimarySlot[], selection: Selection): PrimarySlot[] {
  return slots.filter(
    (slot) =>
      !slot.temporary &&
      !isOwnSlotName(slot.name) &&
      matchSelectors(slot, selection.include, selection.exclude).selected,
  );
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
  const problems = [
    ...standbyProblems(standby, journal, memory.now),
    ...primaryProblems(primary, standby, journal),
    ...extra,
  ];
  const chosen = chooseSlots(primary.slots, selection);
  const planned = plan({ primary, standby, chosen, journal, policy, memory });
  return {
    problems,
    trusted: trustworthy(problems),
    chosen,
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
