/** Rows as the server sends them, turned into the domain's types. */
import { parseLsnOrNull } from "../domain/lsn.ts";
import type { PluginRules } from "../domain/plugins.ts";
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

/** `plugin_rules` in sql.ts. */
interface PluginRulesJson {
  value: string;
  source: string;
  role: number | string;
  overrides: { database: number | string; role: number | string; item: string }[] | null;
}

/** Where a value comes from that is our role's own, and that others do not have. */
const OUR_ROLES: readonly string[] = ["user", "database user"];

/** Null where the server has no such setting, or does not show it. */
export function toPluginRules(text: string | null | undefined): PluginRules | null {
  if (text == null) return null;
  const { value, source, role, overrides } = JSON.parse(text) as PluginRulesJson;
  return {
    value,
    ofOurRole: OUR_ROLES.includes(source),
    roleOid: Number(role),
    overrides: (overrides ?? []).map((each) => ({
      databaseOid: Number(each.database),
      roleOid: Number(each.role),
      value: each.item.slice(each.item.indexOf("=") + 1),
    })),
  };
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
