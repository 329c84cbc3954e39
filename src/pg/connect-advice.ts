/** Which key of the configuration a connection comes from, and what to do when there is none: said before what the server or network said. */
import { ConnectError, describeError, nodeCodesOf, SQLSTATE, sqlStateOf } from "./errors.ts";

/** Where an address and a login were taken from. */
export type ConnectKey = "standby.dsn" | "primary.dsn" | "primary_conninfo" | "primary.patroni_url";

/** How the key is called in a sentence: the one of the standby's own settings is not ours. */
const NAMES: Readonly<Record<ConnectKey, string>> = {
  "standby.dsn": "standby.dsn",
  "primary.dsn": "primary.dsn",
  primary_conninfo: "primary_conninfo of the standby (or set primary.dsn)",
  "primary.patroni_url": "primary.patroni_url, with the login of primary.dsn or primary_conninfo",
};

/** By what the server answered. */
const BY_SQLSTATE: Readonly<Record<string, string>> = {
  [SQLSTATE.invalidPassword]:
    "the password is refused: correct it there, in the password file or in PGPASSWORD",
  [SQLSTATE.invalidAuthorization]:
    "the login is refused: name an existing role there, and let pg_hba.conf admit it from this machine",
  [SQLSTATE.invalidCatalogName]: "the database does not exist: name another dbname there",
  [SQLSTATE.tooManyConnections]:
    "the server has no connection left for this role: raise max_connections or the role's CONNECTION LIMIT",
  [SQLSTATE.cannotConnectNow]: "the server is starting or stopping: this passes",
};

/** By what the operating system answered. */
const BY_CODE: Readonly<Record<string, string>> = {
  ECONNREFUSED: "nothing listens there: start the server, or correct host and port",
  ENOTFOUND: "the host has no address: correct host",
  EAI_AGAIN: "the host's address cannot be looked up now: see the name service, or give hostaddr",
  ENOENT: "there is no such socket: start the server, or correct host and port",
  EACCES: "this account may not use the socket or a file named there: let it, or connect over TCP",
  EHOSTUNREACH: "there is no way to that host: correct host, or see the network",
  ENETUNREACH: "there is no way to that network: correct host, or see the network",
  ETIMEDOUT: "the host does not answer: correct host and port, or see the firewall",
};

/** What to do about it. Total: an error that nobody foresaw gets the key alone. */
export function connectAdvice(error: unknown, key: ConnectKey): string {
  const state = sqlStateOf(error);
  const code = nodeCodesOf(error).find((each) => each in BY_CODE);
  const advice =
    (state && BY_SQLSTATE[state]) ??
    (code && BY_CODE[code]) ??
    (/no answer within/.test(describeError(error))
      ? "the server does not answer in time: correct host and port, see the network, or raise timeouts.connect_ms"
      : null);
  return advice === null ? NAMES[key] : `${NAMES[key]}: ${advice}`;
}

/** Runs `connect`; a ConnectError of its own says first what was to be connected to by which key, and what to do. */
export async function withAdvice<T>(key: ConnectKey, connect: () => Promise<T>): Promise<T> {
  try {
    return await connect();
  } catch (error) {
    if (!(error instanceof ConnectError)) throw error;
    throw new ConnectError(connectAdvice(error, key), { cause: error });
  }
}
