/** Why a slot is not failover-ready. The first four are PostgreSQL's own words (`slotsync_skip_reason`); the rest are ours. */
export type Reason =
  | "wal_not_flushed"
  | "wal_or_rows_removed"
  | "no_consistent_snapshot"
  | "slot_invalidated"
  | "name_conflict"
  | "catalog_rows_unproven"
  | "rewrite_mappings_unproven"
  | "database_missing"
  | "plugin_missing"
  | "plugin_unproven"
  | "plugin_refused"
  | "prepared_transactions_pending"
  | "permission_denied"
  | "too_many_slots"
  | "slot_in_use"
  | "idle_timeout"
  | "statement_failed"
  | "absent_on_primary"
  | "not_recorded"
  | "restart_pending";

/** How one failover slot is protected on this standby. `synced` and `guarded` are failover-ready. */
export type Protection = "synced" | "guarded" | "waiting" | "blocked";

/** The planner's word on one failover slot; `detail` is a sentence for people, `reason` is for machines. */
export type Verdict =
  | { protection: "synced" | "guarded"; reason: null; detail: null }
  | { protection: "waiting" | "blocked"; reason: Reason; detail: string };

export const SYNCED: Verdict = { protection: "synced", reason: null, detail: null };
export const GUARDED: Verdict = { protection: "guarded", reason: null, detail: null };

/** Not ready, and nothing is wrong: it becomes ready by itself. */
export function waiting(reason: Reason, detail: string): Verdict {
  return { protection: "waiting", reason, detail };
}

/** Not ready until somebody acts. */
export function blocked(reason: Reason, detail: string): Verdict {
  return { protection: "blocked", reason, detail };
}

/** True when a failover now would lose nothing for this slot. */
export function isFailoverReady(protection: Protection): boolean {
  return protection === "synced" || protection === "guarded";
}
