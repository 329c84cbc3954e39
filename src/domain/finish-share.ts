/** Slots that are to reach the same position share one decoding, when that is dear and a guard stands behind them (G4). */
import { advanceCostMs } from "./cost.ts";
import type { FinishStep } from "./finish.ts";
import { groupBy } from "./group.ts";
import type { SlotRecord } from "./journal.ts";
import type { Lsn } from "./lsn.ts";

type Advance = Extract<FinishStep, { kind: "advance" }>;

/** What dropping a slot and copying another in its place costs, ms. */
const SWAP_MS = 4;

/**
 * Turns advances to an equal position into copies of one source. Only where `sourceOf` finds a guard at or behind the position: the
 * slot is dropped before it is copied, and a crash in between must find it again (I10).
 */
export function shareDecodes(
  steps: readonly FinishStep[],
  sourceOf: (record: SlotRecord, to: Lsn) => { name: string; restart: Lsn } | null,
): FinishStep[] {
  const groups = groupBy(
    // G5: a copy is never two_phase, nor flagged to survive the next failover
    steps.filter(
      (step): step is Advance =>
        step.kind === "advance" &&
        step.unproven === undefined &&
        !step.record.twoPhase &&
        !step.record.failover,
    ),
    (step) => `${step.record.databaseOid} ${step.to}`,
  );
  const shared = new Map<FinishStep, FinishStep>();
  for (const group of groups.values()) {
    const [first] = group;
    if (!first || group.length < 2) continue;
    const source = sourceOf(first.record, first.to);
    // I4: what serves one of them may lack rows that another needs
    if (!source || group.some(({ record, to }) => sourceOf(record, to)?.name !== source.name)) continue;
    const direct = group.reduce((sum, { restart, to }) => sum + advanceCostMs(restart, to), 0);
    if (advanceCostMs(source.restart, first.to) + SWAP_MS * group.length >= direct) continue;
    for (const step of group)
      shared.set(step, {
        kind: "materialise",
        record: step.record,
        from: source.name,
        to: step.to,
        dropFirst: "it is replaced by a copy at its exact position",
        outcome: "advanced",
      });
  }
  return steps.map((step) => shared.get(step) ?? step);
}
