/** The sidecar's connections: one to the primary (I12), a control connection to the standby, and sessions per database there. */
import type { Problem } from "../domain/prerequisites.ts";
import { type Member, patroniMembers } from "../observe/patroni.ts";
import { type ConnectKey, withAdvice } from "../pg/connect-advice.ts";
import { type ConnInfo, type ConnTargets, parseConnTargets } from "../pg/conninfo.ts";
import { SessionLostError } from "../pg/errors.ts";
import { openFirst } from "../pg/hosts.ts";
import type { PgSession } from "../pg/session.ts";
import { openSession } from "../pg/session.ts";
import { STANDBY_LOCK_HOLDER, TERMINATE_BACKEND, TRY_STANDBY_LOCK } from "../pg/sql.ts";
import { findOtherPrimaries } from "./other-hosts.ts";
import { UpstreamLink } from "./upstream.ts";

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
    const session = await withAdvice("standby.dsn", () => open(this.#conn, this.#options, "control"));
    try {
      if (this.#exclusive) await takeStandbyLock(session, nameOf(this.#options, "control"));
    } catch (error) {
      await session.close();
      throw error;
    }
    this.#control = session;
    return session;
  }

  /** The control session as it is; null while there is none. */
  get current(): PgSession | null {
    return this.#control?.usable ? this.#control : null;
  }

  /** A session in one database. */
  open(database: string, purpose: string, patient: boolean): Promise<PgSession> {
    return withAdvice("standby.dsn", () =>
      open(this.#conn, this.#options, purpose, database, patient ? PATIENT_MS : LANE_MS),
    );
  }

  /** A session for the replication protocol. */
  openReplication(purpose: string): Promise<PgSession> {
    return withAdvice("standby.dsn", () => open(this.#conn, this.#options, purpose, undefined, 0, true));
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
  let locked = await tryStandbyLock(session);
  const holders = await session.query<Holder>(STANDBY_LOCK_HOLDER);
  // our own former sessions, which the server has not yet noticed to be gone
  for (const { pid, application_name } of holders)
    if (application_name === ownName) await session.query(TERMINATE_BACKEND, [pid]);
  // the lock is one of this database: a sidecar whose standby.dsn names another one holds its own
  const holder = holders.find(({ application_name }) => application_name !== ownName);
  if (!locked && holder === undefined) locked = await tryStandbyLock(session);
  if (locked && holder === undefined) return;
  const who = holder
    ? `"${holder.application_name}" from ${holder.client_addr ?? "this machine"}, server process ${holder.pid}, since ${holder.backend_start}`
    : "one that has just gone";
  throw new StandbyLockedError(`another sidecar works on this standby: ${who}. Stop one of the two`);
}

async function tryStandbyLock(session: PgSession): Promise<boolean> {
  const [row] = await session.query<{ locked: boolean }>(TRY_STANDBY_LOCK);
  return row?.locked ?? false;
}

/** How the primary is found. */
export interface PrimaryWay {
  /** `primary.dsn`; without it the standby's own primary_conninfo is followed. */
  dsn: ConnTargets | null;
  /** `primary.patroni_url`: which of the members it is; all but the address is taken from the dsn. */
  patroniUrl: string | null;
  /** How often it is looked whether Patroni has another leader, or another host answers as primary too; 15 s unless told. */
  lookAboutEveryMs?: number;
}

const LOOK_ABOUT_EVERY_MS = 15_000;
/** While two answer as primary. */
const LOOK_AGAIN_EVERY_MS = 2_000;
/** What a host that does not answer may cost when it is not the one that is wanted. */
const OTHERS_ANSWER_WITHIN_MS = 3_000;

/** Where the primary may be: the hosts to try in order, and those beside them at which no second one should answer. */
interface Whereabouts extends ConnTargets {
  beside: readonly ConnInfo[];
}

interface OpenOptions {
  atLeastMs?: number;
  connectMs?: number;
  replication?: boolean;
}

export class PrimaryLink {
  /** The standby between, of a cascade. */
  readonly upstream = new UpstreamLink(this);
  readonly #way: PrimaryWay;
  readonly #fallbackDatabase: string;
  readonly #options: LinkOptions;
  #session: PgSession | null = null;
  /** Where the session leads. */
  #conn: ConnInfo | null = null;
  #conninfo: string | null = null;
  /** What primary_conninfo said last: an HA manager clears it while there is no leader, and who was the primary may still live. */
  #lastNamed: string | null = null;
  /** The other hosts at which the primary may be, … */
  #members: readonly ConnInfo[] = [];
  /** … and where the standby streams from, when that is yet another. */
  #watched: ConnInfo | null = null;
  #problems: readonly Problem[] = [];
  #lookedAbout = 0;
  #looking = false;
  /** Patroni has another leader by now. */
  #outdated = false;
  #news = false;
  #abandon = new AbortController();

  constructor(way: PrimaryWay, fallbackDatabase: string, options: LinkOptions) {
    this.#way = way;
    this.#fallbackDatabase = fallbackDatabase;
    this.#options = options;
  }

  /**
   * The session with the primary that primary.dsn, Patroni, or else `primaryConninfo` names now. Throws ConnectError, or an Error that says
   * what to set.
   */
  async session(primaryConninfo: string | null): Promise<PgSession> {
    const known = this.#way.dsn || this.#conninfo === primaryConninfo;
    if (this.#session?.usable && known && !this.#outdated) return this.#session;
    await Promise.all([this.#session?.close(), this.upstream.close()]);
    this.#outdated = false;
    this.#session = null;
    this.#problems = [];
    const { signal } = this.#abandon;
    const where = await this.#whereabouts(primaryConninfo);
    const { session, conn } = await withAdvice(this.key, () =>
      openFirst(where, (each) => this.#open(each, "poll", null)),
    );
    this.#members = [...where.hosts, ...where.beside].filter((each) => each !== conn);
    this.#watched = null;
    try {
      // before anything it says is believed
      this.#problems = await this.#findOthers(session);
      if (signal.aborted) throw new SessionLostError(`connecting to ${session.target}: aborted`, "aborted");
    } catch (error) {
      await session.close();
      throw error;
    }
    this.#lookedAbout = performance.now();
    this.#conn = conn;
    this.#conninfo = primaryConninfo;
    if (primaryConninfo) this.#lastNamed = primaryConninfo;
    this.#session = session;
    return session;
  }

  /** Whether that is the address that the session leads to. */
  leadsTo({ host, port }: { host: string; port: number }): boolean {
    return (
      this.#conn !== null && [this.#conn.host, this.#conn.hostaddr].includes(host) && this.#conn.port === port
    );
  }

  /** The key of the configuration, or of the standby's, that says where the primary is. */
  get key(): ConnectKey {
    if (this.#way.patroniUrl !== null) return "primary.patroni_url";
    return this.#way.dsn === null ? "primary_conninfo" : "primary.dsn";
  }

  /** True when the standby's own primary_conninfo is followed: then the primary is whatever it streams from. */
  get followsStandby(): boolean {
    return this.#way.dsn === null && this.#way.patroniUrl === null;
  }

  /** A session with another server of the cluster, by the primary's login. */
  openAt(place: { host: string; port: number }, purpose: string): Promise<PgSession> {
    return this.#open(this.#connAt(place), purpose, null);
  }

  /** From now on no second primary may answer there either; looks at once. Throws what the session throws. */
  async watch(place: { host: string; port: number }): Promise<void> {
    const session = this.current;
    if (!session) return;
    this.#watched = this.#connAt(place);
    this.#problems = await this.#findOthers(session);
  }

  #connAt({ host, port }: { host: string; port: number }): ConnInfo {
    if (this.#conn === null) throw new Error("there is no primary yet");
    const { hostaddr: _, ...rest } = this.#conn;
    return { ...rest, host, port };
  }

  /** What stands against believing this primary: another one that answers (split brain). */
  get problems(): readonly Problem[] {
    return this.#problems;
  }

  /**
   * Looks about for another primary, and for another leader, when it is time; does not wait for the answer. True once there is
   * something new.
   */
  lookAbout(): boolean {
    const session = this.current;
    const { lookAboutEveryMs = LOOK_ABOUT_EVERY_MS } = this.#way;
    const every = this.#problems.length > 0 ? LOOK_AGAIN_EVERY_MS : lookAboutEveryMs;
    const due = performance.now() - this.#lookedAbout >= every;
    if (session && due && !this.#looking) {
      this.#looking = true;
      this.#lookFrom(session)
        // what is wrong with this primary is for the cycle to find
        .catch(() => {})
        .finally(() => {
          this.#looking = false;
          this.#lookedAbout = performance.now();
        });
    }
    const news = this.#news;
    this.#news = false;
    return news;
  }

  async #lookFrom(session: PgSession): Promise<void> {
    if (this.#way.patroniUrl !== null) {
      // where it names none now, or does not answer, the members that it named last are asked all the same
      const where = await this.#whereabouts(this.#conninfo).catch(() => null);
      if (session !== this.#session) return;
      const leader = where?.hosts[0];
      if (leader && (leader.host !== this.#conn?.host || leader.port !== this.#conn.port)) {
        this.#outdated = true;
        this.#news = true;
        return;
      }
      if (where) this.#members = where.beside;
    }
    const problems = await this.#findOthers(session);
    if (session !== this.#session) return;
    this.#news ||= JSON.stringify(problems) !== JSON.stringify(this.#problems);
    this.#problems = problems;
  }

  #findOthers(session: PgSession): Promise<Problem[]> {
    const { timeouts } = this.#options;
    const others = this.#watched === null ? this.#members : [...this.#members, this.#watched];
    const brief = Math.min(timeouts.connectMs, OTHERS_ANSWER_WITHIN_MS);
    return findOtherPrimaries(session, others, (conn) =>
      this.#open(conn, "others", null, { connectMs: brief }),
    );
  }

  /** Another session with that primary, beside the poll's; it is lost with it in {@link abandon}. */
  async open(
    primaryConninfo: string | null,
    purpose: string,
    database: string | null,
    patient: boolean,
  ): Promise<PgSession> {
    return this.#beside(primaryConninfo, purpose, database, { atLeastMs: patient ? PATIENT_MS : LANE_MS });
  }

  /** The same for the replication protocol. */
  openReplication(primaryConninfo: string | null, purpose: string): Promise<PgSession> {
    return this.#beside(primaryConninfo, purpose, null, { replication: true });
  }

  /** With the very server that the poll's session is with, while there is one. */
  async #beside(
    primaryConninfo: string | null,
    purpose: string,
    database: string | null,
    more: OpenOptions,
  ): Promise<PgSession> {
    const known = this.#session?.usable && (this.#way.dsn || this.#conninfo === primaryConninfo);
    if (known && this.#conn) return this.#open(this.#conn, purpose, database, more);
    const where = await this.#whereabouts(primaryConninfo);
    const opened = await withAdvice(this.key, () =>
      openFirst(where, (conn) => this.#open(conn, purpose, database, more)),
    );
    return opened.session;
  }

  #open(
    conn: ConnInfo,
    purpose: string,
    database: string | null,
    { atLeastMs = 0, connectMs = this.#options.timeouts.connectMs, replication = false }: OpenOptions = {},
  ): Promise<PgSession> {
    const signal = AbortSignal.any([this.#options.signal, this.#abandon.signal]);
    const options = { ...this.#options, signal, timeouts: { ...this.#options.timeouts, connectMs } };
    const chosen = database ?? conn.database ?? this.#fallbackDatabase;
    return open(conn, options, purpose, chosen, atLeastMs, replication);
  }

  async #whereabouts(primaryConninfo: string | null): Promise<Whereabouts> {
    const { patroniUrl } = this.#way;
    const named =
      this.#way.dsn ?? this.#parse(primaryConninfo === "" ? (this.#lastNamed ?? "") : primaryConninfo);
    if (patroniUrl === null) return { ...named, beside: [] };
    const signal = AbortSignal.any([
      this.#options.signal,
      this.#abandon.signal,
      AbortSignal.timeout(this.#options.timeouts.connectMs),
    ]);
    const members = await patroniMembers(patroniUrl, signal);
    const { hostaddr: _, ...rest } = named.hosts[0];
    const leader = members.find((member) => member.leader);
    if (!leader)
      throw new Error(
        `Patroni at ${patroniUrl} names no leader among its ${members.length} members: the cluster has none at the moment`,
      );
    const at = ({ host, port }: Member): ConnInfo => ({ ...rest, host, port });
    return {
      hosts: [at(leader)],
      attrs: named.attrs,
      beside: members.filter((member) => member !== leader).map(at),
    };
  }

  #parse(primaryConninfo: string | null): ConnTargets {
    if (primaryConninfo === null)
      throw new Error(
        "the role in standby.dsn may not see primary_conninfo: GRANT pg_monitor TO it on the primary (before 12: correct standby.data_directory, where recovery.conf holds it), or set primary.dsn",
      );
    if (primaryConninfo === "")
      throw new Error(
        "primary_conninfo is empty on the standby, as HA managers leave it while there is no leader: set it there, or set primary.dsn",
      );
    // what a walreceiver is content with (pg_basebackup -R writes "any") is not what is looked for here
    return { ...parseConnTargets(primaryConninfo, process.env), attrs: null };
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
    await Promise.all([this.#session?.close(), this.upstream.close()]);
    this.#session = null;
  }
}

/** The keys whose connections lead through a connection pooler, as far as there are sessions. */
export function pooledKeys(standby: StandbyLink, primary: PrimaryLink): string[] {
  return [
    ...(standby.current?.pooled ? ["standby.dsn"] : []),
    ...(primary.current?.pooled ? [primary.key] : []),
  ];
}
