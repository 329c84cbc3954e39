/**
 * The SQL of the flag registry. Names are qualified like everywhere (I13); what an operator is to run by hand holds under any
 * search_path. The registry may have been made by anybody who may create schemas: reading it runs no code of theirs, and nothing is
 * written to a table of somebody whom the role does not trust.
 */
import { MOST_FLAGS } from "../domain/registry.ts";

/** How the registry stands for the role: NULL when there is none. It may not be looked up by to_regclass, which fails where USAGE is missing. */
export type RegistryState = "readable" | "denied" | "foreign" | null;

/** Columns of a SELECT: `registry` (RegistryState), and who asks where. `name` must be of the type text: showing it runs no function of others. */
export const REGISTRY_COLUMNS = `
       (SELECT CASE WHEN c.relkind OPERATOR(pg_catalog.<>) 'r' OR a.attnum IS NULL OR pg_catalog.row_security_active(c.oid) THEN 'foreign'
                    WHEN pg_catalog.has_schema_privilege(n.oid, 'USAGE')
                         AND pg_catalog.has_column_privilege(c.oid, a.attnum, 'SELECT') THEN 'readable'
                    ELSE 'denied' END
          FROM pg_catalog.pg_namespace AS n
          JOIN pg_catalog.pg_class AS c ON c.relnamespace OPERATOR(pg_catalog.=) n.oid
          LEFT JOIN pg_catalog.pg_attribute AS a ON a.attrelid OPERATOR(pg_catalog.=) c.oid
               AND a.attname OPERATOR(pg_catalog.=) 'name' AND a.atttypid OPERATOR(pg_catalog.=) 25::pg_catalog.oid
         WHERE n.nspname OPERATOR(pg_catalog.=) 'slotsync' AND c.relname OPERATOR(pg_catalog.=) 'failover_slot') AS registry,
       pg_catalog.quote_ident(CURRENT_USER) AS role_ident`;

/**
 * Reads the names within a script. TABLESAMPLE takes no view, ONLY no child, and row_security = off no policy: so none of them can put
 * functions of others under our role, even if they took the table's place a moment ago. A lock that somebody holds on it is not waited
 * for long, and of what is longer than a name nothing is sent.
 */
export const READ_REGISTRY = `
SELECT pg_catalog.set_config('lock_timeout', '1000', true), pg_catalog.set_config('row_security', 'off', true);
SELECT name FROM ONLY slotsync.failover_slot TABLESAMPLE pg_catalog.system (100)
 WHERE pg_catalog.pg_column_size(name) OPERATOR(pg_catalog.<=) 67 LIMIT ${MOST_FLAGS + 1}`;
