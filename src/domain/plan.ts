/**
 * Decides, from one look at both servers and the journal, what to do next and how each failover slot stands.
 * Pure: the same input gives the same plan, and nothing here awaits. Safety rests on these lines, so each rule names its
 * invariant (see docs/safety.md); test/unit/plan.property.test.ts holds them against random histories.
 */
import type { Action } from "./action.ts";
import type { JournalState } from "./journal.ts";
import { holdName } from "./names.ts";
import type { PrimaryView, StandbyView } from "./observation.ts";
import { isOurs } from "./ownership.ts";
import { planAdvances } from "./plan-advance.ts";
import {
  type DatabaseState,
  guardAvailable,
  holdBackoffKey,
  inspectDatabase,
  mayTry,
  planGuard,
} from "./plan-guard.ts";
import { decideSlot, type SlotDecision } from "./plan-slot.ts";
import type { Reason, Verdict } from "./protection.ts";
import { type PrimarySlot, slotNamed } from "./slot.ts";

/** What the operator chose. */
export interface Policy {
  /** Databases that get a guard before they have a failover slot; "auto" takes all while there are few. */
  guardDatabases: "auto" | readonly string[];
  /** The share of one core that advancing may take. */
  duty: number;
}

/** Why a slot's last action failed, and when it may be tried again. */
export interface Backoff {
  reason: Reason;
  detail: string;
  retryAt: number;
  failures: number;
}

/** What the running process remembers from one cycle to the next; lost with it at no risk. */
export interface Memory {
  now: number;
  /** ms of server time that may be spent on advancing. */
  budgetMs: number;
  backoff: ReadonlyMap<string, Backoff>;
  /** Databases whose lane is still busy with an earlier cycle's actions. */
  busyDatabases: ReadonlySet<number>;
  /** Databases whose guard is being created right now. */
  creatingGuards: ReadonlySet<number>;
  /** When each database's guard was last advanced. */
  guardAdvancedAt: ReadonlyMap<number, number>;
  /** When an expensive slot may be advanced again. */
  restUntil: ReadonlyMap<string, number>;
}

export interface PlanInput {
  primary: PrimaryView;
  standby: StandbyView;
  /** The primary's slots that the selectors chose. */
  chosen: readonly PrimarySlot[];
  journal: JournalState;
  policy: Policy;
  memory: Memory;
}

export interface Plan {
  /** In the order in which they are to run within a database. */
  actions: Action[];
  /** One for each chosen slot, and for each of ours that is being given up. */
  verdicts: Map<string, Verdict>;
  /** The bucket after this plan's advances. */
  budgetMs: number;
  /** Expensive slots that must rest, and until when. */
  rests: Map<string, number>;
  /** Slots whose disappearance from the primary is not believed yet. */
  spared: Set<string>;
  /** Ours that must not wear their names after a promotion, and why (I6). */
  unsafe: Map<string, string>;
}

/** After the primary's timeline changed, how long a slot may be missing there before ours is dropped: its own sidecar may still be at work. */
const GRACE_AFTER_SWITCH_MS = 60_000;

/** True while slots missing on the primary are not yet believed to be gone. */
export function inDropGrace(journal: JournalState, primary: PrimaryView, now: number): boolean {
  if (journal.primaryTimeline !== null && journal.primaryTimeline !== primary.timeline) return true;
  return now < journal.timelineSince + GRACE_AFTER_SWITCH_MS;
}

/** Plans one cycle. Call it only when no prerequisite stands against acting. */
export function plan(input: PlanInput): Plan {
  const { standby, journal, memory } = input;
  const result: Plan = {
    actions: [],
    verdicts: new Map(),
    budgetMs: memory.budgetMs,
    rests: new Map(),
    spared: new Set(),
    unsafe: new Map(),
  };
  // I8: on a server that is no standby nothing is planned
  if (!standby.inRecovery) return result;

  const chosenNames = new Set(input.chosen.map((slot) => slot.name));
  result.actions.push(...dropObsolete(input, chosenNames, result));
  result.actions.push(...dropLeftovers(input));

  // one slot is left for the work copy that every creation needs
  const headroom = { free: standby.maxReplicationSlots - standby.usedSlots - 1 };
  for (const database of databasesOf(input)) {
    const state = inspectDatabase(database, standby, journal, memory);
    const slots = input.chosen.filter((slot) => slot.databaseOid === database.oid);
    const decisions = slots.map((slot) => decideSlot(slot, state, input, headroom));
    for (const decision of decisions) {
      result.verdicts.set(decision.slot.name, decision.verdict);
      if (decision.unsafe) result.unsafe.set(decision.slot.name, decision.unsafe);
    }
    if (memory.busyDatabases.has(database.oid)) continue;
    planDatabase(state, decisions, input, result);
  }
  for (const slot of input.chosen) {
    if (!result.verdicts.has(slot.name))
      result.verdicts.set(slot.name, decideSlot(slot, null, input, headroom).verdict);
  }
  return result;
}

function planDatabase(state: DatabaseState, decisions: SlotDecision[], input: PlanInput, result: Plan): void {
  const positions = [
    ...decisions.flatMap((decision) => decision.relies ?? []),
    ...sparedPositions(state, input, result),
  ];
  // a position behind the guard is none that the guard can serve: it must not stop the guard for all the others (G3)
  const relied = positions.filter((position) => !state.guard || position >= state.guard.confirmedFlushLsn);
  const advances = planAdvances(state, decisions, relied, input, result.budgetMs);
  const creates = decisions.flatMap((decision) => (decision.create ? [decision.create] : []));
  const holdNeeded = decisions.some((decision) => decision.needsHold) || relied.length < positions.length;

  result.actions.push(...decisions.flatMap((decision) => (decision.drop ? [decision.drop] : [])));
  if (holdNeeded && !state.hold && guardAvailable(state) && mayTry(holdBackoffKey(state.oid), input.memory))
    result.actions.push({
      kind: "create_hold",
      database: state.name,
      databaseOid: state.oid,
      hold: holdName(input.journal.instanceId, state.oid),
      from: state.guard.name,
    });
  if (!holdNeeded && state.hold)
    result.actions.push({
      kind: "release_hold",
      database: state.name,
      databaseOid: state.oid,
      hold: state.hold.name,
    });
  result.actions.push(...planGuard(state, relied, advances.rideTo, creates.length > 0, input));
  result.actions.push(...uniqueProbes(decisions));
  result.actions.push(...creates, ...advances.actions);
  result.budgetMs = advances.budgetMs;
  for (const [name, until] of advances.rests) result.rests.set(name, until);
}

/** Databases that need a guard or have failover slots, and exist on both servers. */
function databasesOf(input: PlanInput): { oid: number; name: string }[] {
  const withSlots = new Set(input.chosen.map((slot) => slot.databaseOid));
  const wanted = guardedDatabaseNames(input);
  return input.standby.databases.filter(
    (database) => withSlots.has(database.oid) || wanted.has(database.name),
  );
}

const AUTO_GUARDS = 10;

function guardedDatabaseNames({ policy, standby }: PlanInput): Set<string> {
  if (policy.guardDatabases !== "auto") return new Set(policy.guardDatabases);
  return new Set(
    standby.databases.length <= AUTO_GUARDS ? standby.databases.map((database) => database.name) : [],
  );
}

/** `drop_local_obsolete_slots`: ours whose slot is gone from the primary or no longer chosen (I7: only ours, never an active one). */
function dropObsolete(input: PlanInput, chosenNames: Set<string>, result: Plan): Action[] {
  const { standby, primary, journal, memory } = input;
  const actions: Action[] = [];
  for (const record of [...journal.slots.values()]) {
    if (chosenNames.has(record.name)) continue;
    const stillThere = primary.slots.some((slot) => slot.name === record.name);
    if (!stillThere && inDropGrace(journal, primary, memory.now)) {
      result.spared.add(record.name);
      result.verdicts.set(record.name, {
        protection: "waiting",
        reason: "absent_on_primary",
        detail: "the new primary does not have this slot yet; ours is kept for a while",
      });
      continue;
    }
    const local = slotNamed(standby.slots, record.name);
    if (
      !local ||
      !isOurs(local, record) ||
      local.activePid !== null ||
      memory.busyDatabases.has(record.databaseOid)
    )
      continue;
    actions.push({
      kind: "drop",
      slot: record.name,
      database: record.database,
      databaseOid: record.databaseOid,
      why: stillThere ? "it is no longer chosen" : "it is gone from the primary",
    });
  }
  return actions;
}

/** Guards that nobody needs any more, and what earlier attempts left. All bear our instance id in their names (I7). */
function dropLeftovers(input: PlanInput): Action[] {
  const { standby, journal, memory } = input;
  const wanted = new Set(databasesOf(input).map((database) => database.oid));
  const idle = Object.values(journal.guards).filter(
    (guard) => !wanted.has(guard.databaseOid) && !memory.creatingGuards.has(guard.databaseOid),
  );
  const names = new Set([...journal.leftovers, ...idle.map((guard) => guard.name)]);
  return standby.slots
    .filter(
      (slot) =>
        names.has(slot.name) && slot.activePid === null && !memory.busyDatabases.has(slot.databaseOid),
    )
    .map(
      ({ name, database, databaseOid }) =>
        ({ kind: "drop_leftover", slot: name, database, databaseOid }) as const,
    );
}

function sparedPositions(state: DatabaseState, input: PlanInput, result: Plan) {
  return [...input.journal.slots.values()]
    .filter((record) => record.databaseOid === state.oid && result.spared.has(record.name))
    .flatMap((record) => record.primaryConfirmedFlushLsn ?? []);
}

function uniqueProbes(decisions: SlotDecision[]): Action[] {
  const probes = new Map<string, Action>();
  for (const { probe } of decisions) if (probe?.kind === "probe_plugin") probes.set(probe.plugin, probe);
  return [...probes.values()];
}
