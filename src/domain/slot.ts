import type { Lsn } from "./lsn.ts";
import type { Xid } from "./xid.ts";

/** What makes two slots of one name the same slot (I5), besides the system identifier. */
export interface SlotIdentity {
  /** The database's oid: physical replication keeps it, and a recreated database has another one. */
  databaseOid: number;
  plugin: string;
  twoPhase: boolean;
}

/** A row of `pg_replication_slots` for a logical slot, on either server. */
export interface LogicalSlot extends SlotIdentity {
  name: string;
  database: string;
  temporary: boolean;
  /** The backend that has the slot acquired, or null; a sidecar's own sessions do not count. */
  activePid: number | null;
  /** NULL until the slot's creation has come far enough. */
  restartLsn: Lsn | null;
  /** NULL until the slot has found its consistent point. */
  confirmedFlushLsn: Lsn | null;
  catalogXmin: Xid | null;
  /** Why the server gave the slot up (`rows_removed`, `wal_removed`, …), or null while it is usable. */
  invalidation: string | null;
  /** 17+: flagged to survive a failover; false where the server knows no such flag. */
  failover: boolean;
  /** 17+: kept by the server's own slot sync; true on a standby, and left true on one that has been promoted. */
  synced: boolean;
  /** On the primary, of a native subscription's table sync: its copy was seen to be under way. */
  copying?: boolean;
}

/** A failover slot as the primary shows it. */
export type PrimarySlot = LogicalSlot;

/** Any logical slot as the standby shows it. */
export type StandbySlot = LogicalSlot;

/** True when both describe the same slot (I5). */
export function sameIdentity(a: SlotIdentity, b: SlotIdentity): boolean {
  return a.databaseOid === b.databaseOid && a.plugin === b.plugin && a.twoPhase === b.twoPhase;
}

const indexes = new WeakMap<readonly LogicalSlot[], ReadonlyMap<string, LogicalSlot>>();

/** The slot of that name, or undefined. Each list is indexed once, so that a cycle's cost grows with the slots and not their square. */
export function slotNamed(slots: readonly LogicalSlot[], name: string | undefined): LogicalSlot | undefined {
  if (name === undefined) return undefined;
  let index = indexes.get(slots);
  if (!index) {
    index = new Map(slots.map((slot) => [slot.name, slot]));
    indexes.set(slots, index);
  }
  return index.get(name);
}
