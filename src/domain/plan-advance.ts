/** Which of our slots to move forward now, and how: each by its own decoding, or all by copying the guard (G4). */
import type { Action } from "./action.ts";
import { createsOnStandby } from "./capability.ts";
import { advanceCostMs, bucketCharge, restAfter, rideCostMs } from "./cost.ts";
import { pluginUnproven } from "./doubts.ts";
import { bytesBetween, type Lsn, minLsn } from "./lsn.ts";
import type { PlanInput } from "./plan.ts";
import { type DatabaseState, guardTarget, type Headroom } from "./plan-guard.ts";
import type { SlotDecision } from "./plan-slot.ts";

export interface AdvancePlan {
  actions: Action[];
  budgetMs: number;
  rests: Map<string, number>;
  /** Where the guard must be before the slots are replaced by copies of it; null when none is. */
  rideTo: Lsn | null;
}

type Candidate = SlotDecision & { advance: NonNullable<SlotDecision["advance"]> };

/**
 * The bucket may be overdrawn by the last advance taken, never stays empty for ever, and the slot furthest behind goes first:
 * so every slot moves in the end, whatever it costs.
 */
export function planAdvances(
  state: DatabaseState,
  decisions: readonly SlotDecision[],
  relied: readonly Lsn[],
  input: PlanInput,
  budgetMs: number,
  headroom: Headroom,
): AdvancePlan {
  const candidates = decisions.filter((decision): decision is Candidate => decision.advance !== undefined);
  const result: AdvancePlan = { actions: [], budgetMs, rests: new Map(), rideTo: null };
  if (candidates.length === 0 || budgetMs <= 0) return result;

  const ride = planRide(state, candidates, relied, input, headroom);
  if (ride) {
    result.rideTo = ride.to;
    result.budgetMs -= ride.costMs;
    result.actions = ride.actions;
  }
  const left = candidates.filter((candidate) => !ride?.moved.includes(candidate));
  for (const [order, { slot, advance }] of byLag(left).entries()) {
    // beside a ride, one that cannot take part in it still moves: rides alone would leave it behind for good
    if (result.budgetMs <= 0 && !(ride && order === 0)) break;
    const cost = advanceCostMs(advance.restart, advance.to);
    result.budgetMs -= bucketCharge(cost);
    const rest = restAfter(cost, input.policy.duty);
    if (rest > 0) result.rests.set(slot.name, input.memory.now + rest);
    result.actions.push({
      kind: "advance",
      slot: slot.name,
      database: slot.database,
      databaseOid: slot.databaseOid,
      at: advance.confirmed,
      to: advance.to,
      unsure: advance.unsure,
    });
  }
  return result;
}

function byLag(candidates: Candidate[]): Candidate[] {
  return candidates.toSorted(
    (a, b) =>
      bytesBetween(b.advance.confirmed, b.advance.to) - bytesBetween(a.advance.confirmed, a.advance.to),
  );
}

/**
 * Copying instead of decoding, when that is cheaper. The guard covers every slot replaced (its position is at or behind theirs on
 * the primary), so between the drop and the copy the slot is still guarded. A few slots that are further behind than the rest must
 * not keep it from moving the many: several positions are weighed, and the one that saves most is taken.
 */
function planRide(
  state: DatabaseState,
  all: Candidate[],
  relied: readonly Lsn[],
  input: PlanInput,
  headroom: Headroom,
) {
  const { guard } = state;
  // promoted between the drop and the copy, the slot is made anew, and that takes a working copy as well
  if (!guard || state.newborn || headroom.free < 0 || !createsOnStandby(input.standby.serverVersionNum))
    return null;
  // a slot whose plugin does not load cannot be copied again once it is dropped (I18); decoding it for an advance needs no plugin
  const candidates = all.filter(({ slot }) => pluginUnproven(slot, input) === null);
  const limit = guardTarget(relied, input);
  const targets = candidates
    .map(({ advance }) => minLsn(advance.to, limit))
    .toSorted((a, b) => (a < b ? -1 : a > b ? 1 : 0));
  const weighed = [0, 0.1, 0.25, 0.5].flatMap((share) => targets[Math.floor(share * targets.length)] ?? []);
  let best: { to: Lsn; costMs: number; moved: Candidate[]; savesMs: number } | null = null;
  for (const to of new Set(weighed)) {
    if (to < guard.confirmedFlushLsn) continue;
    // I1: only slots whose own target is at or past the position
    const moved = candidates.filter(({ advance }) => advance.confirmed < to && to <= advance.to);
    const costMs = rideCostMs(guard.restartLsn, to, moved.length);
    const savesMs =
      moved.reduce((sum, { advance }) => sum + advanceCostMs(advance.restart, advance.to), 0) - costMs;
    if (moved.length > 1 && savesMs > 0 && savesMs > (best?.savesMs ?? 0))
      best = { to, costMs, moved, savesMs };
  }
  if (!best) return null;
  const { to, costMs, moved } = best;
  const actions = moved.map(
    ({ slot, advance }): Action => ({
      kind: "replace",
      slot: slot.name,
      database: slot.database,
      databaseOid: slot.databaseOid,
      plugin: slot.plugin,
      guard: guard.name,
      at: advance.confirmed,
      to,
    }),
  );
  return { to, costMs, moved, actions };
}
