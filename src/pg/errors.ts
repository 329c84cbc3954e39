// What went wrong, told by SQLSTATE and never by message text: messages are translated and reworded.

/** The SQLSTATEs this project decides on. */
export const SQLSTATE = {
  undefinedFile: "58P01", // also: a WAL segment that has been removed
  objectNotInPrerequisiteState: "55000", // slot functions: "minimum is", "slot … cannot be advanced", in recovery
  undefinedObject: "42704", // no such slot
  duplicateObject: "42710", // a slot of that name exists
  undefinedFunction: "42883",
  invalidCatalogName: "3D000", // no such database
  objectInUse: "55006", // the slot is active
  lockNotAvailable: "55P03",
  configurationLimitExceeded: "53400", // all replication slots are in use
  tooManyConnections: "53300",
  diskFull: "53100",
  insufficientPrivilege: "42501",
  readOnlyTransaction: "25006",
  queryCanceled: "57014",
  adminShutdown: "57P01",
  crashShutdown: "57P02",
  cannotConnectNow: "57P03",
  databaseDropped: "57P04",
  idleSessionTimeout: "57P05",
  idleInTransactionTimeout: "25P03",
  transactionTimeout: "25P04",
  invalidPassword: "28P01",
  invalidAuthorization: "28000", // no pg_hba.conf entry, or no such role
} as const;

/** After one of these the server closes the connection, whatever the query was. */
const ENDS_THE_SESSION: readonly string[] = [
  SQLSTATE.adminShutdown,
  SQLSTATE.crashShutdown,
  SQLSTATE.databaseDropped,
  SQLSTATE.idleSessionTimeout,
  SQLSTATE.idleInTransactionTimeout,
  SQLSTATE.transactionTimeout,
];

/** Why a session can no longer be used. */
export type LostReason = "connection" | "timeout" | "aborted" | "closed";

/**
 * The connection is gone, or was given up. Whether the statement in flight took effect is unknown.
 * The cause, where there is one, is what the driver or the server said.
 */
export class SessionLostError extends Error {
  override readonly name = "SessionLostError";
  readonly reason: LostReason;

  constructor(message: string, reason: LostReason, options?: ErrorOptions) {
    super(message, options);
    this.reason = reason;
  }
}

/** No session could be had. The cause says why; `sqlStateOf` works on it. */
export class ConnectError extends Error {
  override readonly name = "ConnectError";
}

/** The server asked for a password, and there is none to give. */
export class NoPasswordError extends Error {
  override readonly name = "NoPasswordError";
}

/** The error itself, then its causes, and those gathered in an AggregateError, each once. */
function* chainOf(error: unknown, seen = new Set<unknown>()): Generator<unknown> {
  if (error === undefined || error === null || seen.has(error)) return;
  seen.add(error);
  yield error;
  if (typeof error !== "object") return;
  if ("errors" in error && Array.isArray(error.errors)) {
    for (const one of error.errors) yield* chainOf(one, seen);
  }
  if ("cause" in error) yield* chainOf(error.cause, seen);
}

function ownSqlState(error: unknown): string | undefined {
  // `severity` tells a server's error from one of Node's, whose codes ("EPIPE") can look like a SQLSTATE
  if (typeof error !== "object" || error === null || !("severity" in error) || !("code" in error))
    return undefined;
  return typeof error.code === "string" && /^[0-9A-Z]{5}$/.test(error.code) ? error.code : undefined;
}

/** The SQLSTATE of the error or of the nearest of its causes that has one. */
export function sqlStateOf(error: unknown): string | undefined {
  for (const one of chainOf(error)) {
    const state = ownSqlState(one);
    if (state !== undefined) return state;
  }
  return undefined;
}

/** The codes that the operating system gave, of the error and its causes: `ECONNREFUSED`. */
export function nodeCodesOf(error: unknown): string[] {
  return [...chainOf(error)].flatMap((one) => {
    const code =
      one instanceof Error && ownSqlState(one) === undefined && "code" in one ? one.code : undefined;
    return typeof code === "string" ? [code] : [];
  });
}

export function isPgError(error: unknown, ...sqlStates: readonly string[]): boolean {
  const state = sqlStateOf(error);
  return state !== undefined && sqlStates.includes(state);
}

export function endsTheSession(error: unknown): boolean {
  return isPgError(error, ...ENDS_THE_SESSION);
}

/**
 * Codes with which a server says that it is going down, has crashed, or that it is not the one that answers: a pooler in between says
 * class 08 of a server that it cannot reach.
 */
const NO_SIGN_OF_LIFE = /^(08|57P01$|57P02$)/;

/**
 * True for an answer of a living server that is a no: no pg_hba.conf entry, a wrong password, no connection left, no such database, a
 * missing right, a server that starts or stops, a certificate that either side refuses. Told by SQLSTATE, and for TLS by the code of the
 * alert or of the check that failed.
 */
export function isRefusal(error: unknown): boolean {
  for (const one of chainOf(error)) {
    if (one instanceof NoPasswordError) return true;
    const state = ownSqlState(one);
    if (state !== undefined && !NO_SIGN_OF_LIFE.test(state)) return true;
    if (typeof one !== "object" || one === null || !("code" in one) || typeof one.code !== "string") continue;
    if (/^ERR_SSL_.*ALERT|^ERR_TLS_CERT_|^CERT_/.test(one.code) || UNTRUSTED.has(one.code)) return true;
  }
  return false;
}

/** What Node says of a server's certificate that does not do. */
const UNTRUSTED = new Set([
  "DEPTH_ZERO_SELF_SIGNED_CERT",
  "SELF_SIGNED_CERT_IN_CHAIN",
  "UNABLE_TO_GET_ISSUER_CERT",
  "UNABLE_TO_GET_ISSUER_CERT_LOCALLY",
  "UNABLE_TO_VERIFY_LEAF_SIGNATURE",
]);

function textOf(error: unknown): string {
  if (!(error instanceof Error)) return typeof error === "object" ? "unknown error" : String(error);
  // an AggregateError of refused connections has an empty message; its parts follow in the chain
  const state = ownSqlState(error);
  const code = "code" in error && typeof error.code === "string" ? error.code : undefined;
  let text = error.message;
  if (state !== undefined) text += ` (SQLSTATE ${state})`;
  else if (text === "") text = code ?? "";
  if (state !== undefined && "detail" in error && typeof error.detail === "string")
    text += `: ${error.detail}`;
  return text;
}

/** One line: the error and its causes, outermost first, each said once. */
export function describeError(error: unknown): string {
  const parts: string[] = [];
  for (const one of chainOf(error)) {
    const text = textOf(one).replace(/\s+/g, " ").trim();
    if (text !== "" && !parts.some((said) => said.includes(text))) parts.push(text);
  }
  return parts.length === 0 ? "unknown error" : parts.join(": ");
}
