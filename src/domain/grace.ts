/** What is not believed of a new primary for a while: its own sidecar may still be at work, and its consumers about to come. */
import type { JournalState } from "./journal.ts";
import type { PrimaryView } from "./observation.ts";

const GRACE_AFTER_SWITCH_MS = 60_000;

/** True right after the primary's timeline changed. */
export function inGrace(
  journal: Pick<JournalState, "primaryTimeline" | "timelineSince">,
  primary: Pick<PrimaryView, "timeline">,
  now: number,
): boolean {
  if (journal.primaryTimeline !== null && journal.primaryTimeline !== primary.timeline) return true;
  return now < journal.timelineSince + GRACE_AFTER_SWITCH_MS;
}
