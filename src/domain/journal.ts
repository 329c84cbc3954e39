import type { TimeAxis } from "./clock.ts";
import type { FinishReport } from "./finish.ts";
import type { LeftoverRecord } from "./leftovers.ts";
import type { Lsn } from "./lsn.ts";
import type { Protection, Reason } from "./protection.ts";
import type { RestartRecord } from "./restart.ts";
import type { SlotIdentity } from "./slot.ts";
import type { PrimaryLife, Sighting, TimelineHistory } from "./timeline.ts";
import type { Alive } from "./vouch.ts";
import type { Xid } from "./xid.ts";

/** A slot file put where the standby loads it at its next start, with what the file says. */
export interface Staged extends SlotIdentity {
  restartLsn: Lsn;
  confirmedFlushLsn: Lsn;
  /**
   * The serialized snapshot for `restartLsn` (I2): `kept` beside the journal, to be placed after the start (b); `absent` on the
   * primary too, where the slot has not moved since it was made (e); `unusable`, of a format that this standby does not take.
   */
  snapshot: "kept" | "absent" | "unusable";
  /** The slot on the primary that holds its WAL and catalog rows, or null. */
  pin: string | null;
  /** When it was staged, ms since the epoch. */
  at: number;
  /** How far replay had come when it was first seen loaded: what is written after that, a server with it in memory keeps (I16). */
  loadedBy: Lsn | null;
}

/**
 * What is known of a slot of ours on the standby: it starts consistently (I2), its WAL is here (I3), and so are the mappings of catalogs that
 * were rewritten (I16). Of its catalog rows, see `RowsHeld`.
 */
export interface Proof {
  start: boolean;
  wal: boolean;
  mappings: boolean;
}

/** Made by SQL on this standby: the server itself has seen to all of it. */
export const PROVEN: Proof = { start: true, wal: true, mappings: true };
const UNPROVEN: Proof = { start: false, wal: false, mappings: false };

/** Which catalog rows were held when a failover slot was last seen (I4): see `holdsRows`, which alone judges it. */
export interface RowsHeld {
  /** The `catalog_xmin` of the standby's physical slot on the primary, … */
  physical: Xid;
  /** … and of the primary's slot itself. */
  original: Xid;
  /** Where decoding begins for the primary's slot. */
  begins: Lsn;
}

/**
 * Where the decoding of a slot that was made by SQL begins (I2). A slot is born while other transactions run, and those of them that
 * changed catalogs may be missing in the historic snapshots of whatever is decoded from its birth; see birth.ts.
 */
export interface Beginning {
  /** The `restart_lsn` that it was first seen with; null while it has not been seen. */
  seen: Lsn | null;
  /** From this `restart_lsn` on it begins by a serialized snapshot; null while that is not known. */
  settled: Lsn | null;
}

const UNSETTLED: Beginning = { seen: null, settled: null };
/** Of a copy of a slot that is settled: it never begins before that one did. */
export const SETTLED: Beginning = { seen: null, settled: 0n as Lsn };

/** How a slot of ours came to the standby, and how safe it is. */
export interface Provision {
  /** What has been staged under its name and not been seen loaded, the latest last. */
  staged: readonly Staged[];
  /** The file that it was loaded from; null for one that was made by SQL. */
  origin: Staged | null;
  proof: Proof;
  beginning: Beginning;
}

/** Nothing is staged, nothing is here. */
export const UNPROVISIONED: Provision = { staged: [], origin: null, proof: UNPROVEN, beginning: UNSETTLED };

/**
 * A guard that is ours. `creating` is written before the statement runs, `staging` before its file is: its name is unique, so whatever
 * appears under it is ours.
 */
export interface GuardRecord extends Provision {
  name: string;
  database: string;
  databaseOid: number;
  state: "creating" | "staging" | "owned";
  /** The furthest position it was ever moved to, or is being moved to right now: nothing before counts as covered by it (G2). */
  maxTarget: Lsn | null;
}

/**
 * A copy of ours that is on its way to a failover slot's name and may yet appear, at this very position: a statement may end long after
 * whoever sent it is gone. Copies are never two_phase (G5).
 */
export interface Birth {
  databaseOid: number;
  plugin: string;
  at: Lsn;
  /** Its source had come past its own birth. */
  settled: boolean;
  /** When it was sent, ms since the epoch. */
  since: number;
}

/**
 * What is known of one failover slot. The identity is the primary's slot's: it is what would be made here.
 * - `seen`: on the primary; nothing of ours wears its name here.
 * - `creating`: the same, and a copy of ours may yet come.
 * - `owned`: the slot here is ours.
 */
export interface SlotRecord extends SlotIdentity, Provision, Sighting {
  name: string;
  database: string;
  /** What made it a failover slot when the primary was last seen. */
  chosenBy: readonly string[];
  state: "seen" | "creating" | "owned";
  /** 17+: the primary's slot is flagged to survive a failover: the server syncs it itself, and a copy is flagged again. */
  failover: boolean;
  /** The next transaction on the primary when its slot was first seen with two_phase: what began later was prepared later. */
  twoPhaseXid: Xid | null;
  /** The slot here is the server's own synced one, which we never touch while this is a standby; `maxTarget` is where it stood. */
  served: boolean;
  /** What our slot here is, which differs from the primary's when that was recreated (I5); null while there is none. */
  ours: SlotIdentity | null;
  /** Copies of ours that may yet appear under its name, also in the place of one that is here. */
  births: readonly Birth[];
  /** The furthest position we ever moved, or were about to move, our slot to. Beyond it somebody else has had a hand on it (I7). */
  maxTarget: Lsn | null;
  /** Where our slot stood when it came. No crash takes it back behind that: what stands there was put in its place (I7). */
  bornAt: Lsn | null;
  /** Its drop has been sent, and may come at any time: it is not counted on, even if it has become safe since. */
  dropping: boolean;
  /** The position the subscriber had confirmed when the primary was last seen (I1, the gap report); null while it is being made. */
  primaryConfirmedFlushLsn: Lsn | null;
  primaryRestartLsn: Lsn | null;
  /** Below 16: the rows held then for whatever is brought to that position; null where the standby's feedback does not hold any. */
  rows: RowsHeld | null;
  /** Why the primary had given the slot up, or null. */
  primaryInvalidation: string | null;
  /** When that was, ms since the epoch. */
  seenAt: number;
  /** Since when the slot has been missing on the primary, or null. */
  absentSince: number | null;
  /** A native subscription's table sync whose copy was under way then: after a failover it is not needed. */
  copying: boolean;
  /** It is no failover slot any more (gone from the primary, or not chosen): ours is only still here to be dropped. */
  obsolete: boolean;
  protection: Protection;
  reason: Reason | null;
  detail: string | null;
  /** What went wrong with the last action on it, until one succeeds. */
  failure: { reason: Reason; detail: string } | null;
  /** Since when protection and reason have been what they are, ms since the epoch. */
  since: number;
}

/** The sidecar's durable record: what it owns, and the last position seen of every failover slot. */
export interface JournalState {
  /** Eight hexadecimal digits, drawn when the journal was made; part of the names of our own slots. */
  instanceId: string;
  /** What the times here are counted by, "ms since the epoch" where that is said; null while no process has taken it up. */
  clock: TimeAxis | null;
  systemIdentifier: string | null;
  phase: "standby" | "promoting" | "primary";
  /** The primary's timeline and since when it has been that, for the grace before drops. */
  primaryTimeline: number | null;
  /** The timeline that the standby was last seen to receive, or null. */
  standbyTimeline: number | null;
  timelineSince: number;
  /** The last time both servers were observed, ms since the epoch; 0 never. */
  observedAt: number;
  /** The end of WAL on this standby at that time. */
  standbyFlushedLsn: Lsn | null;
  /**
   * The primary's WAL position since which the standby's feedback has been seen to hold catalog rows there, or null where the last look saw
   * none of it (I4).
   */
  feedbackSince: Lsn | null;
  /** The standby's `feedbackSession` since then. */
  feedbackSession: string | null;
  /** The process on the primary that has served that session, or null while none is known for certain. */
  feedbackWalsender: number | null;
  /** Until when the primary was seen to have written nothing since `observedAt`, so that what was observed still held; ms. */
  quietUntil: number;
  /** The primary's WAL position then. */
  quietLsn: Lsn | null;
  /** Since when the primary has not answered, or null. */
  primaryLostAt: number | null;
  /** Since when a promotion of this standby has been seen, so that nobody looks at the primary any more; null without one. */
  haltedAt: number | null;
  /** The latest sign that the primary was alive, or may have been, after `quietUntil`; null while none was seen (I15). */
  alive: Alive | null;
  /** The standby streamed from another standby when it was last observed: what its walreceiver hears is not the primary. */
  relayed: boolean;
  /** When the standby's server that was last looked at had started, s since the epoch by its own clock. */
  standbyStartedS: number | null;
  /** This node's last life as a primary, or null: what its old slots are held against when it follows again. */
  life: PrimaryLife | null;
  /** The history of the primary's timeline; read only where that matters. */
  history: { timeline: number; forks: TimelineHistory } | null;
  /** Grows with each guard made; part of its name. */
  guardSerial: number;
  guards: Record<number, GuardRecord>;
  /** The second guard of a database where none can be made by SQL: it waits for the laggards (G3). */
  lowGuards: Record<number, GuardRecord>;
  /** By name. A map, for `constructor` and `__proto__` are names that PostgreSQL takes (I13). */
  slots: ReadonlyMap<string, SlotRecord>;
  /** Output plugins that this standby has been seen to load. */
  plugins: string[];
  /** Slots on the standby that nobody uses and that hold WAL, and since when. */
  leftovers: readonly LeftoverRecord[];
  /** How many logical slots of the primary nothing chose and no rule excluded, or null when that was never seen. */
  undecided: number | null;
  /** The last restart of the standby that was asked for. */
  restart: RestartRecord | null;
  /** What stood against readiness as a whole when last observed. */
  problems: string[];
  finish: FinishReport | null;
}

/** Whether this node was ever seen as a standby of a primary under this journal, since it was last a primary. */
export function knowsStandby({ observedAt, slots }: JournalState): boolean {
  return observedAt > 0 || slots.size > 0;
}

/** A journal that knows nothing. */
export function emptyJournal(instanceId: string): JournalState {
  return {
    instanceId,
    clock: null,
    systemIdentifier: null,
    phase: "standby",
    primaryTimeline: null,
    standbyTimeline: null,
    timelineSince: 0,
    observedAt: 0,
    standbyFlushedLsn: null,
    feedbackSince: null,
    feedbackSession: null,
    feedbackWalsender: null,
    quietUntil: 0,
    quietLsn: null,
    primaryLostAt: null,
    haltedAt: null,
    alive: null,
    relayed: false,
    standbyStartedS: null,
    life: null,
    history: null,
    guardSerial: 0,
    guards: {},
    lowGuards: {},
    slots: new Map(),
    plugins: [],
    leftovers: [],
    undecided: null,
    restart: null,
    problems: [],
    finish: null,
  };
}
