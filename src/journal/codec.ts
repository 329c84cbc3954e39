/**
 * The journal as text: one line of JSON, `{"format", "version", "sha256", "body"}`.
 *
 * The checksum covers the version and the body's very bytes, so that a file is either what we wrote, to the byte, or damaged.
 * Later versions keep `format` and `version` at the top, whatever else they change: that is how an older sidecar tells a
 * newer journal, which it must leave alone, from a damaged one, which it sets aside.
 */
import { createHash } from "node:crypto";
import type { $ZodIssue } from "zod/v4/core";
import type { FinishReport } from "../domain/finish.ts";
import type { GuardRecord, JournalState, Provision, SlotRecord, Staged } from "../domain/journal.ts";
import { formatLsn, type Lsn } from "../domain/lsn.ts";
import type { TimelineHistory } from "../domain/timeline.ts";
import { JournalDamagedError, JournalVersionError } from "./errors.ts";
import { bodySchema, type EncodedBody } from "./schema.ts";

const FORMAT = "pg-slotsync journal";
const VERSION = 2;
/** The versions that this one reads. */
const READABLE = [1, VERSION];
const END = "}\n";

/** Runs in every cycle that changed something: no validation here, one pass of each, about 2 ms for 500 slots. */
export function encodeJournal(state: JournalState): string {
  const body = JSON.stringify(encodeBody(state));
  return head(VERSION, checksum(VERSION, body)) + body + END;
}

/** Reads a journal back; `path` is for the messages. Throws JournalDamagedError or JournalVersionError. */
export function decodeJournal(text: string, path: string): JournalState {
  const document = parseDocument(text, path);
  const { version } = document;
  const bodyText = text.slice(head(version, document.sha256).length, -END.length);
  if (!READABLE.includes(version)) {
    // it says another version, and was sealed by one of ours: then it is the number that is damaged
    if (READABLE.some((each) => checksum(each, bodyText) === document.sha256) || version < VERSION)
      throw new JournalDamagedError(path, `it says version ${version}, which it is not`);
    throw new JournalVersionError(path, version, VERSION);
  }
  if (head(version, document.sha256) + bodyText + END !== text)
    throw new JournalDamagedError(path, "it is not laid out as pg-slotsync writes it (edited by hand?)");
  if (checksum(version, bodyText) !== document.sha256)
    throw new JournalDamagedError(path, "its checksum does not match its content");
  const body = bodySchema.safeParse(version === 1 ? fromVersion1(document.body) : document.body);
  if (!body.success) throw new JournalDamagedError(path, describe(body.error.issues[0]));
  return {
    ...body.data,
    guards: Object.fromEntries(keyed(body.data.guards, (guard) => guard.databaseOid, path)),
    lowGuards: Object.fromEntries(keyed(body.data.lowGuards, (guard) => guard.databaseOid, path)),
    slots: keyed(body.data.slots, (slot) => slot.name, path),
  };
}

/** Fields that version 1 had and nothing reads any more, by where they stood. A field that is new since has its default in the schema. */
const GONE_SINCE_1: Record<"body" | "slot" | "staged" | "proof", readonly string[]> = {
  body: ["feedbackXid"],
  slot: [],
  staged: ["commonUntil"],
  proof: ["rows"],
};

function fromVersion1(body: unknown): unknown {
  const provision = {
    staged: listOf((staged) => without(staged, GONE_SINCE_1.staged)),
    origin: (origin: unknown) => without(origin, GONE_SINCE_1.staged),
    proof: (proof: unknown) => without(proof, GONE_SINCE_1.proof),
  };
  const guards = listOf((guard) => withMappings(without(guard, [], provision)));
  const slots = listOf((slot) => withMappings(without(slot, GONE_SINCE_1.slot, provision)));
  return without(body, GONE_SINCE_1.body, { guards, lowGuards: guards, slots });
}

/** I16: what did not come by its file lacks no mappings; of the rest version 1 does not say. */
function withMappings(record: unknown): unknown {
  const { proof, origin = null } = Object(record) as { proof?: unknown; origin?: unknown };
  if (typeof proof !== "object" || proof === null || origin !== null) return record;
  return { ...(record as object), proof: { ...proof, mappings: true } };
}

type Change = (value: unknown) => unknown;

/** The object without the fields that are gone, some others changed. What is no object is left for the schema to refuse. */
function without(value: unknown, gone: readonly string[], changes: Record<string, Change> = {}): unknown {
  if (typeof value !== "object" || value === null || Array.isArray(value)) return value;
  const left = Object.entries(value).filter(([key]) => !gone.includes(key));
  return Object.fromEntries(left.map(([key, each]) => [key, changes[key]?.(each) ?? each]));
}

function listOf(change: Change): Change {
  return (value) => (Array.isArray(value) ? value.map(change) : value);
}

function head(version: number, sha256: string): string {
  return `{"format":"${FORMAT}","version":${version},"sha256":"${sha256}","body":`;
}

function checksum(version: number, body: string): string {
  return createHash("sha256").update(`${FORMAT} ${version}\n`).update(body).digest("hex");
}

function parseDocument(text: string, path: string): { version: number; sha256: string; body: unknown } {
  const damaged = (problem: string) => new JournalDamagedError(path, problem);
  if (text.length === 0) throw damaged("it is empty");
  let document: unknown;
  try {
    document = JSON.parse(text);
  } catch (error) {
    throw damaged(`it is not JSON, or cut short (${(error as Error).message.slice(0, 120)})`);
  }
  if (typeof document !== "object" || document === null || Array.isArray(document))
    throw damaged("it is JSON, and not a journal");
  const { format, version, sha256, body } = document as Record<string, unknown>;
  if (format !== FORMAT) throw damaged(`it is JSON, and not a journal (no format "${FORMAT}")`);
  if (typeof version !== "number" || !Number.isSafeInteger(version)) throw damaged("it has no version");
  if (version > VERSION && typeof sha256 !== "string") throw new JournalVersionError(path, version, VERSION);
  if (typeof sha256 !== "string") throw damaged("it has no checksum");
  return { version, sha256, body };
}

function describe(issue: $ZodIssue | undefined): string {
  if (!issue) return "its content is not a journal's";
  return `${issue.path.length === 0 ? "its content" : issue.path.join(".")}: ${issue.message}`;
}

// fromEntries and not assignment: a slot may be called `__proto__`
/** By key, each once. */
function keyed<T, K>(items: readonly T[], keyOf: (item: T) => K, path: string): Map<K, T> {
  const byKey = new Map(items.map((item) => [keyOf(item), item]));
  if (byKey.size < items.length) throw new JournalDamagedError(path, "it holds a record twice");
  return byKey;
}

function encodeBody(state: JournalState): EncodedBody {
  return {
    instanceId: state.instanceId,
    clock: state.clock && { ...state.clock, bootedAt: finite(state.clock.bootedAt) },
    systemIdentifier: state.systemIdentifier,
    phase: state.phase,
    primaryTimeline: finiteOrNull(state.primaryTimeline),
    standbyTimeline: finiteOrNull(state.standbyTimeline),
    timelineSince: finite(state.timelineSince),
    observedAt: finite(state.observedAt),
    standbyFlushedLsn: lsnText(state.standbyFlushedLsn),
    feedbackSince: lsnText(state.feedbackSince),
    feedbackSession: state.feedbackSession,
    feedbackWalsender: state.feedbackWalsender,
    quietUntil: finite(state.quietUntil),
    quietLsn: lsnText(state.quietLsn),
    haltedAt: finiteOrNull(state.haltedAt),
    alive: state.alive && { ...state.alive, at: finite(state.alive.at), lsn: lsnText(state.alive.lsn) },
    relayed: state.relayed,
    standbyStartedS: finiteOrNull(state.standbyStartedS),
    primaryLostAt: finiteOrNull(state.primaryLostAt),
    life: state.life && {
      timeline: finite(state.life.timeline),
      history: encodeHistory(state.life.history),
      unmoved: state.life.unmoved.map((slot) => ({ ...slot, restartLsn: formatLsn(slot.restartLsn) })),
    },
    history: state.history && {
      timeline: finite(state.history.timeline),
      forks: encodeHistory(state.history.forks),
    },
    guardSerial: finite(state.guardSerial),
    guards: Object.values(state.guards).map(encodeGuard),
    lowGuards: Object.values(state.lowGuards).map(encodeGuard),
    slots: [...state.slots.values()].map(encodeSlot),
    plugins: state.plugins,
    leftovers: state.leftovers.map(({ name, restartLsn, since, kept }) => ({
      name,
      restartLsn: formatLsn(restartLsn),
      since: finite(since),
      kept,
    })),
    undecided: state.undecided,
    restart: state.restart,
    problems: state.problems,
    finish: state.finish && encodeFinish(state.finish),
  };
}

function encodeHistory(history: TimelineHistory) {
  return history.map(({ timeline, until }) => ({ timeline: finite(timeline), until: formatLsn(until) }));
}

function encodeGuard(guard: GuardRecord): EncodedBody["guards"][number] {
  const { name, database, databaseOid, state } = guard;
  return {
    name,
    database,
    databaseOid,
    state,
    maxTarget: lsnText(guard.maxTarget),
    ...encodeProvision(guard),
  };
}

function encodeProvision({ staged, origin, proof, beginning: { seen, settled } }: Provision) {
  return {
    staged: staged.map(encodeStaged),
    origin: origin && encodeStaged(origin),
    proof,
    beginning: { seen: lsnText(seen), settled: lsnText(settled) },
  };
}

function encodeStaged({
  databaseOid,
  plugin,
  twoPhase,
  restartLsn,
  confirmedFlushLsn,
  snapshot,
  pin,
  at,
  loadedBy,
}: Staged) {
  return {
    databaseOid: finite(databaseOid),
    plugin,
    twoPhase,
    restartLsn: formatLsn(restartLsn),
    confirmedFlushLsn: formatLsn(confirmedFlushLsn),
    snapshot,
    pin,
    at: finite(at),
    loadedBy: lsnText(loadedBy),
  };
}

function encodeSlot(record: SlotRecord): EncodedBody["slots"][number] {
  return {
    name: record.name,
    database: record.database,
    databaseOid: finite(record.databaseOid),
    plugin: record.plugin,
    twoPhase: record.twoPhase,
    state: record.state,
    failover: record.failover,
    served: record.served,
    twoPhaseXid: record.twoPhaseXid,
    ours: record.ours,
    births: record.births.map(({ databaseOid, plugin, at, settled, since }) => ({
      databaseOid: finite(databaseOid),
      plugin,
      at: formatLsn(at),
      settled,
      since: finite(since),
    })),
    ...encodeProvision(record),
    maxTarget: lsnText(record.maxTarget),
    bornAt: lsnText(record.bornAt),
    dropping: record.dropping,
    primaryConfirmedFlushLsn: lsnText(record.primaryConfirmedFlushLsn),
    timeline: finiteOrNull(record.timeline),
    commonLsn: lsnText(record.commonLsn),
    formerly: record.formerly.map(({ timeline, lsn }) => ({
      timeline: finite(timeline),
      lsn: formatLsn(lsn),
    })),
    primaryRestartLsn: lsnText(record.primaryRestartLsn),
    rows: record.rows && { ...record.rows, begins: formatLsn(record.rows.begins) },
    primaryInvalidation: record.primaryInvalidation,
    chosenBy: [...record.chosenBy],
    seenAt: finite(record.seenAt),
    absentSince: finiteOrNull(record.absentSince),
    copying: record.copying,
    obsolete: record.obsolete,
    protection: record.protection,
    reason: record.reason,
    detail: record.detail,
    failure: record.failure,
    since: finite(record.since),
  };
}

function encodeFinish(report: FinishReport): NonNullable<EncodedBody["finish"]> {
  finite(report.finishedAt + report.durationMs);
  for (const slot of report.slots) finite(slot.lastSeenAt + slot.confirmedBeyondEndBytes);
  return report;
}

function lsnText(lsn: Lsn | null): string | null {
  return lsn === null ? null : formatLsn(lsn);
}

/** JSON would turn NaN into null and the file into one that does not load: better no new file than that one. */
function finite(value: number): number {
  if (!Number.isFinite(value)) throw new RangeError(`a journal cannot hold ${value}`);
  return value;
}

function finiteOrNull(value: number | null): number | null {
  return value === null ? null : finite(value);
}
