// One connection to one database, made so that nothing about it can surprise the caller:
// - what a role, a database or the server's configuration sets (search_path, timeouts, isolation, formats) is
//   overridden in the startup packet, which ranks above all of them, before any statement of ours is parsed;
// - a server that stops answering costs `queryTimeoutMs`, never more: the socket is destroyed, because on a
//   half-open connection there is nobody to send a cancel to;
// - no 'error' event is ever without a listener, so a lost idle connection cannot end the process.
import net from "node:net";
import pg from "pg";
import { type ConnInfo, describeConnInfo } from "./conninfo.ts";
import {
  ConnectError,
  endsTheSession,
  type LostReason,
  NoPasswordError,
  SessionLostError,
  sqlStateOf,
} from "./errors.ts";
import { passwordFromFile } from "./passfile.ts";
import { type TlsAttempt, tlsAttempts } from "./tls.ts";

export interface SessionOptions {
  readonly applicationName: string;
  /** Instead of the connection string's own; without both it is the user's name, as in libpq. */
  readonly database?: string;
  /** The server ends a statement after this. */
  readonly statementTimeoutMs: number;
  /** The session is given up when an answer takes this long; must exceed `statementTimeoutMs`. */
  readonly queryTimeoutMs: number;
  /** For everything from the first packet to the first usable moment; a shorter connect_timeout of the DSN wins. */
  readonly connectTimeoutMs: number;
  /** Ends the session, whatever it is doing. */
  readonly signal?: AbortSignal;
  /** For instance a password file that was not used because others can read it. */
  readonly onWarning?: (warning: string) => void;
  /** A session for replication, in a database: it takes SQL, and the commands of the replication protocol as scripts. */
  readonly replication?: boolean;
}

type SqlParameter = string | number | bigint | boolean | null | Buffer | readonly string[];

interface CallOptions {
  /** What is being done, for the error message: `advancing slot "a"`. */
  readonly what?: string;
  readonly queryTimeoutMs?: number;
  /** Ends this call and, since the statement cannot be taken back, the session. */
  readonly signal?: AbortSignal;
}

/** Values are text (LSNs, xids, int8 and oids too), except int2, int4 and bool; NULL is null. */
export interface PgSession {
  /** One statement with parameters. Calls that overlap are sent one after another. */
  query<Row extends object>(
    sql: string,
    params?: readonly SqlParameter[],
    call?: CallOptions,
  ): Promise<Row[]>;
  /** Several statements without parameters in one round trip, in one implicit transaction; rows of each in order. */
  script<Row extends object>(sql: string, call?: CallOptions): Promise<Row[][]>;
  close(): Promise<void>;
  readonly usable: boolean;
  /** Called once when the session is lost other than by `close`; at once if it already is. Returns the undo. */
  onLost(callback: (why: SessionLostError) => void): () => void;
  readonly backendPid: number;
  /** True when it leads through a connection pooler: the process that was named at the connect is not the one that answers. */
  readonly pooled: boolean;
  readonly serverVersionNum: number;
  readonly database: string;
  /** `host:port/database as user` */
  readonly target: string;
}

/** Idle time before the first keepalive probe. Node then probes every second and gives up after ten. */
const KEEPALIVE_IDLE_S = 10;
/** Two addresses of one name are tried in turn; Node's 250 ms would skip a far one. */
const NEXT_ADDRESS_AFTER_MS = 1_000;
/** Far more than a greeting, its settings and a chain of certificates take. */
const MOST_LOGIN_BYTES = 4 * 1024 * 1024;
/** How long a polite goodbye may take. */
const CLOSE_WITHIN_MS = 1_000;

const OID_BOOL = 16;
const OID_INT2 = 21;
const OID_INT4 = 23;

const asText = (value: string): string => value;
const RESULT_TYPES = {
  getTypeParser: (oid: number) => {
    if (oid === OID_BOOL) return (value: string) => value === "t";
    if (oid === OID_INT2 || oid === OID_INT4) return Number;
    return asText;
  },
} as unknown as pg.CustomTypesConfig;

function startupOptions(conn: ConnInfo, options: SessionOptions): string {
  const settings: Record<string, string> = {
    search_path: "",
    client_encoding: "UTF8",
    standard_conforming_strings: "on",
    DateStyle: "ISO",
    TimeZone: "UTC",
    bytea_output: "hex",
    statement_timeout: String(options.statementTimeoutMs),
    lock_timeout: String(options.statementTimeoutMs),
    idle_in_transaction_session_timeout: String(options.queryTimeoutMs),
    // serializable, as a configured default, makes every statement on a standby fail
    default_transaction_isolation: "read committed",
  };
  const ours = Object.entries(settings).map(
    ([name, value]) => `-c ${name}=${value.replace(/[\\\s]/g, "\\$&")}`,
  );
  // ours come last: the last one wins
  return [...(conn.options === undefined ? [] : [conn.options]), ...ours].join(" ");
}

/**
 * The first statements of every session. The startup packet has said the same already; a login event trigger (17+)
 * may have changed it since. The others do not exist in every version, hence the detour over pg_settings. With the
 * check of the client (14+), what a killed sidecar has left running ends within a second or so, instead of going on alone.
 */
const FIRST_SCRIPT = `
SELECT pg_catalog.set_config('search_path', '', false);
SELECT pg_catalog.set_config(name, '0', false) FROM pg_catalog.pg_settings
 WHERE name IN ('idle_session_timeout', 'transaction_timeout') AND setting <> '0';
SELECT pg_catalog.set_config(name, '1000', false) FROM pg_catalog.pg_settings
 WHERE name = 'client_connection_check_interval';
SELECT pg_catalog.current_setting('server_version_num')::pg_catalog.int4 AS version,
       pg_catalog.pg_backend_pid() AS pid`;

/** Thrown for an abort or the connect deadline; the caller of `connectOnce` says what was being done. */
class GivenUp extends Error {
  override readonly name = "GivenUp";
}

interface Dialled {
  readonly client: pg.Client;
  readonly socket: net.Socket;
}

class ConnectFailure extends Error {
  readonly reachedServer: boolean;

  constructor(cause: unknown, reachedServer: boolean) {
    super("", { cause });
    this.reachedServer = reachedServer;
  }
}

function dial(conn: ConnInfo, attempt: TlsAttempt, options: SessionOptions, database: string): Dialled {
  const socket = new net.Socket();
  socket.on("error", () => {}); // also between the driver's own listeners
  const connectSocket = socket.connect.bind(socket) as (options: net.SocketConnectOpts) => net.Socket;
  // the driver calls connect(path) or connect(port, host); hostaddr and the address timing need more than that
  socket.connect = ((first: number | string) =>
    typeof first === "string" && conn.hostaddr === undefined
      ? connectSocket({ path: first })
      : connectSocket({
          port: conn.port,
          host: conn.hostaddr ?? conn.host,
          autoSelectFamily: true,
          autoSelectFamilyAttemptTimeout: NEXT_ADDRESS_AFTER_MS,
        })) as typeof socket.connect;

  const client = new pg.Client({
    host: conn.host,
    port: conn.port,
    user: conn.user,
    database,
    // a function, so that the driver never falls back to PGPASSWORD or its own reading of ~/.pgpass
    password: () => {
      if (conn.password !== undefined) return conn.password.reveal();
      const { password, warning } = passwordFromFile(conn, database);
      if (warning !== undefined) options.onWarning?.(warning);
      if (password !== undefined) return password;
      throw new NoPasswordError(
        `the server asks for a password and there is none${warning ? ` (${warning})` : ""}`,
      );
    },
    ssl: attempt.kind === "tls" ? attempt.options : false,
    sslnegotiation: attempt.kind === "tls" && attempt.direct ? "direct" : "postgres",
    application_name: options.applicationName,
    options: startupOptions(conn, options),
    // the driver passes it on, and its types do not know it
    ...((options.replication ? { replication: "database" } : {}) as object),
    stream: () => socket,
    keepAlive: conn.keepalives ?? true,
    keepAliveInitialDelayMillis: (conn.keepalivesIdleS ?? KEEPALIVE_IDLE_S) * 1_000,
    types: RESULT_TYPES,
  });
  client.on("error", () => {});
  return { client, socket };
}

/** Rejects with ConnectFailure; the socket is then destroyed. */
async function connectOnce(dialled: Dialled, stop: AbortSignal): Promise<{ version: number; pid: number }> {
  const { client, socket } = dialled;
  let reachedServer = false;
  socket.once("connect", () => {
    reachedServer = true;
  });
  let onStop = () => {};
  const stopped = new Promise<never>((_, reject) => {
    onStop = () => reject(stop.reason);
    if (stop.aborted) onStop();
    else stop.addEventListener("abort", onStop, { once: true });
  });
  // the driver keeps a message until it is whole, however large it says that it is
  const watch = setInterval(() => {
    if (socket.bytesRead > MOST_LOGIN_BYTES)
      refuse(
        new GivenUp(
          `it sent more than ${MOST_LOGIN_BYTES} bytes before the login was over, which no PostgreSQL server does`,
        ),
      );
  }, 10);
  let refuse: (error: Error) => void = () => {};
  const refused = new Promise<never>((_, reject) => {
    refuse = reject;
  });
  const ready = async () => {
    await client.connect();
    clearInterval(watch);
    const results = (await client.query(FIRST_SCRIPT)) as unknown as pg.QueryResult<{
      version: number;
      pid: number;
    }>[];
    const row = results.at(-1)?.rows[0];
    if (row === undefined) throw new Error("the server did not tell its version");
    return row;
  };
  try {
    const answer = ready();
    answer.catch(() => {}); // after a stop nobody waits for it any more
    return await Promise.race([answer, stopped, refused]);
  } catch (error) {
    socket.destroy();
    throw new ConnectFailure(error, reachedServer);
  } finally {
    clearInterval(watch);
    stop.removeEventListener("abort", onStop);
  }
}

/** Whether libpq would go on to the next kind of connection after this. */
function worthAnotherAttempt(attempt: TlsAttempt, failure: ConnectFailure): boolean {
  if (!failure.reachedServer || failure.cause instanceof GivenUp) return false;
  const state = sqlStateOf(failure.cause);
  if (state !== undefined) return state.startsWith("28"); // pg_hba.conf may treat the two kinds differently
  return attempt.kind === "tls"; // no TLS there, or a handshake that failed
}

/** Rejects with ConnectError, or with SessionLostError ("aborted") when the signal ended it. */
export async function openSession(conn: ConnInfo, options: SessionOptions): Promise<PgSession> {
  const { statementTimeoutMs, queryTimeoutMs, signal } = options;
  if (!(statementTimeoutMs > 0 && queryTimeoutMs > statementTimeoutMs)) {
    throw new RangeError("queryTimeoutMs must exceed statementTimeoutMs, and both must be above 0");
  }
  const database = options.database ?? conn.database ?? conn.user;
  const target = describeConnInfo(conn, database);
  const doing = `connecting to ${target}`;
  const withinMs = Math.min(
    options.connectTimeoutMs,
    (conn.connectTimeoutS ?? Number.POSITIVE_INFINITY) * 1_000,
  );

  const stop = new AbortController();
  const onAbort = () => stop.abort(new GivenUp("aborted", { cause: signal?.reason }));
  if (signal?.aborted) onAbort();
  else signal?.addEventListener("abort", onAbort, { once: true });
  const timer = setTimeout(() => stop.abort(new GivenUp(`no answer within ${withinMs} ms`)), withinMs);

  const causes: unknown[] = [];
  try {
    for (const attempt of tlsAttempts(conn)) {
      const dialled = dial(conn, attempt, options, database);
      try {
        const { version, pid } = await connectOnce(dialled, stop.signal);
        return new Session(dialled, { version, pid, database, target, queryTimeoutMs, signal });
      } catch (error) {
        if (!(error instanceof ConnectFailure)) throw error;
        causes.push(error.cause);
        if (!worthAnotherAttempt(attempt, error)) break;
      }
    }
  } catch (error) {
    causes.push(error);
  } finally {
    clearTimeout(timer);
    signal?.removeEventListener("abort", onAbort);
  }
  if (signal?.aborted) throw new SessionLostError(`${doing}: aborted`, "aborted", { cause: signal.reason });
  const cause = causes.length > 1 ? new AggregateError(causes, "every kind of connection failed") : causes[0];
  throw new ConnectError(doing, { cause });
}

interface SessionFacts {
  readonly version: number;
  readonly pid: number;
  readonly database: string;
  readonly target: string;
  readonly queryTimeoutMs: number;
  readonly signal: AbortSignal | undefined;
}

const LOST_WORDS: Record<LostReason, string> = {
  connection: "the connection was lost",
  timeout: "no answer in time, the connection was given up",
  aborted: "aborted",
  closed: "the session is closed",
};

class Session implements PgSession {
  readonly backendPid: number;
  readonly pooled: boolean;
  readonly serverVersionNum: number;
  readonly database: string;
  readonly target: string;
  readonly #client: pg.Client;
  readonly #socket: net.Socket;
  readonly #queryTimeoutMs: number;
  readonly #signal: AbortSignal | undefined;
  readonly #onAbort: () => void;
  readonly #lostCallbacks = new Set<(why: SessionLostError) => void>();
  #lost: { readonly reason: LostReason; readonly cause: unknown } | undefined;
  #rejectInFlight: (() => void) | undefined;
  /** The driver objects to overlapping queries, and a timeout must not count time spent in a queue. */
  #lastCall: Promise<unknown> = Promise.resolve();

  constructor({ client, socket }: Dialled, facts: SessionFacts) {
    this.#client = client;
    this.#socket = socket;
    this.backendPid = facts.pid;
    // BackendKeyData, which a pooler makes up; the driver's types do not know it
    const { processID } = client as unknown as { processID: number | null };
    this.pooled = processID !== null && processID !== facts.pid;
    this.serverVersionNum = facts.version;
    this.database = facts.database;
    this.target = facts.target;
    this.#queryTimeoutMs = facts.queryTimeoutMs;
    this.#signal = facts.signal;
    this.#onAbort = () => this.#lose("aborted", this.#signal?.reason);
    client.on("error", (error) => this.#lose("connection", error));
    client.on("end", () => this.#lose("connection", undefined));
    facts.signal?.addEventListener("abort", this.#onAbort, { once: true });
    if (socket.destroyed) this.#lose("connection", undefined);
    else if (facts.signal?.aborted) this.#onAbort();
  }

  get usable(): boolean {
    return this.#lost === undefined;
  }

  query<Row extends object>(
    sql: string,
    params: readonly SqlParameter[] = [],
    call: CallOptions = {},
  ): Promise<Row[]> {
    const config = { text: sql, values: [...params], queryMode: "extended" };
    return this.#inTurn(call, async () => (await this.#client.query<Row>(config)).rows);
  }

  script<Row extends object>(sql: string, call: CallOptions = {}): Promise<Row[][]> {
    return this.#inTurn(call, async () => {
      const results = (await this.#client.query<Row>(sql)) as pg.QueryResult<Row> | pg.QueryResult<Row>[];
      return (Array.isArray(results) ? results : [results]).map((result) => result.rows);
    });
  }

  onLost(callback: (why: SessionLostError) => void): () => void {
    if (this.#lost !== undefined) {
      if (this.#lost.reason !== "closed") callback(this.#lostError());
      return () => {};
    }
    this.#lostCallbacks.add(callback);
    return () => this.#lostCallbacks.delete(callback);
  }

  async close(): Promise<void> {
    if (this.#lost !== undefined) return;
    const busy = this.#rejectInFlight !== undefined;
    this.#markLost("closed", undefined);
    if (busy) {
      this.#socket.destroy();
      return;
    }
    const timer = setTimeout(() => this.#socket.destroy(), CLOSE_WITHIN_MS);
    try {
      await this.#client.end();
    } finally {
      clearTimeout(timer);
      this.#socket.destroy();
    }
  }

  #inTurn<T>(call: CallOptions, send: () => Promise<T>): Promise<T> {
    const result = this.#lastCall.then(() => this.#answer(call, send));
    this.#lastCall = result.catch(() => {});
    return result;
  }

  #answer<T>(call: CallOptions, send: () => Promise<T>): Promise<T> {
    const doing = `${call.what ?? "running a statement"} on ${this.target}`;
    if (this.#lost !== undefined) return Promise.reject(this.#lostError(doing));
    const { signal } = call;
    if (signal?.aborted) return Promise.reject(new Error(`${doing}: aborted`, { cause: signal.reason }));
    return new Promise<T>((resolve, reject) => {
      const timer = setTimeout(
        () => this.#lose("timeout", undefined),
        call.queryTimeoutMs ?? this.#queryTimeoutMs,
      );
      const onAbort = () => this.#lose("aborted", signal?.reason);
      signal?.addEventListener("abort", onAbort, { once: true });
      const settle = () => {
        clearTimeout(timer);
        signal?.removeEventListener("abort", onAbort);
        this.#rejectInFlight = undefined;
      };
      this.#rejectInFlight = () => {
        settle();
        reject(this.#lostError(doing));
      };
      send().then(
        (value) => {
          if (this.#lost !== undefined) return; // already rejected
          settle();
          resolve(value);
        },
        (error: unknown) => {
          if (this.#lost !== undefined) return;
          // after these the server hangs up: say so now, not at the next call
          if (endsTheSession(error)) return this.#lose("connection", error);
          settle();
          reject(new Error(doing, { cause: error }));
        },
      );
    });
  }

  #lostError(doing = `the session with ${this.target}`): SessionLostError {
    const { reason, cause } = this.#lost ?? { reason: "connection" as const, cause: undefined };
    return new SessionLostError(
      `${doing}: ${LOST_WORDS[reason]}`,
      reason,
      cause === undefined ? undefined : { cause },
    );
  }

  #markLost(reason: LostReason, cause: unknown): void {
    this.#lost = { reason, cause };
    this.#signal?.removeEventListener("abort", this.#onAbort);
    this.#rejectInFlight?.();
  }

  #lose(reason: LostReason, cause: unknown): void {
    if (this.#lost !== undefined) return;
    this.#markLost(reason, cause);
    this.#socket.destroy();
    const why = this.#lostError();
    for (const callback of this.#lostCallbacks) callback(why);
    this.#lostCallbacks.clear();
  }
}
