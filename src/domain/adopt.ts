/**
 * What becomes of a slot on the standby that has a failover slot's name and is not ours (I7). A former primary that follows again brings
 * its own old slots along; what is proven to be of its own past can serve like any slot of ours, or make room for one.
 */
import { formatLsn, isAhead, type Lsn } from "./lsn.ts";
import type { PlanInput } from "./plan.ts";
import { type PrimarySlot, type StandbySlot, sameIdentity } from "./slot.ts";
import { commonUntil } from "./timeline.ts";

/** What the operator chose for such slots. */
export type ConflictPolicy = "adopt" | "recreate" | "refuse";

export type ConflictDecision =
  /** It becomes ours as it is. */
  | { kind: "adopt" }
  /** It is dropped, once a guard protects the name, and made anew. */
  | { kind: "recreate"; why: string }
  /** It is left alone for now: what stands against taking it over passes. */
  | { kind: "wait"; why: string }
  /** It is left alone. */
  | { kind: "quarantine"; why: string };

const quarantine = (why: string): ConflictDecision => ({ kind: "quarantine", why });

/**
 * Decides for one slot. The proof that it is of this node's own past: a sidecar saw this node as a primary, on a timeline that the
 * primary's descends from, and the slot stands at or before the fork. Whatever was made, or read, on this node after the fork stands
 * past it, whether the node was rewound since or not.
 */
export function decideConflict(
  slot: PrimarySlot,
  local: StandbySlot,
  input: Pick<PlanInput, "primary" | "journal" | "policy">,
): ConflictDecision {
  const { policy } = input;
  if (policy.onConflict === "refuse") return quarantine("slots.on_conflict is refuse, so it is left alone");
  if (local.temporary) return quarantine("it is a temporary slot, of a session that is at work");
  if (local.activePid !== null) return quarantine(`process ${local.activePid} is using it`);
  if (policy.onConflict === "recreate" && local.invalidation !== null)
    return { kind: "recreate", why: `this server has invalidated it (${local.invalidation})` };
  const past = ownPast(local, input);
  if (typeof past === "string") return quarantine(past);
  if (policy.onConflict === "recreate")
    return { kind: "recreate", why: "it is left from when this node was the primary" };
  const why = whyNotAdopted(slot, local, past);
  if (why !== null) return quarantine(why);
  // I1: confirmed here just before the switchover, and not seen by the sidecar of the new primary any more
  const { confirmedFlushLsn: confirmed } = slot;
  if (confirmed === null || (local.confirmedFlushLsn !== null && isAhead(local.confirmedFlushLsn, confirmed)))
    return {
      kind: "wait",
      why: `it is adopted once the primary's slot, which is at ${confirmed === null ? "no position" : formatLsn(confirmed)}, has come up to it`,
    };
  return { kind: "adopt" };
}

/** The fork that the slot stands at or before, or why that is not proven. */
function ownPast(
  { confirmedFlushLsn, restartLsn }: StandbySlot,
  { journal, primary }: Pick<PlanInput, "primary" | "journal">,
): Lsn | string {
  const { life, history } = journal;
  if (life === null) return "no sidecar with this state_directory has seen this node as a primary";
  if (primary.remembered || history?.timeline !== primary.timeline)
    return `the history of the primary's timeline ${primary.timeline} is not known yet`;
  const fork = commonUntil(life, history.forks);
  if (fork === null)
    return `this node was a primary on timeline ${life.timeline}, from which the primary's timeline ${primary.timeline} does not descend`;
  if (confirmedFlushLsn === null || restartLsn === null) return "it has no position";
  if (confirmedFlushLsn > fork)
    return `it stands at ${formatLsn(confirmedFlushLsn)}, past ${formatLsn(fork)}, where the primary's timeline ${primary.timeline} left this node's: it was made or read afterwards`;
  return fork;
}

/** Why one of this node's own past cannot go on under its name, or null. */
function whyNotAdopted(slot: PrimarySlot, local: StandbySlot, fork: Lsn): string | null {
  // I5
  if (!sameIdentity(slot, local))
    return "the primary's slot is another one (database, plugin or two_phase differ)";
  if (local.invalidation !== null) return `this server has invalidated it (${local.invalidation})`;
  if (slot.invalidation !== null) return `the primary has invalidated its slot (${slot.invalidation})`;
  // G5: one that was made anew since sends what was prepared before its own beginning in another way
  if (slot.twoPhase && (slot.restartLsn === null || slot.restartLsn > fork))
    return "it has two_phase, and whether the primary's slot was there before the fork cannot be seen any more";
  return null;
}

/** Whether the last life of this node as a primary says that the slot never moved from where it was created (I2 e). */
export function isUnmoved(local: StandbySlot, { journal }: Pick<PlanInput, "journal">): boolean {
  return (
    journal.life?.unmoved.some(
      ({ name, databaseOid, plugin, restartLsn }) =>
        name === local.name &&
        databaseOid === local.databaseOid &&
        plugin === local.plugin &&
        restartLsn === local.restartLsn,
    ) ?? false
  );
}
