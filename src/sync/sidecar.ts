/** Everything one sidecar has in hand. The cycle, the loop and the finishing step are functions over it. */
import type { Logger } from "pino";
import { Applier } from "../apply/applier.ts";
import { failureOf, type Outcome, SlotMovedError, WrongRoleError } from "../apply/errors.ts";
import type { FilesContext } from "../apply/files.ts";
import { PinKeeper } from "../apply/pin.ts";
import { SnapshotStore } from "../apply/snapshot-store.ts";
import { touchSlots } from "../apply/touch.ts";
import { type Action, describeAction } from "../domain/action.ts";
import { assertNever } from "../domain/assert-never.ts";
import type { Selection } from "../domain/choice.ts";
import { type Clock, nowOn, onThisBoot, type TimeAxis, toWallTime } from "../domain/clock.ts";
import { dueForUse } from "../domain/idle.ts";
import type { JournalState } from "../domain/journal.ts";
import {
  noteAdopted,
  noteDone,
  noteFailure,
  notePluginGone,
  noteSnapshotLost,
  noteStaged,
} from "../domain/journal-update.ts";
import type { Lsn } from "../domain/lsn.ts";
import { isPinOf } from "../domain/names.ts";
import type { NapBounds } from "../domain/nap.ts";
import type { Pin, PrimaryView, StandbyView } from "../domain/observation.ts";
import type { Memory, Policy } from "../domain/plan.ts";
import {
  completeBackoffKey,
  failureKeys,
  guardBackoffKey,
  holdBackoffKey,
  mappingsBackoffKey,
  pluginBackoffKey,
  stageBackoffKey,
} from "../domain/plan-guard.ts";
import { SERVER_SYNC_KEY } from "../domain/plan-served.ts";
import { stillNeeded } from "../domain/plan-stage.ts";
import { inWallTime, type Status, summarise } from "../domain/status.ts";
import { type Alive, latestAlive, type SignsOfLife } from "../domain/vouch.ts";
import type { Journal } from "../journal/store.ts";
import { type DataDirectory, directoryOf } from "../observe/files.ts";
import { observeStandby, type StandbyLook } from "../observe/standby.ts";
import type { ConnInfo } from "../pg/conninfo.ts";
import { describeError } from "../pg/errors.ts";
import { LOG_STANDBY_SNAPSHOT } from "../pg/sql.ts";
import { Haste } from "./births.ts";
import { CatalogTables } from "./catalog-tables.ts";
import { PrimaryLink, type PrimaryWay, StandbyLink, type Timeouts } from "./links.ts";
import { CycleMemory } from "./memory.ts";
import { RestartKeeper, type RestartOptions } from "./restart.ts";

export interface SidecarOptions {
  selection: Selection;
  policy: Policy;
  nap: NapBounds;
  timeouts: Timeouts;
  standbyConn: ConnInfo;
  primary: PrimaryWay;
  /** Where slot files are staged, and the signal files of a promotion can be watched; or null. */
  dataDirectory: string | null;
  /** The journal's folder, where snapshots of what is staged are kept beside it. */
  stateDirectory: string;
  /** How the standby may be restarted for what is staged; null for never. */
  restart: RestartOptions | null;
  /** Sessions per database that the finishing step may open. */
  finishConnections: number;
  applicationName: string;
  journal: Journal;
  log: Logger;
  clock: Clock;
  signal: AbortSignal;
  onStatus: (status: Status) => void;
}

export class Sidecar {
  readonly options: SidecarOptions;
  readonly log: Logger;
  readonly selection: Selection;
  readonly policy: Policy;
  readonly memory: CycleMemory;
  readonly standby: StandbyLink;
  readonly primary: PrimaryLink;
  readonly directory: DataDirectory | null;
  readonly restarts: RestartKeeper | null;
  readonly #axis: TimeAxis;
  readonly haste = new Haste();
  readonly catalogTables = new CatalogTables();
  readonly #pins: PinKeeper;
  readonly #snapshots: SnapshotStore;
  applier: Applier;
  journal: JournalState;
  /** The primary's WAL position when it was last asked for everything. */
  primaryWalLsn: Lsn | null = null;
  /** What its logical slots came to then. */
  primarySlots = "";
  /** Whether what it said then was recorded, and this standby had all the WAL it spoke of: only then does silence since vouch for it. */
  vouched = false;
  /** Until when it was seen to have written nothing since; ms. */
  quietUntil = 0;
  /** The latest sign of its life that the standby has shown to this process. */
  alive: Alive | null = null;
  /** False until this process has looked at the standby beside the primary, or in vain for the primary. */
  watching = false;
  /** Counts the cycles of this process. */
  cycles = 0;
  #lastLook: StandbyLook | null = null;
  #lastNews = "";
  #cameOrWent = false;

  constructor(options: SidecarOptions) {
    this.options = options;
    this.log = options.log;
    this.selection = options.selection;
    this.policy = options.policy;
    const { journal, axis } = onThisBoot(options.journal.state, options.clock);
    this.journal = journal;
    this.#axis = axis;
    this.memory = new CycleMemory(options.policy.duty);
    this.memory.recall(
      [...this.journal.slots.values()].flatMap((record) => {
        const { failure } = record;
        return failure ? failureKeys(record).map((key): [string, typeof failure] => [key, failure]) : [];
      }),
    );
    const link = {
      applicationName: options.applicationName,
      timeouts: options.timeouts,
      signal: options.signal,
      onWarning: (warning: string) => options.log.warn(warning),
    };
    this.standby = new StandbyLink(options.standbyConn, link, true);
    this.primary = new PrimaryLink(options.primary, options.standbyConn.database ?? "postgres", link);
    this.restarts = options.restart && new RestartKeeper(options.restart);
    this.directory = directoryOf(options.dataDirectory);
    this.#pins = new PinKeeper(this.#openPrimary, this.journal.instanceId, this.now());
    this.#snapshots = new SnapshotStore(options.stateDirectory);
    this.applier = this.#newApplier();
  }

  #openPrimary = (purpose: string, database: string | null, patient: boolean) =>
    this.primary.open(this.lastLook.primaryConninfo, purpose, database, patient);

  #newApplier(): Applier {
    return new Applier({
      instanceId: this.journal.instanceId,
      files: this.#filesContext(),
      open: (database, purpose, patient) => this.standby.open(database, purpose, patient),
      noteAdopted: (action, evidence) => this.record(noteAdopted(this.journal, action, evidence, this.now())),
      nudgePrimary: () => this.#nudgePrimary(),
      onOutcome: (outcome) => this.#onOutcome(outcome),
    });
  }

  #filesContext(): FilesContext | null {
    if (this.directory === null) return null;
    return {
      directory: this.directory.path,
      openPrimary: this.#openPrimary,
      pins: this.#pins,
      snapshots: this.#snapshots,
      server: () => {
        const { serverVersionNum, systemIdentifier, walSegmentBytes } = this.lastLook.view;
        return { major: Math.floor(serverVersionNum / 10_000), systemIdentifier, walSegmentBytes };
      },
      noteStaged: (name, staged) => this.record(noteStaged(this.journal, name, staged)),
      noteSnapshotLost: (name) => this.record(noteSnapshotLost(this.journal, name)),
      sameRun: () => {
        const { startedEpochS } = this.lastLook;
        return () => this.directory?.assertRun(startedEpochS) ?? Promise.resolve();
      },
      now: () => this.now(),
    };
  }

  /** Pins of ours on the primary that belong to no session of ours and could not be ended. */
  strayPins: readonly Pin[] = [];

  /** Lets go of the pins and snapshots that nothing needs any more, and of pins that a killed predecessor has left in a pooler. */
  async tidy({ pins: seen }: Pick<PrimaryView, "pins">): Promise<void> {
    const { current } = this.primary;
    if (current)
      this.strayPins = await this.#pins.endStrays(seen, current).catch((error: unknown) => {
        this.log.warn(describeError(error));
        return seen.filter(({ name }) => isPinOf(name, this.journal.instanceId));
      });
    if (this.directory === null || this.applier.filesBusy) return;
    const { pins, snapshots } = stillNeeded(this.journal);
    await this.#pins.keepOnly(pins);
    await this.#snapshots.keepOnly(snapshots);
  }

  /** Restarts the standby for what is staged, when that is allowed now; `busy` while more is being staged. */
  considerRestart(staged: readonly string[], busy: boolean): void {
    this.restarts?.consider(this, staged, busy || this.applier.filesBusy);
  }

  /** Lets go of everything that is held on the primary: this node follows it no more. */
  releasePins(): Promise<void> {
    return this.#pins.close();
  }

  /** Looks at the standby and its data directory. Throws what the session throws. */
  async look(): Promise<StandbyLook> {
    return observeStandby(await this.standby.control(), this.directory);
  }

  /** 18+: uses those of our slots that the server would come to take for idle (I18). What fails is tried again in the next cycle. */
  async keepInUse(view: StandbyView): Promise<void> {
    const due = view.inRecovery ? dueForUse(view, this.journal) : [];
    if (due.length === 0) return;
    const errors = await touchSlots(
      due.filter(({ temporary }) => !temporary),
      () => this.standby.openReplication("use"),
    );
    for (const { name, confirmedFlushLsn } of due.filter(({ temporary }) => temporary))
      if (confirmedFlushLsn !== null)
        await this.applier.touchHold(name, confirmedFlushLsn).catch((error) => errors.set(name, error));
    for (const [slot, error] of errors)
      this.log.warn({ slot }, `it could not be kept from being given up as idle: ${describeError(error)}`);
  }

  /** ms, on the journal's axis. */
  now(): number {
    return nowOn(this.#axis, this.options.clock);
  }

  /** What to add to a time of {@link now} for the wall clock's. */
  get toWallTime(): number {
    return toWallTime(this.#axis, this.options.clock);
  }

  /** Tells how things stand, in wall time. */
  tell(status: Status): void {
    this.options.onStatus(inWallTime(status, this.toWallTime));
  }

  /** Takes note of what the standby, or the primary's answer, shows of the primary's life since the last look. */
  hear(signs: SignsOfLife): void {
    this.alive = latestAlive({ ...this.journal, alive: this.alive ?? this.journal.alive }, signs, this.now());
  }

  /** The last look at the standby; there is one before the first cycle. */
  get lastLook(): StandbyLook {
    if (!this.#lastLook) throw new Error("the standby has not been looked at yet");
    return this.#lastLook;
  }

  set lastLook(look: StandbyLook) {
    this.#lastLook = look;
  }

  /** Takes over a new journal and writes it. Throws JournalWriteError; the state in memory is the new one all the same. */
  async record(journal: JournalState): Promise<void> {
    this.journal = journal;
    await this.options.journal.save(journal);
  }

  /**
   * Does what was planned, then writes down what came of it if that matters beyond the next look at the standby. True when slots have
   * come or gone by it.
   */
  async act(actions: readonly Action[]): Promise<boolean> {
    if (actions.length === 0) return false;
    const before = this.journal;
    this.#cameOrWent = false;
    await this.applier.apply(actions);
    if (this.journal !== before) await this.record(this.journal);
    return this.#cameOrWent;
  }

  /** What is being done on the standby at this moment. */
  atWork(): Pick<Memory, "busyDatabases" | "creatingGuards" | "filesBusy"> {
    const { busyDatabases, creatingGuards, filesBusy } = this.applier;
    return { busyDatabases, creatingGuards, filesBusy };
  }

  /** Ends every session with the standby's databases; temporary slots of ours go with them. */
  async resetApplier(): Promise<void> {
    await this.applier.close();
    this.applier = this.#newApplier();
  }

  /** Says how things stand: to whoever asks, and in one sentence to the log, loudly only when it changes. */
  report(status: Status): void {
    this.cycles += 1;
    this.tell(status);
    const told = status.problems.map((problem) => problem.message).join("; ");
    const standing = `${summarise(status.slots)}${status.ready ? "" : ", not ready"}`;
    const news = [standing, ...status.problems.map(({ gist, message }) => gist ?? message)].join("; ");
    const level = news === this.#lastNews ? "debug" : "info";
    this.#lastNews = news;
    this.log[level]({ cycle: this.cycles }, `cycle ${this.cycles}: ${standing}${told ? `: ${told}` : ""}`);
  }

  async close(): Promise<void> {
    this.restarts?.close();
    await this.applier.close();
    await this.#pins.close();
    await Promise.all([this.primary.close(), this.standby.close()]);
  }

  async #nudgePrimary(): Promise<void> {
    await this.primary.current?.query(LOG_STANDBY_SNAPSHOT);
  }

  #onOutcome({ action, error }: Outcome): void {
    const key = backoffKey(action);
    if (error === null) {
      this.memory.succeeded(key);
      // what could not be completed was another slot of that name: the next one must not be given up for it
      if (action.kind === "drop" || action.kind === "stage")
        this.memory.succeeded(completeBackoffKey(action.slot));
      if (action.kind === "sync_slots") this.memory.serverSynced(action.state, this.now());
      if (action.kind === "probe_plugin") this.memory.pluginLoaded(action.plugin, this.now());
      if (action.kind === "advance_guard") this.memory.guardAdvanced(action.guard, this.now());
      this.journal = noteDone(this.journal, action);
      const cameOrWent = ["create", "drop", "adopt", "release"].includes(action.kind);
      this.#cameOrWent ||= cameOrWent;
      this.log[cameOrWent ? "info" : "debug"]({ slot: key }, done(action));
      return;
    }
    // the promotion is told by whoever sees it; what it held back is no failure
    if (error instanceof WrongRoleError || error instanceof SlotMovedError) return;
    const failure = failureOf(error);
    const failures = this.memory.failed(key, failure, this.now());
    if (action.kind === "probe_plugin" && failure.reason === "plugin_missing")
      this.journal = notePluginGone(this.journal, action.plugin);
    if ("slot" in action) this.journal = noteFailure(this.journal, action.slot, failure);
    this.log[failures === 1 ? "warn" : "debug"]({ slot: key, reason: failure.reason }, failure.detail);
  }
}

/** Under which name a failure rests: the slot's, or that of the database's guard or hold. */
function backoffKey(action: Action): string {
  switch (action.kind) {
    case "create":
    case "adopt":
    case "release":
    case "advance":
    case "replace":
    case "drop":
    case "drop_leftover":
      return action.slot;
    case "advance_guard":
      return action.guard;
    case "create_guard":
      return guardBackoffKey(action.databaseOid);
    case "stage":
    case "unstage":
      return stageBackoffKey(action.slot);
    case "complete":
      return completeBackoffKey(action.slot);
    case "fetch_mappings":
      return mappingsBackoffKey(action.slot);
    case "create_hold":
    case "release_hold":
      return holdBackoffKey(action.databaseOid);
    case "probe_plugin":
      return pluginBackoffKey(action.plugin);
    case "sync_slots":
      return SERVER_SYNC_KEY;
    default:
      return assertNever(action);
  }
}

function done(action: Action): string {
  return action.kind === "create"
    ? `newly created replication slot "${action.slot}" is sync-ready now`
    : `done: ${describeAction(action)}`;
}
