/**
 * The SQL of the flag registry. Names are qualified like everywhere (I13); what an operator is to run by hand holds under any
 * search_path. The registry may have been made by anybody who may create schemas: it is read and written only where its owners could act
 * under our role anyway, for planning to read a table already runs the functions of its indexes, and writing its triggers.
 */
import { MOST_FLAGS } from "../domain/registry.ts";

/** How the registry stands for the role: NULL when there is none. It may not be looked up by to_regclass, which fails where USAGE is missing. */
export type RegistryState = "readable" | "denied" | "untrusted" | "foreign" | null;

/** Superusers, our role itself, and its members: of the table `c` and of its schema `n`. */
const TRUSTED = `(pg_catalog.pg_has_role(c.relowner, CURRENT_USER, 'MEMBER') AND pg_catalog.pg_has_role(n.nspowner, CURRENT_USER, 'MEMBER'))`;

const REGISTRY = `pg_catalog.pg_namespace AS n JOIN pg_catalog.pg_class AS c ON c.relnamespace OPERATOR(pg_catalog.=) n.oid`;
const IS_REGISTRY = `n.nspname OPERATOR(pg_catalog.=) 'slotsync' AND c.relname OPERATOR(pg_catalog.=) 'failover_slot'`;

/** Columns of a SELECT: `registry` (RegistryState), and who asks where. `name` must be of the type text: showing it runs no function of others. */
export const REGISTRY_COLUMNS = `
       (SELECT CASE WHEN c.relkind OPERATOR(pg_catalog.<>) 'r' OR a.attnum IS NULL OR pg_catalog.row_security_active(c.oid) THEN 'foreign'
                    WHEN NOT (pg_catalog.has_schema_privilege(n.oid, 'USAGE')
                              AND pg_catalog.has_column_privilege(c.oid, a.attnum, 'SELECT')) THEN 'denied'
                    WHEN NOT ${TRUSTED} THEN 'untrusted'
                    ELSE 'readable' END
          FROM ${REGISTRY}
          LEFT JOIN pg_catalog.pg_attribute AS a ON a.attrelid OPERATOR(pg_catalog.=) c.oid
               AND a.attname OPERATOR(pg_catalog.=) 'name' AND a.atttypid OPERATOR(pg_catalog.=) 25::pg_catalog.oid
         WHERE ${IS_REGISTRY}) AS registry,
       pg_catalog.quote_ident(CURRENT_USER) AS role_ident`;

/**
 * Before a read within a script. Where the table has come to belong to somebody else since it was last looked at, it fails, and with it
 * the script, before the server begins to plan the read.
 */
const READ_SAFELY = `
SELECT pg_catalog.set_config('lock_timeout', CASE WHEN EXISTS (SELECT FROM ${REGISTRY} WHERE ${IS_REGISTRY} AND NOT ${TRUSTED})
                                                  THEN 'the registry is not to be trusted' ELSE '1000' END, true),
       pg_catalog.set_config('row_security', 'off', true);`;

/**
 * Reads the names within a script. TABLESAMPLE takes no view, ONLY no child, and row_security = off no policy: what a trusted owner has
 * put in the table's place a moment ago runs no functions either. A lock that somebody holds on it is not waited
 * for long, and of what is longer than a name nothing is sent.
 */
export const READ_REGISTRY = `${READ_SAFELY}
SELECT name FROM ONLY slotsync.failover_slot TABLESAMPLE pg_catalog.system (100)
 WHERE pg_catalog.pg_column_size(name) OPERATOR(pg_catalog.<=) 67 LIMIT ${MOST_FLAGS + 1}`;

/**
 * Who may be trusted not to have the table do things in the name of who writes to it: who could act under that role anyway. In a schema of
 * anybody else's it may be there by the time it is made, and be another.
 */
export const REGISTRY_OWNER = `
SELECT pg_catalog.pg_has_role(n.nspowner, CURRENT_USER, 'MEMBER')
       AND COALESCE(pg_catalog.pg_has_role(c.relowner, CURRENT_USER, 'MEMBER'), true) AS trusted
  FROM pg_catalog.pg_namespace AS n
  LEFT JOIN pg_catalog.pg_class AS c ON c.relnamespace OPERATOR(pg_catalog.=) n.oid AND c.relname OPERATOR(pg_catalog.=) 'failover_slot'
 WHERE n.nspname OPERATOR(pg_catalog.=) 'slotsync'`;

/** What the flag commands ask first: who and where we are, and all slots. */
export function lookAtFlags(serverVersionNum: number): string {
  return `
SELECT pg_catalog.pg_is_in_recovery() AS in_recovery,
       EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname OPERATOR(pg_catalog.=) 'slotsync') AS has_schema,${REGISTRY_COLUMNS};
SELECT slot_name::pg_catalog.text AS name, plugin::pg_catalog.text AS plugin, database::pg_catalog.text AS database, temporary,
       CASE WHEN active THEN COALESCE(active_pid, -1) END AS "activePid",
       ${serverVersionNum >= 170_000 ? "failover" : "false AS failover"}
  FROM pg_catalog.pg_replication_slots`;
}

/** All of the registry, read as in {@link READ_REGISTRY}. */
export const LIST_FLAGS = `${READ_SAFELY}
SELECT name, flagged_at AS "flaggedAt", CASE WHEN pg_catalog.pg_column_size(flagged_by) OPERATOR(pg_catalog.<=) 67 THEN flagged_by END AS "flaggedBy"
  FROM ONLY slotsync.failover_slot TABLESAMPLE pg_catalog.system (100)
 WHERE pg_catalog.pg_column_size(name) OPERATOR(pg_catalog.<=) 67 LIMIT ${MOST_FLAGS + 1}`;

/** Makes the registry, and lets the sidecar's role (a quoted identifier) read it. Complete in itself; repeating it changes nothing. */
export function createRegistry(roleIdent: string, withSchema: boolean): string[] {
  return [
    ...(withSchema ? ["CREATE SCHEMA IF NOT EXISTS slotsync;"] : []),
    `CREATE TABLE IF NOT EXISTS slotsync.failover_slot (
  name pg_catalog.text PRIMARY KEY CHECK (name OPERATOR(pg_catalog.~) '^[a-z0-9_]{1,63}$'),
  flagged_at pg_catalog.timestamptz NOT NULL DEFAULT pg_catalog.now(),
  flagged_by pg_catalog.text NOT NULL DEFAULT CURRENT_USER
);`,
    `GRANT USAGE ON SCHEMA slotsync TO ${roleIdent};`,
    `GRANT SELECT ON slotsync.failover_slot TO ${roleIdent};`,
  ];
}

/** Names are `[a-z0-9_]{1,63}`: quotes around them are enough. */
export function insertFlags(names: readonly string[]): string {
  const rows = names.map((name) => `('${name}')`).join(", ");
  return `INSERT INTO slotsync.failover_slot (name) VALUES ${rows} ON CONFLICT (name) DO NOTHING;`;
}

export function deleteFlags(names: readonly string[]): string {
  return `DELETE FROM slotsync.failover_slot WHERE name IN (${names.map((name) => `'${name}'`).join(", ")});`;
}
