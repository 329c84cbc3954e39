/**
 * Carries out plans: a lane per database, guards in creation beside them. A cycle waits for its lanes only for a moment; a lane that
 * is still busy then (a long decode, a blocked advance) goes on by itself, and the other databases with the next cycle (I9).
 */
import { type Action, isFileAction } from "../domain/action.ts";
import type { Lsn } from "../domain/lsn.ts";
import type { PgSession } from "../pg/session.ts";
import { CANCEL_BACKEND } from "../pg/sql.ts";
import { type Outcome, WrongRoleError } from "./errors.ts";
import { type FilesContext, runFiles } from "./files.ts";
import { createGuard } from "./guard.ts";
import { HoldKeeper } from "./hold.ts";
import { type LaneContext, runLane } from "./lane.ts";
import { syncServerSlots } from "./server-sync.ts";

export interface ApplierOptions {
  instanceId: string;
  /** Opens a session on the standby; `patient` ones may run a statement for minutes. */
  open: (database: string, purpose: string, patient: boolean) => Promise<PgSession>;
  /** Asks the primary for a running-xacts record. */
  nudgePrimary: () => Promise<void>;
  /** For what is done to slot files; null where there is no data directory. */
  files: FilesContext | null;
  noteAdopted: LaneContext["noteAdopted"];
  /** Called for every action once, in whatever cycle it ends. */
  onOutcome: (outcome: Outcome) => void;
}

/** How long a cycle waits for its lanes. */
const PATIENCE_MS = 1_000;
/** How long statements in flight may take to end once they are cancelled. */
const HALT_WITHIN_MS = 2_000;

export class Applier {
  readonly #options: ApplierOptions;
  readonly #sessions = new Map<string, PgSession>();
  #serverSession: PgSession | null = null;
  readonly #running = new Set<PgSession>();
  readonly #lanes = new Map<number, Promise<void>>();
  readonly #guards = new Map<number, Promise<void>>();
  readonly #holds: HoldKeeper;
  #files: Promise<void> | null = null;
  #serverSync: Promise<void> | null = null;
  #stop = new AbortController();

  constructor(options: ApplierOptions) {
    this.#options = options;
    this.#holds = new HoldKeeper((database) => options.open(database, "hold", false));
  }

  /** Databases whose lane has not come to its end. */
  get busyDatabases(): ReadonlySet<number> {
    return new Set(this.#lanes.keys());
  }

  /** Databases whose guard is being created. */
  get creatingGuards(): ReadonlySet<number> {
    return new Set(this.#guards.keys());
  }

  /** Whether something is being done to slot files. */
  get filesBusy(): boolean {
    return this.#files !== null;
  }

  /** Starts the actions, unless halted; resolves when all lanes are through, or after a moment. */
  async apply(actions: readonly Action[]): Promise<void> {
    if (this.#stop.signal.aborted) return;
    const byDatabase = new Map<number, Action[]>();
    this.#startFiles(actions);
    for (const action of actions) {
      if (isFileAction(action)) continue;
      if (action.kind === "create_guard") this.#startGuard(action);
      else if (action.kind === "sync_slots") this.#startServerSync(action);
      else byDatabase.set(action.databaseOid, [...(byDatabase.get(action.databaseOid) ?? []), action]);
    }
    for (const [oid, list] of byDatabase) this.#startLane(oid, list);
    const lanes = [...this.#lanes.values(), ...this.#besideLanes()];
    if (lanes.length > 0) await within(PATIENCE_MS, Promise.all(lanes));
  }

  #besideLanes(): Promise<void>[] {
    return [this.#files, this.#serverSync].filter((running) => running !== null);
  }

  #startServerSync(action: Extract<Action, { kind: "sync_slots" }>): void {
    if (this.#serverSync !== null) return;
    this.#serverSync = this.#callServerSync(action.database)
      .then(
        () => this.#report({ action, error: null }),
        (error: unknown) => this.#report({ action, error }),
      )
      .finally(() => {
        this.#serverSync = null;
      });
  }

  async #callServerSync(database: string): Promise<void> {
    const known = this.#serverSession;
    const session = known?.usable ? known : await this.#options.open(database, "server sync", false);
    this.#serverSession = session;
    if (this.#stop.signal.aborted) throw new WrongRoleError("syncing has been halted");
    this.#running.add(session);
    try {
      await syncServerSlots(session);
    } finally {
      this.#running.delete(session);
    }
  }

  #startFiles(actions: readonly Action[]): void {
    const { files } = this.#options;
    const list = actions.filter(isFileAction);
    if (list.length === 0 || files === null || this.#files !== null) return;
    this.#files = runFiles(list, files, this.#stop.signal, (outcome) => this.#report(outcome)).finally(() => {
      this.#files = null;
    });
  }

  #startLane(oid: number, actions: Action[]): void {
    const database = actions[0]?.database ?? "";
    const lane = runLane(actions, {
      instanceId: this.#options.instanceId,
      session: () => this.#session(database),
      holds: this.#holds,
      directory: this.#options.files?.directory ?? null,
      signal: this.#stop.signal,
      noteAdopted: this.#options.noteAdopted,
      report: (outcome) => this.#report(outcome),
    }).finally(() => this.#lanes.delete(oid));
    this.#lanes.set(oid, lane);
  }

  #startGuard(action: Extract<Action, { kind: "create_guard" }>): void {
    const creation = this.#createGuard(action)
      .then(
        () => this.#report({ action, error: null }),
        (error: unknown) => this.#report({ action, error }),
      )
      .finally(() => this.#guards.delete(action.databaseOid));
    this.#guards.set(action.databaseOid, creation);
  }

  /** What a halt cut off is no failure of the slot's. */
  #report(outcome: Outcome): void {
    if (this.#stop.signal.aborted && outcome.error !== null) return;
    this.#options.onOutcome(outcome);
  }

  async #createGuard(action: Extract<Action, { kind: "create_guard" }>): Promise<void> {
    const session = await this.#options.open(action.database, "guard", true);
    this.#running.add(session);
    try {
      await createGuard(session, action.guard, this.#options.nudgePrimary);
    } finally {
      this.#running.delete(session);
      await session.close();
    }
  }

  async #session(database: string): Promise<PgSession> {
    const known = this.#sessions.get(database);
    if (known?.usable) return known;
    const session = await this.#options.open(database, "lane", false);
    this.#sessions.set(database, session);
    return session;
  }

  /** Uses a hold of ours, lest the server give it up as idle (18+). Throws what the server says. */
  touchHold(hold: string, at: Lsn): Promise<void> {
    return this.#holds.touch(hold, at);
  }

  /**
   * I8: nothing more is started, and what is running is cancelled through `control`; resolves when it has ended, or after two
   * seconds. Holds stay: the finishing step may still copy from them.
   */
  async halt(control: PgSession): Promise<void> {
    this.#stop.abort();
    const inFlight = [...this.#lanes.values(), ...this.#guards.values(), ...this.#besideLanes()];
    if (inFlight.length === 0) return;
    const pids = [...this.#sessions.values(), ...this.#running].map((session) => session.backendPid);
    for (const pid of pids) await control.query(CANCEL_BACKEND, [pid]).catch(() => {});
    await within(HALT_WITHIN_MS, Promise.all(inFlight));
  }

  /** Ends every session, and with them every temporary slot. The applier can be used again afterwards. */
  async close(): Promise<void> {
    this.#stop.abort();
    const own = this.#serverSession ? [this.#serverSession] : [];
    const sessions = new Set([...this.#sessions.values(), ...this.#running, ...own]);
    this.#sessions.clear();
    this.#serverSession = null;
    await Promise.all([...[...sessions].map((session) => session.close()), this.#holds.releaseAll()]);
    await Promise.all([...this.#lanes.values(), ...this.#guards.values(), ...this.#besideLanes()]);
    this.#stop = new AbortController();
  }
}

async function within(ms: number, work: Promise<unknown>): Promise<void> {
  let timer: NodeJS.Timeout | undefined;
  const timeout = new Promise<void>((resolve) => {
    timer = setTimeout(resolve, ms);
  });
  try {
    await Promise.race([work, timeout]);
  } finally {
    clearTimeout(timer);
  }
}
