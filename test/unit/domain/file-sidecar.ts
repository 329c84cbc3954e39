/**
 * The sidecar around the real planner where slots come as files: the cycle as sync/cycle.ts runs it, its lanes as apply/ does, killed,
 * failing or left at work between any two steps; and after each of them the question that matters: were this standby promoted now,
 * would the finishing step keep every promise that was made?
 */
import { type Action, type FileAction, isFileAction } from "../../../src/domain/action.ts";
import { type FinishStep, planFinish } from "../../../src/domain/finish.ts";
import { emptyJournal, type JournalState, type Staged } from "../../../src/domain/journal.ts";
import {
  noteDone,
  noteFailure,
  noteIntents,
  noteObservation,
  noteSnapshotLost,
  noteStaged,
} from "../../../src/domain/journal-update.ts";
import { type Judgement, judge } from "../../../src/domain/judge.ts";
import { type Lsn, minLsn } from "../../../src/domain/lsn.ts";
import { isGuardOf, isOwnSlotName } from "../../../src/domain/names.ts";
import { retryDelay } from "../../../src/domain/nap.ts";
import type { PrimaryView, StandbyView } from "../../../src/domain/observation.ts";
import type { Backoff, Memory, Policy } from "../../../src/domain/plan.ts";
import {
  completeBackoffKey,
  failureKeys,
  mappingsBackoffKey,
  pluginBackoffKey,
  stageBackoffKey,
} from "../../../src/domain/plan-guard.ts";
import { attemptIn, stillNeeded } from "../../../src/domain/plan-stage.ts";
import { isFailoverReady } from "../../../src/domain/protection.ts";
import type { LogicalSlot } from "../../../src/domain/slot.ts";
import { mustBeThere, saysReady } from "./check-claim.ts";
import { Broken, count, must } from "./claims.ts";
import { type FileWorld, LeftAlone, NO_ROOM, Refused, type StandbySlot, shownFolder } from "./file-world.ts";

/** How one action goes. `half`: cut off after its first effect; `late`: its effect comes, the answer does not. */
export type Fate = "done" | "fails" | "half" | "late";

export type WorldStep = (world: FileWorld) => void;

export interface CycleScript {
  gapMs: number;
  /** What happens between the look at the primary and the look at the standby. */
  betweenLooks: WorldStep[];
  /** What happens between the steps of what the sidecar does, one after each. */
  meanwhile: WorldStep[];
  /** Which of the lanes goes on, step by step. */
  turns: number[];
  fates: Fate[];
  /** The sidecar is killed: before the journal is written (0), or before the n-th step. */
  killAt: number | null;
  /** The killed sidecar's statement goes on by itself, and ends at some later time. */
  leavesStatement: boolean;
  /** After so many steps the cycle does not wait any more: the lanes go on with the next one. */
  patience: number;
}

export const CALM: CycleScript = {
  gapMs: 6_000,
  betweenLooks: [],
  meanwhile: [],
  turns: [0],
  fates: ["done"],
  killAt: null,
  leavesStatement: false,
  patience: 1_000,
};

interface Lane {
  key: number | "files";
  steps: Generator<void>;
  /** The statement that is sent next. */
  next: (() => void) | null;
}

interface Recorded {
  /** Counted without end. */
  xmin: number | null;
  confirmed: bigint | null;
  restart: bigint;
  db: number;
  plugin: string;
  twoPhase: boolean;
  invalid: string | null;
}

type Stage = Extract<Action, { kind: "stage" }>;
type Complete = Extract<Action, { kind: "complete" }>;
type FetchMappings = Extract<Action, { kind: "fetch_mappings" }>;

export class FileSidecar {
  readonly world: FileWorld;
  readonly policy: Policy;
  journal: JournalState = emptyJournal("00000001");
  saved: JournalState = this.journal;
  excluded = new Set<string>();
  now = 1_700_000_000_000;
  /** What the journal's observation really saw on the primary. */
  recorded = new Map<string, Recorded>();
  /** Nobody has laid hands on the standby's slots since the journal's observation. */
  untouched = false;
  /** Statements that a killed sidecar has left running. */
  late: (() => void)[] = [];
  /** How often the feedback had been interrupted when the standby was last looked at, … */
  #seenInterruptions = -1;
  /** … how often others had taken room, … */
  #seenIntrusions = 0;
  /** … and up to which of those everything staged has been brought within the limit. */
  #settledIntrusions = 0;
  #instances = 1;
  #pins = 0;
  #budgetMs = 1_000;
  #backoff = new Map<string, Backoff>();
  #guardAdvancedAt = new Map<string, number>();
  #restUntil = new Map<string, number>();
  #lanes: Lane[] = [];
  /** Snapshots kept beside the journal. */
  #kept = new Set<bigint>();
  #lookRun = 0;
  #recordedRun = 0;
  #failed = false;

  constructor(world: FileWorld, policy: Policy) {
    this.world = world;
    this.policy = policy;
  }

  // ---- the process

  kill(leavesStatement = false): void {
    if (leavesStatement)
      for (const { next, key } of this.#lanes) if (next && key !== "files") this.late.push(next);
    this.#lanes = [];
    this.world.pins.clear();
    this.journal = this.saved;
    this.#backoff = new Map(
      [...this.journal.slots.values()].flatMap((record) => {
        const { failure } = record;
        if (!failure) return [];
        return failureKeys(record).map((key) => [key, { ...failure, failures: 1, retryAt: 0 }] as const);
      }),
    );
    this.#guardAdvancedAt.clear();
    this.#restUntil.clear();
    this.#budgetMs = 100;
  }

  loseJournal(): void {
    this.kill();
    this.#instances += 1;
    this.journal = emptyJournal(this.#instances.toString(16).padStart(8, "0"));
    this.saved = this.journal;
    this.recorded = new Map();
    for (const slot of this.world.standby.values()) slot.foreign = true;
    for (const folder of this.world.folders.values()) folder.foreign = true;
    this.late = [];
  }

  /** A statement of a killed sidecar comes to its end. */
  finishLate(): void {
    const statement = this.late.shift();
    if (!statement) return;
    count("a killed sidecar's statement ended late");
    attempt(statement);
  }

  #busy(): Set<number> {
    return new Set(this.#lanes.flatMap(({ key }) => (key === "files" ? [] : [key])));
  }

  #filesBusy(): boolean {
    return this.#lanes.some(({ key }) => key === "files");
  }

  cycle(script: CycleScript): Judgement | null {
    const { world } = this;
    this.now += script.gapMs;
    this.#budgetMs = Math.min(1_000, this.#budgetMs + script.gapMs * this.policy.duty);
    const busy = this.#busy();
    const filesBusy = this.#filesBusy();
    const primary = world.seePrimary();
    const xmins = new Map([...world.primary].map(([name, { xmin }]) => [name, xmin]));
    for (const step of script.betweenLooks) step(world);
    const standby = world.seeStandby();
    const interruptions = world.interruptions;
    this.#seenIntrusions = world.intrusions;
    this.#lookRun = world.run;
    const memory: Memory = {
      now: this.now,
      budgetMs: this.#budgetMs,
      backoff: this.#backoff,
      busyDatabases: busy,
      creatingGuards: new Set(),
      guardAdvancedAt: this.#guardAdvancedAt,
      restUntil: this.#restUntil,
      serverSync: null,
      filesBusy,
    };
    const selection = { include: [{ nameLike: "%" }], exclude: [...this.excluded].map((name) => ({ name })) };
    const judged = judge(primary, standby, this.journal, selection, this.policy, memory);
    this.#checkPlan(judged, primary, standby);
    if (script.killAt === 0) {
      count("killed before the journal was written");
      this.kill(script.leavesStatement);
      return null;
    }
    const observed = noteObservation(this.journal, {
      primary,
      standby,
      chosen: judged.chosen,
      plan: judged.plan,
      busy,
      filesBusy,
      problems: judged.problems.filter(({ severity }) => severity === "stop").map(({ message }) => message),
      now: this.now,
    });
    this.#budgetMs = judged.plan.budgetMs;
    for (const [name, until] of judged.plan.rests) this.#restUntil.set(name, until);
    this.#record(noteIntents(observed, judged.actions));
    this.untouched = true;
    this.#seenInterruptions = interruptions;
    this.#recordedRun = this.#lookRun;
    world.notedFeedback = standby.hotStandbyFeedback;
    this.recorded = new Map(
      judged.chosen.map((slot) => [slot.name, recordedOf(slot, xmins.get(slot.name) ?? null)]),
    );
    for (const action of judged.actions) {
      const slot = action.kind === "advance" ? world.standby.get(action.slot) : undefined;
      if (action.kind === "advance" && slot && !slot.foreign && action.to > slot.meant)
        slot.meant = action.to;
    }
    this.checkPromises("after the journal was written");
    this.#failed = false;
    this.#startLanes(judged.actions, script.fates);
    if (!this.#drive(script)) return null;
    this.saved = this.journal;
    this.#tidy();
    if (!filesBusy && this.#lanes.length === 0 && !this.#failed && standby.files?.problem === null)
      this.#settledIntrusions = this.#seenIntrusions;
    this.checkPromises("after the cycle");
    return judged;
  }

  #record(journal: JournalState): void {
    this.journal = journal;
    this.saved = journal;
  }

  #tidy(): void {
    if (this.#filesBusy()) return;
    const { pins, snapshots } = stillNeeded(this.journal);
    for (const name of [...this.world.pins.keys()])
      if (![...pins].some((pin) => name === pin || name === `${pin}_wal`)) this.world.pins.delete(name);
    for (const lsn of this.#kept) if (!snapshots.includes(lsn as Lsn)) this.#kept.delete(lsn);
  }

  // ---- the lanes

  #startLanes(actions: readonly Action[], fates: readonly Fate[]): void {
    const fateOf = (index: number): Fate => fates[index % fates.length] ?? "done";
    const files = actions.filter(isFileAction);
    const seen = { run: this.#lookRun, intrusions: this.#seenIntrusions };
    if (files.length > 0 && !this.#filesBusy())
      this.#start("files", () => this.#runFiles(files, fateOf, seen));
    const others = actions.filter((action) => !isFileAction(action));
    for (const oid of new Set(others.map(({ databaseOid }) => databaseOid)))
      this.#start(oid, (lane) =>
        this.#runLane(
          others.filter(({ databaseOid }) => databaseOid === oid),
          fateOf,
          lane,
        ),
      );
  }

  #start(key: Lane["key"], run: (lane: Lane) => Generator<void>): void {
    const lane = { key, next: null } as unknown as Lane;
    lane.steps = run(lane);
    this.#lanes.push(lane);
  }

  /** False when the sidecar was killed. */
  #drive(script: CycleScript): boolean {
    for (let step = 0; this.#lanes.length > 0 && step < script.patience; step += 1) {
      if (script.killAt === step + 1) {
        count("killed in the middle of the actions");
        this.kill(script.leavesStatement);
        this.checkPromises("after the kill");
        return false;
      }
      const turn = script.turns[step % script.turns.length] ?? 0;
      const lane = this.#lanes[turn % this.#lanes.length];
      if (lane?.steps.next().done) this.#lanes = this.#lanes.filter((each) => each !== lane);
      this.checkPromises("after a step of a lane");
      const meanwhile = script.meanwhile[step];
      if (!meanwhile) continue;
      meanwhile(this.world);
      this.checkPromises("while a lane was at work");
    }
    if (this.#lanes.length > 0) count("lanes were left at work");
    return true;
  }

  *#runLane(actions: readonly Action[], fateOf: (index: number) => Fate, lane: Lane): Generator<void> {
    for (const [index, action] of actions.entries()) {
      const statement = () => this.#execute(action);
      lane.next = statement;
      yield;
      lane.next = null;
      const fate = fateOf(index);
      this.#outcome(
        action,
        attempt(() => {
          if (fate === "fails" || fate === "half") throw new Refused("the connection was lost before it");
          statement();
          if (fate === "late") throw new Refused("the connection was lost before the answer arrived");
        }),
      );
    }
  }

  #execute(action: Action): void {
    const { world } = this;
    switch (action.kind) {
      case "advance_guard":
        world.advance(action.guard, action.to);
        return;
      case "probe_plugin":
        return;
      case "advance":
      case "drop": {
        const slot = world.standby.get(action.slot);
        if (!slot && action.kind === "drop") throw new LeftAlone("it is gone");
        if (slot?.confirmed !== action.at) throw new LeftAlone("it is not where it was seen");
        if (action.kind === "advance") world.advance(action.slot, action.to);
        else world.standby.delete(action.slot);
        return;
      }
      case "drop_leftover":
        world.standby.delete(action.slot);
        return;
      default:
        throw new Broken(`${action.kind} is not for a version that takes slots by file`);
    }
  }

  *#runFiles(
    actions: readonly FileAction[],
    fateOf: (index: number) => Fate,
    { run, intrusions }: { run: number; intrusions: number },
  ): Generator<void> {
    const assertSameRun = () => {
      if (this.world.run !== run) throw new Refused("another run of the server");
    };
    const stages: [Stage, Fate][] = [];
    const fetches: [FetchMappings, Fate][] = [];
    for (const [index, action] of actions.entries()) {
      const fate = fateOf(index);
      if (action.kind === "stage") stages.push([action, fate]);
      else if (action.kind === "fetch_mappings") fetches.push([action, fate]);
      else
        yield* this.#reporting(action, fate, () =>
          action.kind === "complete"
            ? this.#complete(action, fate)
            : this.#unstage(action.slot, assertSameRun),
        );
    }
    if (fetches.length > 0) yield* this.#fetchMappings(fetches);
    if (stages.length > 0) yield* this.#stageAll(stages, assertSameRun, intrusions);
  }

  *#unstage(slot: string, assertSameRun: () => void): Generator<void> {
    yield;
    assertSameRun();
    this.#checkUnstage(slot);
    this.world.folders.delete(slot);
  }

  *#reporting(action: FileAction, fate: Fate, run: () => Generator<void>): Generator<void> {
    let error: unknown = null;
    try {
      yield;
      if (fate === "fails") throw new Refused("it failed before anything was done");
      yield* run();
      if (fate === "late") throw new Refused("it was done, and nobody heard of it");
    } catch (thrown) {
      if (thrown instanceof Broken) throw thrown;
      error = thrown;
    }
    this.#outcome(action, error);
  }

  *#complete({ slot, restart, snapshot }: Complete, fate: Fate): Generator<void> {
    const { world } = this;
    if (snapshot) {
      if (this.#kept.has(restart) || world.primarySnapshots.has(restart)) world.snapshots.add(restart);
      else this.#record(noteSnapshotLost(this.journal, slot));
    }
    yield;
    if (fate === "half") throw new Refused("it failed after the snapshot was placed");
    world.fetchWal(restart);
  }

  /** One step for all of them. */
  *#fetchMappings(fetches: readonly [FetchMappings, Fate][]): Generator<void> {
    const { world } = this;
    const fates = fetches.map(([, fate]) => fate);
    const from = fetches.reduce((a, [{ restart }]) => (restart < a ? restart : a), world.wal as Lsn);
    const upTo = fetches.reduce((a, [each]) => (each.upTo > a ? each.upTo : a), 0n as Lsn);
    let error: unknown = null;
    try {
      yield;
      if (fates.includes("fails")) throw new Refused("it failed before anything was done");
      if (!world.mayListMappings) throw new Refused("it may not list them", "permission_denied");
      for (const began of [...world.primaryMappings]) {
        if (began < from || began >= upTo) continue;
        yield;
        // gone meanwhile: then no slot of the primary needs it
        if (world.primaryMappings.has(began)) world.mappings.add(began);
        if (fates.includes("half")) throw new Refused("it failed in the middle");
      }
      if (fates.includes("late")) throw new Refused("it was done, and nobody heard of it");
    } catch (thrown) {
      if (thrown instanceof Broken) throw thrown;
      error = thrown;
    }
    for (const [action] of fetches) this.#outcome(action, error);
  }

  *#stageAll(
    stages: readonly [Stage, Fate][],
    assertSameRun: () => void,
    intrusions: number,
  ): Generator<void> {
    const { world } = this;
    const held = stages.flatMap(([{ source }]) => {
      const slot = source === null ? undefined : world.primary.get(source);
      return slot ? [{ name: slot.name, restart: slot.restart, xmin: slot.xmin }] : [];
    });
    yield;
    let pin: string | null = null;
    const [first] = held;
    if (world.version >= 120_000 && first) {
      const rows = held.reduce((a, b) => (b.xmin < a.xmin ? b : a), first);
      const wal = held.reduce((a, b) => (b.restart < a.restart ? b : a), first);
      // copied as they are by now
      const sources = [rows, wal].map(({ name }) => world.primary.get(name));
      if (sources.some((source) => !source || source.confirmed === null || source.invalid)) {
        for (const [action] of stages) this.#outcome(action, new Refused("the slot to be pinned is gone"));
        return;
      }
      pin = this.#pinName();
      for (const [index, source] of sources.entries())
        if (source)
          world.pin(index === 0 ? pin : `${pin}_wal`, { ...source, confirmed: source.confirmed ?? 0n });
    }
    let fresh: string | null = null;
    for (const [action, fate] of stages.toSorted(([a], [b]) => Number(!a.source) - Number(!b.source)))
      yield* this.#reporting(action, fate, () => {
        if (action.source === null && fresh === null) {
          const name = this.#pinName();
          world.createPin(name);
          fresh = name;
        }
        return this.#stage(action, fresh, pin ?? fresh, fate, assertSameRun, intrusions);
      });
  }

  #pinName(): string {
    this.#pins += 1;
    return `slotsync_pin_${this.journal.instanceId}_${this.#pins}`;
  }

  *#stage(
    action: Stage,
    fresh: string | null,
    pin: string | null,
    fate: Fate,
    assertSameRun: () => void,
    intrusions: number,
  ): Generator<void> {
    const { world } = this;
    for (let tries = 1; ; tries += 1) {
      const source = action.source === null ? undefined : world.primary.get(action.source);
      const origin = action.source === null ? world.pins.get(fresh ?? "") : source?.saved;
      if (!origin) throw new Refused("it is gone from the primary", "absent_on_primary");
      if (origin.confirmed === 0n || source?.invalid) throw new Refused("it is not usable");
      const state = { restart: origin.restart, confirmed: origin.confirmed, xmin: origin.xmin };
      const identity = {
        db: action.databaseOid,
        plugin: action.guard === null ? (source?.plugin ?? "pgoutput") : "pgoutput",
        twoPhase: action.guard === null && (source?.twoPhase ?? false),
      };
      yield;
      const snapshot = world.primarySnapshots.has(state.restart)
        ? world.foreignFormat
          ? "unusable"
          : "kept"
        : "absent";
      yield;
      const shown = action.source === null ? state.restart : world.primary.get(action.source)?.restart;
      if (snapshot === "absent" && shown !== state.restart) {
        if (tries < 3) continue;
        throw new Refused("it moves on faster than its files can be read");
      }
      if (snapshot === "kept") this.#kept.add(state.restart);
      const staged: Staged = {
        databaseOid: identity.db,
        plugin: identity.plugin,
        twoPhase: identity.twoPhase,
        restartLsn: state.restart as Lsn,
        confirmedFlushLsn: state.confirmed as Lsn,
        snapshot,
        pin,
        at: this.now,
        loadedBy: null,
      };
      this.#record(noteStaged(this.journal, action.slot, staged));
      if (fate === "half") throw new Refused("it failed before the folder was written");
      yield;
      assertSameRun();
      must(!world.standby.has(action.slot), "I7: nothing is staged over a slot in memory", () => action);
      const before = world.folders.get(action.slot);
      must(!before?.foreign || !action.again, "I7: nothing is staged over somebody else's folder", () => [
        action,
        before,
      ]);
      world.writeFolder({ name: action.slot, ...identity, ...state }, action.again);
      const folders = world.standby.size + world.folders.size + world.otherSlots;
      must(
        folders <= Math.min(world.maxSlots, world.maxSlotsNext) ||
          before !== undefined ||
          world.intrusions !== intrusions,
        "I11: staged within the limit",
        () => [action, folders, world.maxSlots, world.maxSlotsNext],
      );
      return;
    }
  }

  #checkUnstage(name: string): void {
    const folder = this.world.folders.get(name);
    must(!folder?.foreign, "I7: only our own folders are taken away", () => folder);
    must(!this.world.standby.has(name), "I7: the folder of a slot in memory is the server's", () => name);
  }

  #outcome(action: Action, error: unknown): void {
    const key = keyOf(action);
    if (error === null) {
      count(`done: ${action.kind}`);
      this.#backoff.delete(key);
      if (action.kind === "drop" || action.kind === "stage")
        this.#backoff.delete(completeBackoffKey(action.slot));
      if (action.kind === "advance_guard") this.#guardAdvancedAt.set(action.guard, this.now);
      this.journal = noteDone(this.journal, action);
      return;
    }
    this.#failed = true;
    if (error instanceof LeftAlone) return;
    count(`failed: ${action.kind}`);
    const reason = error instanceof Refused ? error.reason : "statement_failed";
    const { message } = error as Error;
    const failures = (this.#backoff.get(key)?.failures ?? 0) + 1;
    const retryAt = this.now + retryDelay(failures, 0.5);
    this.#backoff.set(key, { reason, detail: message, failures, retryAt });
    if ("slot" in action) this.journal = noteFailure(this.journal, action.slot, { reason, detail: message });
  }

  // ---- what must hold of a plan

  #checkPlan({ actions, chosen, plan }: Judgement, primary: PrimaryView, standby: StandbyView): void {
    const detail = (about: unknown) => () => ({
      about,
      actions,
      primary: primary.slots,
      standby: standby.slots,
      journal: this.journal,
    });
    for (const action of actions) {
      if (action.kind === "advance" || action.kind === "drop") {
        const local = this.world.standby.get(action.slot);
        const source = chosen.find((slot) => slot.name === action.slot);
        must(local !== undefined && reallyOurs(local), "I7: only ours", detail(action));
        if (action.kind === "advance")
          must(
            source?.confirmedFlushLsn != null &&
              action.to <= source.confirmedFlushLsn &&
              action.to <= standby.replayLsn,
            "I1: neither ahead nor past replay",
            detail(action),
          );
      }
      if (action.kind === "drop_leftover")
        must(
          this.world.standby.get(action.slot)?.foreign === false,
          "I7: only our leftovers",
          detail(action),
        );
      if (action.kind === "advance_guard") {
        must(action.to <= standby.replayLsn, "G1: not past replay", detail(action));
        for (const { db, polled, born } of this.world.primary.values())
          if (db === action.databaseOid && !polled && born !== null)
            must(action.to <= born, "G1: not past a slot made after the poll", detail(action));
      }
    }
    const added = actions.filter((action) => action.kind === "stage" && !action.again).length;
    const gone = actions.filter((action) => action.kind === "unstage").length;
    const { files } = standby;
    if (files && added > 0)
      must(
        files.folderCount - gone + added <= (files.maxReplicationSlots ?? 0),
        "I11: no more is staged than the next start takes",
        detail(files),
      );
    for (const slot of chosen) {
      must(plan.verdicts.has(slot.name), "every chosen slot has a verdict", detail(slot));
      if (plan.verdicts.get(slot.name)?.protection !== "guarded") continue;
      must(this.world.version >= 120_000, "G2: without copies nothing is guarded", detail(slot));
      must(!slot.twoPhase, "G5: a guard does not hold a two_phase slot", detail(slot));
      const needed = slot.confirmedFlushLsn as Lsn;
      const then = (guard: LogicalSlot) =>
        actions.reduce(
          (at, action) =>
            action.kind === "advance_guard" && action.guard === guard.name && action.to > at ? action.to : at,
          guard.confirmedFlushLsn as Lsn,
        );
      const left = standby.slots.filter(
        (guard) =>
          isGuardOf(guard.name, this.journal.instanceId) &&
          guard.databaseOid === slot.databaseOid &&
          !actions.some((action) => action.kind === "drop_leftover" && action.slot === guard.name) &&
          then(guard) <= needed,
      );
      must(left.length > 0, "G1, G3: a guard stays behind each slot that relies on one", detail(slot));
    }
  }

  /** I11: no start fails over what we have staged. */
  checkStarts(): void {
    for (const { staged } of this.world.refusedStarts.splice(0))
      must(
        staged.length === 0 || this.#settledIntrusions !== this.world.intrusions,
        "I11: the standby starts",
        () => staged,
      );
  }

  // ---- what must hold were it promoted now

  checkPromises(when: string): void {
    this.checkStarts();
    this.#checkPromotion(when, this.saved);
    for (const live of [true, false]) this.#checkAnswer(when, live);
    // a sidecar that lives finishes by what it has in memory
    if (this.journal !== this.saved) this.#checkPromotion(`${when}, in memory`, this.journal);
  }

  /** I17: `check` 0, held against what a promotion would bring by the journal as it is on disk. */
  #checkAnswer(when: string, live: boolean): void {
    const world = this.world.clone();
    const journal = this.saved;
    const primary = world.seePrimary();
    const standby = world.seeStandby();
    const asked = { journal, standby, excluded: this.excluded, policy: this.policy, now: this.now };
    if (!saysReady({ ...asked, primary: live ? primary : null })) return;
    world.promote();
    // the finishing step takes them back first of all; #checkPromotion holds that against whose they are
    for (const name of [...world.folders.keys()])
      if (isGuardOf(name, journal.instanceId) || journal.slots.has(name)) world.folders.delete(name);
    const steps = planFinish({
      journal,
      slots: world.seeSlots(),
      own: world.history(),
      serverVersionNum: world.version,
    });
    for (const step of inOrder(steps)) attempt(() => finish(world, step));
    const now = primary.slots.filter(({ name }) => !isOwnSlotName(name) && !this.excluded.has(name));
    mustBeThere(
      live ? now.map((slot): [string, Recorded] => [slot.name, recordedOf(slot, null)]) : this.recorded,
      (name) => world.standby.get(name),
      world.replay,
      () => ({ when, live, steps, records: journal.slots, standby: this.world.standby }),
    );
  }

  #checkPromotion(when: string, journal: JournalState): void {
    const world = this.world.clone();
    world.promote();
    const rowsToo = this.#seenInterruptions === world.interruptions;
    const detail = (about: unknown) => () => ({
      when,
      about,
      rowsToo,
      recorded: [...this.recorded],
      failed: [...failed],
      steps: steps.map(({ record, ...step }) => ({ name: record.name, ...step })),
      standby: this.world.standby,
      folders: this.world.folders,
      guards: [journal.guards, journal.lowGuards],
      records: journal.slots,
    });
    const failed = new Map<string, string>();
    let steps: FinishStep[] = [];
    for (const folder of [...world.folders.values()]) {
      const { name, foreign } = folder;
      const ours =
        isGuardOf(name, journal.instanceId) ||
        attemptIn(shownFolder(folder), journal.slots.get(name)) !== undefined;
      if (ours) must(!foreign, "I7: only our own folders are taken back", detail(name));
      if (ours) world.folders.delete(name);
      else must(foreign, "I6: nothing staged is left to be loaded by the new primary", detail(name));
    }
    steps = planFinish({
      journal,
      slots: world.seeSlots(),
      own: world.history(),
      serverVersionNum: world.version,
    });
    const sources = new Map<string, string | null>();
    for (const step of steps) {
      const local = world.standby.get(step.record.name);
      if (local && ["advance", "drop", "materialise"].includes(step.kind))
        must(reallyOurs(local), "I7: the finishing step touches only ours", detail([step.kind, local]));
      const source =
        step.kind === "materialise"
          ? world.standby.get(step.from)
          : step.kind === "advance" || step.kind === "keep"
            ? local
            : undefined;
      // its rows are looked for by nobody before it has come to its position
      if (source) sources.set(step.record.name, world.whyUnsound(source, null));
    }
    for (const step of inOrder(steps)) {
      const error = attempt(() => finish(world, step));
      if (error !== null) failed.set(step.record.name, String(error));
    }
    for (const slot of world.standby.values()) {
      if (isOwnSlotName(slot.name) || !reallyOurs(slot) || slot.consumed) continue;
      const seen = this.recorded.get(slot.name);
      if (!seen) {
        const spared = journal.slots.get(slot.name)?.reason === "absent_on_primary";
        must(spared, "I6: what is gone from the primary does not come back", detail(slot));
        continue;
      }
      must(seen.invalid === null, "I6: no invalidated slot", detail(slot));
      must(
        seen.db === slot.db && seen.plugin === slot.plugin && seen.twoPhase === slot.twoPhase,
        "I5, I6: the same slot",
        detail(slot),
      );
      must(seen.confirmed !== null && slot.confirmed <= seen.confirmed, "I1, I6: never ahead", detail(slot));
      must(slot.confirmed <= world.replay, "I1, I6: not past the end of WAL", detail(slot));
      // at the very position of the primary's, it needs no older rows than that one, however it came there
      const exact = slot.confirmed === minLsn(seen.confirmed as Lsn, world.replay as Lsn);
      const needs = exact ? Math.max(slot.xmin, seen.xmin ?? 0) : slot.xmin;
      // one made anew there may show an xmin that is older than its rows: it takes that of other slots
      const sends = exact && seen.restart > slot.restart ? seen.restart : slot.restart;
      const unsound = world.whyUnsound(slot, rowsToo ? needs : null, sends);
      must(unsound === null, `I6: nothing unsafe wears a real name: ${unsound}`, detail(slot));
    }
    if (!this.untouched || journal.problems.length > 0) return;
    for (const record of journal.slots.values()) {
      if (record.obsolete || !isFailoverReady(record.protection)) continue;
      // what a start has loaded since may have taken the room that it needs: told at the next look
      if (world.run !== this.#recordedRun && failed.get(record.name)?.includes(NO_ROOM)) continue;
      count(`promise checked: ${record.protection}`);
      const slot = world.standby.get(record.name);
      const seen = this.recorded.get(record.name);
      const promise = `a slot that is called ${record.protection} is there after a promotion`;
      // rows that may have gone since the last look are seen at the next: then it may be made or dropped
      must(slot !== undefined && seen !== undefined && seen.confirmed !== null, promise, detail(record));
      must(seen.confirmed <= world.replay, `${promise}, with nothing missing (I1)`, detail(record));
      const exact = minLsn(seen.confirmed as Lsn, world.replay as Lsn);
      must(slot.confirmed === exact, `${promise}, at its exact position (I1)`, detail(record));
      const source = sources.get(record.name) ?? null;
      must(source === null, `${promise}, from what is sound itself (G2): ${source}`, detail(record));
    }
  }
}

function recordedOf(slot: LogicalSlot, xmin: number | null): Recorded {
  return {
    xmin,
    confirmed: slot.confirmedFlushLsn,
    restart: slot.restartLsn ?? 0n,
    db: slot.databaseOid,
    plugin: slot.plugin,
    twoPhase: slot.twoPhase,
    invalid: slot.invalidation,
  };
}

/** Brought by us, and nowhere that we did not mean it to be. */
export function reallyOurs(slot: StandbySlot): boolean {
  return !slot.foreign && slot.confirmed <= slot.meant;
}

/** What it throws, or null. */
function attempt(run: () => void): unknown {
  try {
    run();
    return null;
  } catch (error) {
    if (error instanceof Refused || error instanceof LeftAlone) return error;
    throw error;
  }
}

/** As sync/finish.ts runs them: first what must go, then what was promised, then the rest. */
function inOrder(steps: readonly FinishStep[]): FinishStep[] {
  const rank = (step: FinishStep) => {
    if (step.kind === "drop") return 0;
    return step.kind === "materialise" && !step.dropFirst && !isFailoverReady(step.record.protection) ? 2 : 1;
  };
  return steps.toSorted((a, b) => rank(a) - rank(b));
}

function finish(world: FileWorld, step: FinishStep): void {
  const { name, databaseOid: db, plugin } = step.record;
  if (step.kind === "drop") world.standby.delete(name);
  if (step.kind === "advance") world.advance(name, step.to);
  if (step.kind !== "materialise") return;
  // the working copy comes before the drop: where there is no room for it, the slot decodes for itself
  if (step.outcome === "advanced" && world.room() < 1) {
    world.advance(name, step.to);
    return;
  }
  if (step.dropFirst !== null) world.standby.delete(name);
  world.materialise(step.from, { name, db, plugin }, step.to);
}

function keyOf(action: Action): string {
  switch (action.kind) {
    case "advance_guard":
      return action.guard;
    case "stage":
    case "unstage":
      return stageBackoffKey(action.slot);
    case "complete":
      return completeBackoffKey(action.slot);
    case "fetch_mappings":
      return mappingsBackoffKey(action.slot);
    case "probe_plugin":
      return pluginBackoffKey(action.plugin);
    default:
      return "slot" in action ? action.slot : action.kind;
  }
}
