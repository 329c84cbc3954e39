/**
 * Decides, from one look at both servers and the journal, what to do next and how each failover slot stands.
 * Pure: the same input gives the same plan, and nothing here awaits. Safety rests on these lines, so each rule names its
 * invariant (see docs/safety.md); test/unit/plan.property.test.ts holds them against random histories.
 */
import type { Action } from "./action.ts";
import type { ConflictPolicy } from "./adopt.ts";
import { createsOnStandby } from "./capability.ts";
import { inGrace } from "./grace.ts";
import type { GuardRecord, JournalState } from "./journal.ts";
import { leftoversOf, overdue } from "./leftovers.ts";
import { type Lsn, minLsn } from "./lsn.ts";
import { isGuardOf } from "./names.ts";
import type { PrimaryView, StandbyView } from "./observation.ts";
import { isOurs } from "./ownership.ts";
import { planAdvances } from "./plan-advance.ts";
import {
  aheadOf,
  type DatabaseState,
  type Headroom,
  inspectDatabase,
  mayTry,
  planGuard,
  planHold,
  planLoadedGuards,
  whyHopeless,
} from "./plan-guard.ts";
import { decideFailoverSlot, planServerSync, type ServerSyncMemory } from "./plan-served.ts";
import type { SlotDecision } from "./plan-slot.ts";
import {
  comesByFile,
  leftUnstaged,
  planFiles,
  stagedNames,
  type Unstaged,
  untilRestart,
} from "./plan-stage.ts";
import { holdsRows, isProven, provisionOf } from "./proof.ts";
import type { Reason, Verdict } from "./protection.ts";
import { type PrimarySlot, slotNamed } from "./slot.ts";

/** What the operator chose. */
export interface Policy {
  /** Databases that get a guard before they have a failover slot; "auto" takes all while there are few. */
  guardDatabases: "auto" | readonly string[];
  /** The share of one core that advancing may take. */
  duty: number;
  /** How slots come to a standby where both ways are open (16+). */
  provision: "sql" | "file" | "auto";
  /** Whether this standby may be restarted for slots that come by their files. */
  restarts: boolean;
  /** What is done with a slot that has a failover slot's name and is not ours. */
  onConflict: ConflictPolicy;
  /** Whether a promotion keeps a slot whose evidence is incomplete and that nothing else can make. */
  keepUnproven?: boolean;
  /** After which time a slot that nobody uses and that holds WAL is dropped, ms; null for never. */
  releaseAfterMs: number | null;
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
  /** Our last call of the server's own slot sync (17+), or null. */
  serverSync: ServerSyncMemory | null;
  /** When each output plugin was last seen to load here; null, or left out, in a process that tries nothing. */
  pluginProbedAt?: ReadonlyMap<string, number> | null;
  /** When each guard was last advanced. */
  guardAdvancedAt: ReadonlyMap<string, number>;
  /** Whether something is being done to slot files right now. */
  filesBusy: boolean;
  /** True for a command that stages once and does not come back for the rest. */
  stageAll?: boolean;
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
  /** What is staged and waits for a restart: guards, and slots that nothing else protects. */
  awaitingRestart: string[];
  /** What the standby's next start should add and will not, after these actions either. */
  unstaged: Unstaged[];
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
    awaitingRestart: [],
    unstaged: [],
  };
  // I8: on a server that is no standby nothing is planned
  if (!standby.inRecovery) return result;

  const chosenNames = new Set(input.chosen.map((slot) => slot.name));
  result.actions.push(...dropObsolete(input, chosenNames, result));
  result.actions.push(...dropLeftovers(input));
  result.actions.push(...releaseOverdue(input));

  const headroom = { free: standby.maxReplicationSlots - standby.usedSlots - workCopies(input) };
  // every slot first, then guards and holds: they must not take the last free slot from one that a guard protects
  const decided = databasesOf(input).map((database) => {
    const state = inspectDatabase(database, standby, journal, memory);
    const slots = input.chosen.filter((slot) => slot.databaseOid === database.oid);
    return { state, decisions: slots.map((slot) => decideFailoverSlot(slot, state, input, headroom)) };
  });
  const placed = new Set(decided.map(({ state }) => state.oid));
  const homeless = input.chosen.filter((slot) => !placed.has(slot.databaseOid));
  const stray = homeless.map((slot) => decideFailoverSlot(slot, null, input, headroom));
  for (const decision of [...decided.flatMap(({ decisions }) => decisions), ...stray]) {
    result.verdicts.set(decision.slot.name, decision.verdict);
    // ours may stand in another database than the primary's slot does now
    if (decision.drop && !memory.busyDatabases.has(decision.drop.databaseOid))
      result.actions.push(decision.drop);
    if (decision.adopt && !memory.busyDatabases.has(decision.adopt.databaseOid))
      result.actions.push(decision.adopt);
  }
  for (const { state, decisions } of decided)
    if (!memory.busyDatabases.has(state.oid)) planDatabase(state, decisions, input, result, headroom);
  result.actions.push(...planServerSync(input));
  planFilesToo(input, result);
  return result;
}

function planFilesToo(input: PlanInput, result: Plan): void {
  const databases = databasesOf(input);
  const files = planFiles(input, databases, result.verdicts);
  result.actions.push(...files);
  result.unstaged = leftUnstaged(input, databases, result.verdicts, files);
  const staged = new Set(stagedNames(input));
  // on 16 and later, what is behind everything that is kept here, and will be here after a restart all the same
  for (const slot of input.chosen) {
    if (!staged.has(slot.name) || comesByFile(slot, input)) continue;
    if (result.verdicts.get(slot.name)?.reason === "wal_or_rows_removed")
      result.verdicts.set(slot.name, untilRestart(slot, input));
  }
  result.awaitingRestart = [...staged].filter(
    (name) =>
      isGuardOf(name, input.journal.instanceId) || result.verdicts.get(name)?.reason === "restart_pending",
  );
}

/** Each database in which slots are to be made, or made anew, needs a working copy for it, here and after a promotion. */
function workCopies({ chosen, standby, journal }: PlanInput): number {
  const toMake = chosen.filter(({ name }) => {
    const local = slotNamed(standby.slots, name);
    const record = journal.slots.get(name);
    if (!local) return true;
    if (!record) return false;
    const rowsHere = holdsRows(record.rows, local, standby.serverVersionNum);
    return !rowsHere || !isProven(provisionOf(record, local).proof);
  });
  return Math.max(1, new Set(toMake.map((slot) => slot.databaseOid)).size);
}

function planDatabase(
  state: DatabaseState,
  decisions: SlotDecision[],
  input: PlanInput,
  result: Plan,
  headroom: Headroom,
): void {
  const positions = [
    ...decisions.flatMap((decision) => decision.relies ?? []),
    ...sparedPositions(state, input, result),
  ];
  // a position behind the guard is none that the guard can serve: it must not stop the guard for all the others (G3)
  const relied = positions.filter((position) => !state.guard || position >= state.guard.confirmedFlushLsn);
  const advances = planAdvances(state, decisions, relied, input, result.budgetMs, headroom);
  const creates = decisions.flatMap((decision) => (decision.create ? [decision.create] : []));
  const unserved = [...decisions.flatMap((decision) => decision.needsHold ?? []), ...positions];
  const waitsFor = state.guard && state.newborn ? aheadOf(state.guard, unserved) : relied;
  const guard = createsOnStandby(input.standby.serverVersionNum)
    ? planGuard(state, waitsFor, advances.rideTo, creates.length > 0, input, headroom)
    : planLoadedGuards(state, positions, unserved, beginningsOf(decisions), input);

  result.actions.push(...planHold(state, guard, unserved, input, headroom), ...guard);
  result.actions.push(...uniqueProbes(decisions));
  result.actions.push(...creates, ...advances.actions);
  result.budgetMs = advances.budgetMs;
  for (const [name, until] of advances.rests) result.rests.set(name, until);
}

/** Where decoding begins for the primary's slots that can still be read. */
function beginningsOf(decisions: readonly SlotDecision[]): Lsn[] {
  return decisions.flatMap(({ slot }) => (slot.invalidation === null ? (slot.restartLsn ?? []) : []));
}

/** Databases that need a guard or have failover slots, and exist on both servers. */
function databasesOf(input: PlanInput): { oid: number; name: string }[] {
  // with those that are only remembered: what a new primary does not show yet may still have to be copied out of a guard
  const withSlots = new Set(
    [...input.chosen, ...input.journal.slots.values()].map((slot) => slot.databaseOid),
  );
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
    if (!stillThere && inGrace(journal, primary, memory.now)) {
      result.spared.add(record.name);
      result.verdicts.set(record.name, {
        protection: "waiting",
        reason: "absent_on_primary",
        detail: "the new primary does not have this slot yet; what is here of it is kept for a while",
      });
      continue;
    }
    const local = slotNamed(standby.slots, record.name);
    if (!local || local.confirmedFlushLsn === null || !isOurs(local, record)) continue;
    if (local.activePid !== null || memory.busyDatabases.has(local.databaseOid)) continue;
    actions.push({
      kind: "drop",
      slot: record.name,
      database: local.database,
      databaseOid: local.databaseOid,
      at: local.confirmedFlushLsn,
      why: stillThere ? "it is no longer chosen" : "it is gone from the primary",
    });
  }
  return actions;
}

/** Guards that nobody needs any more, and those of earlier attempts. All bear our instance id in their names (I7). */
function dropLeftovers(input: PlanInput): Action[] {
  const { standby, journal, memory } = input;
  const wanted = new Set(databasesOf(input).map((database) => database.oid));
  const current = [...Object.values(journal.guards), ...Object.values(journal.lowGuards)].filter(
    (record) => wanted.has(record.databaseOid) && !isHopeless(record, input),
  );
  const names = new Set(current.map((guard) => guard.name));
  return standby.slots
    .filter(
      ({ name, databaseOid, activePid }) =>
        isGuardOf(name, journal.instanceId) &&
        !names.has(name) &&
        activePid === null &&
        !memory.busyDatabases.has(databaseOid) &&
        !memory.creatingGuards.has(databaseOid),
    )
    .map(
      ({ name, database, databaseOid }) =>
        ({ kind: "drop_leftover", slot: name, database, databaseOid }) as const,
    );
}

/** What nobody has used for as long as the operator set. The lane of any database will do. */
function releaseOverdue({ primary, standby, journal, policy, memory }: PlanInput): Action[] {
  const [database] = standby.databases;
  if (!database || policy.releaseAfterMs === null || memory.busyDatabases.has(database.oid)) return [];
  if (primary.remembered || inGrace(journal, primary, memory.now)) return [];
  const found = leftoversOf(primary, standby, journal);
  return overdue(journal.leftovers, found, policy.releaseAfterMs, memory.now)
    .filter(({ name }) => mayTry(name, memory))
    .map(({ name, kind, restartLsn }) => ({
      kind: "release" as const,
      slot: name,
      database: database.name,
      databaseOid: database.oid,
      restart: restartLsn,
      why: `nobody has used this ${kind} slot for slots.release_after_minutes`,
    }));
}

function isHopeless(record: GuardRecord, input: PlanInput): boolean {
  const local = slotNamed(input.standby.slots, record.name);
  if (local === undefined) return false;
  // given up by the server, for its WAL say: another file has to come in its place (where guards are made by SQL, that takes its record)
  if (local.invalidation !== null && !createsOnStandby(input.standby.serverVersionNum)) return true;
  const provision = provisionOf(record, local);
  // loaded from a file that nobody knows: nothing can ever be proven of it
  if (provision.origin === null && !isProven(provision.proof)) return true;
  return whyHopeless(local, provision, input) !== null;
}

/**
 * Where slots that the new primary does not show yet may have to be made: where they stood on the old timeline, but not past what this
 * standby was seen to have of that, for the new one may have left it anywhere behind (I14).
 */
function sparedPositions(state: DatabaseState, input: PlanInput, result: Plan): Lsn[] {
  return [...input.journal.slots.values()]
    .filter((record) => record.databaseOid === state.oid && result.spared.has(record.name))
    .flatMap(({ primaryConfirmedFlushLsn: confirmed, commonLsn, timeline }) => {
      if (confirmed === null) return [];
      const older = timeline !== input.primary.timeline && commonLsn !== null;
      return [older ? minLsn(confirmed, commonLsn) : confirmed];
    });
}

function uniqueProbes(decisions: SlotDecision[]): Action[] {
  const probes = new Map<string, Action>();
  for (const { probe } of decisions) if (probe?.kind === "probe_plugin") probes.set(probe.plugin, probe);
  return [...probes.values()];
}
