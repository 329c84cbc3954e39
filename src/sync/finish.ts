/**
 * The finishing step after a promotion (I1, I6, I8). Idempotent: what is done is journalled slot by slot, and a second run finds
 * nothing left to do. The decisions are in domain/finish.ts.
 */
import type { Logger } from "pino";
import { advanceSeen } from "../apply/advance.ts";
import { type Create, createSlots, RanAheadError, wouldRunAhead } from "../apply/create.ts";
import { dropFailoverSlot, dropOwnSlot } from "../apply/drop.ts";
import { touchSlots } from "../apply/touch.ts";
import { readHistoryFile } from "../datadir/history-file.ts";
import { verifyDirectory } from "../datadir/identity.ts";
import { advanceKeepsRows, copiesSlots, givesUpIdle } from "../domain/capability.ts";
import { endOfWalOf, type Promoted } from "../domain/common-end.ts";
import {
  type FinishedSlot,
  type FinishInput,
  type FinishReport,
  type FinishStep,
  finishedSlot,
  planFinish,
} from "../domain/finish.ts";
import { groupBy } from "../domain/group.ts";
import { toUseAtPromotion } from "../domain/idle.ts";
import { type JournalState, knowsStandby } from "../domain/journal.ts";
import { noteFinish, noteFinishIntents, startOver } from "../domain/journal-update.ts";
import { formatLsn, type Lsn } from "../domain/lsn.ts";
import { isGuardOf, workName } from "../domain/names.ts";
import { type PluginRules, whyRefused } from "../domain/plugins.ts";
import { isFailoverReady } from "../domain/protection.ts";
import type { StandbySlot } from "../domain/slot.ts";
import { slotNamed } from "../domain/slot.ts";
import type { OwnHistory } from "../domain/timeline.ts";
import { unseenAtEnd } from "../domain/vouch.ts";
import { observePromoted } from "../observe/standby.ts";
import { describeError, isPgError, SQLSTATE } from "../pg/errors.ts";
import { readTimelineHistory } from "../pg/server-history.ts";
import type { PgSession } from "../pg/session.ts";
import { LIST_DATABASES } from "../pg/sql.ts";
import { flagFailover } from "./flag.ts";
import { unstageAll } from "./unstage.ts";

export interface FinishContext {
  control: PgSession;
  /** Opens a session that may decode for minutes. */
  open: (database: string) => Promise<PgSession>;
  /** Opens a session that takes replication commands. */
  openReplication: () => Promise<PgSession>;
  /** Sessions per database. */
  connections: number;
  /** The data directory, where slots may have been staged, or null. */
  directory: string | null;
  /** What is done with a slot whose evidence is incomplete (`slots.unproven`). */
  keepUnproven: boolean;
  journal: JournalState;
  record: (journal: JournalState) => Promise<void>;
  log: Logger;
  /** ms, on the journal's axis. */
  now: () => number;
  /** What to add to a time of the journal's for the wall clock's. */
  toWallTime: number;
  /** The longest that it takes a sidecar to note that the primary is gone, ms. */
  blindMs: number;
}

/** While a plan is carried out: the slots as they were when it was made. */
interface Carrying extends FinishContext {
  planned: readonly StandbySlot[];
  /** What the databases are called now, by oid: one may have been renamed since it was recorded. */
  names: ReadonlyMap<number, string>;
  /** Where slots were left behind their position, for to advance them would have let go of rows (I4). */
  stopped: Map<FinishStep, Lsn>;
}

/** Where the step's slot stood when the step was planned. */
function seenAt({ record }: FinishStep, { planned }: Carrying): Lsn | null {
  return slotNamed(planned, record.name)?.confirmedFlushLsn ?? null;
}

/** What is done in the slot's own database. */
type Work = Extract<FinishStep, { kind: "advance" | "materialise" }>;
type Copy = Extract<FinishStep, { kind: "materialise" }>;
type PlainCopy = Copy & { outcome: "materialised" };

const PROGRESS_EVERY_MS = 1_000;

/**
 * Brings every slot to its exact recorded position, makes those that only a guard holds, removes what is not safe, then removes our
 * guards, and returns the gap report, which is journalled. Throws when the server is still (or again) a standby, or is lost.
 */
async function finishPromotion(context: FinishContext, tookBack: boolean): Promise<FinishReport> {
  const started = context.now();
  const look = await observePromoted(context.control);
  if (look.inRecovery) throw new Error("this server is a standby: there is no promotion to finish");
  const { journal } = context;
  assertSameCluster(journal, look.systemIdentifier);
  const { own, historyError } = await ownHistory(look.timeline, context);
  const promoted: Promoted = { journal, own };
  const { stalledStandbySlots, slots: here, pluginRules } = look;
  const { serverVersionNum } = context.control;
  const input = {
    ...promoted,
    slots: here,
    stalledStandbySlots,
    pluginRules,
    serverVersionNum,
    keepUnproven: context.keepUnproven,
  };
  const { steps, errors, stopped } = await runPlan(input, context);
  const unflagged = await flagAgain(steps, errors, look.slots, context);
  const failedDatabases = new Set(
    steps.filter((step) => errors.get(step)).map((step) => step.record.databaseOid),
  );
  const { removed, left } = await removeGuards(context, look.slots, failedDatabases);
  const told = new Map([...unreadable(steps, errors, look.pluginRules), ...unflagged]);
  const slots = reportLines(steps, errors, told, promoted).map((line, index) => {
    const step = steps[index];
    return shortOf(line, step && stopped.get(step));
  });
  const finishedAt = context.now();
  const endOfWal = endOfWalOf(promoted);
  const unseen = journal.finish?.unseen ?? unseenAtEnd(journal, endOfWal, started, context.blindMs);
  const done: FinishReport = {
    timeline: look.timeline,
    finishedAt,
    durationMs: finishedAt - started,
    endOfWalLsn: endOfWal === null ? null : formatLsn(endOfWal),
    historyError,
    unseen,
    complete:
      tookBack &&
      left === 0 &&
      slots.every(({ outcome }) => outcome !== "failed") &&
      (historyError === null || slots.every(({ certain }) => certain)),
    slots,
  };
  const report = inWallTime(done, journal, context);
  await context.record(noteFinish(journal, steps, errors, removed, report));
  return report;
}

/** The line of a slot that was left where it stood: its subscriber receives again what it has confirmed since. */
function shortOf(line: FinishedSlot, position: Lsn | undefined): FinishedSlot {
  if (position === undefined) return line;
  const why = `it was left at ${formatLsn(position)}, for advancing it would let go of catalog rows in this release of PostgreSQL: its subscriber receives again what it has confirmed since`;
  return {
    ...line,
    outcome: line.outcome === "advanced" ? "kept" : line.outcome,
    positionLsn: formatLsn(position),
    detail: line.detail === null ? why : `${line.detail}; ${why}`,
  };
}

/** Slots that are there, and that a setting lets nobody read. */
function unreadable(
  steps: readonly FinishStep[],
  errors: ReadonlyMap<FinishStep, unknown>,
  rules: PluginRules | null,
): Map<FinishStep, string> {
  const told = steps
    .filter((step) => stays(step, errors))
    .map((step) => [step, whyRefused(step.record, rules)] as const);
  return new Map(told.filter((each): each is [FinishStep, string] => each[1] !== null));
}

/** So often what the server gives up under our hands is decided anew; then another attempt at the whole has to do. */
const ROUNDS = 3;

/**
 * Plans and runs the steps. The first checkpoint of a new primary may give up a slot that was in order a moment ago, as idle or for its
 * WAL: so what stays is looked at again, and what has been given up is decided anew with what is there then (I6, I18).
 */
async function runPlan(
  input: FinishInput,
  context: FinishContext,
): Promise<{ steps: FinishStep[]; errors: Map<FinishStep, unknown>; stopped: Map<FinishStep, Lsn> }> {
  let { journal } = input;
  const stopped = new Map<FinishStep, Lsn>();
  let due = planFinish(input);
  let steps = due;
  let planned = input.slots;
  const errors = new Map<FinishStep, unknown>();
  const names = await databaseNames(context.control);
  for (let round = 1; ; round += 1) {
    journal = noteFinishIntents(journal, due);
    await context.record(journal);
    for (const [step, error] of await runSteps(due, { ...context, planned, stopped, names }))
      errors.set(step, error);
    const { slots } = await observePromoted(context.control);
    const lost = steps.filter((step) => stays(step, errors) && isGivenUp(step, slots));
    if (lost.length === 0) return { steps, errors, stopped };
    if (round === ROUNDS) {
      for (const step of lost)
        errors.set(step, new Error("the server gives it up again and again: see its log"));
      return { steps, errors, stopped };
    }
    const records = lost.flatMap(({ record }) => journal.slots.get(record.name) ?? []);
    const again = new Map(records.map((record) => [record.name, record]));
    planned = slots;
    due = planFinish({ ...input, slots, journal: { ...journal, slots: again } });
    const anew = new Map(due.map((step) => [step.record.name, step]));
    steps = steps.map((step) => anew.get(step.record.name) ?? step);
  }
}

async function databaseNames(control: PgSession): Promise<Map<number, string>> {
  const rows = await control.query<{ oid: string; name: string }>(LIST_DATABASES);
  return new Map(rows.map(({ oid, name }) => [Number(oid), name]));
}

function stays(step: FinishStep, errors: ReadonlyMap<FinishStep, unknown>): boolean {
  return ["keep", "advance", "materialise"].includes(step.kind) && !errors.get(step);
}

function isGivenUp({ record }: FinishStep, slots: readonly StandbySlot[]): boolean {
  return (slotNamed(slots, record.name)?.invalidation ?? null) !== null;
}

/**
 * The finishing step, unless it has been done for this very promotion: then its report again. A node that has been promoted once more
 * since, with no sidecar at work in between, is known by its timeline: nothing of what the journal says is still true there, and only
 * our guards are removed. Null on a node that never was a standby under this journal. Throws as {@link finishPromotion} does.
 */
export async function finishOnce(context: FinishContext): Promise<FinishReport | null> {
  const { journal } = context;
  await keepInUse(context);
  const tookBack = await takeBackStaged(context);
  if (journal.phase !== "primary") {
    if (knowsStandby(journal)) return finishPromotion(context, tookBack);
    await context.record({ ...journal, phase: "primary" });
    return null;
  }
  const done = journal.finish;
  if (done?.complete === false) return finishPromotion(context, tookBack);
  const { inRecovery, timeline } = await observePromoted(context.control);
  const same = done === null || done.timeline === null || timeline === null || done.timeline === timeline;
  return inRecovery || same ? done : finishPromotion({ ...context, journal: startOver(journal) }, tookBack);
}

/** Before anything else: the checkpoint of the promotion gives up what nobody has used for too long (18+). */
async function keepInUse({ control, journal, openReplication, log }: FinishContext): Promise<void> {
  if (!givesUpIdle(control.serverVersionNum) || isFinished(journal)) return;
  const look = await observePromoted(control);
  if (look.inRecovery || !look.givesUpIdle) return;
  const errors = await touchSlots(toUseAtPromotion(look.slots, journal), openReplication);
  for (const [slot, error] of errors)
    log.warn(`slot "${slot}" could not be kept from being given up as idle: ${describeError(error)}`);
}

function isFinished({ phase, finish }: JournalState): boolean {
  return phase === "primary" && finish?.complete !== false;
}

/**
 * First of all: the folder of a staged slot stands in the way of making it, and would be loaded at the next start (I6). False when one
 * may be left, for another attempt.
 */
async function takeBackStaged({ control, directory, journal, log }: FinishContext): Promise<boolean> {
  if (directory === null) return true;
  try {
    const { inRecovery, systemIdentifier, slotNames } = await observePromoted(control);
    if (inRecovery || (journal.systemIdentifier ?? systemIdentifier) !== systemIdentifier) return true;
    const { serverVersionNum } = control;
    const removed = await unstageAll({
      directory,
      journal,
      systemIdentifier,
      serverVersionNum,
      loaded: new Set(slotNames),
    });
    if (removed.length > 0)
      log.info(`staged slots are taken back, for this node is a primary: ${removed.join(", ")}`);
    return true;
  } catch (error) {
    log.error(
      `slots that were staged in ${directory} could not be taken back, and would be loaded at the next start of this primary: ${describeError(error)}`,
    );
    const { slots, guards, lowGuards } = journal;
    const records = [...slots.values(), ...Object.values(guards), ...Object.values(lowGuards)];
    return !records.some(({ staged }) => staged.length > 0);
  }
}

/** By name and position alone another cluster's slots can pass for ours, and would be moved or dropped (I5, I7). */
function assertSameCluster({ systemIdentifier }: JournalState, here: string): void {
  if (systemIdentifier === null || systemIdentifier === here) return;
  throw new Error(
    `state_directory holds the journal of another cluster (system identifier ${systemIdentifier}, this server has ${here}): nothing was done; correct state_directory or standby.dsn`,
  );
}

/** A slot that its subscriber has taken up in the meantime is no failure. */
function errorText(error: unknown): string {
  return isPgError(error, SQLSTATE.objectInUse)
    ? "its subscriber took it up before it was at its exact position; it may receive changes again that it has confirmed"
    : describeError(error);
}

/**
 * Where this node's history left the timelines before it (I14). Where the WAL ended that the last recovery replayed is no answer: after a crash
 * that is this node's own. What cannot be read is told; then only what this node was seen to have counts.
 */
async function ownHistory(
  timeline: number | null,
  { openReplication, control, directory, journal, log }: FinishContext,
): Promise<{ own: OwnHistory | null; historyError: string | null }> {
  let why = "the server does not say on which timeline it is";
  if (timeline !== null) {
    for (const read of [
      () => readTimelineHistory(openReplication, timeline),
      ...(directory === null
        ? []
        : [
            async () => {
              const major = Math.floor(control.serverVersionNum / 10_000);
              const { systemIdentifier } = journal;
              if (systemIdentifier !== null)
                await verifyDirectory(directory, { systemIdentifier, major, server: null });
              return readHistoryFile(directory, timeline);
            },
          ]),
    ])
      try {
        return { own: { timeline, forks: await read(), whole: true }, historyError: null };
      } catch (error) {
        why = describeError(error);
      }
  }
  const historyError = `the history of this node's timeline could not be read, so slots are brought only to what this node was seen to have: ${why}`;
  log.warn(historyError);
  return { own: null, historyError };
}

function reportLines(
  steps: readonly FinishStep[],
  errors: ReadonlyMap<FinishStep, unknown>,
  told: ReadonlyMap<FinishStep, string>,
  promoted: Promoted,
): FinishedSlot[] {
  return steps.map((step) => {
    const error = errors.get(step);
    if (!error) {
      const line = finishedSlot(step, promoted, null, promoted.journal.finish);
      return { ...line, detail: told.get(step) ?? line.detail };
    }
    const line = finishedSlot(step, promoted, errorText(error));
    return isPgError(error, SQLSTATE.objectInUse) ? { ...line, outcome: "in_use" as const } : line;
  });
}

/** What a second attempt takes over from the first is in wall time already. */
function inWallTime(
  report: FinishReport,
  { finish }: JournalState,
  { toWallTime: shift }: FinishContext,
): FinishReport {
  const { unseen } = report;
  const isOld = ({ name, lastSeenAt }: FinishedSlot) =>
    finish?.slots.some((slot) => slot.name === name && slot.lastSeenAt === lastSeenAt) ?? false;
  return {
    ...report,
    finishedAt: report.finishedAt + shift,
    unseen:
      unseen && unseen !== finish?.unseen ? { from: unseen.from + shift, to: unseen.to + shift } : unseen,
    slots: report.slots.map((slot) =>
      isOld(slot) ? slot : { ...slot, lastSeenAt: slot.lastSeenAt + shift },
    ),
  };
}

async function runSteps(steps: readonly FinishStep[], context: Carrying): Promise<Map<FinishStep, unknown>> {
  const errors = new Map<FinishStep, unknown>();
  const toDo = steps.filter(({ kind }) => ["advance", "materialise", "drop"].includes(kind));
  let done = 0;
  const ended = (step: FinishStep, error: unknown) => {
    done += 1;
    if (error !== null) errors.set(step, error);
  };
  const timer = setInterval(
    () => context.log.info(`finishing the promotion: ${done} of ${toDo.length} slots are in place`),
    PROGRESS_EVERY_MS,
  );
  try {
    // before anything else, for they may be in use any moment and make room; and from any database: the one that the slot was made
    // anew in may never have come here (I6)
    for (const step of toDo.filter(isUnsafe))
      await attempt(
        step,
        context.control,
        (_, error) => {
          if (step.kind === "drop" || error !== null) ended(step, error);
        },
        () => dropFailoverSlot(context.control, "primary", step.record.name, seenAt(step, context)),
      );
    const work = toDo.filter((step): step is Work => step.kind !== "drop" && !errors.has(step));
    // what was not promised must not take the last replication slots from what was
    for (const part of [work.filter((step) => !isExtra(step)), work.filter(isExtra)]) {
      const inDatabases = (list: readonly Work[], end: typeof ended, connections = context.connections) =>
        Promise.all(
          [...groupBy(list, (step) => step.record.databaseOid).values()].map((each) =>
            finishDatabase(each, { ...context, connections }, end),
          ),
        );
      const crowded: Copy[] = [];
      await inDatabases(part.filter(isPlainCopy), (step, error) => {
        if (isPlainCopy(step) && isPgError(error, SQLSTATE.configurationLimitExceeded)) crowded.push(step);
        else ended(step, error);
      });
      // the working copies of others had taken the last replication slots: again, with one for each database
      await inDatabases(crowded, ended, 1);
      // after those, for it needs the replication slot that a replaced one leaves
      await inDatabases(
        part.filter((step) => !isPlainCopy(step)),
        ended,
      );
    }
  } finally {
    clearInterval(timer);
  }
  return errors;
}

/**
 * 17+: a copy is not flagged to survive the next failover, whatever its source was. Not the slot's failure when that cannot be done:
 * a subscriber that has taken it up already keeps the server from it. Returns what is to be said of those.
 */
async function flagAgain(
  steps: readonly FinishStep[],
  errors: ReadonlyMap<FinishStep, unknown>,
  before: readonly StandbySlot[],
  { openReplication, log }: FinishContext,
): Promise<Map<FinishStep, string>> {
  const lack = steps.filter((step) => {
    if (!step.record.failover || errors.get(step)) return false;
    if (step.kind === "materialise") return true;
    const stays = step.kind === "keep" || step.kind === "advance";
    return stays && slotNamed(before, step.record.name)?.failover === false;
  });
  const failed = await flagFailover(
    lack.map(({ record }) => record.name),
    openReplication,
  );
  const told = new Map<FinishStep, string>();
  for (const step of lack) {
    const error = failed.get(step.record.name);
    if (error === undefined) continue;
    const text = `it is not flagged to survive the next failover (${describeError(error)}): slotsync flag ${step.record.name}`;
    log.warn(`slot "${step.record.name}": ${text}`);
    told.set(step, text);
  }
  return told;
}

/** Whether what wears the name must go, whatever comes in its place. */
function isUnsafe(step: FinishStep): boolean {
  return (
    step.kind === "drop" ||
    (step.kind === "materialise" && step.dropFirst !== null && step.outcome === "materialised")
  );
}

/** A slot that takes a replication slot more, and was not ready: for want of one, maybe. */
function isExtra(step: Work): boolean {
  return step.kind === "materialise" && step.dropFirst === null && !isFailoverReady(step.record.protection);
}

/** A copy to a name that is free. One that replaces a slot is not tried twice: its first attempt may have dropped that. */
function isPlainCopy(step: FinishStep): step is PlainCopy {
  return step.kind === "materialise" && step.outcome !== "advanced";
}

/** So many copies are worth a session and a working copy of their own: each waits for the disk a dozen times, and the sessions do at once. */
const COPIES_PER_SESSION = 8;

/**
 * What one session does in one go. Copies that replace a slot stay together: they share their decoding, and one working copy, for which
 * the planner has kept a replication slot free. Plain ones are split in the order of their positions, equal ones never (G4).
 */
function partsOf(steps: readonly Work[], sessions: number): Work[][] {
  const parts = groupBy(
    steps.filter((step) => !isPlainCopy(step)),
    (step) => (step.kind === "materialise" ? "copies" : `one ${step.record.name}`),
  );
  const copies = steps
    .filter(isPlainCopy)
    .toSorted((a, b) => a.from.localeCompare(b.from) || Number(a.to - b.to));
  const size = Math.max(COPIES_PER_SESSION, Math.ceil(copies.length / sessions));
  const shares: Work[][] = [];
  for (const step of copies) {
    const share = shares.at(-1);
    const last = share?.at(-1) as Copy | undefined;
    const equal = last !== undefined && last.from === step.from && last.to === step.to;
    if (share && (share.length < size || equal)) share.push(step);
    else shares.push([step]);
  }
  return [...parts.values(), ...shares];
}

/** Splits a database's work over several sessions. */
async function finishDatabase(
  steps: readonly Work[],
  context: Carrying,
  ended: (step: FinishStep, error: unknown) => void,
): Promise<void> {
  const { connections, journal } = context;
  const oid = steps[0]?.record.databaseOid ?? 0;
  const queue = partsOf(steps, connections)
    .toSorted((a, b) => cost(a) - cost(b))
    .map((part, index) => ({ part, work: workName(journal.instanceId, oid, index) }));
  const workers = Math.min(connections, queue.length);
  await Promise.all(
    Array.from({ length: workers }, async () => {
      const mine: Work[] = [];
      try {
        const session = await context.open(context.names.get(oid) ?? steps[0]?.record.database ?? "");
        try {
          for (let next = queue.shift(); next; next = queue.shift()) {
            mine.push(...next.part);
            await runPart(next.part, session, next.work, context, (step, error) => {
              mine.splice(mine.indexOf(step as Work), 1);
              ended(step, error);
            });
          }
        } finally {
          await session.close();
        }
      } catch (error) {
        // without a session this worker's share fails; what is still in the queue is the other workers', or fails with the last one
        if (mine.length === 0) mine.push(...(queue.shift()?.part ?? []));
        for (const step of mine) ended(step, error);
      }
    }),
  );
  for (const { part } of queue)
    for (const step of part) ended(step, new Error("no session could be had for it"));
}

function cost(part: readonly Work[]): number {
  const [step] = part;
  return step?.kind === "advance" ? Number(step.to - step.restart) : 0;
}

/** A copy that takes the place of a slot that is sound: dropped just before, and only while it stands where it was seen. */
function replacing(step: Copy, context: Carrying): Pick<Create, "replaces"> {
  const at = seenAt(step, context);
  return step.outcome === "advanced" && at !== null ? { replaces: at } : {};
}

async function runPart(
  part: readonly Work[],
  session: PgSession,
  work: string,
  context: Carrying,
  ended: (step: FinishStep, error: unknown) => void,
): Promise<void> {
  const copies: (Create & { step: Copy })[] = [];
  for (const step of part) {
    if (step.kind === "materialise") {
      copies.push({
        step,
        slot: step.record.name,
        plugin: step.record.plugin,
        from: step.from,
        to: step.to,
        ...replacing(step, context),
        ...holding(step, session.serverVersionNum),
      });
      continue;
    }
    await attempt(step, session, ended, () => bringOn(step, session, work, context));
  }
  const unshared: Copy[] = [];
  const short: Copy[] = [];
  if (copies.length > 0)
    await createSlots(session, "primary", work, copies, ({ step }, error) => {
      if (step.outcome === "advanced" && isPgError(error, SQLSTATE.configurationLimitExceeded))
        unshared.push(step);
      else if (error instanceof RanAheadError) short.push(step);
      else ended(step, error);
    });
  // no replication slot is free for a working copy: each decodes for itself
  for (const step of unshared)
    await attempt(step, session, ended, () => bringOn(step, session, work, context));
  for (const step of short)
    await attempt(step, session, ended, () => makeShort(step, session, work, context));
}

/** Where advancing runs ahead, what has to be held all the same (I4). */
function holding({ record }: Work, serverVersionNum: number): Pick<Create, "holds"> {
  return advanceKeepsRows(serverVersionNum) || record.rows === null ? {} : { holds: record.rows.original };
}

/** Advances our slot; where that would let go of rows that it needs, or nobody can see whether, it is left where it stands. */
async function bringOn(step: Work, session: PgSession, work: string, context: Carrying): Promise<void> {
  const { name, plugin } = step.record;
  const at = seenAt(step, context);
  const { holds } = holding(step, session.serverVersionNum);
  const leave =
    holds !== undefined &&
    at !== null &&
    (!copiesSlots(session.serverVersionNum) ||
      (await wouldRunAhead(session, "primary", work, { from: name, plugin, to: step.to, holds })));
  if (leave) context.stopped.set(step, at);
  else await advanceSeen(session, "primary", name, at, step.to);
}

/** What cannot be brought to its position is left where it stands, or made where its guard stands. */
async function makeShort(step: Copy, session: PgSession, work: string, context: Carrying): Promise<void> {
  const { name, plugin } = step.record;
  const kept = step.outcome === "advanced";
  const at = slotNamed(context.planned, kept ? name : step.from)?.confirmedFlushLsn ?? null;
  if (at === null) throw new Error(`"${step.from}" is gone`);
  if (!kept) {
    let failure: unknown = null;
    const create = { slot: name, plugin, from: step.from, to: at };
    await createSlots(session, "primary", work, [create], (_, error) => {
      failure = error;
    });
    if (failure !== null) throw failure;
  }
  context.stopped.set(step, at);
}

async function attempt(
  step: FinishStep,
  session: PgSession,
  ended: (step: FinishStep, error: unknown) => void,
  run: () => Promise<void>,
): Promise<void> {
  try {
    await run();
    ended(step, null);
  } catch (error) {
    ended(step, error);
    if (!session.usable) throw error;
  }
}

/**
 * Our guards would hold WAL on the new primary for ever. Those that a failed slot may still be copied from stay. `left` counts those
 * that could not be dropped: one whose creation a killed sidecar has left running is in use until it ends.
 */
async function removeGuards(
  { control, journal, log }: FinishContext,
  existing: readonly StandbySlot[],
  keepIn: ReadonlySet<number>,
): Promise<{ removed: string[]; left: number }> {
  const guards = existing.filter(
    ({ name, databaseOid }) => isGuardOf(name, journal.instanceId) && !keepIn.has(databaseOid),
  );
  const removed: string[] = [];
  for (const { name } of guards) {
    try {
      await dropOwnSlot(control, "primary", name);
      removed.push(name);
    } catch (error) {
      log.warn(`our slot "${name}" is left and holds WAL: ${describeError(error)}`);
    }
  }
  return { removed, left: guards.length - removed.length };
}
