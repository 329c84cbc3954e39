import type { Lsn } from "./lsn.ts";
import type { PrimarySlot, StandbySlot } from "./slot.ts";
import type { Xid } from "./xid.ts";

/** What one poll of the primary saw. */
export interface PrimaryView {
  systemIdentifier: string;
  inRecovery: boolean;
  timeline: number;
  walLevel: string;
  serverVersionNum: number;
  /** The WAL position read before the slot list in the same round trip (G1). */
  walLsn: Lsn;
  /** This standby's physical slot there; null when it does not exist or the standby names none. */
  physicalSlot: { name: string; active: boolean; catalogXmin: Xid | null } | null;
  /** Every persistent logical slot, chosen or not. */
  slots: readonly PrimarySlot[];
  maySnapshot: boolean;
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
  slots: readonly StandbySlot[];
  /** Databases one can connect to, templates left out. */
  databases: readonly { oid: number; name: string }[];
  /** Whether the role may manage replication slots. */
  mayReplicate: boolean;
}
