/**
 * What is left to do once this node is a primary (I6, I8): bring every slot to its exact recorded position (I1), make those that
 * only a guard holds, take away what is not safe, and say what the subscribers may miss. Pure; the steps are run by sync/finish.ts.
 */
import { assertNever } from "./assert-never.ts";
import { isSettled } from "./birth.ts";
import { gapOf, limitFor, type Promoted } from "./common-end.ts";
import { shareDecodes } from "./finish-share.ts";
import type { GuardRecord, SlotRecord } from "./journal.ts";
import { formatLsn, type Lsn, minLsn } from "./lsn.ts";
import { holdName, isLibraryName } from "./names.ts";
import { isOurs, isServed, originalOf, whyUnsafe } from "./ownership.ts";
import { type PluginRules, whyRefused } from "./plugins.ts";
import { holdsRows, isProven, provisionOf } from "./proof.ts";
import { repairOf } from "./repair.ts";
import { type StandbySlot, sameIdentity, slotNamed } from "./slot.ts";
import { tableAfterPromotion, tableRepair, tableSyncOf } from "./table-sync.ts";
import type { Unseen } from "./vouch.ts";

/** One thing to do on the new primary. */
export type FinishStep =
  | { kind: "keep"; record: SlotRecord; position: Lsn; why?: string; unproven?: string }
  | { kind: "advance"; record: SlotRecord; restart: Lsn; to: Lsn; unproven?: string }
  | {
      kind: "materialise";
      record: SlotRecord;
      /** Our guard or hold that is copied. */
      from: string;
      to: Lsn;
      /** Why a slot of ours that wears the name is dropped before, or null when the name is free. */
      dropFirst: string | null;
      outcome: "materialised" | "advanced";
    }
  | { kind: "drop"; record: SlotRecord; why: string }
  | {
      kind: "leave";
      record: SlotRecord;
      outcome: "in_use" | "moved_on" | "not_ours";
      position: Lsn | null;
      why: string;
    }
  | { kind: "none"; record: SlotRecord; why: string };

export type FinishOutcome =
  | "kept"
  | "advanced"
  | "materialised"
  /** By the operator's choice: its changes may be incomplete. */
  | "kept_unproven"
  | "dropped"
  | "in_use"
  | "moved_on"
  | "not_ours"
  | "not_protected"
  | "failed";

/** One slot's line in the gap report. LSNs as text, for this is written to disk and shown. */
export interface FinishedSlot {
  name: string;
  database: string;
  plugin: string;
  outcome: FinishOutcome;
  detail: string | null;
  /** The position the subscriber had confirmed when the old primary was last seen, and when that was (ms since the epoch). */
  lastSeenLsn: string | null;
  lastSeenAt: number;
  /** The timeline that this is a position of; null where it is not known. */
  timeline: number | null;
  /** Where the slot stands on this node now, or null when it does not exist. */
  positionLsn: string | null;
  /** Up to here the WAL that the subscriber was sent is also this node's: where this node's history left that timeline. Null when not known. */
  endOfWalLsn: string | null;
  /** False when it is not known where that was: the subscriber may have more than is said here. */
  certain: boolean;
  /** Bytes of WAL past `endOfWalLsn` that the subscriber has confirmed: their transactions are not of this node's history. */
  confirmedBeyondEndBytes: number;
  /** SQL for the subscriber that puts a native subscription back to `endOfWalLsn`, with what it does; null where there is no need of it. */
  repair: string | null;
}

/** The gap report: how each failover slot came through the promotion. */
export interface FinishReport {
  finishedAt: number;
  durationMs: number;
  /** The end of the WAL that this node took over from the primary before it; of a slot that was seen on an older timeline, see there. */
  endOfWalLsn: string | null;
  /** Why the history of this node's timeline could not be read, so that only what it was seen to have counts; or null. */
  historyError: string | null;
  /** The timeline that the promotion began, or null when the server did not say. */
  timeline: number | null;
  /**
   * The time in which the old primary was alive, or may have been, and nobody looked at it (ms since the epoch), or null: slots that were made
   * in it are not here, and subscribers may have confirmed more than is said below (I15).
   */
  unseen: Unseen | null;
  /** False when something is left that another `slotsync finish` may mend. */
  complete: boolean;
  slots: FinishedSlot[];
}

export interface FinishInput extends Promoted {
  slots: readonly StandbySlot[];
  serverVersionNum: number;
  /** The operator would rather have a slot whose evidence is incomplete than none (`slots.unproven: keep`); never what is called ready. */
  keepUnproven?: boolean;
  /** 17+: names in `synchronized_standby_slots` of this primary that no standby streams by. */
  stalledStandbySlots?: readonly string[];
  /** What output_plugin_libraries says here; null, or left out, where it refuses nothing. */
  pluginRules?: PluginRules | null;
}

/** Decides for every slot in the journal, those that can share a decoding together. What its owner has dropped in time is left out. */
export function planFinish(input: FinishInput): FinishStep[] {
  const records = [...input.journal.slots.values()].filter(
    ({ obsolete, name }) => !obsolete || slotNamed(input.slots, name) !== undefined,
  );
  const steps = records.map((record) => standing(record, input));
  return shareDecodes(steps, (record, to) =>
    // dropped, it could not be copied again; an advance needs no plugin (I18)
    whyRefused(record, input.pluginRules) === null ? sourceFor(input, to, record) : null,
  );
}

/**
 * What a promotion would do with this slot, by the journal and what is on the standby: the one rule behind "ready" (I17). The planner's
 * word, `check`, `status`, `/ready` and the finishing step all ask it; `standing.ts` says which answers keep the slot.
 */
export function standing(record: SlotRecord, input: FinishInput): FinishStep {
  const local = slotNamed(input.slots, record.name);
  if (!local)
    return record.obsolete
      ? none(record, "it was no failover slot any more")
      : materialise(record, input, null);
  if (isServed(local)) return finishServed(record, local, input);
  if (!isOurs(local, record) || local.confirmedFlushLsn === null) return leaveForeign(record, local);
  const confirmed = record.primaryConfirmedFlushLsn;
  const unsafe = record.obsolete
    ? "it was no failover slot any more"
    : (whyUnsafe(originalOf(record), local) ?? whyPast(record, local.confirmedFlushLsn, input));
  const unproven = unsafe === null ? whyUnproven(record, local, input) : null;
  const doubt = unsafe ?? unproven;
  if (local.activePid !== null)
    return {
      kind: "leave",
      record,
      outcome: "in_use",
      position: local.confirmedFlushLsn,
      why: `process ${local.activePid} is reading it already; ${doubt ? `CHANGES MAY BE SKIPPED, for ${doubt}` : "it may receive changes again that it has confirmed"}`,
    };
  const bring = (at: Lsn) => bringOn(record, local, at, goalOf(record, confirmed ?? at, input) ?? at, input);
  if (doubt !== null || confirmed === null) {
    const why = doubt ?? "the old primary's slot was being made anew";
    const step = record.obsolete ? none(record, why) : materialise(record, input, why);
    if (step.kind === "materialise") return step;
    if (unproven !== null && input.keepUnproven) return { ...bring(local.confirmedFlushLsn), unproven };
    return { kind: "drop", record, why };
  }
  return bring(local.confirmedFlushLsn);
}

/**
 * Where a slot is to stand that was last seen at `confirmed`: there, or where this node's history left the timeline of that (I1, I14). Null
 * where that is not of this node's history, as far as it is known.
 */
function goalOf(record: SlotRecord, confirmed: Lsn, input: Promoted): Lsn | null {
  const limit = limitFor(record, input);
  return limit.kind === "unknown" ? null : minLsn(confirmed, limit.until);
}

/** I14: our slot was moved along the timeline that the record is of; what lies past the fork of that is other WAL on this node. */
function whyPast(record: SlotRecord, at: Lsn, input: Promoted): string | null {
  const limit = limitFor(record, input);
  if (limit.kind === "unknown") return elsewhere(record, input);
  // where only the last look tells, it may have been brought on with the WAL that came after that
  if (limit.kind === "seen" || at <= limit.until) return null;
  return `it stands at ${formatLsn(at)}, past ${formatLsn(limit.until)}, where this node's history left timeline ${record.timeline}`;
}

function elsewhere({ timeline }: SlotRecord, { own }: Promoted): string {
  const seen = timeline === null ? "a timeline that is not known" : `timeline ${timeline}`;
  return own === null
    ? `it was last seen on ${seen}, and how much of that is here is not known`
    : `it was last seen on ${seen}, which is none of the history of this node's timeline ${own.timeline}`;
}

/**
 * To its exact position. The server makes an advance of a flagged slot wait for `synchronized_standby_slots`, and right after a failover
 * they are those of standbys that are gone: the slot would be in use for nothing, and its subscriber locked out. It stays where it is then.
 */
function bringOn(
  record: SlotRecord,
  { failover, restartLsn }: StandbySlot,
  position: Lsn,
  to: Lsn,
  { stalledStandbySlots: stalled = [] }: FinishInput,
): Extract<FinishStep, { kind: "keep" | "advance" }> {
  if (position >= to) return { kind: "keep", record, position };
  if (!failover || stalled.length === 0)
    return { kind: "advance", record, restart: restartLsn ?? position, to };
  const why = `synchronized_standby_slots names ${stalled.map((name) => `"${name}"`).join(", ")}, which no standby streams from, so it could not be brought to ${formatLsn(to)}: its subscriber is held back until one does, and may then receive changes again that it has confirmed`;
  return { kind: "keep", record, position, why };
}

/**
 * The server's own synced slot (17+), an ordinary one since the promotion. It may have come further than when it was last seen, by the
 * server's hand: then its subscriber has confirmed that. One that was seen ahead of the primary's would skip changes (I1).
 */
function finishServed(record: SlotRecord, local: StandbySlot, input: FinishInput): FinishStep {
  const position = local.confirmedFlushLsn;
  const confirmed = record.primaryConfirmedFlushLsn;
  const leave = (outcome: "in_use" | "not_ours", why: string): FinishStep => ({
    kind: "leave",
    record,
    outcome,
    position,
    why,
  });
  if (record.obsolete) return leave("not_ours", "it was no failover slot any more; the server has kept it");
  const unsafe = whyServedUnsafe(record, local);
  if (local.activePid !== null)
    return leave(
      "in_use",
      `process ${local.activePid} is reading it already; ${unsafe ? `CHANGES MAY BE SKIPPED, for ${unsafe}` : "it may receive changes again that it has confirmed"}`,
    );
  if (unsafe || confirmed === null || position === null) {
    const why = unsafe ?? "the old primary's slot was being made anew";
    const step = materialise(record, input, why);
    return step.kind === "materialise" ? step : { kind: "drop", record, why };
  }
  if (record.protection === "guarded") {
    const step = materialise(record, input, "a guard was what protected it");
    if (step.kind === "materialise") return step;
  }
  // the server has seen to it that all of it is here, on whatever timeline
  return bringOn(record, local, position, goalOf(record, confirmed, input) ?? position, input);
}

function whyServedUnsafe(record: SlotRecord, local: StandbySlot): string | null {
  const { served, maxTarget, primaryConfirmedFlushLsn: confirmed } = record;
  // G5: its readers would get a COMMIT PREPARED without the changes
  if (record.twoPhase && record.reason === "prepared_transactions_pending")
    return record.detail ?? "prepared transactions would be left out";
  const lastSeen = served && maxTarget !== null ? maxTarget : null;
  return whyUnsafe(originalOf(record), {
    ...local,
    // what the server has done since is right: only where it stood when both were seen tells whether it is ahead
    confirmedFlushLsn: lastSeen !== null && confirmed !== null ? lastSeen : confirmed,
  });
}

/** I2–I4, I16: one that was loaded from its file, and never proven to lack nothing. */
function whyUnproven(
  record: SlotRecord,
  local: StandbySlot,
  { serverVersionNum }: FinishInput,
): string | null {
  const provision = provisionOf(record, local);
  const { proof } = provision;
  if (!proof.wal) return "whether its WAL is here was never seen";
  if (!proof.start) return "where its decoding begins was never proven";
  if (!proof.mappings) return "whether what was noted of rewritten catalogs is here was never seen";
  if (provision.origin === null && !isSettled(provision, local))
    return "it was copied from a guard that had just been made, and its rows may lack columns";
  if (holdsRows(record.rows, local, serverVersionNum)) return null;
  return "whether its catalog rows were kept was not proven when the old primary was last seen";
}

function none(record: SlotRecord, why: string): FinishStep {
  return { kind: "none", record, why };
}

function leaveForeign(record: SlotRecord, local: StandbySlot): FinishStep {
  // ours when it was last seen, and beyond our furthest target now: its subscriber came before us
  const movedOn =
    record.state === "owned" &&
    record.reason !== "name_conflict" &&
    record.ours !== null &&
    sameIdentity(local, record.ours) &&
    !local.temporary;
  return {
    kind: "leave",
    record,
    outcome: movedOn ? "moved_on" : "not_ours",
    position: local.confirmedFlushLsn,
    why: movedOn ? "its subscriber has moved it on already" : "a slot of this name was here that is not ours",
  };
}

/** G2: from a guard, or from a hold that is still there, at or behind the exact position. */
function materialise(record: SlotRecord, input: FinishInput, dropFirst: string | null): FinishStep {
  const confirmed = record.primaryConfirmedFlushLsn;
  if (confirmed === null) return none(record, "its creation on the old primary had not finished");
  if (record.twoPhase || record.primaryInvalidation !== null || !isLibraryName(record.plugin))
    return none(record, record.detail ?? "it was not protected");
  const to = goalOf(record, confirmed, input);
  if (to === null) return none(record, elsewhere(record, input));
  const source = sourceFor(input, to, record);
  if (!source) return none(record, record.detail ?? "no guard of this node reaches back to its position");
  return { kind: "materialise", record, from: source.name, to, dropFirst, outcome: "materialised" };
}

function serves(guard: GuardRecord, local: StandbySlot): boolean {
  const provision = provisionOf(guard, local);
  return isProven(provision.proof) && isSettled(provision, local);
}

/** Our guard or hold that lies at or behind the position (G2) with the rows for it (I4), the nearest of them, or null. */
function sourceFor(
  { journal, slots, serverVersionNum }: FinishInput,
  to: Lsn,
  { databaseOid, rows }: Pick<SlotRecord, "databaseOid" | "rows">,
): { name: string; restart: Lsn } | null {
  const guards = [journal.guards[databaseOid], journal.lowGuards[databaseOid]];
  let nearest: { name: string; restart: Lsn; at: Lsn } | null = null;
  for (const slot of slots) {
    const { name, confirmedFlushLsn, restartLsn } = slot;
    const guard = guards.find((each) => each?.name === name);
    const ours = guard
      ? serves(guard, slot) && holdsRows(rows, slot, serverVersionNum)
      : name === holdName(journal.instanceId, databaseOid);
    if (!ours || slot.databaseOid !== databaseOid || slot.invalidation !== null) continue;
    if (confirmedFlushLsn === null || restartLsn === null || confirmedFlushLsn > to) continue;
    if (nearest === null || confirmedFlushLsn > nearest.at)
      nearest = { name, restart: restartLsn, at: confirmedFlushLsn };
  }
  return nearest;
}

/**
 * The report's line for a step that was run; `error` is what went wrong with it. `before` is the report of an earlier attempt at the same
 * promotion: what that dropped stays told as dropped, and why.
 */
export function finishedSlot(
  step: FinishStep,
  promoted: Promoted,
  error: string | null,
  before: Pick<FinishReport, "slots"> | null = null,
): FinishedSlot {
  const { record } = step;
  const earlier = step.kind === "none" ? before?.slots.find(({ name }) => name === record.name) : undefined;
  if (earlier?.outcome === "dropped") return earlier;
  const confirmed = record.primaryConfirmedFlushLsn;
  const { outcome, position, detail } = outcomeOf(step);
  const gap = gapOf(record, promoted);
  const goesOn = error === null && position !== null && gap.beyondBytes === 0;
  const wanted = !record.obsolete;
  const ofTable = wanted ? tableAfterPromotion(record, goesOn) : null;
  const told = [error ?? detail, ofTable].filter((part) => part !== null);
  const line: FinishedSlot = {
    name: record.name,
    database: record.database,
    plugin: record.plugin,
    outcome: error === null ? outcome : "failed",
    detail: told.length > 0 ? told.join("; ") : null,
    lastSeenLsn: confirmed === null ? null : formatLsn(confirmed),
    lastSeenAt: record.seenAt,
    timeline: record.timeline,
    positionLsn: error !== null || position === null ? null : formatLsn(position),
    endOfWalLsn: gap.until === null ? null : formatLsn(gap.until),
    certain: gap.certain || confirmed === null,
    confirmedBeyondEndBytes: gap.beyondBytes,
    repair: null,
  };
  const { seen } = gap;
  const former =
    seen !== null && (seen.timeline !== record.timeline || seen.lsn !== confirmed)
      ? `on timeline ${seen.timeline} its subscriber had confirmed ${formatLsn(seen.lsn)}, and was not seen to go on from ${line.endOfWalLsn}, where that timeline was left`
      : null;
  const details = [line.detail, former].filter((text) => text !== null);
  return {
    ...line,
    detail: details.length === 0 ? null : details.join("; "),
    repair: wanted ? repairFor(line, goesOn) : null,
  };
}

/** A table sync has its own repair: the subscription's would not reach it. */
function repairFor(line: Omit<FinishedSlot, "repair">, goesOn: boolean): string | null {
  if (tableSyncOf(line) === null) return repairOf(line);
  return goesOn ? null : tableRepair(line);
}

function outcomeOf(step: FinishStep): {
  outcome: FinishOutcome;
  position: Lsn | null;
  detail: string | null;
} {
  switch (step.kind) {
    case "keep":
      if (step.unproven !== undefined) return keptUnproven(step.position, step.unproven);
      return { outcome: "kept", position: step.position, detail: step.why ?? null };
    case "advance":
      if (step.unproven !== undefined) return keptUnproven(step.to, step.unproven);
      return { outcome: "advanced", position: step.to, detail: null };
    case "materialise":
      return {
        outcome: step.outcome,
        position: step.to,
        detail: step.outcome === "advanced" ? null : step.dropFirst,
      };
    case "drop":
      return { outcome: "dropped", position: null, detail: step.why };
    case "leave":
      return { outcome: step.outcome, position: step.position, detail: step.why };
    case "none":
      return { outcome: "not_protected", position: null, detail: step.why };
    default:
      return assertNever(step);
  }
}

function keptUnproven(position: Lsn, why: string) {
  return {
    outcome: "kept_unproven" as const,
    position,
    detail: `${why}: CHANGES MAY BE MISSING OR WRONG, or an error ends its reading; it was kept by slots.unproven, and its subscriber's data is to be compared`,
  };
}

/** One line for the log: how the promotion went. */
export function describeFinish(report: FinishReport): string {
  const counts = new Map<string, number>();
  for (const slot of report.slots) counts.set(slot.outcome, (counts.get(slot.outcome) ?? 0) + 1);
  const parts = [...counts].map(([outcome, count]) => `${count} ${outcome.replaceAll("_", " ")}`);
  const gaps = report.slots.filter((slot) => slot.confirmedBeyondEndBytes > 0);
  const unknown = report.slots.filter(({ certain, lastSeenLsn }) => !certain && lastSeenLsn !== null);
  const gap = [
    ...(gaps.length === 0
      ? []
      : [
          `${gaps.length} subscriber(s) confirmed transactions that this node lacks: ${gaps.map((slot) => `${slot.name} (${slot.confirmedBeyondEndBytes} bytes of WAL)`).join(", ")}`,
        ]),
    ...(unknown.length === 0
      ? []
      : [
          `of ${unknown.length} subscriber(s) it is not known how much they have that this node lacks: ${unknown.map(({ name }) => name).join(", ")}`,
        ]),
  ];
  if (gap.length === 0) gap.push("no subscriber was seen to have more than this node");
  if (report.historyError !== null) gap.push(report.historyError);
  return `promotion ${report.complete ? "finished" : "NOT finished"} in ${report.durationMs} ms: ${parts.join(", ") || "no slots"}; ${gap.join("; ")}${describeUnseen(report.unseen)}`;
}

function describeUnseen(unseen: Unseen | null): string {
  if (unseen === null) return "";
  const [from, to] = [unseen.from, unseen.to].map((time) => new Date(time).toISOString());
  return `; NOBODY LOOKED at the old primary from ${from} to ${to}: slots that were made there in that time are not here, and subscribers may have confirmed transactions that this node lacks`;
}
