/** Reads and changes the flags on the primary, for `slotsync flag`, `unflag` and `flags`. */
import type { Config } from "../config/load.ts";
import { type Flag, type FlagSlot, type FlagStep, type FlagView, SERVER_FLAG_SINCE } from "../domain/flag.ts";
import { isValidSlotName } from "../domain/names.ts";
import { REGISTRY_TABLE, untrustedOwner } from "../domain/registry.ts";
import { directoryOf } from "../observe/files.ts";
import { observeStandby } from "../observe/standby.ts";
import { describeError, isPgError, SQLSTATE } from "../pg/errors.ts";
import {
  createRegistry,
  deleteFlags,
  insertFlags,
  LIST_FLAGS,
  lookAtFlags,
  REGISTRY_OWNER,
  type RegistryState,
} from "../pg/registry-sql.ts";
import type { PgSession } from "../pg/session.ts";
import { alterFailover } from "../pg/sql.ts";
import { linkOptionsOf } from "./from-config.ts";
import { PrimaryLink, StandbyLink } from "./links.ts";

/** The flags cannot be read or changed; the message says why and what to do. */
class FlagError extends Error {
  override readonly name = "FlagError";
}

/** The primary as the flag commands see it, and the way to it. */
export interface FlagAccess {
  view: FlagView;
  /** `host:port/database as user` */
  target: string;
  database: string;
  /** The role that polls there, as SQL takes it. */
  roleIdent: string;
  /** Whether the registry's schema is there: whoever may not create schemas may not ask for one that exists either. */
  hasSchema: boolean;
  session: PgSession;
  /** A session for the replication protocol. */
  openReplication(): Promise<PgSession>;
}

/**
 * Connects to the primary as the sidecar does – where this node is the primary itself and nothing else is said, to this node – and
 * runs `use` there. Throws FlagError, and what the sessions throw.
 */
export async function withFlags<T>(
  config: Config,
  command: string,
  signal: AbortSignal,
  onWarning: (warning: string) => void,
  use: (access: FlagAccess) => Promise<T>,
): Promise<T> {
  const options = linkOptionsOf(config, command, signal, onWarning);
  const standby = new StandbyLink(config.standby.conn, options, false);
  const primary = new PrimaryLink(config.primary, config.standby.conn.database ?? "postgres", options);
  try {
    let conninfo: string | null = null;
    if (primary.followsStandby) {
      const control = await standby.control();
      const look = await observeStandby(control, directoryOf(config.standby.dataDirectory));
      if (!look.view.inRecovery)
        return await use({
          ...(await lookAt(control)),
          openReplication: () => standby.openReplication(command),
        });
      conninfo = look.primaryConninfo;
    }
    const session = await primary.session(conninfo);
    const openReplication = () => primary.openReplication(conninfo, command);
    return await use({ ...(await lookAt(session)), openReplication });
  } finally {
    await Promise.all([standby.close(), primary.close()]);
  }
}

interface WhereRow {
  in_recovery: boolean;
  registry: RegistryState;
  role_ident: string;
  has_schema: boolean;
}

async function lookAt(session: PgSession): Promise<Omit<FlagAccess, "openReplication">> {
  const { serverVersionNum, database, target } = session;
  const [[where] = [], slots] = (await session.script<object>(lookAtFlags(serverVersionNum), {
    what: "looking at the flags",
  })) as [WhereRow[], FlagSlot[]];
  if (!where) throw new Error("the primary's answer is incomplete");
  if (where.in_recovery)
    throw new FlagError(
      `${target} is a standby itself, and flags are set on the primary: let primary.dsn name the primary`,
    );
  const flags = await readFlags(session, where);
  const view = { serverVersionNum, slots, flags };
  return { view, target, database, roleIdent: where.role_ident, hasSchema: where.has_schema, session };
}

async function readFlags(
  session: PgSession,
  { registry, role_ident: role }: WhereRow,
): Promise<Flag[] | null> {
  switch (registry) {
    case null:
      return null;
    case "denied":
      throw new FlagError(
        `the role ${role} may not read ${REGISTRY_TABLE} in database "${session.database}": GRANT USAGE ON SCHEMA slotsync TO ${role}; GRANT SELECT ON ${REGISTRY_TABLE} TO ${role}`,
      );
    case "untrusted":
      throw new FlagError(untrustedOwner(session.database, role));
    case "foreign":
      throw new FlagError(
        `${REGISTRY_TABLE} in database "${session.database}" is not the table that slotsync flag makes: DROP it, and flag the slots again`,
      );
    case "readable": {
      const [, flags = []] = await session.script<Flag>(LIST_FLAGS, { what: "reading the registry" });
      return flags.filter(({ name }) => isValidSlotName(name));
    }
  }
}

/** What is run, in this order: the registry's SQL as one transaction, then commands of the replication protocol, each for one slot. */
export interface FlagStatements {
  sql: string[];
  commands: { name: string; text: string }[];
}

/** The statements for these steps. `complete`: with all that the registry needs, as if nothing of it were there. */
export function statementsFor(
  steps: readonly FlagStep[],
  on: boolean,
  { view, roleIdent, hasSchema }: Pick<FlagAccess, "view" | "roleIdent" | "hasSchema">,
  complete: boolean,
): FlagStatements {
  const able = steps.filter(({ refusal }) => refusal === null);
  const rows = able.filter(({ registry }) => complete || registry).map(({ name }) => name);
  const ownFlag = view.serverVersionNum >= SERVER_FLAG_SINCE;
  // before 17 an empty registry, too, is an answer: nothing is flagged
  const make = !ownFlag && (complete || view.flags === null) && able.length > 0;
  const change = on ? !ownFlag : view.flags !== null || !ownFlag;
  return {
    sql: [
      ...(make ? createRegistry(roleIdent, complete || !hasSchema) : []),
      ...(change && rows.length > 0 ? [on ? insertFlags(rows) : deleteFlags(rows)] : []),
    ],
    commands: able
      .filter(({ server }) => ownFlag && (complete || server))
      .map(({ name }) => ({ name, text: `${alterFailover(name, on)};` })),
  };
}

/** Throws FlagError where somebody else could have the registry do things in the name of whoever runs this SQL, be it a superuser. */
export async function assertTrusted(
  { session, database, roleIdent }: FlagAccess,
  sql: readonly string[],
): Promise<void> {
  if (sql.length === 0) return;
  const [owner] = await session.query<{ trusted: boolean }>(REGISTRY_OWNER);
  if (owner && !owner.trusted) throw new FlagError(untrustedOwner(database, roleIdent));
}

/** Runs the registry's SQL. Throws FlagError where the role may not. */
export async function runSql({ session, database }: FlagAccess, sql: readonly string[]): Promise<void> {
  if (sql.length === 0) return;
  try {
    await session.script(sql.join("\n"), { what: "changing the registry" });
  } catch (error) {
    if (!isPgError(error, SQLSTATE.insufficientPrivilege)) throw error;
    throw new FlagError(
      `${describeError(error)}; let a role that may run what --print-sql prints, in database "${database}"`,
      { cause: error },
    );
  }
}

/**
 * Sets or clears the server's own flags (17+), each by itself. Returns why for those that failed. For a slot that somebody has taken since
 * it was looked at, the server waits; it notices within a second that we have left, and gives up.
 */
export async function runCommands(
  { openReplication }: Pick<FlagAccess, "openReplication">,
  commands: FlagStatements["commands"],
): Promise<Map<string, string>> {
  const failures = new Map<string, string>();
  for (const { name, text } of commands) {
    let replication: PgSession | null = null;
    try {
      replication = await openReplication();
      await replication.script(text, { what: `changing the flag of slot "${name}"` });
    } catch (error) {
      failures.set(name, describeError(error));
    } finally {
      await replication?.close();
    }
  }
  return failures;
}
