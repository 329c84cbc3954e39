import { type ChildProcess, execFile, spawn } from "node:child_process";
import {
  appendFileSync,
  closeSync,
  existsSync,
  mkdirSync,
  openSync,
  readFileSync,
  renameSync,
  writeFileSync,
} from "node:fs";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";
import pg from "pg";
import { giveTo, spawnAs } from "./account.ts";
import type { ServerBinaries } from "./binaries.ts";
import { eventually } from "./poll.ts";
import { releasePort, reservePort } from "./ports.ts";
import { childrenOf, isAlive, killTree, signal } from "./processes.ts";
import { pidFile, type Workspace } from "./workspace.ts";

const run = promisify(execFile);

/** PostgreSQL settings by name; null stands for "not set". */
export type Settings = Record<string, string | number | boolean | null>;

/** What a standby follows. */
export interface Upstream {
  host: string;
  port: number;
  slotName: string;
  applicationName: string;
}

export type StopMode = "smart" | "fast" | "immediate";

export interface StartOptions {
  /** false: return once the process runs, for a server that is not to accept connections yet */
  ready?: boolean;
  timeoutMs?: number;
}

export interface ServerInit {
  workspace: Workspace;
  binaries: ServerBinaries;
  /** its folder in the workspace, and its name in messages */
  name: string;
  settings?: Settings;
}

const STOP_SIGNALS = { smart: "SIGTERM", fast: "SIGINT", immediate: "SIGQUIT" } as const;
const SETTINGS_FILE = "sandbox.conf";

interface Running {
  child: ChildProcess;
  pid: number;
  exited: Promise<void>;
}

/** One PostgreSQL server on loopback: its data folder, and its process while it runs. */
export class PgServer {
  readonly name: string;
  readonly workspace: Workspace;
  readonly binaries: ServerBinaries;
  readonly dir: string;
  readonly dataDir: string;
  readonly logFile: string;
  readonly host = "127.0.0.1";
  port: number;
  settings: Settings;
  upstream: Upstream | undefined;
  #running: Running | undefined;
  #everReady = false;

  private constructor(init: ServerInit, port: number) {
    this.name = init.name;
    this.workspace = init.workspace;
    this.binaries = init.binaries;
    this.dir = path.join(init.workspace.dir, init.name);
    this.dataDir = path.join(this.dir, "data");
    this.logFile = path.join(this.dir, "log");
    this.settings = { ...init.settings };
    this.port = port;
    mkdirSync(this.dir);
    giveTo(this.workspace.account, this.dir);
    this.workspace.servers.add(this);
  }

  /** A server with a folder and a port, but without data yet: see initialize(), or fill its data folder. */
  static async create(init: ServerInit): Promise<PgServer> {
    return new PgServer(init, await reservePort());
  }

  get major(): number {
    return this.binaries.major;
  }

  /** The process id of the postmaster while it runs. */
  get pid(): number | undefined {
    return this.#running?.pid;
  }

  /** Runs initdb: superuser `postgres`, no passwords (it listens on loopback only), UTF-8, the C locale. */
  async initialize(): Promise<void> {
    const options = ["-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale", "-N"];
    await run(path.join(this.binaries.binDir, "initdb"), [...options, "-D", this.dataDir], {
      cwd: this.dir,
      ...spawnAs(this.workspace.account),
    });
    appendFileSync(path.join(this.dataDir, "postgresql.conf"), `include = '${SETTINGS_FILE}'\n`);
  }

  /** Changes settings (null unsets one) and has a running server read them. Some need a restart: see restart(). */
  configure(changes: Settings): void {
    this.settings = { ...this.settings, ...changes };
    this.#writeSettings();
    this.reload();
  }

  /** Has the server read its settings again; they take effect a moment later. */
  reload(): void {
    if (this.#running) signal(this.#running.pid, "SIGHUP");
  }

  /** Makes this (stopped) server a standby of another from its next start on. */
  follow(upstream: Upstream): void {
    this.upstream = upstream;
    if (this.major >= 12) this.#writeFile("standby.signal", "");
    this.#writeSettings();
  }

  /**
   * Starts the server; resolves when it accepts connections (a standby: read-only ones). Rejects with the end of
   * the log as soon as the server gives up.
   */
  async start({ ready = true, timeoutMs = 30_000 }: StartOptions = {}): Promise<void> {
    if (this.#running) throw new Error(`${this.#title} runs already`);
    for (let attempt = 1; ; attempt++) {
      const logStart = this.logText().length;
      const running = this.#launch();
      if (!ready) return;
      if (await this.#awaitReady(running, timeoutMs)) {
        this.#everReady = true;
        return;
      }
      const log = this.logText().slice(logStart);
      // nobody knows the port of a server that never ran: take another
      if (!this.#everReady && attempt < 5 && log.includes("Address already in use")) {
        releasePort(this.port);
        this.port = await reservePort();
        continue;
      }
      throw new Error(`${this.#title} did not start; the end of its log:\n${tail(log)}`);
    }
  }

  /** Stops the server in one of PostgreSQL's ways, and resolves when it has ended. */
  async stop(mode: StopMode = "fast", { timeoutMs = 60_000 }: { timeoutMs?: number } = {}): Promise<void> {
    const running = this.#running;
    if (!running) return;
    running.child.ref();
    signal(running.pid, STOP_SIGNALS[mode]);
    const stopped = await Promise.race([
      running.exited.then(() => true),
      sleep(timeoutMs, false, { ref: false }),
    ]);
    if (!stopped) {
      throw new Error(
        `${this.#title} did not stop (${mode}) in ${timeoutMs} ms; the end of its log:\n${tail(this.logText())}`,
      );
    }
  }

  /** kill -9 of the postmaster and all of its children at once, as when the machine dies; resolves when all are gone. */
  async kill(): Promise<void> {
    const running = this.#running;
    if (!running) return;
    running.child.ref();
    const victims = killTree(running.pid);
    await running.exited;
    await eventually(() => victims.every((pid) => !isAlive(pid)), {
      what: `${this.#title} to be gone`,
      intervalMs: 5,
    });
  }

  /** Freezes all of the server's processes: connections stay open and nothing answers. */
  pause(): void {
    this.#signalAll("SIGSTOP");
  }

  /** Lets a paused server go on. */
  resume(): void {
    this.#signalAll("SIGCONT");
  }

  /** Asks a standby to become a primary, and returns at once: see waitPromoted(). */
  promote(): void {
    if (!this.#running) throw new Error(`${this.#title} does not run: it cannot be promoted`);
    this.#writeFile("promote", "");
    signal(this.#running.pid, "SIGUSR1");
  }

  /** Resolves when the server is out of recovery and accepts writes. */
  async waitPromoted({ timeoutMs = 30_000 }: { timeoutMs?: number } = {}): Promise<void> {
    await eventually(async () => !(await this.#inRecovery()), {
      what: `${this.#title} to be promoted`,
      timeoutMs,
    });
    this.upstream = undefined;
  }

  /** Stops and starts the server. */
  async restart(mode: StopMode = "fast"): Promise<void> {
    await this.stop(mode);
    await this.start();
  }

  /** A connection string. */
  dsn(database = "postgres", user = "postgres"): string {
    return `postgresql://${encodeURIComponent(user)}@${this.host}:${this.port}/${encodeURIComponent(database)}`;
  }

  /** A connected client; the caller ends it. Its connection may break at any time without bringing down the process. */
  async connect(database = "postgres", user = "postgres", more: pg.ClientConfig = {}): Promise<pg.Client> {
    const connectionString = this.dsn(database, user);
    const client = new pg.Client({ connectionString, connectionTimeoutMillis: 10_000, ...more });
    // without a listener, a server that is killed while the client is idle would end this process
    client.on("error", () => {});
    await client.connect();
    return client;
  }

  /** Runs one statement on a connection of its own and returns its rows. */
  async query<Row extends object = pg.QueryResultRow>(
    sql: string,
    params: unknown[] = [],
    database = "postgres",
  ): Promise<Row[]> {
    const client = await this.connect(database);
    try {
      return (await client.query<Row & pg.QueryResultRow>(sql, params)).rows;
    } finally {
      await client.end();
    }
  }

  /** All that the server has logged. */
  logText(): string {
    return existsSync(this.logFile) ? readFileSync(this.logFile, "utf8") : "";
  }

  /** Kills the server and gives its port back; its files go with the workspace. */
  async dispose(): Promise<void> {
    await this.kill();
    this.disposeNow();
  }

  /** The same without waiting, for a process that is ending. */
  disposeNow(): void {
    if (this.#running) killTree(this.#running.pid);
    releasePort(this.port);
    this.workspace.servers.delete(this);
  }

  get #title(): string {
    return `PostgreSQL ${this.major} "${this.name}"`;
  }

  async #inRecovery(): Promise<boolean> {
    const [row] = await this.query<{ recovery: boolean }>(
      "select pg_catalog.pg_is_in_recovery() as recovery",
    );
    return row?.recovery ?? true;
  }

  #launch(): Running {
    this.#writeSettings();
    const log = openSync(this.logFile, "a");
    const child = spawn(path.join(this.binaries.binDir, "postgres"), ["-D", this.dataDir], {
      cwd: this.dir,
      stdio: ["ignore", log, log],
      // in a session of its own: Ctrl-C in the terminal is for us, who then stop the servers
      detached: true,
      ...spawnAs(this.workspace.account),
    });
    closeSync(log);
    // a forgotten server must not keep this process from ending (which kills it); who waits for its end refs it
    child.unref();
    const { pid } = child;
    const exited = new Promise<void>((resolve, reject) => {
      child.once("error", reject);
      child.once("exit", (code, signalName) => {
        if (this.#running?.child === child) this.#running = undefined;
        this.#note(`the process ended: ${signalName ?? `exit code ${code}`}`);
        resolve();
      });
    });
    exited.catch(() => {});
    if (pid === undefined) throw new Error(`${this.#title} could not be run`);
    this.#running = { child, pid, exited };
    return this.#running;
  }

  async #awaitReady(running: Running, timeoutMs: number): Promise<boolean> {
    const deadline = performance.now() + timeoutMs;
    while (this.#running === running) {
      const lines = pidFile(this.dataDir);
      // the file of an earlier run lies there until the new postmaster replaces it
      if (Number(lines[0]) === running.pid && lines[7]?.trim() === "ready") return true;
      if (performance.now() > deadline) {
        await this.kill();
        this.#note(`killed: it did not accept connections within ${timeoutMs} ms`);
      }
      await sleep(5);
    }
    return false;
  }

  #signalAll(name: NodeJS.Signals): void {
    if (!this.#running) throw new Error(`${this.#title} does not run`);
    const { pid } = this.#running;
    // the parent first, so that it neither forks nor, resumed, sees its children still frozen
    for (const each of [pid, ...childrenOf(pid)]) signal(each, name);
  }

  #writeSettings(): void {
    const all: Settings = { port: this.port, ...this.settings };
    if (this.upstream) Object.assign(all, standbySettings(this.upstream, this.major));
    if (this.major >= 12) this.#writeFile(SETTINGS_FILE, settingsText(all));
    else this.#writeSettings11(all);
  }

  /** Before 12 what makes a standby lived in a file of its own, and its settings were unknown outside of it. */
  #writeSettings11(all: Settings): void {
    const recovery = new Set(["primary_conninfo", "primary_slot_name", "recovery_target_timeline"]);
    const entries = Object.entries(all);
    this.#writeFile(
      SETTINGS_FILE,
      settingsText(Object.fromEntries(entries.filter(([key]) => !recovery.has(key)))),
    );
    if (!this.upstream) return;
    const standby = Object.fromEntries(entries.filter(([key]) => recovery.has(key)));
    this.#writeFile("recovery.conf", settingsText({ standby_mode: "on", ...standby }));
  }

  #writeFile(name: string, text: string): void {
    const file = path.join(this.dataDir, name);
    // a running server may act on it, or take it away, as soon as it is there
    writeFileSync(`${file}.new`, text);
    giveTo(this.workspace.account, `${file}.new`);
    renameSync(`${file}.new`, file);
  }

  #note(text: string): void {
    // the workspace may be gone already
    if (existsSync(this.dir)) appendFileSync(this.logFile, `[sandbox] ${text}\n`);
  }
}

function standbySettings(upstream: Upstream, major: number): Settings {
  const { host, port, slotName, applicationName } = upstream;
  return {
    primary_conninfo: `host=${host} port=${port} user=postgres dbname=postgres application_name=${applicationName}`,
    primary_slot_name: slotName,
    // the default since 12
    ...(major < 12 ? { recovery_target_timeline: "latest" } : {}),
  };
}

function settingsText(settings: Settings): string {
  const quote = (value: string) => `'${value.replaceAll("'", "''").replaceAll("\\", "\\\\")}'`;
  return Object.entries(settings)
    .filter(([, value]) => value !== null)
    .map(([name, value]) => `${name} = ${quote(String(value))}\n`)
    .join("");
}

function tail(text: string, lines = 25): string {
  return text.trimEnd().split("\n").slice(-lines).join("\n");
}
