/** The sidecar's connections: one to the primary (I12), a control connection to the standby, and sessions per database there. */
import type { ConnInfo } from "../pg/conninfo.ts";
import { parseConnInfo } from "../pg/conninfo.ts";
import type { PgSession } from "../pg/session.ts";
import { openSession } from "../pg/session.ts";
import { STANDBY_LOCK_HOLDER, TERMINATE_BACKEND, TRY_STANDBY_LOCK } from "../pg/sql.ts";

export interface Timeouts {
  connectMs: number;
  statementMs: number;
  answerMs: number;
}

export interface LinkOptions {
  /** `pg-slotsync run 4711@host`: how another sidecar's operator finds this one. */
  applicationName: string;
  timeouts: Timeouts;
  signal: AbortSignal;
  onWarning: (warning: string) => void;
}

/** For statements that wait for other people's transactions or decode much. */
const PATIENT_MS = 300_000;
/** For a lane, whose advances decode up to a few GB. */
const LANE_MS = 60_000;

function nameOf(options: LinkOptions, purpose: string): string {
  return `${options.applicationName} ${purpose}`.slice(0, 63);
}

function open(
  conn: ConnInfo,
  options: LinkOptions,
  purpose: string,
  database?: string,
  atLeastMs = 0,
  replication = false,
) {
  const { timeouts } = options;
  return openSession(conn, {
    applicationName: nameOf(options, purpose),
    replication,
    ...(database === undefined ? {} : { database }),
    statementTimeoutMs: Math.max(atLeastMs, timeouts.statementMs),
    queryTimeoutMs: atLeastMs === 0 ? timeouts.answerMs : Math.max(atLeastMs + 5_000, timeouts.answerMs),
    connectTimeoutMs: timeouts.connectMs,
    signal: options.signal,
    onWarning: options.onWarning,
  });
}

/** Another sidecar works on this standby. */
export class StandbyLockedError extends Error {
  override readonly name = "StandbyLockedError";
}

interface Holder {
  pid: number;
  application_name: string;
  client_addr: string | null;
  backend_start: string;
}

export class StandbyLink {
  readonly #conn: ConnInfo;
  readonly #options: LinkOptions;
  readonly #exclusive: boolean;
  #control: PgSession | null = null;

  /** `exclusive`: the control session takes the advisory lock that keeps a second sidecar off this standby. */
  constructor(conn: ConnInfo, options: LinkOptions, exclusive: boolean) {
    this.#conn = conn;
    this.#options = options;
    this.#exclusive = exclusive;
  }

  /** The control session, opened again when it was lost. Throws ConnectError or StandbyLockedError. */
  async control(): Promise<PgSession> {
    if (this.#control?.usable) return this.#control;
    const session = await open(this.#conn, this.#options, "control");
    try {
      if (this.#exclusive) await takeStandbyLock(session, nameOf(this.#options, "control"));
    } catch (error) {
      await session.close();
      throw error;
    }
    this.#control = session;
    return session;
  }

  /** A session in one database. */
  open(database: string, purpose: string, patient: boolean): Promise<PgSession> {
    return open(this.#conn, this.#options, purpose, database, patient ? PATIENT_MS : LANE_MS);
  }

  /** A session for the replication protocol. */
  openReplication(purpose: string): Promise<PgSession> {
    return open(this.#conn, this.#options, purpose, undefined, 0, true);
  }

  get conn(): ConnInfo {
    return this.#conn;
  }

  async close(): Promise<void> {
    await this.#control?.close();
    this.#control = null;
  }
}

async function takeStandbyLock(session: PgSession, ownName: string): Promise<void> {
  if (await tryStandbyLock(session)) return;
  const [holder] = await session.query<Holder>(STANDBY_LOCK_HOLDER);
  if (holder?.application_name === ownName) {
    // our own former session, which the server has not yet noticed to be gone
    await session.query(TERMINATE_BACKEND, [holder.pid]);
    if (await tryStandbyLock(session)) return;
  }
  const who = holder
    ? `"${holder.application_name}" from ${holder.client_addr ?? "this machine"}, server process ${holder.pid}, since ${holder.backend_start}`
    : "one that has just gone";
  throw new StandbyLockedError(`another sidecar works on this standby: ${who}. Stop one of the two`);
}

async function tryStandbyLock(session: PgSession): Promise<boolean> {
  const [row] = await session.query<{ locked: boolean }>(TRY_STANDBY_LOCK);
  return row?.locked ?? false;
}

export class PrimaryLink {
  readonly #fixed: ConnInfo | null;
  readonly #fallbackDatabase: string;
  readonly #options: LinkOptions;
  #session: PgSession | null = null;
  #conninfo: string | null = null;
  #abandon = new AbortController();

  /** `fixed` is `primary.dsn`; without it the standby's own primary_conninfo is followed. */
  constructor(fixed: ConnInfo | null, fallbackDatabase: string, options: LinkOptions) {
    this.#fixed = fixed;
    this.#fallbackDatabase = fallbackDatabase;
    this.#options = options;
  }

  /** The session with the primary that `primaryConninfo` names now. Throws ConnectError, or an Error that says what to set. */
  async session(primaryConninfo: string | null): Promise<PgSession> {
    if (this.#session?.usable && (this.#fixed || this.#conninfo === primaryConninfo)) return this.#session;
    await this.#session?.close();
    const conn = this.#fixed ?? this.#parse(primaryConninfo);
    const signal = AbortSignal.any([this.#options.signal, this.#abandon.signal]);
    const options = { ...this.#options, signal };
    this.#session = await open(conn, options, "poll", conn.database ?? this.#fallbackDatabase);
    this.#conninfo = primaryConninfo;
    return this.#session;
  }

  /** Another session with that primary, beside the poll's; it is lost with it in {@link abandon}. */
  async open(
    primaryConninfo: string | null,
    purpose: string,
    database: string | null,
    patient: boolean,
  ): Promise<PgSession> {
    const conn = this.#fixed ?? this.#parse(primaryConninfo);
    const signal = AbortSignal.any([this.#options.signal, this.#abandon.signal]);
    const chosen = database ?? conn.database ?? this.#fallbackDatabase;
    return open(conn, { ...this.#options, signal }, purpose, chosen, patient ? PATIENT_MS : LANE_MS);
  }

  /** The same for the replication protocol. */
  async openReplication(primaryConninfo: string | null, purpose: string): Promise<PgSession> {
    const conn = this.#fixed ?? this.#parse(primaryConninfo);
    const signal = AbortSignal.any([this.#options.signal, this.#abandon.signal]);
    const database = conn.database ?? this.#fallbackDatabase;
    return open(conn, { ...this.#options, signal }, purpose, database, 0, true);
  }

  #parse(primaryConninfo: string | null): ConnInfo {
    if (primaryConninfo === null)
      throw new Error(
        "the role in standby.dsn may not see primary_conninfo: GRANT pg_monitor TO it on the primary (before 12: correct standby.data_directory, where recovery.conf holds it), or set primary.dsn",
      );
    if (primaryConninfo === "")
      throw new Error("primary_conninfo is empty on the standby: set it there, or set primary.dsn");
    return parseConnInfo(primaryConninfo, process.env);
  }

  /** The session as it is, for a nudge beside the cycle; null while there is none. */
  get current(): PgSession | null {
    return this.#session?.usable ? this.#session : null;
  }

  /** Gives up the session, and a connecting or a question in flight with it: what waits for them fails at once. */
  abandon(): void {
    this.#abandon.abort();
    this.#abandon = new AbortController();
    this.#session = null;
  }

  async close(): Promise<void> {
    await this.#session?.close();
    this.#session = null;
  }
}
