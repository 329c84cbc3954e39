/**
 * Every SQL text of the project. All names are `pg_catalog.`-qualified and every session has an empty search_path (I13); names from
 * the other machine travel as parameters, or through `quoteLiteral` where the simple protocol takes none.
 *
 * I8: each statement that changes a slot on the standby carries its own recovery condition, as a CASE: unlike a WHERE clause over a
 * function in FROM, its branch is never evaluated before its condition.
 */
import { assertNever } from "../domain/assert-never.ts";
import { givesUpIdle } from "../domain/capability.ts";
import { READ_REGISTRY, REGISTRY_COLUMNS } from "./registry-sql.ts";

/** Quotes a value as a string literal under standard_conforming_strings = on. */
function quoteLiteral(value: string): string {
  return `'${value.replaceAll("'", "''")}'`;
}

/** Which columns of pg_replication_slots say that a slot has been given up. */
type InvalidationColumns = "none" | "wal_status" | "conflicting" | "invalidation_reason";

/** By capability: `invalidation_reason` since 17, `conflicting` in 16, before that only `wal_status`, and before 13 no slot loses WAL. */
function invalidationColumns(serverVersionNum: number): InvalidationColumns {
  if (serverVersionNum >= 170_000) return "invalidation_reason";
  if (serverVersionNum >= 160_000) return "conflicting";
  return serverVersionNum >= 130_000 ? "wal_status" : "none";
}

function invalidationExpression(columns: InvalidationColumns): string {
  const lost = "CASE WHEN wal_status OPERATOR(pg_catalog.=) 'lost' THEN 'wal_removed' END";
  switch (columns) {
    case "invalidation_reason":
      return "invalidation_reason";
    case "conflicting":
      return `CASE WHEN conflicting THEN 'rows_removed' ELSE ${lost} END`;
    case "wal_status":
      return lost;
    case "none":
      return "NULL::pg_catalog.text";
    default:
      return assertNever(columns);
  }
}

function slotColumns(serverVersionNum: number): string {
  return `slot_name::pg_catalog.text AS name, slot_type, plugin::pg_catalog.text AS plugin, datoid::pg_catalog.text AS database_oid,
    database::pg_catalog.text AS database, temporary, active, active_pid, catalog_xmin::pg_catalog.text AS catalog_xmin,
    restart_lsn::pg_catalog.text AS restart_lsn, confirmed_flush_lsn::pg_catalog.text AS confirmed_flush_lsn,
    ${serverVersionNum >= 140_000 ? "two_phase" : "false"} AS two_phase,
    ${invalidationExpression(invalidationColumns(serverVersionNum))} AS invalidation,
    ${serverVersionNum >= 170_000 ? "failover, synced" : "false AS failover, false AS synced"}`;
}

/** 18+: for how many seconds nobody has used a slot, by the clock that the server goes by; NULL while somebody does. */
function idleColumn(serverVersionNum: number): string {
  return givesUpIdle(serverVersionNum)
    ? "pg_catalog.date_part('epoch', pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) inactive_since)::pg_catalog.text AS idle_s"
    : "NULL::pg_catalog.text AS idle_s";
}

/** 18+, in seconds: after which time a checkpoint gives up a slot that nobody uses; 0 for never. */
const IDLE_TIMEOUT = `(SELECT i.setting FROM pg_catalog.pg_settings AS i
         WHERE i.name OPERATOR(pg_catalog.=) 'idle_replication_slot_timeout') AS idle_timeout_s`;

/**
 * Which libraries may be used as output plugins (15.19 and its siblings), as PluginRow in rows.ts; NULL where the setting does not exist.
 * Where the role may not see it, it may not see other settings that are asked for either, and is told so.
 */
const PLUGIN_RULES = `(SELECT pg_catalog.json_build_object('value', p.setting, 'source', p.source,
         'role', (SELECT u.oid FROM pg_catalog.pg_roles AS u WHERE u.rolname OPERATOR(pg_catalog.=) SESSION_USER),
         'overrides', (SELECT pg_catalog.json_agg(pg_catalog.json_build_object('database', d.setdatabase, 'role', d.setrole, 'item', c.item))
              FROM pg_catalog.pg_db_role_setting AS d, pg_catalog.unnest(d.setconfig) AS c(item)
             WHERE pg_catalog.starts_with(c.item, 'output_plugin_libraries=')))::pg_catalog.text
         FROM pg_catalog.pg_settings AS p WHERE p.name OPERATOR(pg_catalog.=) 'output_plugin_libraries') AS plugin_rules`;

/** Whether the slot's user is a sidecar's own session at work, and nobody that could move it past the subscriber. */
const IN_OWN_USE = `
    CASE WHEN active THEN EXISTS (
      SELECT FROM pg_catalog.pg_stat_get_activity(active_pid) AS a
       WHERE a.application_name OPERATOR(pg_catalog.~~) 'pg-slotsync %') ELSE false END AS in_own_use`;

/**
 * Whether the slot's own table sync (14+) is copying right now: nobody uses it, and the walsender that has made it, called like it, still has
 * the copy's transaction open (see domain/table-sync.ts). False where the role may not see walsenders.
 */
function copyingExpression(serverVersionNum: number): string {
  if (serverVersionNum < 140_000) return "false";
  return `
    CASE WHEN NOT active AND slot_name::pg_catalog.text OPERATOR(pg_catalog.~) '^pg_[0-9]+_sync_[0-9]+_[0-9]+$' THEN EXISTS (
      SELECT FROM pg_catalog.pg_stat_get_activity(NULL::pg_catalog.int4) AS a
       WHERE a.application_name OPERATOR(pg_catalog.=) slot_name::pg_catalog.text
         AND a.backend_type OPERATOR(pg_catalog.=) 'walsender' AND a.backend_xmin IS NOT NULL) ELSE false END`;
}

/** For the file way: a state file, a snapshot, a piece of WAL, each of which may be missing. */
const READ_FILE =
  "pg_catalog.pg_read_binary_file(pg_catalog.text,pg_catalog.int8,pg_catalog.int8,pg_catalog.bool)";

/** Prepared transactions by their ids, with their databases. */
const PREPARED = `(SELECT pg_catalog.json_object_agg(x.transaction::pg_catalog.text, x.database::pg_catalog.text)::pg_catalog.text FROM pg_catalog.pg_prepared_xacts AS x)`;

/** Names in synchronized_standby_slots that no standby streams by: walsenders and advances of failover slots wait for each of them. */
const STALLED_STANDBY_SLOTS = `(SELECT pg_catalog.string_agg(n.name, ',') FROM (
         SELECT pg_catalog.btrim(s.item, ' "') AS name
           FROM pg_catalog.unnest(pg_catalog.string_to_array(pg_catalog.current_setting('synchronized_standby_slots', true), ',')) AS s(item)) AS n
         WHERE n.name OPERATOR(pg_catalog.<>) '' AND NOT EXISTS (SELECT FROM pg_catalog.pg_replication_slots AS r
                WHERE r.slot_name OPERATOR(pg_catalog.=) n.name AND r.active))`;

/**
 * One poll of the primary, one round trip (I12), with the flags when it is known that there is a registry to read. The statements of a
 * script run in order. The WAL position comes before the list: every slot that is made after the position was read starts at or past it
 * (G1). Whether the standby's feedback holds catalog rows comes before all that proves rows kept until now: what was removed between the
 * one and the other would else go unseen (I4).
 */
export function pollPrimary(
  serverVersionNum: number,
  physicalSlot: string,
  pinPrefix: string,
  withRegistry: boolean,
): string {
  return `
SELECT EXISTS (SELECT FROM pg_catalog.pg_replication_slots WHERE slot_name OPERATOR(pg_catalog.=) ${quoteLiteral(physicalSlot)}
                  AND slot_type OPERATOR(pg_catalog.=) 'physical' AND catalog_xmin IS NOT NULL) AS holds_rows,
       ${slotsDigest(serverVersionNum)} AS slots_digest;
SELECT pg_catalog.pg_is_in_recovery() AS in_recovery,
       (SELECT system_identifier::pg_catalog.text FROM pg_catalog.pg_control_system()) AS system_identifier,
       pg_catalog.current_setting('wal_level') AS wal_level,
       CASE WHEN NOT pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_current_wal_lsn()::pg_catalog.text END AS wal_lsn,
       CASE WHEN NOT pg_catalog.pg_is_in_recovery()
            THEN pg_catalog.substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 1, 8) END AS timeline,
       pg_catalog.has_function_privilege(pg_catalog.to_regprocedure('pg_catalog.pg_log_standby_snapshot()'), 'EXECUTE') AS may_snapshot,
       pg_catalog.has_function_privilege('${READ_FILE}', 'EXECUTE') AS may_read_files,
       ${serverVersionNum >= 170_000 && serverVersionNum < 180_000 ? PREPARED : "NULL::pg_catalog.text"} AS prepared,
       ${serverVersionNum >= 170_000 ? STALLED_STANDBY_SLOTS : "NULL::pg_catalog.text"} AS stalled_standby_slots,
       CASE WHEN NOT pg_catalog.pg_is_in_recovery()
            THEN (pg_catalog.txid_snapshot_xmax(pg_catalog.txid_current_snapshot()) OPERATOR(pg_catalog.%) 4294967296)::pg_catalog.text
            END AS oldest_xid,${REGISTRY_COLUMNS};
SELECT ${slotColumns(serverVersionNum)}, ${copyingExpression(serverVersionNum)} AS copying
  FROM pg_catalog.pg_replication_slots
 WHERE (slot_type OPERATOR(pg_catalog.=) 'logical' AND NOT temporary)
    OR slot_name OPERATOR(pg_catalog.=) ${quoteLiteral(physicalSlot)}
    OR pg_catalog.starts_with(slot_name::pg_catalog.text, ${quoteLiteral(pinPrefix)});
${withRegistry ? READ_REGISTRY : ""}`;
}

/** ms since the walreceiver heard from its sender, by this server's own clock; 0 for one of which the role may see no more than its process. */
const MESSAGE_AGE_MS = `CASE WHEN receiver.pid IS NOT NULL THEN COALESCE(pg_catalog.date_part('epoch',
         pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) receiver.last_msg_receipt_time)
         OPERATOR(pg_catalog.*) 1000, 0) END::pg_catalog.text`;

/**
 * One look at the standby. A setting that the role may not see is NULL. `feedback_session` changes with a new walreceiver: between two
 * looks the physical slot may have become another one (I4). The walreceiver is read once: one that ends within the look, as it does when
 * the primary dies, is not taken for a new one.
 */
export function lookAtStandby(serverVersionNum: number): string {
  const setting = (name: string) =>
    `(SELECT setting FROM pg_catalog.pg_settings WHERE name OPERATOR(pg_catalog.=) '${name}')`;
  return `
SELECT pg_catalog.pg_is_in_recovery() AS in_recovery,
       (SELECT system_identifier::pg_catalog.text FROM pg_catalog.pg_control_system()) AS system_identifier,
       pg_catalog.current_setting('wal_level') AS wal_level,
       pg_catalog.current_setting('hot_standby_feedback') AS hot_standby_feedback,
       ${setting("primary_slot_name")} AS primary_slot_name,
       ${setting("primary_conninfo")} AS primary_conninfo,
       pg_catalog.current_setting('max_replication_slots')::pg_catalog.int4 AS max_replication_slots,
       ${setting("sync_replication_slots")} AS sync_replication_slots,
       ${setting("max_slot_wal_keep_size")} AS max_slot_wal_keep_mb,
       ${setting("wal_keep_size")} AS wal_keep_mb,
       ${setting("wal_segment_size")} AS wal_segment_bytes,
       ${setting("dynamic_library_path")} AS library_path,
       ${PLUGIN_RULES},
       ${IDLE_TIMEOUT},
       pg_catalog.pg_last_wal_replay_lsn()::pg_catalog.text AS replay_lsn,
       pg_catalog.pg_last_wal_receive_lsn()::pg_catalog.text AS receive_lsn,
       receiver.pid IS NOT NULL AS streaming,
       receiver.received_tli AS received_timeline,
       receiver.sender_host,
       receiver.sender_port,
       ${MESSAGE_AGE_MS} AS message_age_ms,
       GREATEST((SELECT c.timeline_id FROM pg_catalog.pg_control_checkpoint() AS c),
                (SELECT r.min_recovery_end_timeline FROM pg_catalog.pg_control_recovery() AS r)) AS least_timeline,
       pg_catalog.concat_ws(' ', receiver.pid, pg_catalog.pg_postmaster_start_time()) AS feedback_session,
       pg_catalog.date_part('epoch', pg_catalog.pg_postmaster_start_time())::pg_catalog.text AS started_epoch_s,
       pg_catalog.current_setting('port')::pg_catalog.int4 AS port,
       (SELECT rolsuper OR rolreplication FROM pg_catalog.pg_roles WHERE rolname OPERATOR(pg_catalog.=) CURRENT_USER) AS may_replicate
  FROM (SELECT) AS look LEFT JOIN pg_catalog.pg_stat_wal_receiver AS receiver ON true;
SELECT ${slotColumns(serverVersionNum)}, ${idleColumn(serverVersionNum)}, ${IN_OWN_USE} FROM pg_catalog.pg_replication_slots;
${LIST_DATABASES}`;
}

/** $1 the physical slot of a standby that streams from it. One look at the standby between: a cascade. */
export function lookAtUpstream(serverVersionNum: number): string {
  const slotName =
    serverVersionNum >= 120_000
      ? "(SELECT setting FROM pg_catalog.pg_settings WHERE name OPERATOR(pg_catalog.=) 'primary_slot_name')"
      : "NULL::pg_catalog.text";
  return `
SELECT pg_catalog.pg_is_in_recovery() AS in_recovery,
       (SELECT system_identifier::pg_catalog.text FROM pg_catalog.pg_control_system()) AS system_identifier,
       pg_catalog.current_setting('hot_standby_feedback') AS hot_standby_feedback,
       ${slotName} AS primary_slot_name,
       pg_catalog.concat_ws(' ', receiver.pid, pg_catalog.pg_postmaster_start_time()) AS feedback_session,
       s.slot_name::pg_catalog.text AS name, s.active, s.catalog_xmin::pg_catalog.text AS catalog_xmin
  FROM (SELECT) AS look LEFT JOIN pg_catalog.pg_stat_wal_receiver AS receiver ON true
  LEFT JOIN pg_catalog.pg_replication_slots AS s
    ON s.slot_name OPERATOR(pg_catalog.=) $1 AND s.slot_type OPERATOR(pg_catalog.=) 'physical'`;
}

/**
 * The short questions asked during a nap: is the standby one still, has it heard of the primary, and has the primary written WAL? NULL when
 * it is none any more.
 */
export const STANDBY_PULSE = `
SELECT pg_catalog.pg_is_in_recovery() AS in_recovery,
       pg_catalog.pg_last_wal_replay_lsn()::pg_catalog.text AS replay_lsn,
       pg_catalog.pg_last_wal_receive_lsn()::pg_catalog.text AS receive_lsn,
       ${MESSAGE_AGE_MS} AS message_age_ms
  FROM (SELECT) AS look LEFT JOIN pg_catalog.pg_stat_wal_receiver AS receiver ON true`;
export function primaryPulse(serverVersionNum: number): string {
  return `
SELECT CASE WHEN NOT pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_current_wal_lsn()::pg_catalog.text END AS wal_lsn,
       ${slotsDigest(serverVersionNum)} AS slots_digest`;
}

/** Changes with every logical slot that comes, goes, is flagged or set elsewhere: copies, drops and flags write no WAL. */
function slotsDigest(serverVersionNum: number): string {
  const columns = [
    ...["slot_name", "plugin", "datoid", "restart_lsn", "confirmed_flush_lsn"],
    ...(serverVersionNum >= 140_000 ? ["two_phase"] : []),
    ...(serverVersionNum >= 170_000 ? ["failover"] : []),
  ].map((column) => `d.${column}`);
  return `(SELECT pg_catalog.md5(COALESCE(pg_catalog.string_agg(pg_catalog.concat_ws(' ', ${columns.join(", ")}), ',' ORDER BY d.slot_name), ''))
          FROM pg_catalog.pg_replication_slots AS d
         WHERE d.slot_type OPERATOR(pg_catalog.=) 'logical' AND NOT d.temporary)`;
}

/** What decides whether a host is the one that target_session_attrs asks for. */
export const SESSION_STATE = `
SELECT pg_catalog.pg_is_in_recovery() AS in_recovery,
       pg_catalog.current_setting('default_transaction_read_only') OPERATOR(pg_catalog.=) 'on' AS read_only`;

/** Who a server is: two addresses may lead to one, which its start tells. */
export const SERVER_IDENTITY = `
SELECT pg_catalog.pg_is_in_recovery() AS in_recovery,
       (SELECT system_identifier::pg_catalog.text FROM pg_catalog.pg_control_system()) AS system_identifier,
       pg_catalog.concat_ws(' ', pg_catalog.date_part('epoch', pg_catalog.pg_postmaster_start_time()),
                            pg_catalog.current_setting('port'), pg_catalog.current_setting('cluster_name')) AS run,
       CASE WHEN NOT pg_catalog.pg_is_in_recovery()
            THEN pg_catalog.substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 1, 8) END AS timeline`;

/** Brings a running-xacts record at once, for a guard that is being created or is new (16+). Allowed on the primary by I12. */
export const LOG_STANDBY_SNAPSHOT = "SELECT pg_catalog.pg_log_standby_snapshot()";

/** Tables of the session's database that output plugins treat as catalogs: a few of them. Columns: name. */
export const USER_CATALOG_TABLES = `
SELECT pg_catalog.format('%I.%I', n.nspname, c.relname) AS name
  FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
 WHERE EXISTS (SELECT FROM pg_catalog.unnest(c.reloptions) AS o(option)
                WHERE pg_catalog.split_part(o.option, '=', 1) OPERATOR(pg_catalog.=) 'user_catalog_table'
                  AND pg_catalog.split_part(o.option, '=', 2)::pg_catalog.bool)
 ORDER BY name LIMIT 4`;

/** The three oldest transactions with an id, prepared ones too; the role sees others' with pg_monitor. Columns: who, database, seconds. */
export const OLDEST_TRANSACTIONS = `
SELECT who, database, GREATEST(0, seconds)::pg_catalog.int8::pg_catalog.text AS seconds
  FROM (SELECT pg_catalog.concat('process ', a.pid) AS who, a.datname::pg_catalog.text AS database,
               pg_catalog.date_part('epoch', pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) a.xact_start) AS seconds,
               pg_catalog.age(a.backend_xid) AS age
          FROM pg_catalog.pg_stat_activity AS a WHERE a.backend_xid IS NOT NULL
        UNION ALL
        SELECT pg_catalog.concat('prepared transaction ', p.transaction), p.database::pg_catalog.text,
               pg_catalog.date_part('epoch', pg_catalog.clock_timestamp() OPERATOR(pg_catalog.-) p.prepared),
               pg_catalog.age(p.transaction)
          FROM pg_catalog.pg_prepared_xacts AS p) AS open
 ORDER BY age DESC LIMIT 3`;

const WHILE_STANDBY = "CASE WHEN pg_catalog.pg_is_in_recovery() THEN";
const WHILE_PRIMARY = "CASE WHEN NOT pg_catalog.pg_is_in_recovery() THEN";

/** On which side of a promotion a statement may run. */
export type Role = "standby" | "primary";

function when(role: Role): string {
  return role === "standby" ? WHILE_STANDBY : WHILE_PRIMARY;
}

/** Guards decode for nobody: pgoutput is always there. Columns: done (NULL on the wrong side of a promotion). */
export const CREATE_GUARD = `
SELECT ${WHILE_STANDBY}
  (SELECT g.lsn FROM pg_catalog.pg_create_logical_replication_slot($1, 'pgoutput', false, false) AS g)::pg_catalog.text END AS done`;

/** $1 source, $2 name, $3 temporary, $4 plugin. Must run in the slot's own database. */
export function copySlot(role: Role): string {
  return `SELECT ${when(role)}
  (SELECT c.lsn FROM pg_catalog.pg_copy_logical_replication_slot($1, $2, $3, $4) AS c)::pg_catalog.text END AS done`;
}

/** $1 name, $2 position, for a slot of our own name. Must run in the slot's own database. */
export function advanceSlot(role: Role): string {
  return `SELECT ${when(role)}
  (SELECT a.end_lsn FROM pg_catalog.pg_replication_slot_advance($1, $2::pg_catalog.pg_lsn) AS a)::pg_catalog.text END AS done`;
}

/**
 * $1 names, $2 where they were seen to stand, $3 new positions: many at once; an error ends it in the middle, with the earlier ones
 * done. A slot that stands elsewhere by now is left alone: it has no row in the answer (I7).
 */
export const ADVANCE_SLOTS = `
SELECT s.name, ${WHILE_STANDBY}
  (SELECT a.end_lsn FROM pg_catalog.pg_replication_slot_advance(s.name, s.lsn::pg_catalog.pg_lsn) AS a)::pg_catalog.text END AS done
  FROM ROWS FROM (pg_catalog.unnest($1::pg_catalog.text[]), pg_catalog.unnest($2::pg_catalog.text[]),
                  pg_catalog.unnest($3::pg_catalog.text[])) AS s(name, at, lsn)
  JOIN pg_catalog.pg_replication_slots AS r ON r.slot_name OPERATOR(pg_catalog.=) s.name
   AND r.confirmed_flush_lsn OPERATOR(pg_catalog.=) s.at::pg_catalog.pg_lsn`;

/** $1 name. */
export function dropSlot(role: Role): string {
  return `SELECT ${when(role)} pg_catalog.pg_drop_replication_slot($1)::pg_catalog.text END AS done`;
}

/** What a statement answers that found a slot elsewhere than it was seen: nothing has been done. */
export const MOVED = "moved";

/** The slot $1 where it was seen to stand, $2: what somebody has put in its place since stands elsewhere (I7). */
const SEEN_THERE = `FROM pg_catalog.pg_replication_slots AS r
    WHERE r.slot_name OPERATOR(pg_catalog.=) $1
      AND COALESCE(r.confirmed_flush_lsn OPERATOR(pg_catalog.=) $2::pg_catalog.pg_lsn,
                   r.confirmed_flush_lsn IS NULL AND $2::pg_catalog.pg_lsn IS NULL)`;

/** $1 name, $2 where it was seen to stand. */
export function dropSeenSlot(role: Role): string {
  return `SELECT ${when(role)} COALESCE(
  (SELECT pg_catalog.pg_drop_replication_slot(r.slot_name)::pg_catalog.text ${SEEN_THERE}),
  '${MOVED}') END AS done`;
}

/** $1 name, $2 where it was seen to stand, $3 position. Must run in the slot's own database. */
export function advanceSeenSlot(role: Role): string {
  return `SELECT ${when(role)} COALESCE(
  (SELECT (SELECT a.end_lsn FROM pg_catalog.pg_replication_slot_advance(r.slot_name, $3::pg_catalog.pg_lsn) AS a)::pg_catalog.text ${SEEN_THERE}),
  '${MOVED}') END AS done`;
}

/** $1 name, $2 its restart_lsn as it was seen: a slot that is not ours, only while nobody uses it and it stands there. */
export const RELEASE_SLOT = `
SELECT ${WHILE_STANDBY} COALESCE(
  (SELECT pg_catalog.pg_drop_replication_slot(r.slot_name)::pg_catalog.text FROM pg_catalog.pg_replication_slots AS r
    WHERE r.slot_name OPERATOR(pg_catalog.=) $1 AND NOT r.active AND NOT r.temporary
      AND COALESCE(r.restart_lsn OPERATOR(pg_catalog.=) $2::pg_catalog.pg_lsn,
                   r.restart_lsn IS NULL AND $2::pg_catalog.pg_lsn IS NULL)),
  '${MOVED}') END AS done`;

/**
 * $1 guard, $2 name, $3 plugin, $4 the guard's expected position, $5 the slot's. Drop and copy in one statement, so that nothing but
 * a crash of the server itself comes between; only while both stand where the plan said (I1, I7).
 */
export const REPLACE_SLOT = `
SELECT ${WHILE_STANDBY} COALESCE(
  (SELECT ROW(pg_catalog.pg_drop_replication_slot($2), pg_catalog.pg_copy_logical_replication_slot($1, $2, false, $3))::pg_catalog.text
     FROM pg_catalog.pg_replication_slots AS g, pg_catalog.pg_replication_slots AS r
    WHERE g.slot_name OPERATOR(pg_catalog.=) $1 AND g.confirmed_flush_lsn OPERATOR(pg_catalog.=) $4::pg_catalog.pg_lsn
      AND r.slot_name OPERATOR(pg_catalog.=) $2 AND r.confirmed_flush_lsn OPERATOR(pg_catalog.=) $5::pg_catalog.pg_lsn),
  '${MOVED}') END AS done`;

/** 17+: one pass of the server's own slot sync. It refuses while the server's worker does it, and where a name is taken. */
export const SYNC_SLOTS = `SELECT ${WHILE_STANDBY} pg_catalog.pg_sync_replication_slots()::pg_catalog.text END AS done`;

/** A replication command (17+), for a session opened with `replication`: it takes no parameters. */
export function alterFailover(slot: string, failover: boolean): string {
  return `ALTER_REPLICATION_SLOT "${slot.replaceAll('"', '""')}" (FAILOVER ${failover})`;
}

/** $1 backend: ends a statement of ours that a promotion should not wait for. */
export const CANCEL_BACKEND = "SELECT pg_catalog.pg_cancel_backend($1)";

/** $1 backend: for a former session of our own. */
export const TERMINATE_BACKEND = "SELECT pg_catalog.pg_terminate_backend($1)";

/** Advisory locks work on a standby; the key is "slotsync" in ASCII. Held as long as the control session lives. */
export const TRY_STANDBY_LOCK = "SELECT pg_catalog.pg_try_advisory_lock(8317145157790690915) AS locked";

/** Who else holds the advisory lock, in whatever database: each database has a lock of that key of its own. */
export const STANDBY_LOCK_HOLDER = `
SELECT a.pid, a.application_name, a.client_addr::pg_catalog.text AS client_addr, a.backend_start::pg_catalog.text AS backend_start
  FROM pg_catalog.pg_locks AS l JOIN pg_catalog.pg_stat_activity AS a ON a.pid OPERATOR(pg_catalog.=) l.pid
 WHERE l.locktype OPERATOR(pg_catalog.=) 'advisory' AND l.granted AND l.objsubid OPERATOR(pg_catalog.=) 1
   AND l.classid OPERATOR(pg_catalog.=) 1936486260::pg_catalog.oid AND l.objid OPERATOR(pg_catalog.=) 1937337955::pg_catalog.oid
   AND l.pid OPERATOR(pg_catalog.<>) pg_catalog.pg_backend_pid()`;

/** The slots of a server that has been promoted, and the timeline that it writes. */
export function lookAtPromoted(serverVersionNum: number): string {
  return `
SELECT pg_catalog.pg_is_in_recovery() AS in_recovery,
       (SELECT s.system_identifier::pg_catalog.text FROM pg_catalog.pg_control_system() AS s) AS system_identifier,
       CASE WHEN NOT pg_catalog.pg_is_in_recovery()
            THEN pg_catalog.substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 1, 8) END AS timeline,
       ${PLUGIN_RULES},
       ${IDLE_TIMEOUT},
       ${serverVersionNum >= 170_000 ? STALLED_STANDBY_SLOTS : "NULL::pg_catalog.text"} AS stalled_standby_slots;
SELECT ${slotColumns(serverVersionNum)}, ${IN_OWN_USE} FROM pg_catalog.pg_replication_slots`;
}

/** $1 path below the data directory, $2 offset, $3 length: NULL when there is no such file. As hexadecimal text: `\\x…`. */
export const READ_SERVER_FILE = `
SELECT pg_catalog.pg_read_binary_file($1, $2::pg_catalog.int8, $3::pg_catalog.int8, true)::pg_catalog.text AS content`;

/**
 * $1 source, $2 pin: holds what the source needs, as long as the session lives (12+), whatever database either is of. Allowed on the
 * primary by I12.
 */
export const COPY_PIN = `
SELECT (SELECT c.lsn FROM pg_catalog.pg_copy_logical_replication_slot($1, $2, true) AS c)::pg_catalog.text AS done`;

/** $1 pin: where there is no slot to copy; waits for the transactions that are running. */
export const CREATE_PIN = `
SELECT (SELECT c.lsn FROM pg_catalog.pg_create_logical_replication_slot($1, 'pgoutput', true) AS c)::pg_catalog.text AS done`;

/**
 * $1 pin, $2 the process that it belongs to: ends that, if it is our own role's, idle, and not the one that is asked. Nobody but the
 * session itself can drop a temporary slot, and one in a connection pooler's session lives on when its sidecar has been killed.
 */
export const END_STRAY_PIN = `
SELECT pg_catalog.pg_terminate_backend(a.pid) AS ended
  FROM pg_catalog.pg_replication_slots AS s, pg_catalog.pg_stat_get_activity($2::pg_catalog.int4) AS a
 WHERE s.slot_name OPERATOR(pg_catalog.=) $1 AND s.temporary AND s.active_pid OPERATOR(pg_catalog.=) a.pid
   AND a.pid OPERATOR(pg_catalog.<>) pg_catalog.pg_backend_pid() AND a.state OPERATOR(pg_catalog.=) 'idle'
   AND a.usesysid OPERATOR(pg_catalog.=)
       (SELECT r.oid FROM pg_catalog.pg_roles AS r WHERE r.rolname OPERATOR(pg_catalog.=) CURRENT_USER)`;

/** $1 pin: the session's own, as a pooler may hand it to the next who connects. */
export const DROP_OWN_PIN = "SELECT pg_catalog.pg_drop_replication_slot($1)::pg_catalog.text AS done";

/** $1 name. */
export function lookAtSlot(serverVersionNum: number): string {
  return `SELECT ${slotColumns(serverVersionNum)} FROM pg_catalog.pg_replication_slots WHERE slot_name OPERATOR(pg_catalog.=) $1`;
}

/** $1 a position: the name of the segment with it on the primary's present timeline. */
export const SEGMENT_NAME = "SELECT pg_catalog.pg_walfile_name($1::pg_catalog.pg_lsn) AS name";

/** Loads a library into the session: whether an output plugin is there. For superusers. */
export function loadLibrary(name: string): string {
  return `LOAD ${quoteLiteral(name)}`;
}

/** Held on the primary while a standby of it is being restarted; the key is "sltrstrt" in ASCII. */
export const TRY_RESTART_LOCK = "SELECT pg_catalog.pg_try_advisory_lock(8317150646758568564) AS locked";

export const SHOW_STATEMENT_TIMEOUT = "SELECT pg_catalog.current_setting('statement_timeout') AS setting";

/** $1 ms. */
export const SET_STATEMENT_TIMEOUT = "SELECT pg_catalog.set_config('statement_timeout', $1, false)";

/** The databases of a server, for a standby of it that cannot be asked. */
export const LIST_DATABASES = `
SELECT oid::pg_catalog.text AS oid, datname::pg_catalog.text AS name
  FROM pg_catalog.pg_database WHERE datallowconn AND NOT datistemplate ORDER BY oid`;

export const WAL_SEGMENT_BYTES = `
SELECT setting AS bytes FROM pg_catalog.pg_settings WHERE name OPERATOR(pg_catalog.=) 'wal_segment_size'`;

/** The names of all serialized snapshots, with blanks between them. pg_monitor may list them from 15 on. */
export function listSnapshots(serverVersionNum: number): string {
  const files =
    serverVersionNum >= 150_000
      ? "pg_catalog.pg_ls_logicalsnapdir() AS d"
      : "pg_catalog.pg_ls_dir('pg_logical/snapshots', true, false) AS d(name)";
  return `SELECT COALESCE(pg_catalog.string_agg(d.name, ' '), '') AS names FROM ${files}`;
}

/** The names of the files of rewrite mappings, `most` of them at the most. pg_monitor may list them from 15 on. */
export function listMappings(serverVersionNum: number, most: number): string {
  const files =
    serverVersionNum >= 150_000
      ? "pg_catalog.pg_ls_logicalmapdir() AS d"
      : "pg_catalog.pg_ls_dir('pg_logical/mappings', true, false) AS d(name)";
  return `SELECT d.name FROM ${files} WHERE pg_catalog.starts_with(d.name, 'map-') LIMIT ${Math.trunc(most)}`;
}

/** $1 names of files of rewrite mappings: what each begins with, $2 bytes at the most; null of one that is gone. */
export const READ_MAPPINGS = `
SELECT n.name, pg_catalog.pg_read_binary_file(pg_catalog.concat('pg_logical/mappings/', n.name), 0, $2::pg_catalog.int8, true)::pg_catalog.text AS content
  FROM pg_catalog.unnest($1::pg_catalog.text[]) AS n(name)`;

/** The whole WAL segments of a standby, by their names with blanks between them, and how far it has replayed. For pg_monitor. */
export const LOOK_AT_WAL = `
SELECT (SELECT pg_catalog.string_agg(w.name, ' ') FROM pg_catalog.pg_ls_waldir() AS w
         WHERE w.name OPERATOR(pg_catalog.~) '^[0-9A-F]{24}$' AND w.size OPERATOR(pg_catalog.=) s.setting::pg_catalog.int8) AS names,
       s.setting AS segment_bytes, pg_catalog.pg_last_wal_replay_lsn()::pg_catalog.text AS replay_lsn
  FROM pg_catalog.pg_settings AS s WHERE s.name OPERATOR(pg_catalog.=) 'wal_segment_size'`;

/** In a session for replication: the history of a timeline, as its file has it. There is none of timeline 1. */
export function timelineHistory(timeline: number): string {
  return `TIMELINE_HISTORY ${Math.trunc(timeline)}`;
}
