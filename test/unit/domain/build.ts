/** Small observations for the tables: everything healthy, one database, positions in whole numbers. */
import {
  type Birth,
  emptyJournal,
  type JournalState,
  PROVEN,
  SETTLED,
  type SlotRecord,
  UNPROVISIONED,
} from "../../../src/domain/journal.ts";
import type { Lsn } from "../../../src/domain/lsn.ts";
import type { PrimaryView, StandbyView } from "../../../src/domain/observation.ts";
import { type Memory, type Plan, plan } from "../../../src/domain/plan.ts";
import type { LogicalSlot, SlotIdentity } from "../../../src/domain/slot.ts";
import type { OwnHistory } from "../../../src/domain/timeline.ts";
import type { Xid } from "../../../src/domain/xid.ts";

const ID = "0badcafe";
export const NOW = 1_700_000_000_000;
export const GUARD = `slotsync_guard_1_${ID}_1`;
export const HOLD = `slotsync_hold_1_${ID}`;

/** What a slot of ours is, unless a case says otherwise. */
export const OURS: SlotIdentity = { databaseOid: 1, plugin: "pgoutput", twoPhase: false };

/** How a slot stands that was made by SQL. */
export const SQL_MADE = { ...UNPROVISIONED, proof: PROVEN, beginning: SETTLED };

/** The history of a standby of that timeline that was promoted with WAL up to there. */
export function leftAt(position: number | bigint, timeline = 1): OwnHistory {
  return { timeline: timeline + 1, forks: [{ timeline, until: BigInt(position) as Lsn }], whole: true };
}

export const lsn = (position: number): Lsn => BigInt(position) as Lsn;

/** A copy of ours that was sent a second ago, to appear at that position. */
export function birth(position: number, more: Partial<Birth> = {}): Birth {
  return {
    databaseOid: 1,
    plugin: "pgoutput",
    at: lsn(position),
    settled: true,
    since: NOW - 1_000,
    ...more,
  };
}

export function slot(name: string, position: number | null, more: Partial<LogicalSlot> = {}): LogicalSlot {
  return {
    name,
    database: "db1",
    databaseOid: 1,
    plugin: "pgoutput",
    twoPhase: false,
    temporary: false,
    activePid: null,
    restartLsn: lsn(position === null ? 50 : Math.max(0, position - 10)),
    confirmedFlushLsn: position === null ? null : lsn(position),
    catalogXmin: 700 as Xid,
    invalidation: null,
    failover: false,
    synced: false,
    ...more,
  };
}

export const guard = (position: number, more: Partial<LogicalSlot> = {}) => slot(GUARD, position, more);
export const hold = (position: number) => slot(HOLD, position, { temporary: true });

export function record(
  name: string,
  state: SlotRecord["state"],
  maxTarget: number | null,
  more: Partial<SlotRecord> = {},
): SlotRecord {
  const furthest = maxTarget === null ? null : lsn(maxTarget);
  return {
    name,
    database: "db1",
    chosenBy: [],
    databaseOid: 1,
    plugin: "pgoutput",
    twoPhase: false,
    state,
    failover: false,
    served: false,
    twoPhaseXid: null,
    ours: state === "owned" ? OURS : null,
    births: state === "creating" && maxTarget !== null ? [birth(maxTarget)] : [],
    maxTarget: state === "owned" ? furthest : null,
    bornAt: null,
    dropping: false,
    primaryConfirmedFlushLsn: furthest,
    timeline: 1,
    commonLsn: null,
    formerly: [],
    primaryRestartLsn: null,
    rows: null,
    primaryInvalidation: null,
    seenAt: NOW - 1_000,
    absentSince: null,
    copying: false,
    obsolete: false,
    protection: "synced",
    reason: null,
    detail: null,
    failure: null,
    since: NOW - 1_000,
    ...SQL_MADE,
    ...more,
  };
}

export function journalOf(records: SlotRecord[] = [], more: Partial<JournalState> = {}): JournalState {
  return {
    ...emptyJournal(ID),
    systemIdentifier: "1",
    primaryTimeline: 1,
    feedbackSince: lsn(0),
    feedbackSession: "s",
    feedbackWalsender: 4_711,
    guardSerial: 1,
    guards: {
      1: { name: GUARD, database: "db1", databaseOid: 1, state: "owned", maxTarget: null, ...SQL_MADE },
    },
    slots: new Map(records.map((entry) => [entry.name, entry])),
    plugins: ["pgoutput"],
    ...more,
  };
}

export function primaryView(slots: LogicalSlot[], more: Partial<PrimaryView> = {}): PrimaryView {
  return {
    systemIdentifier: "1",
    inRecovery: false,
    timeline: 1,
    walLevel: "logical",
    serverVersionNum: 160_014,
    walLsn: lsn(1_000),
    physicalSlot: { name: "standby1", active: true, walsender: 4_711, catalogXmin: 700 as Xid },
    slots,
    registry: { kind: "absent", database: "postgres" },
    maySnapshot: true,
    mayReadFiles: true,
    stalledStandbySlots: [],
    prepared: [],
    remembered: false,
    oldestXid: 800 as Xid,
    pins: [],
    ...more,
  };
}

export function standbyView(slots: LogicalSlot[], more: Partial<StandbyView> = {}): StandbyView {
  return {
    systemIdentifier: "1",
    inRecovery: true,
    serverVersionNum: 160_014,
    walLevel: "logical",
    hotStandbyFeedback: true,
    primarySlotName: "standby1",
    maxReplicationSlots: 20,
    keptSegments: null,
    walSegmentBytes: 16 * 1024 * 1024,
    usedSlots: slots.length,
    replayLsn: lsn(1_000),
    flushedLsn: lsn(1_000),
    streaming: true,
    syncsSlots: false,
    receivedTimeline: 1,
    leastTimeline: 1,
    conninfoHasDatabase: true,
    physicalSlots: [],
    slots,
    databases: [{ oid: 1, name: "db1" }],
    mayReplicate: true,
    feedbackSession: "s",
    files: null,
    ...more,
  };
}

export function memory(more: Partial<Memory> = {}): Memory {
  return {
    now: NOW,
    budgetMs: 1_000,
    backoff: new Map(),
    busyDatabases: new Set(),
    creatingGuards: new Set(),
    guardAdvancedAt: new Map(),
    restUntil: new Map(),
    serverSync: null,
    filesBusy: false,
    ...more,
  };
}

export interface Situation {
  there: LogicalSlot[];
  here: LogicalSlot[];
  journal?: JournalState;
  primary?: Partial<PrimaryView>;
  standby?: Partial<StandbyView>;
  memory?: Partial<Memory>;
  /** Names on the primary that the selectors leave out. */
  excluded?: string[];
  guardDatabases?: "auto" | string[];
}

export function planFor(situation: Situation): Plan {
  return plan({
    primary: primaryView(situation.there, situation.primary),
    standby: standbyView(situation.here, situation.standby),
    chosen: situation.there.filter(({ name }) => !situation.excluded?.includes(name)),
    journal: situation.journal ?? journalOf(),
    policy: {
      guardDatabases: situation.guardDatabases ?? "auto",
      duty: 0.1,
      provision: "auto",
      restarts: false,
      onConflict: "adopt",
      releaseAfterMs: null,
    },
    memory: memory(situation.memory),
  });
}
