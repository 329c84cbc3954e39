import type { Idleness } from "./idle.ts";
import type { Lsn } from "./lsn.ts";
import type { PatroniSlots } from "./patroni.ts";
import type { PluginsView } from "./plugins.ts";
import type { Reason } from "./protection.ts";
import type { Registry } from "./registry.ts";
import type { PrimarySlot, SlotIdentity, StandbySlot } from "./slot.ts";
import type { Xid } from "./xid.ts";

/** The standby between the primary and ours, which streams from it: a cascade. */
export interface UpstreamView {
  /** `host:port/database as user` */
  target: string;
  systemIdentifier: string;
  hotStandbyFeedback: boolean;
  /** The physical slot on the primary that it streams from; "" when unset, null when it cannot be seen. */
  primarySlotName: string | null;
  /** Our standby's physical slot there. */
  physicalSlot: PhysicalSlot | null;
  /** Changes whenever its own feedback may have been interrupted. */
  feedbackSession: string;
}

/** Where our standby streams from cannot be asked. */
export interface UpstreamUnknown {
  target: string;
  why: string;
}

export interface PhysicalSlot {
  name: string;
  active: boolean;
  /** The process that serves it; left out where it takes more than one to reach us. */
  walsender?: number | null;
  catalogXmin: Xid | null;
}

/** A temporary slot of a sidecar on the primary, and the server's process that it belongs to. */
export interface Pin {
  name: string;
  pid: number | null;
}

/** What one poll of the primary saw. */
export interface PrimaryView {
  systemIdentifier: string;
  inRecovery: boolean;
  timeline: number;
  walLevel: string;
  serverVersionNum: number;
  /** The WAL position read before the slot list in the same round trip (G1). */
  walLsn: Lsn;
  /**
   * This standby's physical slot there; null when it does not exist or the standby names none. Its catalog_xmin was there before anything
   * else here was read.
   */
  physicalSlot: PhysicalSlot | null;
  /**
   * Only when our standby does not stream from the primary itself, or that is not known: `physicalSlot` is then that of the standby between,
   * with the younger catalog_xmin of the two hops.
   */
  upstream?: UpstreamView | UpstreamUnknown | null;
  /** True when it does not answer, and this is what the journal knows of it: then nothing new is proven, and nothing forgotten. */
  remembered: boolean;
  /** Every persistent logical slot, chosen or not. */
  slots: readonly PrimarySlot[];
  /** Which slots are flagged there to survive a failover, besides the server's own flags (17+). */
  registry: Registry;
  /** Prepared transactions that wait for their COMMIT PREPARED; read on 17 only. */
  prepared: readonly { database: string; xid: Xid }[];
  /** 17+: names in `synchronized_standby_slots` that no standby streams by: subscribers of failover slots wait for those. */
  stalledStandbySlots: readonly string[];
  maySnapshot: boolean;
  /** As whom it was polled, in which database; the role quoted as SQL has it. Left out where nobody was asked. */
  polledAs?: { role: string; database: string };
  /** Whether the role may read slot files there (`pg_read_binary_file`). */
  mayReadFiles: boolean;
  /**
   * The next transaction: rows that have been removed were deleted by older ones (I4). The oldest that is running would not do: what
   * runs in another database does not hold this one's catalog rows.
   */
  oldestXid: Xid;
  /** Temporary slots of sidecars that hold WAL and catalog rows there. */
  pins: readonly Pin[];
  /** The oldest transactions there; asked only while a guard may be waiting for them. `who` is the process or the prepared transaction. */
  /** Of all its logical slots, read before them: a pulse with another one is news, whatever WAL says. */
  slotsDigest?: string;
  openTransactions?: readonly { who: string; database: string; seconds: number }[];
}

/** A slot folder on the standby's disk that no slot in memory has: it is loaded at the next start. */
export interface SlotFolder {
  name: string;
  /** What its state file says; null when it cannot be read. */
  state: (SlotIdentity & { restartLsn: Lsn; confirmedFlushLsn: Lsn }) | null;
}

/** What the standby's data directory showed. */
export interface FilesView {
  /** Why nothing can be staged, or null. */
  problem: { reason: Reason; detail: string } | null;
  /** Folders of slots that are not in memory. */
  folders: readonly SlotFolder[];
  /** Folders of any slot, in memory or not: each takes one of `max_replication_slots` at the next start (I11). */
  folderCount: number;
  /** The least that the next start may find; null when it is not known. */
  maxReplicationSlots: number | null;
  /** What Patroni is told to do with slots; left out where none manages the node. */
  patroni?: PatroniSlots;
}

/** What one look at the standby saw. */
export interface StandbyView {
  systemIdentifier: string;
  inRecovery: boolean;
  serverVersionNum: number;
  walLevel: string;
  hotStandbyFeedback: boolean;
  /** The physical slot it streams from; "" when unset, null when the role may not see the setting. */
  primarySlotName: string | null;
  maxReplicationSlots: number;
  /** WAL segments that the next checkpoint spares for a slot (max_slot_wal_keep_size); null for all. */
  keptSegments: number | null;
  walSegmentBytes: number;
  /** Slots of every kind that exist, ours and others. */
  usedSlots: number;
  replayLsn: Lsn;
  /** The end of the WAL that is safely here: received and flushed, or replayed, whichever is further. Promotion replays up to it. */
  flushedLsn: Lsn;
  /** Whether a walreceiver is at work. */
  streaming: boolean;
  /** The timeline of what it receives; null without a walreceiver, or when the role may not see it. */
  receivedTimeline: number | null;
  /** It is on this timeline at least: the control file's, which lags behind a switch. */
  leastTimeline: number;
  slots: readonly StandbySlot[];
  /** Physical slots here, of standbys that stream from this one or did when it was a primary; temporary ones left out. */
  physicalSlots: readonly { name: string; active: boolean; restartLsn: Lsn | null }[];
  /** Databases one can connect to, templates left out. */
  databases: readonly { oid: number; name: string }[];
  /** 17+: whether the server syncs slots by itself (`sync_replication_slots`). */
  syncsSlots: boolean;
  /** Whether `primary_conninfo` names a database, without which the server syncs none (17+); null when that is not seen. */
  conninfoHasDatabase: boolean | null;
  /** Whether the role may manage replication slots. */
  mayReplicate: boolean;
  /** Changes whenever the standby's feedback may have been interrupted: a new walreceiver, another physical slot (I4). */
  feedbackSession: string;
  /** Its data directory, where that is needed; null when it was not looked at. */
  files: FilesView | null;
  /** What decides which output plugins can be used; left out where nobody has looked. */
  plugins?: PluginsView;
  /** 18+: null, or left out, where no slot is given up for being idle. */
  idleness?: Idleness | null;
  /** Positions of the serialized snapshots here; asked only while a slot of ours may need one, null when they could not be. */
  snapshots?: ReadonlySet<Lsn> | null;
}
