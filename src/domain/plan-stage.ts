/**
 * What to do with slot files: stage what the next start of the standby should add, take back what is not wanted any more (I11),
 * complete what a start has loaded (I2, I3, I16).
 */
import type { Action } from "./action.ts";
import { copiesSlots, createsOnStandby } from "./capability.ts";
import type { GuardRecord, JournalState, Provision, Staged } from "./journal.ts";
import { bytesBetween, type Lsn, maxLsn } from "./lsn.ts";
import { guardName, isGuardOf, isLibraryName, isValidSlotName } from "./names.ts";
import type { FilesView, SlotFolder, StandbyView } from "./observation.ts";
import { isOurs } from "./ownership.ts";
import type { PlanInput } from "./plan.ts";
import { completeBackoffKey, mappingsBackoffKey, mayTry, stageBackoffKey } from "./plan-guard.ts";
import { isProven, proofNow, provisionOf } from "./proof.ts";
import { isFailoverReady, type Reason, type Verdict, waiting } from "./protection.ts";
import { type PrimarySlot, sameIdentity, slotNamed } from "./slot.ts";
import { tableSyncOf } from "./table-sync.ts";

/** A staged file is renewed when it holds back this much WAL on the primary, … */
const RENEW_BYTES = 16 * 1024 * 1024;
/** … or after this time, when the primary's slot has moved. */
const RENEW_MS = 60_000;
/** So many slot folders a cycle: each is written durably. */
const STAGED_AT_ONCE = 50;

/** What says whether something is staged. */
interface Seen {
  journal: JournalState;
  standby: Pick<StandbyView, "files">;
}

/** Whether slots may come to this standby by their files. */
function usesFiles({ standby, policy }: PlanInput): boolean {
  if (!createsOnStandby(standby.serverVersionNum) || policy.provision === "file") return true;
  return policy.provision === "auto" && policy.restarts && standby.files?.problem === null;
}

/** Whether a slot comes by its file and not by SQL: before 16 nothing can be made here, and a copy loses `two_phase` (G5). */
export function comesByFile(slot: PrimarySlot, input: PlanInput): boolean {
  // 17+: what the server syncs by itself must not come by another way
  if (!usesFiles(input) || slot.failover) return false;
  // made in a moment and gone in a moment: a file for the next start would come too late
  if (tableSyncOf(slot) !== null && createsOnStandby(input.standby.serverVersionNum)) return false;
  return (
    !createsOnStandby(input.standby.serverVersionNum) || input.policy.provision === "file" || slot.twoPhase
  );
}

/** How a slot stands that only the next start can add. */
export function untilRestart(slot: PrimarySlot, input: PlanInput): Verdict {
  const { standby, journal, memory } = input;
  const failure = memory.backoff.get(stageBackoffKey(slot.name));
  if (failure) return waiting(failure.reason, failure.detail);
  if (tableSyncOf(slot) !== null)
    return waiting(
      "restart_pending",
      "only a guard can hold the slot of a table's initial sync, and no guard here reaches back to it: guards come with the next start of this standby, and serve what is made after that",
    );
  const problem = whyNothingIsStaged(input);
  if (problem) return waiting(problem.reason, problem.detail);
  if (isStaged(slot.name, journal.slots.get(slot.name), input))
    return waiting(
      "restart_pending",
      `its file is staged: the next start of this standby loads it (PostgreSQL ${Math.floor(standby.serverVersionNum / 10_000)} loads slots at no other time)`,
    );
  if (standby.files !== null && standby.files.folderCount >= folderLimit(standby.files, standby))
    return waiting(
      "too_many_slots",
      `the next start of this standby takes ${folderLimit(standby.files, standby)} replication slots (max_replication_slots), and as many are there or staged; with one more it would not start: raise it there and restart it`,
    );
  return waiting("restart_pending", "its file is about to be staged for the next start of this standby");
}

/**
 * A folder in the slot's place that is not ours: it would be loaded in its stead, and after a promotion it stands in the way of making
 * the slot out of a guard.
 */
export function folderConflict(name: string, input: Pick<PlanInput, "journal" | "standby">): Verdict | null {
  if (!folderOf(name, input) || isStaged(name, input.journal.slots.get(name), input)) return null;
  return waiting(
    "name_conflict",
    `the standby's data directory has a folder pg_replslot/${name} that is not loaded and that the journal does not know: remove it there`,
  );
}

/** So many slot folders does the next start take. */
function folderLimit(files: FilesView, standby: StandbyView): number {
  return files.maxReplicationSlots ?? standby.maxReplicationSlots;
}

function whyNothingIsStaged({ primary, standby }: PlanInput) {
  if (standby.files === null)
    return {
      reason: "restart_pending" as const,
      detail:
        "before 16 a slot comes to a standby only by its file: set standby.data_directory, then it is staged for the next start",
    };
  if (standby.files.problem) return standby.files.problem;
  if (!primary.mayReadFiles)
    return {
      reason: "permission_denied" as const,
      detail: `the role on the primary may not read slot files: GRANT EXECUTE ON FUNCTION pg_read_binary_file(text, bigint, bigint, boolean) TO ${primary.polledAs?.role ?? "it"}; there, in ${primary.polledAs ? `database "${primary.polledAs.database}"` : "the database that it polls"}`,
    };
  return null;
}

function folderOf(name: string, { standby }: Seen): SlotFolder | undefined {
  return standby.files?.folders.find((folder) => folder.name === name);
}

/** The attempt of ours that the folder holds, or undefined. */
export function attemptIn(folder: SlotFolder, provision: Provision | undefined): Staged | undefined {
  return provision?.staged.findLast(
    (staged) =>
      folder.state !== null &&
      folder.state.restartLsn === staged.restartLsn &&
      folder.state.confirmedFlushLsn === staged.confirmedFlushLsn &&
      sameIdentity(folder.state, staged),
  );
}

function isStaged(name: string, provision: Provision | undefined, input: Seen): boolean {
  const folder = folderOf(name, input);
  return folder !== undefined && attemptIn(folder, provision) !== undefined;
}

/** Names that the next start would add. */
export function stagedNames(input: Seen): string[] {
  const { journal } = input;
  const known = [
    ...[...journal.slots.values()].filter(({ name }) => isStaged(name, journal.slots.get(name), input)),
    ...guardRecords(input).filter((record) => isStaged(record.name, record, input)),
  ];
  return known.map(({ name }) => name).toSorted();
}

function guardRecords({ journal }: Pick<PlanInput, "journal">): GuardRecord[] {
  return [...Object.values(journal.guards), ...Object.values(journal.lowGuards)];
}

/** All that is to be done to files in this cycle. `guarded` are the databases that are to have guards. */
export function planFiles(
  input: PlanInput,
  guarded: readonly { oid: number; name: string }[],
  verdicts: ReadonlyMap<string, Verdict>,
): Action[] {
  const { memory, standby } = input;
  if (memory.filesBusy || standby.files === null) return [];
  // a directory that is not the standby's shows no folders
  if (standby.files.problem !== null) return planRetreat(input);
  const wanted = wantedStages(input, guarded, verdicts);
  const names = new Set(wanted.map(({ slot }) => slot));
  const unwanted = planUnstages(input, names);
  const unstages = [...unwanted, ...planRetreat(input, new Set(unwanted.map(({ slot }) => slot)))];
  const leaving = new Set(unstages.map(({ slot }) => slot));
  const stages = wanted.filter(({ slot }) => !leaving.has(slot));
  return [...planCompletions(input), ...unstages, ...withinLimit(stages, unstages.length, input)];
}

/**
 * I11: what of ours would keep the standby from starting, by settings lowered since or by what others have put there. Asks nobody, for
 * it holds whatever else stands against acting. Guards go last, for they serve many. `leaving` is taken back anyhow.
 */
export function planRetreat(
  { journal, standby }: Pick<PlanInput, "journal" | "standby">,
  leaving: ReadonlySet<string> = new Set(),
): Unstage[] {
  const { files } = standby;
  if (files === null) return [];
  const ours = files.folders.filter((folder) => isStagedByUs(folder, journal) && !leaving.has(folder.name));
  const guards = ours.filter(({ name }) => isGuardOf(name, journal.instanceId));
  const slots = ours.filter(({ name }) => !isGuardOf(name, journal.instanceId));
  const over = files.folderCount - leaving.size - folderLimit(files, standby);
  const gone = files.problem
    ? ours
    : [...guards, ...slots].slice(Math.max(0, ours.length - Math.max(0, over)));
  const why = files.problem?.detail ?? "max_replication_slots has no room for it at the next start";
  return gone.map(({ name }) => unstage(name, journal, why));
}

/** Whether the folder holds what this journal's sidecar has staged. A guard's name says it alone. */
function isStagedByUs(folder: SlotFolder, journal: JournalState): boolean {
  const { name } = folder;
  if (!isValidSlotName(name)) return false;
  return isGuardOf(name, journal.instanceId) || attemptIn(folder, journal.slots.get(name)) !== undefined;
}

function unstage(name: string, journal: JournalState, why: string): Unstage {
  const { database = "", databaseOid = 0 } = journal.slots.get(name) ?? {};
  return { kind: "unstage", slot: name, database, databaseOid, why };
}

/** Something that the next start of the standby should add and will not, and why. */
export interface Unstaged {
  slot: string;
  reason: Reason;
  detail: string;
}

/**
 * What comes by its file, is not here, not staged, and not among the actions: `stage` and `seed` must not pass it over in silence.
 * A guard is told under its database's name, for its own says nothing.
 */
export function leftUnstaged(
  input: PlanInput,
  guarded: readonly { oid: number; name: string }[],
  verdicts: ReadonlyMap<string, Verdict>,
  actions: readonly Action[],
): Unstaged[] {
  if (!usesFiles(input)) return [];
  const { standby, chosen } = input;
  const placed = new Set(stagedNames(input));
  for (const action of actions) if (action.kind === "stage") placed.add(action.slot);
  const left: Unstaged[] = [];
  for (const slot of chosen) {
    if (!comesByFile(slot, input) || tableSyncOf(slot) !== null || placed.has(slot.name)) continue;
    if (slotNamed(standby.slots, slot.name)) continue;
    const pending = isStageable(slot, input) ? untilRestart(slot, input) : verdicts.get(slot.name);
    const { reason, detail } = folderConflict(slot.name, input) ?? pending ?? {};
    left.push({
      slot: slot.name,
      reason: reason ?? "statement_failed",
      detail: detail ?? "it was passed over",
    });
  }
  for (const { slot, database, guard } of wantedStages(input, guarded, verdicts)) {
    if (guard !== "fresh" || placed.has(slot)) continue;
    const { reason, detail } = whyNoGuard(slot, input);
    left.push({ slot: `the guards of database "${database}"`, reason, detail });
  }
  return left;
}

function whyNoGuard(name: string, input: PlanInput): Pick<Unstaged, "reason" | "detail"> {
  const failure = whyNothingIsStaged(input) ?? input.memory.backoff.get(stageBackoffKey(name));
  if (failure) return { reason: failure.reason, detail: failure.detail };
  return {
    reason: "too_many_slots",
    detail:
      "the next start of this standby has no replication slot free for them: raise max_replication_slots there",
  };
}

type Stage = Extract<Action, { kind: "stage" }>;
type Unstage = Extract<Action, { kind: "unstage" }>;

/** I11: never more folders than the next start takes. What is replaced takes no more room; guards come first, for they serve many. */
function withinLimit(wanted: readonly Stage[], leaving: number, input: PlanInput): Stage[] {
  const { standby, memory, primary } = input;
  if (!primary.mayReadFiles || standby.files === null) return [];
  let free = folderLimit(standby.files, standby) - standby.files.folderCount + leaving;
  const due: Stage[] = [];
  for (const stage of wanted) {
    if (!isDue(stage, input) || !mayTry(stageBackoffKey(stage.slot), memory)) continue;
    if (!stage.again && free-- < 1) continue;
    due.push(stage);
  }
  return memory.stageAll ? due : due.slice(0, STAGED_AT_ONCE);
}

/** Whether it is not staged yet, or the file holds back WAL on the primary by now. */
function isDue({ slot, source, again, guard }: Stage, input: PlanInput): boolean {
  if (!again) return true;
  const { primary, journal, memory } = input;
  const provision = guard ? guardRecords(input).find(({ name }) => name === slot) : journal.slots.get(slot);
  const folder = folderOf(slot, input);
  const attempt = folder && attemptIn(folder, provision);
  if (!attempt) return true;
  const original = source === null ? undefined : slotNamed(primary.slots, source);
  // made anew as another one (I5), or taken back by a crash or a failover (I1): loaded, it could only be dropped
  if (guard === null && original && !mayCount(attempt, original)) return true;
  const now = source === null ? primary.walLsn : original?.restartLsn;
  const behind = now ? bytesBetween(attempt.restartLsn, now) : 0;
  if (source === null) return behind >= 4 * RENEW_BYTES;
  return behind >= RENEW_BYTES || (behind > 0 && memory.now - attempt.at >= RENEW_MS);
}

function mayCount(attempt: Staged, original: PrimarySlot): boolean {
  const { confirmedFlushLsn } = original;
  if (!sameIdentity(attempt, original)) return false;
  return confirmedFlushLsn === null || attempt.confirmedFlushLsn <= confirmedFlushLsn;
}

function wantedStages(
  input: PlanInput,
  guarded: readonly { oid: number; name: string }[],
  verdicts: ReadonlyMap<string, Verdict>,
): Stage[] {
  const { standby, chosen, journal } = input;
  if (!usesFiles(input)) return [];
  const stages: Stage[] = [];
  if (!createsOnStandby(standby.serverVersionNum) && copiesSlots(standby.serverVersionNum)) {
    let serial = journal.guardSerial;
    for (const { oid, name } of guarded)
      for (const guard of ["fresh", "low"] as const) {
        const record = guard === "fresh" ? journal.guards[oid] : journal.lowGuards[oid];
        if (record && slotNamed(standby.slots, record.name)) continue;
        const slot = record?.name ?? guardName(journal.instanceId, oid, ++serial);
        const again = record !== undefined && isStaged(slot, record, input);
        stages.push({
          kind: "stage",
          slot,
          database: name,
          databaseOid: oid,
          source: guardSource(input),
          guard,
          again,
        });
      }
  }
  for (const slot of chosen) {
    if (
      slot.failover ||
      tableSyncOf(slot) !== null ||
      !isStageable(slot, input) ||
      slotNamed(standby.slots, slot.name)
    )
      continue;
    if (!comesByFile(slot, input) && isFailoverReady(verdicts.get(slot.name)?.protection ?? "waiting"))
      continue;
    if (!comesByFile(slot, input) && !cannotComeBySql(verdicts.get(slot.name))) continue;
    const record = journal.slots.get(slot.name);
    const folder = folderOf(slot.name, input);
    if (folder && !attemptIn(folder, record)) continue;
    stages.push({
      kind: "stage",
      slot: slot.name,
      database: slot.database,
      databaseOid: slot.databaseOid,
      source: slot.name,
      guard: null,
      again: folder !== undefined,
    });
  }
  return stages;
}

/** On 16 and later, a slot that is behind everything that is kept here. */
function cannotComeBySql(verdict: Verdict | undefined): boolean {
  return verdict?.reason === "wal_or_rows_removed" || verdict?.reason === "restart_pending";
}

/**
 * The primary's slot whose file a guard is made from: the one that has come furthest, for what is behind it is staged itself. Its
 * database does not matter: positions and snapshots are the cluster's.
 */
function guardSource({ primary, memory }: PlanInput): string | null {
  let best: PrimarySlot | null = null;
  for (const slot of primary.slots) {
    // I9: what cannot be staged itself is no source for the guard of all the others
    if (memory.backoff.has(stageBackoffKey(slot.name))) continue;
    if (slot.temporary || slot.twoPhase || slot.invalidation !== null || !isValidSlotName(slot.name))
      continue;
    if (slot.confirmedFlushLsn === null || slot.restartLsn === null) continue;
    if (best === null || slot.restartLsn > (best.restartLsn ?? 0n)) best = slot;
  }
  return best?.name ?? null;
}

function isStageable(slot: PrimarySlot, { standby }: PlanInput): boolean {
  return (
    isValidSlotName(slot.name) &&
    isLibraryName(slot.plugin) &&
    slot.invalidation === null &&
    slot.confirmedFlushLsn !== null &&
    slot.restartLsn !== null &&
    standby.databases.some(({ oid }) => oid === slot.databaseOid)
  );
}

/** Ours on disk that are not to be loaded: not chosen any more, another slot by now, or better made by SQL. */
function planUnstages({ standby, journal, primary }: PlanInput, wanted: ReadonlySet<string>): Unstage[] {
  const unwanted = (standby.files?.folders ?? []).filter((folder) => {
    if (wanted.has(folder.name) || !isStagedByUs(folder, journal)) return false;
    const record = journal.slots.get(folder.name);
    // missing on a new primary for a while: its own sidecar may still be making it
    return !record || record.obsolete || slotNamed(primary.slots, folder.name) !== undefined;
  });
  return unwanted.map(({ name }) => unstage(name, journal, "it is not wanted any more"));
}

/** What a start has loaded and is not complete yet. */
function planCompletions(input: PlanInput): Action[] {
  const { standby, journal } = input;
  const actions: Action[] = [];
  for (const local of standby.slots) {
    const slot = journal.slots.get(local.name);
    const record = guardRecords(input).find(({ name }) => name === local.name) ?? slot;
    if (!record || (slot === record && !isOurs(local, slot))) continue;
    const provision = provisionOf(record, local);
    const { origin } = provision;
    if (origin === null) continue;
    const proof = proofNow(provision, local);
    const base = {
      slot: local.name,
      database: local.database,
      databaseOid: local.databaseOid,
      restart: origin.restartLsn,
    };
    if (!proof.mappings && mayTry(mappingsBackoffKey(local.name), input.memory))
      actions.push({ kind: "fetch_mappings", ...base, upTo: origin.loadedBy ?? standby.replayLsn });
    if (proof.wal || !mayTry(completeBackoffKey(local.name), input.memory)) continue;
    // I2 (e): with no snapshot anywhere, decoding is consistent once it has been through the slot's own beginning
    if (standby.replayLsn < origin.confirmedFlushLsn) continue;
    actions.push({
      kind: "complete",
      ...base,
      upTo: maxLsn(standby.replayLsn, origin.confirmedFlushLsn),
      snapshot: origin.snapshot === "kept",
    });
  }
  return actions;
}

/** Names of the pins, and positions of the snapshots, that something staged or not yet proven still needs. */
export function stillNeeded(journal: JournalState): { pins: Set<string>; snapshots: Lsn[] } {
  const records: Provision[] = [...journal.slots.values(), ...guardRecords({ journal })];
  const kept = records.flatMap(({ staged, origin, proof }) =>
    // the primary's own slots keep the mappings
    origin !== null && !isProven({ ...proof, mappings: true }) ? [...staged, origin] : [...staged],
  );
  return {
    pins: new Set(kept.flatMap(({ pin }) => pin ?? [])),
    snapshots: kept.map(({ restartLsn }) => restartLsn),
  };
}
