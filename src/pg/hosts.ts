/** A connection to one of several hosts, the first in order that is what was asked for: libpq's rules for `target_session_attrs`. */
import { type ConnInfo, type ConnTargets, describePlace, type TargetSessionAttrs } from "./conninfo.ts";
import { ConnectError, describeError, SessionLostError } from "./errors.ts";
import type { PgSession } from "./session.ts";
import { SESSION_STATE } from "./sql.ts";

/** What a server shows that decides whether it is wanted. */
export interface SessionState {
  in_recovery: boolean;
  read_only: boolean;
}

/** Why the server is not what was asked for, or null when it is. As libpq since 14, which tells apart six kinds. */
export function unfit(attrs: TargetSessionAttrs, { in_recovery, read_only }: SessionState): string | null {
  const wants = (fits: boolean, what: string) => (fits ? null : `${what}, and ${attrs} is asked for`);
  switch (attrs) {
    case "any":
      return null;
    case "read-write":
      return wants(!in_recovery && !read_only, in_recovery ? "it is a standby" : "it is read-only");
    case "read-only":
      return wants(in_recovery || read_only, "it takes writes");
    case "primary":
      return wants(!in_recovery, "it is a standby");
    case "standby":
    case "prefer-standby":
      return wants(in_recovery, "it is a primary");
  }
}

export interface Opened {
  session: PgSession;
  conn: ConnInfo;
}

/**
 * Tries the hosts in order. Without `target_session_attrs` a single host is taken as it is, and among several the primary. Throws what
 * `open` throws for a single host, else a ConnectError that names each host and why it would not do.
 */
export async function openFirst(
  { hosts, attrs }: ConnTargets,
  open: (conn: ConnInfo) => Promise<PgSession>,
): Promise<Opened> {
  const wanted = attrs ?? (hosts.length > 1 ? "primary" : "any");
  const passes: TargetSessionAttrs[] = wanted === "prefer-standby" ? [wanted, "any"] : [wanted];
  const refusals: { conn: ConnInfo; error: unknown }[] = [];
  for (const pass of passes) {
    refusals.length = 0;
    for (const conn of hosts) {
      try {
        return { session: await openFit(conn, pass, open), conn };
      } catch (error) {
        if (error instanceof SessionLostError && error.reason === "aborted") throw error;
        refusals.push({ conn, error });
      }
    }
  }
  const [only, ...more] = refusals;
  if (only && more.length === 0) throw only.error;
  const told = refusals.map(({ conn, error }) => `${describePlace(conn)}: ${describeError(error)}`);
  throw new ConnectError(`none of ${hosts.length} hosts will do: ${told.join("; ")}`, {
    cause: new AggregateError(refusals.map(({ error }) => error)),
  });
}

async function openFit(
  conn: ConnInfo,
  attrs: TargetSessionAttrs,
  open: (conn: ConnInfo) => Promise<PgSession>,
): Promise<PgSession> {
  const session = await open(conn);
  if (attrs === "any") return session;
  try {
    const [[state] = []] = await session.script<SessionState>(SESSION_STATE, {
      what: "asking whether it is a primary",
    });
    const why = state ? unfit(attrs, state) : "its answer is incomplete";
    if (why === null) return session;
    throw new ConnectError(why);
  } catch (error) {
    await session.close();
    throw error;
  }
}
