/** How the journal changes: by what is seen, by what is about to be done, and by what came of it. Each returns a new state. */
import type { Action } from "./action.ts";
import { assertNever } from "./assert-never.ts";
import { beginningNow } from "./birth.ts";
import type { FinishReport, FinishStep } from "./finish.ts";
import {
  type Birth,
  type GuardRecord,
  type JournalState,
  PROVEN,
  type Proof,
  type Provision,
  type RowsHeld,
  SETTLED,
  type SlotRecord,
  type Staged,
  UNPROVISIONED,
} from "./journal.ts";
import { idleSlotsOf, noteLeftovers } from "./leftovers.ts";
import { type Lsn, maxLsn } from "./lsn.ts";
import type { PrimaryView, StandbyView } from "./observation.ts";
import { isBornAs, isOurs, isServed } from "./ownership.ts";
import type { Plan } from "./plan.ts";
import { attemptIn } from "./plan-stage.ts";
import { GUARD_PLUGIN } from "./plugins.ts";
import { feedbackNow, proofNow, provisionOf, rowsHeldNow } from "./proof.ts";
import { isFailoverReady } from "./protection.ts";
import { type PrimarySlot, type SlotIdentity, type StandbySlot, sameIdentity, slotNamed } from "./slot.ts";
import { withStanding } from "./standing.ts";
import { sightingOf, timelineHere } from "./timeline.ts";
import { twoPhaseSince } from "./two-phase.ts";
import { type Alive, unseenUntil } from "./vouch.ts";

/** A failover slot, and what chose it. */
type Chosen = PrimarySlot & { readonly chosenBy?: readonly string[] };

export interface Observed {
  primary: PrimaryView;
  standby: StandbyView;
  chosen: readonly Chosen[];
  plan: Pick<Plan, "verdicts" | "spared">;
  /** Databases in which something of ours was at work at any time since the look began: what is missing there may just be coming. */
  busy: ReadonlySet<number>;
  /** Whether something was being done to slot files at any time since then. */
  filesBusy: boolean;
  problems: readonly string[];
  /** How many of the primary's logical slots nothing chose and no rule excluded; what is known of it stays when left out. */
  undecided?: number;
  now: number;
}

/** Records what both servers showed. Written before anything is done on the strength of it. */
export function noteObservation(journal: JournalState, seen: Observed): JournalState {
  const { primary, standby, now } = seen;
  const feedback = feedbackNow({ primary, standby, journal });
  const switched = journal.primaryTimeline !== null && journal.primaryTimeline !== primary.timeline;
  const slots = new Map<string, SlotRecord>();
  for (const slot of seen.chosen)
    slots.set(slot.name, noteSlot(journal.slots.get(slot.name), slot, seen, journal));
  for (const record of [...journal.slots.values()]) {
    if (slots.has(record.name)) continue;
    const kept = noteAbsent(record, seen);
    if (kept) slots.set(record.name, kept);
  }
  const next: JournalState = {
    ...journal,
    phase: "standby",
    systemIdentifier: standby.systemIdentifier,
    primaryTimeline: primary.timeline,
    timelineSince: switched ? now : journal.timelineSince,
    observedAt: now,
    standbyFlushedLsn: standby.flushedLsn,
    feedbackSince: feedback?.since ?? null,
    feedbackSession: feedback?.session ?? null,
    feedbackWalsender: feedback?.walsender ?? null,
    quietUntil: now,
    quietLsn: primary.walLsn,
    primaryLostAt: null,
    haltedAt: null,
    alive: null,
    relayed: Boolean(primary.upstream),
    guards: settleGuards(journal.guards, seen),
    lowGuards: settleGuards(journal.lowGuards, seen),
    slots,
    leftovers: noteLeftovers(journal.leftovers, idleSlotsOf(primary, standby, journal), now),
    undecided: seen.undecided ?? journal.undecided,
    problems: [...seen.problems],
    finish: null,
  };
  return withStanding(next, standby);
}

function noteSlot(
  known: SlotRecord | undefined,
  slot: Chosen,
  seen: Observed,
  journal: JournalState,
): SlotRecord {
  const record: SlotRecord = {
    name: slot.name,
    database: slot.database,
    databaseOid: slot.databaseOid,
    plugin: slot.plugin,
    twoPhase: slot.twoPhase,
    chosenBy: slot.chosenBy ?? [],
    failover: slot.failover,
    twoPhaseXid: slot.twoPhase ? twoPhaseSince(known, seen.primary) : null,
    ...settle(slot.name, known, seen),
    primaryConfirmedFlushLsn: slot.confirmedFlushLsn,
    ...sightingOf(known, seen.primary.timeline, slot.confirmedFlushLsn, replayedThere(seen, journal)),
    primaryRestartLsn: slot.restartLsn,
    rows: rowsHeldNow(slot, { ...seen, journal }),
    primaryInvalidation: slot.invalidation,
    seenAt: seen.now,
    absentSince: null,
    copying: slot.copying ?? false,
    obsolete: false,
    protection: "waiting",
    reason: null,
    detail: null,
    failure: known?.failure ?? null,
    since: seen.now,
  };
  return withVerdict(record, known, seen);
}

/** How far this standby has replayed the primary's timeline, or null where it does not show to be on it. */
function replayedThere({ primary, standby }: Observed, journal: JournalState): Lsn | null {
  const there = timelineHere(standby, journal) === primary.timeline && standby.replayLsn > 0n;
  return there ? standby.replayLsn : null;
}

type Ownership = Pick<
  SlotRecord,
  "state" | "served" | "ours" | "births" | "maxTarget" | "bornAt" | "dropping"
> &
  Provision;

/** A copy on its way that has not come in this time will not. */
const STATEMENTS_END_WITHIN_MS = 600_000;

/**
 * What is ours, after this look. A slot that is missing is given up only when nothing of ours is at work in its database, and a copy
 * that is on its way not before its time is up: a killed sidecar's statement may end after its successor has looked.
 */
function settle(name: string, known: SlotRecord | undefined, seen: Observed): Ownership {
  const local = slotNamed(seen.standby.slots, name);
  if (local && isServed(local)) return servedNow(local, known?.births ?? []);
  // the server's own has gone: whatever is here now is not that
  if (!known || known.served) return { ...NOT_HERE, births: known?.births ?? [] };
  const { state, ours, maxTarget, bornAt, dropping, staged, origin, proof, beginning } = known;
  const arrived = known.births.filter((birth) => local !== undefined && isBornAs(local, birth));
  // of two that were sent to one position only one has come: the other may, after this one has been dropped
  const settled = arrived.length === 1 ? arrived : [];
  const births = known.births.filter(
    (birth) => seen.now - birth.since <= STATEMENTS_END_WITHIN_MS && !settled.includes(birth),
  );
  if (local && isOurs(local, known) && local.confirmedFlushLsn !== null) {
    const { databaseOid, plugin, twoPhase, confirmedFlushLsn } = local;
    const stays = state === "owned" && isOurs(local, { ...known, births: [], staged: [] });
    return {
      state: "owned",
      served: false,
      ours: { databaseOid, plugin, twoPhase },
      births,
      maxTarget: furthest(stays ? maxTarget : null, confirmedFlushLsn),
      bornAt: stays ? bornAt : confirmedFlushLsn,
      dropping: stays && dropping,
      ...provisionNow(known, local, stays, seen.standby),
    };
  }
  const atWork = state === "owned" && ours !== null && seen.busy.has(ours.databaseOid);
  if (state === "owned" && (local || atWork))
    return {
      state,
      served: false,
      ours,
      births,
      maxTarget,
      bornAt,
      dropping,
      staged,
      origin,
      proof,
      beginning,
    };
  const left = births.length > 0 ? "creating" : "seen";
  return { ...NOT_HERE, state: left, births, staged: stillStaged(known, seen) };
}

const NOT_HERE: Ownership = {
  state: "seen",
  served: false,
  ours: null,
  births: [],
  maxTarget: null,
  bornAt: null,
  dropping: false,
  ...UNPROVISIONED,
};

/** The server has seen to the start, the WAL and the rows of what it has synced, and says when it gives it up. */
function servedNow(local: StandbySlot, births: readonly Birth[]): Ownership {
  const { databaseOid, plugin, twoPhase, confirmedFlushLsn } = local;
  return {
    ...NOT_HERE,
    state: "owned",
    served: true,
    ours: { databaseOid, plugin, twoPhase },
    births,
    maxTarget: confirmedFlushLsn,
    proof: PROVEN,
  };
}

function provisionNow(
  known: SlotRecord,
  local: StandbySlot,
  stays: boolean,
  standby: StandbyView,
): Provision {
  const provision = provisionOf(stays ? known : { ...known, state: "creating" }, local);
  const { origin } = provision;
  return {
    staged: [],
    origin: asLoaded(origin, standby),
    proof: proofNow(provision, local),
    beginning: beginningNow(provision, local, standby),
  };
}

/** The slot is in memory by now, and the server keeps the mappings of what comes after (I16). */
function asLoaded(origin: Staged | null, { replayLsn }: Pick<StandbyView, "replayLsn">): Staged | null {
  return origin && { ...origin, loadedBy: origin.loadedBy ?? replayLsn };
}

/** What was staged and may still be loaded: what its folder holds, or all of it when nobody could look. */
function stillStaged(
  known: Provision & { name: string },
  { standby, filesBusy }: Observed,
): readonly Staged[] {
  const { name, staged } = known;
  if (filesBusy || standby.files === null || standby.files.problem !== null) return staged;
  const folder = standby.files.folders.find((each) => each.name === name);
  if (folder === undefined) return [];
  const attempt = attemptIn(folder, known);
  return attempt ? [attempt] : staged;
}

function noteAbsent(record: SlotRecord, seen: Observed): SlotRecord | null {
  const spared = seen.plan.spared.has(record.name);
  const ownership = settle(record.name, record, seen);
  const local = slotNamed(seen.standby.slots, record.name);
  const foreign = local !== undefined && !isOurs(local, record);
  const nothingLeft =
    ownership.births.length === 0 && ownership.staged.length === 0 && (ownership.ours === null || foreign);
  if (!spared && nothingLeft) return null;
  const absentSince = record.absentSince ?? seen.now;
  // nothing on this primary promises that its rows are there
  return withVerdict({ ...record, ...ownership, rows: null, absentSince, obsolete: !spared }, record, seen);
}

function withVerdict(record: SlotRecord, known: SlotRecord | undefined, { plan, now }: Observed): SlotRecord {
  const verdict = plan.verdicts.get(record.name);
  if (!verdict) return record;
  const same =
    known !== undefined && known.protection === verdict.protection && known.reason === verdict.reason;
  const failure = isFailoverReady(verdict.protection) ? null : record.failure;
  return { ...record, ...verdict, failure, since: same ? known.since : now };
}

function settleGuards(known: Record<number, GuardRecord>, seen: Observed): Record<number, GuardRecord> {
  const guards: Record<number, GuardRecord> = {};
  for (const guard of Object.values(known)) {
    const local = slotNamed(seen.standby.slots, guard.name);
    if (!local || local.confirmedFlushLsn === null) {
      guards[guard.databaseOid] = local ? guard : { ...guard, staged: stillStaged(guard, seen) };
      continue;
    }
    const provision = provisionOf(guard, local);
    guards[guard.databaseOid] = {
      ...guard,
      state: "owned",
      staged: [],
      origin: asLoaded(provision.origin, seen.standby),
      proof: proofNow(provision, local),
      beginning: beginningNow(provision, local, seen.standby),
    };
  }
  return guards;
}

/** Records what is about to be done: a crash in the middle then finds its own traces (I10). Written before it is done. */
export function noteIntents(journal: JournalState, actions: readonly Action[]): JournalState {
  const next = draftOf(journal);
  for (const action of actions) {
    switch (action.kind) {
      case "create_guard":
        next.guardSerial += 1;
        next.guards[action.databaseOid] = {
          name: action.guard,
          database: action.database,
          databaseOid: action.databaseOid,
          state: "creating",
          maxTarget: null,
          ...UNPROVISIONED,
        };
        break;
      case "advance_guard": {
        changeGuard(next, action.guard, ({ maxTarget }) => ({ maxTarget: furthest(maxTarget, action.to) }));
        break;
      }
      case "create":
        update(next, action.slot, (record) => ({
          state: "creating",
          ours: null,
          births: withBirth(record, action, action.to, next),
          dropping: false,
        }));
        break;
      case "replace":
        update(next, action.slot, (record) => ({
          births: withBirth(record, action, action.to, next),
          maxTarget: furthest(record.maxTarget, action.to),
        }));
        break;
      case "advance":
        update(next, action.slot, (record) => ({ maxTarget: furthest(record.maxTarget, action.to) }));
        break;
      // from here on it protects nobody, whenever the statement ends
      case "drop_leftover":
        forgetGuard(next, action.slot);
        break;
      case "drop":
        update(next, action.slot, () => ({ dropping: true }));
        break;
      case "stage":
        noteStageIntent(next, action);
        break;
      // what is staged is noted file by file, with what it says
      case "unstage":
      case "complete":
      case "fetch_mappings":
      case "adopt":
      case "release":
      case "create_hold":
      case "release_hold":
      case "probe_plugin":
      case "sync_slots":
        break;
      default:
        assertNever(action);
    }
  }
  return next;
}

/** A guard's name is taken before its file is written. */
function noteStageIntent(journal: Draft, action: Extract<Action, { kind: "stage" }>): void {
  if (action.guard === null) return;
  const guards = action.guard === "fresh" ? journal.guards : journal.lowGuards;
  const { database, databaseOid, slot: name } = action;
  if (guards[databaseOid]?.name === name) return;
  journal.guardSerial += 1;
  guards[databaseOid] = { name, database, databaseOid, state: "staging", maxTarget: null, ...UNPROVISIONED };
}

/** So many attempts to stage a slot are known of at a time; a look at its folder leaves the one that it holds. */
const STAGED_KEPT = 32;

/**
 * Records what is about to be staged under a name, with what the file says: from here on a slot like that is ours. Throws for a name
 * that has been forgotten since that was planned: nobody would ever take such a file back, and a start would load it (I6, I11).
 */
export function noteStaged(journal: JournalState, name: string, staged: Staged): JournalState {
  const guards = [...Object.values(journal.guards), ...Object.values(journal.lowGuards)];
  if (!journal.slots.has(name) && !guards.some((guard) => guard.name === name))
    throw new Error(`slot "${name}" is not to be staged any more`);
  const next = draftOf(journal);
  const withIt = (provision: Provision) => ({ staged: [...provision.staged, staged].slice(-STAGED_KEPT) });
  update(next, name, withIt);
  changeGuard(next, name, withIt);
  return next;
}

/**
 * Records that a slot of this node's own past is ours from now on (I7), with what was found of it. It is like one that came by its file:
 * what is not proven of it has to be had still.
 */
export function noteAdopted(
  journal: JournalState,
  action: Extract<Action, { kind: "adopt" }>,
  { start, wal, mappings }: Proof,
  now: number,
): JournalState {
  const next = draftOf(journal);
  const { databaseOid, plugin, twoPhase, at, restart } = action;
  const ours = { databaseOid, plugin, twoPhase };
  update(next, action.slot, () => ({
    state: "owned",
    ours,
    maxTarget: at,
    bornAt: at,
    dropping: false,
    failure: null,
    staged: [],
    origin: {
      ...ours,
      restartLsn: restart,
      confirmedFlushLsn: at,
      snapshot: start ? "absent" : "unusable",
      pin: null,
      at: now,
      loadedBy: null,
    },
    proof: { start: start && wal, wal, mappings },
  }));
  return next;
}

/** Records that a loaded slot's snapshot is nowhere to be had: only moving on by itself proves its start (I2 d). */
export function noteSnapshotLost(journal: JournalState, name: string): JournalState {
  const next = draftOf(journal);
  const lost = ({ origin }: Provision) => ({
    origin: origin && { ...origin, snapshot: "unusable" as const },
  });
  update(next, name, lost);
  changeGuard(next, name, lost);
  return next;
}

/** A copy of ours under the real name is about to come; those that were sent before still may. */
function withBirth(
  { births }: SlotRecord,
  { databaseOid, plugin }: Pick<SlotIdentity, "databaseOid" | "plugin">,
  at: Lsn,
  { observedAt: since }: Pick<JournalState, "observedAt">,
): Birth[] {
  return [...births, { databaseOid, plugin, at, settled: true, since }].slice(-ATTEMPTS_KEPT);
}

const ATTEMPTS_KEPT = 32;

/** Records that an action on a slot failed; what it left behind, the next look at the standby settles. */
export function noteFailure(
  journal: JournalState,
  slot: string,
  failure: SlotRecord["failure"],
): JournalState {
  const next = draftOf(journal);
  update(next, slot, () => ({ failure }));
  return next;
}

/** Records that an action succeeded. */
export function noteDone(journal: JournalState, action: Action): JournalState {
  if (leavesNoTrace(journal, action)) return journal;
  const next = draftOf(journal);
  switch (action.kind) {
    case "create":
      // its birth is kept until it is seen: a look that was taken before may yet be judged
      update(next, action.slot, () => ({
        state: "owned",
        ours: { databaseOid: action.databaseOid, plugin: action.plugin, twoPhase: false },
        maxTarget: action.to,
        bornAt: action.to,
        dropping: false,
        failure: null,
        staged: [],
        origin: null,
        proof: PROVEN,
        beginning: SETTLED,
      }));
      return withPlugin(next, action.plugin);
    case "probe_plugin":
      return withPlugin(next, action.plugin);
    case "drop":
      update(next, action.slot, ({ births }) => ({
        state: births.length > 0 ? "creating" : "seen",
        ours: null,
        maxTarget: null,
        bornAt: null,
        dropping: false,
        origin: null,
        proof: UNPROVISIONED.proof,
        beginning: UNPROVISIONED.beginning,
      }));
      return next;
    case "stage":
      update(next, action.slot, () => ({ failure: null }));
      return next;
    case "unstage":
      update(next, action.slot, () => ({ staged: [], failure: null }));
      changeGuard(next, action.slot, () => ({ staged: [] }));
      return next;
    case "complete": {
      const completed = ({ proof, origin }: Provision) => ({
        proof: { ...proof, wal: true, start: proof.start || startsThere(origin) },
      });
      update(next, action.slot, (record) => ({ ...completed(record), failure: null }));
      changeGuard(next, action.slot, completed);
      return next;
    }
    case "fetch_mappings": {
      const fetched = ({ proof }: Provision) => ({ proof: { ...proof, mappings: true } });
      update(next, action.slot, (record) => ({ ...fetched(record), failure: null }));
      changeGuard(next, action.slot, fetched);
      return next;
    }
    case "drop_leftover":
      forgetGuard(next, action.slot);
      return next;
    case "create_guard": {
      const guard = next.guards[action.databaseOid];
      if (guard?.name === action.guard)
        next.guards[action.databaseOid] = { ...guard, state: "owned", proof: PROVEN };
      return withPlugin(next, GUARD_PLUGIN);
    }
    case "replace":
      update(next, action.slot, () => ({ failure: null, beginning: SETTLED }));
      return next;
    case "advance":
      update(next, action.slot, () => ({ failure: null }));
      return next;
    case "adopt":
    case "release":
    case "advance_guard":
    case "create_hold":
    case "release_hold":
    case "sync_slots":
      return next;
    default:
      return assertNever(action);
  }
}

/** True for what the next look at the standby shows as well: most of a busy cycle, which then needs no second write. */
function leavesNoTrace(journal: JournalState, action: Action): boolean {
  switch (action.kind) {
    case "advance":
      return !journal.slots.get(action.slot)?.failure;
    case "replace": {
      const record = journal.slots.get(action.slot);
      return !record?.failure && record?.beginning.settled === SETTLED.settled;
    }
    case "probe_plugin":
      return journal.plugins.includes(action.plugin);
    default:
      return UNTRACED.includes(action.kind);
  }
}

const UNTRACED: readonly Action["kind"][] = ["advance_guard", "create_hold", "release_hold", "sync_slots"];

/** I2 (b) and (e): its snapshot is in place, or there is none anywhere because the slot has not moved since it was made. */
function startsThere(origin: Staged | null): boolean {
  return origin === null || origin.snapshot !== "unusable";
}

type Draft = Omit<JournalState, "slots"> & { slots: Map<string, SlotRecord> };

/** A copy that may be changed. */
function draftOf(journal: JournalState): Draft {
  return {
    ...journal,
    slots: new Map(journal.slots),
    guards: { ...journal.guards },
    lowGuards: { ...journal.lowGuards },
  };
}

function changeGuard(
  journal: Draft,
  name: string,
  change: (guard: GuardRecord) => Partial<GuardRecord>,
): void {
  for (const guards of [journal.guards, journal.lowGuards])
    for (const guard of Object.values<GuardRecord>(guards))
      if (guard.name === name) guards[guard.databaseOid] = { ...guard, ...change(guard) };
}

function update(journal: Draft, name: string, change: (record: SlotRecord) => Partial<SlotRecord>): void {
  const record = journal.slots.get(name);
  if (record) journal.slots.set(name, { ...record, ...change(record) });
}

function forgetGuard(journal: Draft, name: string): void {
  for (const guards of [journal.guards, journal.lowGuards])
    for (const guard of Object.values(guards)) if (guard.name === name) delete guards[guard.databaseOid];
}

function withPlugin(journal: JournalState, plugin: string): JournalState {
  return journal.plugins.includes(plugin) ? journal : { ...journal, plugins: [...journal.plugins, plugin] };
}

/** Records that a plugin which was seen to load does not any more (I18). */
export function notePluginGone(journal: JournalState, plugin: string): JournalState {
  if (!journal.plugins.includes(plugin)) return journal;
  return { ...journal, plugins: journal.plugins.filter((each) => each !== plugin) };
}

function furthest(known: Lsn | null, to: Lsn): Lsn {
  return known === null ? to : maxLsn(known, to);
}

/** Records what stands against readiness without believing what the other server said. */
export function noteProblems(journal: JournalState, problems: readonly string[]): JournalState {
  return { ...journal, problems: [...problems] };
}

/**
 * Records the timeline that the standby receives, whatever the primary says: while it is not streaming it cannot be seen; and which run of
 * the standby's server it was (`startedS`, s since the epoch by its own clock).
 */
export function noteStandby(
  journal: JournalState,
  { receivedTimeline }: Pick<StandbyView, "receivedTimeline">,
  startedS: number,
): JournalState {
  const standbyTimeline = receivedTimeline ?? journal.standbyTimeline;
  if (standbyTimeline === journal.standbyTimeline && startedS === journal.standbyStartedS) return journal;
  return { ...journal, standbyTimeline, standbyStartedS: startedS };
}

/** Records since when the primary has not answered, and until when it was seen to have written nothing new before. */
export function notePrimaryLost(journal: JournalState, quietUntil: number, now: number): JournalState {
  if (journal.primaryLostAt !== null) return journal;
  return { ...journal, quietUntil: Math.max(journal.quietUntil, quietUntil), primaryLostAt: now };
}

/** Signs of one and the same life are told apart no finer than this, for each is written down. */
const ALIVE_WITHIN_MS = 1_000;

/** Records the latest sign that the primary was alive after the last look (I15), once it is news. */
export function noteAlive(journal: JournalState, alive: Alive | null): JournalState {
  if (alive === null || alive.at <= journal.quietUntil) return journal;
  const known = journal.alive;
  const more =
    known === null ||
    alive.at > known.at + ALIVE_WITHIN_MS ||
    (alive.lsn ?? 0n) > (known.lsn ?? 0n) ||
    (unseenUntil(journal, known) === null && unseenUntil(journal, alive) !== null);
  return more ? { ...journal, alive } : journal;
}

/** Records since when nobody looks at the primary any more, for a promotion of the standby was seen. */
export function noteHalted(journal: JournalState, quietUntil: number, now: number): JournalState {
  return {
    ...journal,
    phase: "promoting",
    quietUntil: Math.max(journal.quietUntil, quietUntil),
    haltedAt: journal.haltedAt ?? now,
  };
}

/** Records that it did not come to the promotion. */
export function noteNotHalted(journal: JournalState): JournalState {
  return { ...journal, phase: "standby", haltedAt: null };
}

/**
 * Records what the primary showed while the standby was down: where its failover slots stand, and that it has lived on. Nothing is claimed
 * of the standby: a slot that is missing there is not given up, one that is new is not ready, and only a look at both ends the time that
 * nobody saw (I15). Positions on another timeline are not those of this standby's WAL, and are not taken over (I14).
 */
export function notePrimaryAlone(
  journal: JournalState,
  primary: PrimaryView,
  chosen: readonly Chosen[],
  now: number,
): JournalState {
  const same = primary.timeline === journal.primaryTimeline;
  const alive: Alive = { at: now, lsn: same ? primary.walLsn : null, how: "looked" };
  const next = noteAlive({ ...journal, primaryLostAt: null }, alive);
  if (!same) return next;
  const slots = new Map(journal.slots);
  for (const slot of chosen) {
    const known = slots.get(slot.name);
    const seen = {
      ...sightingOf(known, primary.timeline, slot.confirmedFlushLsn, null),
      rows: rowsAlone(known, slot, primary),
      copying: slot.copying ?? false,
      primaryConfirmedFlushLsn: slot.confirmedFlushLsn,
      primaryRestartLsn: slot.restartLsn,
      primaryInvalidation: slot.invalidation,
      seenAt: now,
    };
    if (known === undefined) slots.set(slot.name, { ...newRecord(slot, now), ...seen });
    else if (sameIdentity(known, slot) && !known.obsolete) slots.set(slot.name, { ...known, ...seen });
  }
  return { ...next, slots };
}

/** I4: the standby's physical slot holds while the standby is down what it held before. */
function rowsAlone(
  known: SlotRecord | undefined,
  slot: Chosen,
  { physicalSlot }: PrimaryView,
): RowsHeld | null {
  const physical = physicalSlot?.catalogXmin ?? null;
  const { catalogXmin: original, restartLsn: begins, invalidation } = slot;
  if (!known?.rows || physical === null || original === null || begins === null || invalidation !== null)
    return null;
  return { physical, original, begins };
}

type Sighted = "timeline" | "commonLsn" | "formerly" | "rows" | "copying";

function newRecord(slot: Chosen, now: number): Omit<SlotRecord, Sighted> {
  const { name, database, databaseOid, plugin, twoPhase, failover } = slot;
  return {
    ...NOT_HERE,
    name,
    database,
    databaseOid,
    plugin,
    twoPhase,
    failover,
    chosenBy: slot.chosenBy ?? [],
    twoPhaseXid: null,
    primaryConfirmedFlushLsn: null,
    primaryRestartLsn: null,
    primaryInvalidation: null,
    seenAt: now,
    absentSince: null,
    obsolete: false,
    protection: "waiting",
    reason: "not_recorded",
    detail: "it was made while this standby was down",
    failure: null,
    since: now,
  };
}

/** Forgets the life as a standby before this one: what is found now is not ours until proven (I7). */
export function startOver(journal: JournalState): JournalState {
  return {
    ...journal,
    phase: "standby",
    observedAt: 0,
    standbyFlushedLsn: null,
    feedbackSince: null,
    feedbackSession: null,
    feedbackWalsender: null,
    restart: null,
    quietUntil: 0,
    quietLsn: null,
    primaryLostAt: null,
    haltedAt: null,
    alive: null,
    relayed: false,
    guards: {},
    lowGuards: {},
    slots: new Map(),
    leftovers: [],
    undecided: null,
    problems: [],
    finish: null,
  };
}

/** Records which slots the finishing step is about to move or make, so that a second run knows them as ours. */
export function noteFinishIntents(journal: JournalState, steps: readonly FinishStep[]): JournalState {
  const next: Draft = { ...draftOf(journal), phase: "promoting" };
  for (const step of steps) {
    if (step.kind === "advance")
      update(next, step.record.name, (record) => ({ maxTarget: furthest(record.maxTarget, step.to) }));
    if (step.kind === "materialise")
      update(next, step.record.name, (record) => ({
        // ours that is to be dropped first is ours until then
        ...(step.dropFirst === null
          ? { state: "creating" as const, ours: null }
          : { maxTarget: furthest(record.maxTarget, step.to) }),
        births: withBirth(record, record, step.to, next),
      }));
  }
  return next;
}

/** Records the gap report. Guards that are gone are forgotten; slots keep their records for a second run and for `status`. */
export function noteFinish(
  journal: JournalState,
  steps: readonly FinishStep[],
  errors: ReadonlyMap<FinishStep, unknown>,
  removed: readonly string[],
  report: FinishReport,
): JournalState {
  const next = draftOf(noteFinishIntents(journal, steps));
  for (const step of steps)
    if (step.kind === "materialise" && !errors.get(step))
      update(next, step.record.name, ({ databaseOid, plugin }) => ({
        state: "owned",
        ours: { databaseOid, plugin, twoPhase: false },
        served: false,
        births: [],
        maxTarget: step.to,
        bornAt: step.to,
        staged: [],
        origin: null,
        proof: PROVEN,
        beginning: SETTLED,
      }));
  const left = (guards: Record<number, GuardRecord>) =>
    Object.fromEntries(
      Object.values(guards)
        .filter(({ name }) => !removed.includes(name))
        .map((guard) => [guard.databaseOid, guard]),
    );
  return {
    ...next,
    phase: "primary",
    finish: report,
    problems: [],
    guards: left(journal.guards),
    lowGuards: left(journal.lowGuards),
  };
}
