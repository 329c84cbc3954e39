/**
 * Both servers as plain state, for the property tests: what PostgreSQL would do to slots, WAL and sessions, and nothing of how it is
 * asked. It knows the truth that the sidecar can only infer: who made a slot, what the subscriber really confirmed, how far a
 * statement of ours ever meant to move a slot.
 */
import type { Action } from "../../../src/domain/action.ts";
import type { FinishStep } from "../../../src/domain/finish.ts";
import type { Lsn } from "../../../src/domain/lsn.ts";
import type { PrimaryView, StandbyView } from "../../../src/domain/observation.ts";
import type { LogicalSlot } from "../../../src/domain/slot.ts";
import type { OwnHistory } from "../../../src/domain/timeline.ts";
import type { Xid } from "../../../src/domain/xid.ts";

const MB = 1024n * 1024n;

/** Catalog rows are the server's own business from 16 on (I4): here the feedback has always arrived. */
const XMIN = 700 as Xid;

interface Saved {
  restart: bigint;
  confirmed: bigint;
}

export interface PSlot {
  name: string;
  db: number;
  plugin: string;
  twoPhase: boolean;
  restart: bigint;
  /** Null while its creation has not found its consistent point. */
  confirmed: bigint | null;
  saved: Saved;
  /** What the subscriber has really confirmed; a crash of the primary forgets it, the subscriber does not. */
  acked: bigint;
  /** Where it was born, for a slot made anew; null for a copy of an older one, which may start anywhere. */
  born: bigint | null;
  polled: boolean;
  invalid: string | null;
}

export interface SSlot {
  name: string;
  db: number;
  plugin: string;
  twoPhase: boolean;
  temporary: boolean;
  session: number | null;
  restart: bigint;
  confirmed: bigint;
  saved: Saved;
  /** Made by somebody else, or by us in a life whose journal is lost. */
  foreign: boolean;
  /** Somebody has moved it beyond what we meant: theirs from then on, even if a crash takes it back. */
  consumed: boolean;
  /** The furthest position any statement of ours was ever planned to move it to. */
  meant: bigint;
  invalid: string | null;
  pid: number | null;
  /**
   * Where the slot that it goes back to found its consistent point: catalog changes were in flight then, and as long as decoding begins
   * before a later running-xacts record, rows are sent by the catalogs of before (K4).
   */
  birth: bigint;
}

/** A statement that the sidecar's death or a lost connection has left running on the standby. */
export interface Late {
  action: Extract<Action, { kind: "create" }>;
  sourceRestart: bigint;
  sourceBirth: bigint;
}

export class World {
  wal = 100n * MB;
  timeline = 1;
  /** The one that the standby has come to. */
  standbyTimeline = 1;
  readonly forks: { timeline: number; until: Lsn }[] = [];
  runningXacts: bigint[] = [100n * MB];
  /** A transaction is open, and nothing's restart_lsn passes its beginning. */
  longTransaction = false;
  flushed = 100n * MB;
  replay = 100n * MB;
  /** What a walreceiver would tell; unknown after a start until it streams. */
  streaming = true;
  restartpoint = 100n * MB;
  /** WAL before this is gone from the standby. */
  walKept = 100n * MB;
  maxSlots = 8;
  session = 1;
  thirdDatabaseAt: bigint | null = null;
  primary = new Map<string, PSlot>();
  /** What output_plugin_libraries lists on the standby; null where every plugin may be loaded. */
  allowed: string | null = null;
  standby = new Map<string, SSlot>();
  late: Late[] = [];

  clone(): World {
    return structuredCopy(this);
  }

  // ---- the primary

  write(mb: number, record: boolean): void {
    this.wal += BigInt(mb) * MB;
    if (record) this.runningXacts.push(this.wal);
  }

  /** What the sidecar asks for while a guard is new. */
  nudge(): void {
    this.wal += 64n;
    this.runningXacts.push(this.wal);
  }

  lastRunningXacts(at: bigint, least: bigint): bigint {
    if (this.longTransaction) return least;
    let found = least;
    for (const lsn of this.runningXacts) if (lsn <= at && lsn > found) found = lsn;
    return found;
  }

  createOnPrimary(slot: Pick<PSlot, "name" | "db" | "plugin" | "twoPhase">, pending: boolean): void {
    if (this.primary.has(slot.name)) return;
    this.primary.set(slot.name, {
      ...slot,
      restart: this.wal,
      confirmed: pending ? null : this.wal,
      saved: { restart: this.wal, confirmed: this.wal },
      acked: this.wal,
      born: this.wal,
      polled: false,
      invalid: null,
    });
  }

  copyOnPrimary(name: string, from: string): void {
    const source = this.primary.get(from);
    if (!source || source.confirmed === null || source.invalid || this.primary.has(name)) return;
    this.primary.set(name, {
      ...source,
      name,
      saved: { restart: source.restart, confirmed: source.confirmed },
      acked: source.confirmed,
      born: null,
      polled: false,
    });
  }

  /** The subscriber confirms: never less than it has confirmed before, whatever the primary remembers. */
  confirm(slot: PSlot, share: number): void {
    if (slot.invalid) return;
    if (slot.confirmed === null) {
      slot.confirmed = this.wal;
      slot.acked = this.wal;
      slot.saved = { restart: slot.restart, confirmed: this.wal };
      return;
    }
    const target = slot.confirmed + ((this.wal - slot.confirmed) * BigInt(share)) / 4n;
    slot.confirmed = target > slot.acked ? target : slot.acked;
    slot.acked = slot.confirmed;
    const restart = this.lastRunningXacts(slot.confirmed, slot.restart);
    if (restart > slot.restart) {
      slot.restart = restart;
      slot.saved = { restart, confirmed: slot.confirmed };
    }
  }

  checkpointPrimary(): void {
    this.runningXacts.push(this.wal);
    for (const slot of this.primary.values())
      if (slot.confirmed !== null) slot.saved = { restart: slot.restart, confirmed: slot.confirmed };
  }

  /** kill -9 and restart: slots go back to what was saved, a creation that was not through is gone. */
  crashPrimary(): void {
    for (const slot of [...this.primary.values()]) {
      if (slot.confirmed === null) this.primary.delete(slot.name);
      else {
        slot.confirmed = slot.saved.confirmed;
        slot.restart = slot.saved.restart;
      }
    }
  }

  /** Another standby becomes the primary, with what its own sidecar had brought there: some slots, some of them a little behind. */
  switchPrimary(keep: number): void {
    this.forks.push({ timeline: this.timeline, until: this.wal as Lsn });
    this.timeline += 1;
    this.write(1, true);
    let index = 0;
    for (const slot of [...this.primary.values()]) {
      const fate = (keep >> (2 * index)) & 3;
      index += 1;
      if (fate === 3 || slot.confirmed === null) this.primary.delete(slot.name);
      else if (fate === 2) {
        slot.confirmed = slot.saved.confirmed;
        slot.restart = slot.saved.restart;
      }
    }
  }

  // ---- the standby

  receive(flushShare: number, replayShare: number): void {
    this.streaming = true;
    this.flushed += ((this.wal - this.flushed) * BigInt(flushShare)) / 4n;
    // one timeline after the other, each up to where the next one left it
    const left = this.forks.find(({ until }) => until > this.flushed);
    this.standbyTimeline = left?.timeline ?? this.timeline;
    this.replay += ((this.flushed - this.replay) * BigInt(replayShare)) / 4n;
  }

  doRestartpoint(): void {
    this.restartpoint = this.replay;
    for (const slot of this.standby.values())
      if (!slot.temporary) slot.saved = { restart: slot.restart, confirmed: slot.confirmed };
    // PostgreSQL keeps WAL for every valid slot, and none for an invalidated one
    let least = this.replay;
    for (const slot of this.standby.values()) if (!slot.invalid && slot.restart < least) least = slot.restart;
    if (least > this.walKept) this.walKept = least;
  }

  /** kill -9 and restart: positions go back to what was saved, sessions and their temporary slots are gone. */
  crashStandby(): void {
    for (const slot of [...this.standby.values()]) {
      slot.pid = null;
      if (slot.temporary) this.standby.delete(slot.name);
      else {
        slot.confirmed = slot.saved.confirmed;
        slot.restart = slot.saved.restart;
      }
    }
    this.late = [];
    this.session += 1;
    this.streaming = false;
    this.replay = this.restartpoint;
  }

  /** The sidecar's sessions end. */
  endSessions(): void {
    for (const slot of [...this.standby.values()])
      if (slot.temporary && slot.session === this.session) this.standby.delete(slot.name);
    this.session += 1;
  }

  add(slot: Omit<SSlot, "saved" | "invalid" | "pid">): void {
    this.standby.set(slot.name, {
      ...slot,
      saved: { restart: slot.restart, confirmed: slot.confirmed },
      invalid: null,
      pid: null,
    });
  }

  move(slot: SSlot, to: bigint): void {
    slot.confirmed = to;
    const restart = this.lastRunningXacts(to, slot.restart);
    if (restart > slot.restart) {
      slot.restart = restart;
      slot.saved = { restart, confirmed: to };
    }
  }

  /** Somebody's own slot, made here: it waits for a record after everything that is replayed now, and starts past it. */
  makeForeign(name: string, db: number, plugin: string): void {
    if (this.standby.has(name) || this.standby.size >= this.maxSlots) return;
    this.write(1, true);
    this.receive(4, 4);
    this.add({
      name,
      db,
      plugin,
      twoPhase: false,
      temporary: false,
      session: null,
      restart: this.wal,
      confirmed: this.wal,
      foreign: true,
      consumed: false,
      meant: 0n,
      birth: this.wal,
    });
  }

  // ---- what the sidecar sees

  seePrimary(): PrimaryView {
    for (const slot of this.primary.values()) slot.polled = true;
    return {
      systemIdentifier: "1",
      inRecovery: false,
      timeline: this.timeline,
      walLevel: "logical",
      serverVersionNum: 160_014,
      walLsn: this.wal as Lsn,
      physicalSlot: { name: "standby1", active: true, walsender: 4_711, catalogXmin: XMIN },
      slots: [...this.primary.values()].map(
        (slot): LogicalSlot => ({
          ...identity(slot),
          temporary: false,
          activePid: null,
          restartLsn: slot.restart as Lsn,
          confirmedFlushLsn: slot.confirmed as Lsn | null,
          invalidation: slot.invalid,
        }),
      ),
      registry: { kind: "absent", database: "postgres" },
      maySnapshot: true,
      mayReadFiles: true,
      stalledStandbySlots: [],
      prepared: [],
      remembered: false,
      oldestXid: XMIN,
      pins: [],
    };
  }

  seeStandby(): StandbyView {
    const rules =
      this.allowed === null
        ? null
        : { value: this.allowed.replaceAll(" ", ", "), ofOurRole: false, roleOid: 10, overrides: [] };
    return {
      plugins: { rules, libraries: null },
      systemIdentifier: "1",
      inRecovery: true,
      serverVersionNum: 160_014,
      walLevel: "logical",
      hotStandbyFeedback: true,
      primarySlotName: "standby1",
      maxReplicationSlots: this.maxSlots,
      keptSegments: null,
      walSegmentBytes: Number(16n * MB),
      usedSlots: this.standby.size,
      replayLsn: this.replay as Lsn,
      flushedLsn: (this.streaming ? this.flushed : this.replay) as Lsn,
      streaming: this.streaming,
      receivedTimeline: this.streaming ? this.standbyTimeline : null,
      leastTimeline: this.standbyTimeline,
      feedbackSession: "s",
      files: null,
      slots: this.seeSlots(),
      databases: this.databases().map((oid) => ({ oid, name: `db${oid}` })),
      syncsSlots: false,
      conninfoHasDatabase: true,
      physicalSlots: [],
      mayReplicate: true,
    };
  }

  seeSlots(): LogicalSlot[] {
    return [...this.standby.values()].map((slot) => ({
      ...identity(slot),
      temporary: slot.temporary,
      activePid: slot.pid,
      restartLsn: slot.restart as Lsn,
      confirmedFlushLsn: slot.confirmed as Lsn,
      invalidation: slot.invalid,
    }));
  }

  databases(): number[] {
    return [1, 2, ...(this.thirdDatabaseAt !== null && this.thirdDatabaseAt <= this.replay ? [3] : [])];
  }

  // ---- what the sidecar does. Each throws as the server would.

  #source(name: string): SSlot {
    const source = this.standby.get(name);
    if (!source || source.invalid) throw new Error(`no usable slot ${name}`);
    return source;
  }

  #room(count: number): void {
    if (this.standby.size + count > this.maxSlots) throw new Error("all replication slots are in use");
  }

  #idle(name: string): SSlot {
    const slot = this.standby.get(name);
    if (!slot) throw new Error(`slot ${name} does not exist`);
    if (slot.pid !== null) throw new Error(`slot ${name} is active`);
    return slot;
  }

  #advance(name: string, db: number, to: bigint): void {
    const slot = this.#idle(name);
    if (slot.invalid || slot.db !== db) throw new Error(`slot ${name} cannot be advanced here`);
    const clamped = to < this.replay ? to : this.replay;
    if (clamped < slot.confirmed) throw new Error("minimum is");
    this.move(slot, clamped);
  }

  mayLoad(plugin: string): boolean {
    return this.allowed === null || this.allowed.split(" ").includes(plugin);
  }

  #load(plugin: string): void {
    if (!this.mayLoad(plugin)) throw new Error(`library "${plugin}" may not be used as an output plugin`);
  }

  /** Copies `from` to a temporary slot, advances that, and copies it to the name (G2b). */
  copyAt(
    from: string,
    slot: { name: string; db: number; plugin: string },
    to: bigint,
    inRecovery: boolean,
  ): void {
    const source = this.#source(from);
    if (source.db !== slot.db) throw new Error("the source is in another database");
    this.#room(2);
    if (this.standby.has(slot.name)) throw new Error(`slot ${slot.name} already exists`);
    if (source.confirmed > to) throw new Error("the source is past the position");
    this.#load(slot.plugin);
    if (inRecovery && to > this.replay) throw new Error("not replayed yet");
    this.add({
      ...slot,
      twoPhase: false,
      temporary: false,
      session: null,
      restart: this.lastRunningXacts(to, source.restart),
      confirmed: to,
      foreign: false,
      consumed: false,
      meant: to,
      birth: source.birth,
    });
  }

  /** `between` is called where a replaced slot is dropped and not yet copied. */
  execute(action: Action, between: () => void) {
    switch (action.kind) {
      case "create_guard": {
        this.#room(1);
        if (this.standby.has(action.guard)) throw new Error("already exists");
        this.#load("pgoutput");
        this.write(1, true);
        this.receive(4, 4);
        return this.add({
          name: action.guard,
          db: action.databaseOid,
          plugin: "pgoutput",
          twoPhase: false,
          temporary: false,
          session: null,
          restart: this.wal,
          confirmed: this.wal,
          foreign: false,
          consumed: false,
          meant: 0n,
          birth: this.wal,
        });
      }
      case "advance_guard":
        return this.#advance(action.guard, action.databaseOid, action.to);
      case "create_hold": {
        const source = this.#source(action.from);
        if (this.standby.has(action.hold)) throw new Error("already exists");
        this.#load("pgoutput");
        this.#room(1);
        return this.add({ ...source, name: action.hold, temporary: true, session: this.session });
      }
      case "release_hold":
        if (this.standby.get(action.hold)?.session === this.session) this.standby.delete(action.hold);
        return;
      case "probe_plugin":
        this.#source(action.from ?? "");
        this.#load(action.plugin);
        return this.#room(1);
      case "create":
        return this.copyAt(
          action.from,
          { name: action.slot, db: action.databaseOid, plugin: action.plugin },
          action.to,
          true,
        );
      case "advance":
        return this.#advance(action.slot, action.databaseOid, action.to);
      case "replace": {
        const guard = this.#source(action.guard);
        if (guard.confirmed !== action.to) throw new Error("the guard is elsewhere");
        const old = this.#idle(action.slot);
        this.standby.delete(action.slot);
        between();
        this.#load(action.plugin);
        return this.add({
          ...old,
          plugin: action.plugin,
          db: guard.db,
          restart: guard.restart,
          confirmed: guard.confirmed,
          birth: guard.birth,
          foreign: false,
          consumed: false,
        });
      }
      case "drop":
      case "drop_leftover":
        if (!this.standby.has(action.slot)) return;
        this.#idle(action.slot);
        this.standby.delete(action.slot);
        return;
    }
  }

  // ---- promotion

  promote(): void {
    this.replay = this.flushed;
    this.streaming = false;
  }

  /** The history of the timeline that the promotion began. */
  history(): OwnHistory {
    const timeline = this.standbyTimeline;
    const before = this.forks.filter((fork) => fork.timeline < timeline);
    return {
      timeline: timeline + 1,
      forks: [...before, { timeline, until: this.replay as Lsn }],
      whole: true,
    };
  }

  /** One step of the finishing, as sync/finish.ts does it. */
  finish(step: FinishStep): void {
    if (step.kind === "drop") this.standby.delete(step.record.name);
    if (step.kind === "advance") {
      const slot = this.#idle(step.record.name);
      this.move(slot, step.to);
    }
    if (step.kind === "materialise") {
      if (step.dropFirst !== null) this.standby.delete(step.record.name);
      const { name, databaseOid, plugin } = step.record;
      this.copyAt(step.from, { name, db: databaseOid, plugin }, step.to, false);
    }
  }
}

function identity(slot: PSlot | SSlot) {
  return {
    name: slot.name,
    database: `db${slot.db}`,
    databaseOid: slot.db,
    plugin: slot.plugin,
    twoPhase: slot.twoPhase,
    catalogXmin: XMIN,
    failover: false,
    synced: false,
  };
}

function structuredCopy(world: World): World {
  const copy = Object.assign(new World(), world);
  copy.runningXacts = [...world.runningXacts];
  copy.late = [...world.late];
  copy.primary = new Map(
    [...world.primary].map(([name, slot]) => [name, { ...slot, saved: { ...slot.saved } }]),
  );
  copy.standby = new Map(
    [...world.standby].map(([name, slot]) => [name, { ...slot, saved: { ...slot.saved } }]),
  );
  return copy;
}
