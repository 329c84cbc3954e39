/**
 * Whether a promotion now would keep a slot, by the journal as it is on disk (I17): whoever finishes a promotion has nothing else to go by.
 * Ready means no less than that; what is seen and not recorded yet counts for nothing.
 */
import { type FinishInput, type FinishStep, standing } from "./finish.ts";
import type { JournalState, SlotRecord } from "./journal.ts";
import { formatLsn, type Lsn } from "./lsn.ts";
import type { StandbyView } from "./observation.ts";
import { isFailoverReady, type Protection, waiting } from "./protection.ts";
import { type SlotIdentity, sameIdentity } from "./slot.ts";
import { historyIfPromoted } from "./timeline.ts";

/** What is known of the primary's slot besides the journal: what a look has just shown. */
export type Shown = SlotIdentity & { confirmedFlushLsn: Lsn | null };

/**
 * Were the standby promoted now: what the finishing step would find at the least. Promotion replays all the WAL that is here; a hold is a
 * temporary slot, which may be gone with its session by then.
 */
export function asPromoted(journal: JournalState, standby: StandbyView): FinishInput {
  const slots = standby.slots.filter(({ temporary }) => !temporary);
  const { serverVersionNum } = standby;
  return { journal, slots, own: historyIfPromoted(standby, journal), serverVersionNum };
}

/** Where the slot would stand after the step, or null when the step does not keep it. */
function keptAt(step: FinishStep): Lsn | null {
  switch (step.kind) {
    case "keep":
      return step.position;
    case "advance":
    case "materialise":
      return step.to;
    default:
      return null;
  }
}

/**
 * Why a promotion now would not keep the slot as the verdict says, or null when it would. `shown` is the primary's slot, where it was seen.
 * Room for a copy is counted only for slots that are called guarded: one that is called synced must be kept as it is.
 */
export function whyNotKept(
  record: SlotRecord | undefined,
  verdict: Protection,
  shown: Shown | null,
  input: FinishInput,
): string | null {
  if (record === undefined) return "the journal does not know the slot";
  // I5
  if (shown !== null && !sameIdentity(record, shown))
    return "the journal knows another slot of this name (database, plugin or two_phase differ)";
  const step = standing(record, input);
  if (verdict === "synced" && step.kind === "materialise")
    return step.dropFirst ?? "it would have to be copied out of the guard";
  const at = keptAt(step);
  if (at === null) return "why" in step && step.why ? step.why : "it would not be kept";
  // I1: the primary has taken it back since
  if (shown?.confirmedFlushLsn != null && at > shown.confirmedFlushLsn)
    return `the journal would bring it to ${formatLsn(at)}, and the primary's slot is at ${formatLsn(shown.confirmedFlushLsn)} only`;
  return null;
}

/** `told` is how the record is to be shown: as not ready, where a promotion by the journal would not keep the slot as that says. */
export function heldToRule(record: SlotRecord, told: SlotRecord, input: FinishInput): SlotRecord {
  if (record.obsolete || !isFailoverReady(told.protection)) return told;
  const why = whyNotKept(record, told.protection, null, input);
  return why === null ? told : { ...told, ...waiting("not_recorded", why) };
}

/** The journal with no slot called ready that a promotion by this very journal would not keep. */
export function withStanding(journal: JournalState, standby: StandbyView): JournalState {
  const input = asPromoted(journal, standby);
  const slots = new Map(
    [...journal.slots].map(([name, record]) => [name, heldToRule(record, record, input)]),
  );
  return { ...journal, slots };
}
