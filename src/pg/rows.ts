/** Rows as the server sends them, turned into the domain's types. */
import { parseLsnOrNull } from "../domain/lsn.ts";
import type { LogicalSlot } from "../domain/slot.ts";
import { parseXid } from "../domain/xid.ts";

/** A row of `slotColumns` in sql.ts. */
export interface SlotRow {
  name: string;
  slot_type: string;
  plugin: string | null;
  database_oid: string | null;
  database: string | null;
  temporary: boolean;
  active: boolean;
  active_pid: number | null;
  catalog_xmin: string | null;
  restart_lsn: string | null;
  confirmed_flush_lsn: string | null;
  two_phase: boolean;
  invalidation: string | null;
  failover: boolean;
  synced: boolean;
  /** Asked on the primary only. */
  copying?: boolean;
  /** Asked on the standby only. */
  in_own_use?: boolean;
  /** Asked of a standby only; NULL before 18. */
  idle_s?: string | null;
}

/** Null for a physical slot. A slot whose database has just been dropped still shows its oid. */
function toLogicalSlot(row: SlotRow): LogicalSlot | null {
  if (row.slot_type !== "logical" || row.plugin === null || row.database_oid === null) return null;
  return {
    name: row.name,
    database: row.database ?? "",
    databaseOid: Number(row.database_oid),
    plugin: row.plugin,
    twoPhase: row.two_phase,
    temporary: row.temporary,
    activePid: row.active && !row.in_own_use ? (row.active_pid ?? -1) : null,
    restartLsn: parseLsnOrNull(row.restart_lsn),
    confirmedFlushLsn: parseLsnOrNull(row.confirmed_flush_lsn),
    catalogXmin: row.catalog_xmin === null ? null : parseXid(row.catalog_xmin),
    invalidation: row.invalidation,
    failover: row.failover,
    synced: row.synced,
    ...(row.copying === true ? { copying: true } : {}),
  };
}

/** The logical ones among the rows. */
export function toLogicalSlots(rows: readonly SlotRow[]): LogicalSlot[] {
  return rows.flatMap((row) => toLogicalSlot(row) ?? []);
}
