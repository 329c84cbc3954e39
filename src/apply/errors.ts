/** What became of an action, and the reason a failure stands for. */
import type { Action } from "../domain/action.ts";
import type { Reason } from "../domain/protection.ts";
import { describeError, isPgError, SQLSTATE } from "../pg/errors.ts";
import { MOVED } from "../pg/sql.ts";

export interface Outcome {
  action: Action;
  /** Null when it was done. */
  error: unknown;
}

/** The server has been promoted between planning and acting: the statement's own condition held it back (I8). */
export class WrongRoleError extends Error {
  override readonly name = "WrongRoleError";
}

/** A failure whose reason is known from the step in which it happened. */
export class ReasonedError extends Error {
  override readonly name = "ReasonedError";
  readonly reason: Reason;

  constructor(reason: Reason, message: string, options?: ErrorOptions) {
    super(message, options);
    this.reason = reason;
  }
}

/** The server does not find the plugin's library. */
export function missingPlugin(plugin: string, cause?: unknown): ReasonedError {
  return new ReasonedError("plugin_missing", `output plugin "${plugin}" is not installed on this server`, {
    cause,
  });
}

/** Throws unless the statement's recovery condition held. Returns what it answered. */
export function expectDone(rows: readonly { done: string | null }[], what: string): string {
  const done = rows[0]?.done;
  if (done === null || done === undefined) throw new WrongRoleError(`${what}: the server's role has changed`);
  return done;
}

/** The slot is not where it was seen: somebody else has had a hand on it, and nothing has been done. The next look settles it. */
export class SlotMovedError extends Error {
  override readonly name = "SlotMovedError";
}

/** Like {@link expectDone}; throws SlotMovedError when the statement found the slot elsewhere. */
export function expectUnmoved(rows: readonly { done: string | null }[], what: string): void {
  if (expectDone(rows, what) === MOVED)
    throw new SlotMovedError(`${what}: it is not where it was seen any more`);
}

/** The reason shown for a failed action. SQLSTATEs decide, never texts. */
function reasonOf(error: unknown): Reason {
  if (error instanceof ReasonedError) return error.reason;
  if (isPgError(error, SQLSTATE.undefinedFile)) return "wal_or_rows_removed";
  if (isPgError(error, SQLSTATE.configurationLimitExceeded)) return "too_many_slots";
  if (
    isPgError(error, SQLSTATE.insufficientPrivilege, SQLSTATE.invalidAuthorization, SQLSTATE.invalidPassword)
  )
    return "permission_denied";
  if (isPgError(error, SQLSTATE.duplicateObject)) return "name_conflict";
  if (isPgError(error, SQLSTATE.objectInUse)) return "slot_in_use";
  if (isPgError(error, SQLSTATE.queryCanceled)) return "no_consistent_snapshot";
  if (isPgError(error, SQLSTATE.invalidCatalogName)) return "database_missing";
  return "statement_failed";
}

/** Reason and one line for people. */
export function failureOf(error: unknown): { reason: Reason; detail: string } {
  return { reason: reasonOf(error), detail: describeError(error) };
}
