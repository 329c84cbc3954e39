/** What `status`, `check`, the HTTP endpoints and the cycle's sentence say: one shape, built here and nowhere else. */
import { isSettled } from "./birth.ts";
import { type NotChosen, undecided } from "./choice.ts";
import type { FinishReport } from "./finish.ts";
import type { GuardRecord, JournalState, SlotRecord } from "./journal.ts";
import { bytesBetween, formatLsn, type Lsn } from "./lsn.ts";
import type { StandbyView } from "./observation.ts";
import { stagedNames } from "./plan-stage.ts";
import { againstReadiness, type Problem } from "./prerequisites.ts";
import { provisionOf } from "./proof.ts";
import { isFailoverReady, type Protection, type Reason } from "./protection.ts";
import type { RestartRecord } from "./restart.ts";
import type { StandbySlot } from "./slot.ts";
import { subscriptionsOf, type TableSync, tableSyncOf } from "./table-sync.ts";

export type Role = "standby" | "promoting" | "primary";

/** One failover slot. LSNs in PostgreSQL's text form. */
export interface SlotStatus {
  name: string;
  database: string;
  plugin: string;
  /** What makes it a failover slot: `flag` (the server's own, 17+), `registry`, `rule name "x"`. */
  chosenBy: readonly string[];
  /**
   * Whose table it serves, where it is the slot of a native subscription's table sync. `copying`: the copy is seen to be under way, and
   * after a failover PostgreSQL does it again without the slot.
   */
  tableSync?: TableSync & { copying: boolean };
  protection: Protection;
  reason: Reason | null;
  detail: string | null;
  primaryConfirmedFlushLsn: string | null;
  standbyConfirmedFlushLsn: string | null;
  /** Our slot's on the standby. */
  restartLsn: string | null;
  /** Bytes of WAL between the two positions; null while there is no slot on the standby, or where they are of two timelines. */
  lagBytes: number | null;
  /** ISO time since when protection and reason have been what they are. */
  since: string;
}

interface GuardStatus {
  database: string;
  name: string;
  /** Null while it is being made, and once the server has given it up. */
  confirmedFlushLsn: string | null;
}

export interface RestartStatus {
  /** Failover slots that are staged and not loaded. */
  slots: number;
  /** The same of guards. */
  guards: number;
  /** The names of both. */
  staged: string[];
  last: RestartRecord | null;
}

export interface Status {
  role: Role;
  /** True when a failover to this node now would lose no change for any subscriber. */
  ready: boolean;
  /** `live`: both servers were asked. `journal`: the primary does not answer, this is what was seen last. */
  source: "live" | "journal";
  /** ISO time of what is told here, or null when nothing was ever seen. */
  observedAt: string | null;
  /** ISO time since when the primary has not answered, or null. */
  primaryLostAt: string | null;
  problems: Problem[];
  slots: SlotStatus[];
  /** The other logical slots of the primary, and why they are no failover slots; null when it was not asked. */
  notChosen: NotChosen[] | null;
  /** How many of those no rule excludes: nothing says anything of them. Null when they were never seen. */
  undecided: number | null;
  guards: GuardStatus[];
  /** What one restart of the standby would add, and the last one that was asked for; null when there is neither. */
  restart: RestartStatus | null;
  /** How the last promotion went, or null. */
  finish: FinishReport | null;
}

/** A status from a journal that has just recorded an observation; `standby` is null when it could not be looked at. */
export function buildStatus(
  journal: JournalState,
  standby: Pick<StandbyView, "slots" | "files"> | null,
  problems: readonly Problem[],
  source: Status["source"],
  notChosen: Status["notChosen"] = null,
): Status {
  const locals = new Map(standby?.slots.map((slot) => [slot.name, slot]));
  const slots = [...journal.slots.values()]
    .filter((record) => !record.obsolete)
    .toSorted(bySubscription(journal))
    .map((record) => slotStatus(record, locals.get(record.name), journal.primaryTimeline, source));
  return {
    role: journal.phase,
    ready:
      journal.phase === "standby" && againstReadiness(problems).length === 0 && !slots.some(standsAgainst),
    source,
    observedAt: isoOrNull(journal.observedAt),
    // a primary has lost none
    primaryLostAt: journal.phase === "primary" ? null : isoOrNull(journal.primaryLostAt ?? 0),
    problems: [...problems],
    slots,
    notChosen,
    undecided: notChosen === null ? journal.undecided : undecided(notChosen),
    guards: guardsOf(journal).map((guard) => ({
      database: guard.database,
      name: guard.name,
      confirmedFlushLsn: usablePosition(guard, locals.get(guard.name)),
    })),
    restart: restartStatus(journal, standby),
    finish: journal.finish,
  };
}

/** A primary has none: what the finishing step could not drop makes its report incomplete. */
function guardsOf({ phase, guards, lowGuards }: JournalState): GuardRecord[] {
  return phase === "primary" ? [] : [...Object.values(guards), ...Object.values(lowGuards)];
}

function restartStatus(
  journal: JournalState,
  standby: Pick<StandbyView, "files"> | null,
): RestartStatus | null {
  const staged = standby === null ? [] : stagedNames({ journal, standby });
  const slots = staged.filter((name) => journal.slots.has(name)).length;
  if (staged.length === 0 && journal.restart === null) return null;
  return { slots, guards: staged.length - slots, staged, last: journal.restart };
}

/** None of a guard that is so new that it protects nobody yet. */
function usablePosition(record: GuardRecord, local: StandbySlot | undefined): string | null {
  if (local?.invalidation !== null || !isSettled(provisionOf(record, local), local)) return null;
  return text(local.confirmedFlushLsn);
}

/** Whether a failover now would lose something for this slot that its subscriber does not mend by itself. */
export function standsAgainst({
  protection,
  tableSync,
}: Pick<SlotStatus, "protection" | "tableSync">): boolean {
  return !isFailoverReady(protection) && tableSync?.copying !== true;
}

/** By name, and those of table syncs after that of their subscription. */
function bySubscription({ slots }: JournalState): (a: SlotRecord, b: SlotRecord) => number {
  const keyOf = (record: SlotRecord): string => {
    const [subscription] = tableSyncOf(record) === null ? [] : subscriptionsOf(record, slots.values());
    return subscription === undefined ? record.name : `${subscription} ${record.name}`;
  };
  const keys = new Map([...slots.values()].map((record) => [record.name, keyOf(record)]));
  return (a, b) => ((keys.get(a.name) ?? "") < (keys.get(b.name) ?? "") ? -1 : 1);
}

function slotStatus(
  record: SlotRecord,
  local: StandbySlot | undefined,
  primaryTimeline: number | null,
  source: Status["source"],
): SlotStatus {
  const confirmed = record.primaryConfirmedFlushLsn;
  // I14: to a position of an older timeline there is no distance
  const comparable = record.timeline === null || record.timeline === primaryTimeline;
  const sync = tableSyncOf(record);
  // the end of a copy writes no WAL: of a primary that does not answer, nobody can say that it is still going on
  const copying = record.copying && source === "live";
  const ours = record.state === "owned" ? local : undefined;
  return {
    name: record.name,
    database: record.database,
    plugin: record.plugin,
    chosenBy: record.chosenBy,
    ...(sync === null ? {} : { tableSync: { ...sync, copying } }),
    protection: record.protection,
    reason: record.reason,
    detail: copying && record.detail !== null ? `${COPYING}; ${record.detail}` : record.detail,
    primaryConfirmedFlushLsn: text(confirmed),
    standbyConfirmedFlushLsn: text(ours?.confirmedFlushLsn),
    restartLsn: text(ours?.restartLsn),
    lagBytes:
      comparable && confirmed !== null && ours?.confirmedFlushLsn
        ? bytesBetween(ours.confirmedFlushLsn, confirmed)
        : null,
    since: new Date(record.since).toISOString(),
  };
}

const COPYING =
  "its table is being copied, and after a failover PostgreSQL copies it again: it does not stand against being ready";
/** The same status with its times as the wall clock has them now: a journal's are counted by boot time. `shiftMs` is what lies between. */
export function inWallTime(status: Status, shiftMs: number): Status {
  const shifted = (time: string) => new Date(Date.parse(time) + shiftMs).toISOString();
  return {
    ...status,
    observedAt: status.observedAt && shifted(status.observedAt),
    primaryLostAt: status.primaryLostAt && shifted(status.primaryLostAt),
    slots: status.slots.map((slot) => ({ ...slot, since: shifted(slot.since) })),
  };
}

/** `3 synced, 1 guarded, 1 waiting (wal_not_flushed)`, the words an operator greps for. */
export function summarise(slots: readonly Pick<SlotStatus, "protection" | "reason">[]): string {
  const counts = new Map<string, number>();
  for (const { protection, reason } of slots) {
    const key = reason === null ? protection : `${protection} (${reason})`;
    counts.set(key, (counts.get(key) ?? 0) + 1);
  }
  const order = (key: string) =>
    ["synced", "guarded", "waiting", "blocked"].findIndex((word) => key.startsWith(word));
  const parts = [...counts].toSorted(([a], [b]) => order(a) - order(b) || (a < b ? -1 : 1));
  return parts.map(([key, count]) => `${count} ${key}`).join(", ") || "no failover slots";
}

function text(lsn: Lsn | null | undefined): string | null {
  return lsn === null || lsn === undefined ? null : formatLsn(lsn);
}

function isoOrNull(ms: number): string | null {
  return ms === 0 ? null : new Date(ms).toISOString();
}
