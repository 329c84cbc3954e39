/**
 * Both servers where slots come to the standby only as files (11 to 15): what PostgreSQL would do to slots, WAL, snapshots, catalog
 * rows, rewrite mappings and feedback, and nothing of how it is asked. It knows the truth that the sidecar can only infer.
 */
import type { Lsn } from "../../../src/domain/lsn.ts";
import type { FilesView, PrimaryView, SlotFolder, StandbyView } from "../../../src/domain/observation.ts";
import type { LogicalSlot, SlotIdentity } from "../../../src/domain/slot.ts";
import type { OwnHistory } from "../../../src/domain/timeline.ts";
import type { Xid } from "../../../src/domain/xid.ts";
import { decode, type Position, type RunningXacts, type Transaction } from "./file-decode.ts";

const KB = 1024n;
export const MB = 1024n * KB;
const NO_SNAPSHOTS: ReadonlySet<bigint> = new Set();

export interface Slot extends Position {
  name: string;
  db: number;
  plugin: string;
  twoPhase: boolean;
  /** What a crash leaves of it. */
  saved: Position;
}

export interface PrimarySlot extends Omit<Slot, "confirmed"> {
  /** Null while its creation has not found its consistent point. */
  confirmed: bigint | null;
  /** What the subscriber has really confirmed; a crash of the primary forgets it, the subscriber does not. */
  acked: bigint;
  /** Where it was born, for a slot made anew; null for a copy of an older one. */
  born: bigint | null;
  polled: boolean;
  invalid: string | null;
}

export interface StandbySlot extends Slot {
  /** Loaded from a folder of somebody else, or of ours in a life whose journal is lost. */
  foreign: boolean;
  /** The furthest position that any statement of ours was ever planned to move it to. */
  meant: bigint;
  /** Somebody has moved it beyond what we meant: theirs from then on, even if a crash takes it back. */
  consumed: boolean;
}

/** On the standby's disk, and not in its memory: loaded at its next start. */
export interface Folder extends Slot {
  foreign: boolean;
  /** Loaded, it could be ours that a crash has taken back: nothing tells the two apart, and it must serve as well. */
  asOurs?: boolean;
}

export interface Pin extends Position {
  name: string;
}

export const NO_ROOM = "all replication slots are in use";

/** Why a statement was refused, as the sidecar tells errors apart. */
export class Refused extends Error {
  readonly reason: "statement_failed" | "wal_or_rows_removed" | "absent_on_primary" | "permission_denied";

  constructor(message: string, reason: Refused["reason"] = "statement_failed") {
    super(message);
    this.reason = reason;
  }
}

/** A slot is not where it was seen, or the server is another run: the sidecar leaves it alone, and it is no failure. */
export class LeftAlone extends Error {}

export class FileWorld {
  readonly version: number;
  wal = 100n * MB;
  timeline = 1;
  /** The one that the standby has come to. */
  standbyTimeline = 1;
  readonly forks: { timeline: number; until: Lsn }[] = [];
  nextXid: number;
  records: RunningXacts[] = [];
  transactions: Transaction[] = [];
  /** Catalog rows that were deleted by transactions before `before` are gone for whoever has replayed this. */
  removals: { lsn: bigint; before: number }[] = [];
  primary = new Map<string, PrimarySlot>();
  pins = new Map<string, Pin>();
  primarySnapshots = new Set<bigint>();
  /** Catalogs that were rewritten: where that began, where its record ends, and whose rows it moved. */
  rewrites: { began: bigint; lsn: bigint; xids: readonly number[] }[] = [];
  /** Where they began: files of mappings, on the primary and here. */
  primaryMappings = new Set<bigint>();
  mappings = new Set<bigint>();
  /** Whether the role may list them there. */
  mayListMappings = true;
  primaryWalKept = 0n;
  /** WAL that is there whoever needs it, bytes: a file that is staged is renewed before that has been written over. */
  walKeep = 64n * MB;
  /** The standby's slot there, with its `catalog_xmin`. */
  physical: { xmin: number | null; savedXmin: number | null } | null = { xmin: null, savedXmin: null };

  flushed = 100n * MB;
  replay = 100n * MB;
  restartpoint = 100n * MB;
  standby = new Map<string, StandbySlot>();
  folders = new Map<string, Folder>();
  snapshots = new Set<bigint>();
  walKept = 0n;
  hotStandbyFeedback = true;
  /** What the sidecar has noted of it: turned off and on again unseen, within one walreceiver's life, nobody could tell. */
  notedFeedback = true;
  /** The primary's snapshots are of a format that this standby does not take. */
  foreignFormat = false;
  filesProblem: "none" | "blind" | "refuses" = "none";
  maxSlots = 12;
  /** What the settings files say for the next start. */
  maxSlotsNext = 12;
  /** Slots of other kinds on the standby. */
  otherSlots = 0;
  /** Each start of the standby, walreceiver and reading of the settings has another number. */
  run = 1;
  receiver: number | null = 1;
  #receivers = 1;

  /** How often the feedback may have been interrupted, and how often others have taken room at the next start. */
  interruptions = 0;
  intrusions = 0;
  /** A start that failed, and whether anything of ours was staged then. */
  refusedStarts: { staged: string[] }[] = [];

  constructor(version: number, firstXid: number) {
    this.version = version;
    this.nextXid = firstXid;
    this.record();
    this.receive(4, 4);
  }

  clone(): FileWorld {
    const copy = Object.assign(new FileWorld(this.version, this.nextXid), this);
    copy.standby = new Map([...this.standby].map(([name, slot]) => [name, { ...slot }]));
    copy.folders = new Map(this.folders);
    copy.snapshots = new Set(this.snapshots);
    copy.mappings = new Set(this.mappings);
    return copy;
  }

  // ---- the primary

  #step(bytes = KB): bigint {
    this.wal += bytes;
    return this.wal;
  }

  write(mb: number): void {
    this.#step(BigInt(mb) * MB);
    this.nextXid += 3;
  }

  begin(): void {
    if (this.running().length >= 3) return;
    this.#step();
    this.transactions.push({ xid: this.nextXid, begin: this.wal, end: null });
    this.nextXid += 1;
    this.#step();
  }

  end(which: number): void {
    const open = this.running();
    const transaction = open[which % Math.max(1, open.length)];
    if (transaction) transaction.end = this.#step();
  }

  running(): Transaction[] {
    return this.transactions.filter(({ end }) => end === null);
  }

  oldestXid(): number {
    return this.running()[0]?.xid ?? this.nextXid;
  }

  /** A running-xacts record. */
  record(): bigint {
    const running = this.running().map(({ xid }) => xid);
    const lsn = this.#step();
    this.records.push({ lsn, oldest: this.oldestXid(), next: this.nextXid, running });
    this.#step();
    for (const slot of this.primary.values()) this.#finishCreation(slot);
    return lsn;
  }

  #holders(): { xmin: number }[] {
    const valid = [...this.primary.values()].filter(({ invalid }) => invalid === null);
    const physical = this.physical?.xmin ?? null;
    return [...valid, ...this.pins.values(), ...(physical === null ? [] : [{ xmin: physical }])];
  }

  #horizon(oldest: number): number {
    return Math.min(oldest, ...this.#holders().map(({ xmin }) => xmin));
  }

  /** Transactions of another database hold none of this one's rows. */
  vacuum(running: "here" | "elsewhere"): void {
    const before = this.#horizon(running === "here" ? this.oldestXid() : this.nextXid);
    if (before <= (this.removals.at(-1)?.before ?? 0)) return;
    this.removals.push({ lsn: this.#step(), before });
  }

  /** `VACUUM FULL` of catalogs: what it notes is for the transactions that some slot may still have to decode. */
  rewrite(): void {
    const holders = this.#holders();
    const began = this.#step();
    const lsn = this.#step();
    if (holders.length === 0) return;
    const cutoff = Math.min(...holders.map(({ xmin }) => xmin));
    const xids = this.transactions.filter(({ xid }) => xid >= cutoff).map(({ xid }) => xid);
    if (xids.length === 0) return;
    this.rewrites.push({ began, lsn, xids });
    this.primaryMappings.add(began);
  }

  createOnPrimary(slot: SlotIdentity & { name: string }): void {
    if (this.primary.has(slot.name)) return;
    // `GetOldestSafeDecodingTransactionId`: what others hold is there for it too
    const xmin = this.#horizon(this.oldestXid());
    const lsn = this.record();
    const made: PrimarySlot = {
      name: slot.name,
      db: slot.databaseOid,
      plugin: slot.plugin,
      twoPhase: slot.twoPhase,
      restart: lsn,
      confirmed: null,
      xmin,
      saved: { restart: lsn, confirmed: 0n, xmin },
      acked: 0n,
      born: lsn,
      polled: false,
      invalid: null,
    };
    this.primary.set(slot.name, made);
    this.#finishCreation(made);
  }

  /** A creation takes over nobody's snapshot (12.20 and later): it waits for what was running. */
  #finishCreation(slot: PrimarySlot): void {
    if (slot.confirmed !== null || slot.invalid !== null) return;
    const from = { restart: slot.restart, confirmed: 0n, xmin: slot.xmin };
    const { consistentAt } = decode(this, from, this.wal, {
      snapshots: NO_SNAPSHOTS,
      replay: this.wal,
      eager: true,
    });
    if (consistentAt === null) return;
    slot.confirmed = this.wal;
    slot.acked = this.wal;
    slot.saved = { restart: slot.restart, confirmed: this.wal, xmin: slot.xmin };
  }

  copyOnPrimary(name: string, from: string): void {
    const source = this.primary.get(from);
    if (!source || source.confirmed === null || source.invalid || this.primary.has(name)) return;
    const { restart, confirmed, xmin } = source;
    this.primary.set(name, {
      ...source,
      name,
      saved: { restart, confirmed, xmin },
      acked: confirmed,
      born: null,
      polled: false,
    });
  }

  /** The subscriber confirms: never less than it has confirmed before, whatever the primary remembers. */
  confirm(name: string, share: number): void {
    const slot = this.primary.get(name);
    if (!slot || slot.invalid || slot.confirmed === null) return;
    const target = slot.confirmed + ((this.wal - slot.confirmed) * BigInt(share)) / 4n;
    const to = target > slot.acked ? target : slot.acked;
    const from = { restart: slot.restart, confirmed: slot.confirmed, xmin: slot.xmin };
    const { restart, xmin, serialized } = decode(this, from, to, {
      snapshots: this.primarySnapshots,
      replay: this.wal,
      eager: true,
    });
    for (const lsn of serialized) this.primarySnapshots.add(lsn);
    const moved = restart !== slot.restart || xmin !== slot.xmin;
    Object.assign(slot, { restart, xmin, confirmed: to, acked: to });
    if (moved) slot.saved = { restart, confirmed: to, xmin };
  }

  checkpointPrimary(): void {
    for (const slot of this.primary.values())
      if (slot.confirmed !== null)
        slot.saved = { restart: slot.restart, confirmed: slot.confirmed, xmin: slot.xmin };
    if (this.physical) this.physical.savedXmin = this.physical.xmin;
    const logical = [...this.primary.values(), ...this.pins.values()]
      .filter((slot) => !("invalid" in slot) || slot.invalid === null)
      .map(({ restart }) => restart);
    const least = logical.reduce((a, b) => (b < a ? b : a), this.wal);
    for (const lsn of this.primarySnapshots) if (lsn < least) this.primarySnapshots.delete(lsn);
    for (const lsn of this.primaryMappings) if (lsn < least) this.primaryMappings.delete(lsn);
    const spared = this.wal - this.walKeep;
    const held = this.physical && this.flushed < least ? this.flushed : least;
    const needed = spared < held ? spared : held;
    if (needed > this.primaryWalKept) this.primaryWalKept = needed;
    this.record();
  }

  /** kill -9 and restart: slots go back to what was saved, pins and creations that were not through are gone. */
  crashPrimary(): void {
    for (const slot of [...this.primary.values()]) {
      if (slot.confirmed === null) this.primary.delete(slot.name);
      else Object.assign(slot, slot.saved);
    }
    for (const transaction of this.running()) transaction.end = this.#step();
    this.pins.clear();
    if (this.physical) this.physical.xmin = this.physical.savedXmin;
    this.disconnect();
    this.record();
  }

  /** Another standby becomes the primary, with what its own sidecar had brought there: some slots, some of them a little behind. */
  switchPrimary(keep: number): void {
    this.forks.push({ timeline: this.timeline, until: this.wal as Lsn });
    this.timeline += 1;
    let index = 0;
    for (const slot of [...this.primary.values()]) {
      const fate = (keep >> (2 * index)) & 3;
      index += 1;
      if (fate === 3 || slot.confirmed === null) this.primary.delete(slot.name);
      else if (fate === 2) Object.assign(slot, slot.saved);
    }
    for (const transaction of this.running()) transaction.end = this.#step();
    this.pins.clear();
    this.physical = { xmin: null, savedXmin: null };
    this.disconnect();
    this.record();
  }

  pin(name: string, source: Position): void {
    this.pins.set(name, { ...source, name });
  }

  /** A new temporary slot, for which nothing may be running. */
  createPin(name: string): void {
    if (this.running().length > 0) throw new Refused("other transactions are still running");
    const xmin = this.#horizon(this.oldestXid());
    const restart = this.record();
    this.pins.set(name, { name, restart, confirmed: this.wal, xmin });
  }

  /**
   * A transaction is running where all slots' decoding will begin: what a state file without its snapshot loses. `last`: it ends in
   * the end.
   */
  overlap(names: readonly string[], last: boolean): void {
    this.begin();
    this.record();
    this.begin();
    this.end(this.running().length - 2);
    this.record();
    for (const name of names) this.confirm(name, 4);
    if (last) this.end(this.running().length - 1);
  }

  /** The standby hears nothing, rows go meanwhile, and all is as before. */
  blink(names: readonly string[], physicalToo: boolean): void {
    if (physicalToo) this.dropPhysical();
    else this.disconnect();
    this.goOn(names);
    this.recreatePhysical();
    this.receive(4, 4);
    this.feedback();
  }

  /** Some subscribers go on, and what nobody needs any more is removed. */
  goOn(names: readonly string[]): void {
    this.unfed(names);
    this.feedback();
  }

  /** The same before the standby's feedback comes again. */
  unfed(names: readonly string[]): void {
    this.write(1);
    this.record();
    for (const name of names) this.confirm(name, 4);
    this.vacuum("here");
    this.receive(4, 4);
  }

  // ---- the standby

  /** No walreceiver; the next one is another. */
  disconnect(): void {
    this.interruptions += 1;
    this.receiver = null;
  }

  receive(flushShare: number, replayShare: number): void {
    if (this.physical && this.receiver === null) {
      this.#receivers += 1;
      this.receiver = this.#receivers;
    }
    if (this.receiver === null) return;
    this.flushed += ((this.wal - this.flushed) * BigInt(flushShare)) / 4n;
    // one timeline after the other, each up to where the next one left it
    const left = this.forks.find(({ until }) => until > this.flushed);
    this.standbyTimeline = left?.timeline ?? this.timeline;
    this.#replayTo(this.replay + ((this.flushed - this.replay) * BigInt(replayShare)) / 4n);
  }

  /** `PhysicalReplicationSlotNewXmin`: forward, or to and from NULL. */
  feedback(): void {
    if (this.receiver === null || this.physical === null) return;
    const xmins = this.hotStandbyFeedback ? [...this.standby.values()].map(({ xmin }) => xmin) : [];
    const least = xmins.length > 0 ? Math.min(...xmins) : null;
    const { xmin } = this.physical;
    if (xmin === null || least === null || xmin < least) this.physical.xmin = least;
  }

  setFeedback(on: boolean): void {
    if (this.hotStandbyFeedback === on || this.hotStandbyFeedback !== this.notedFeedback) return;
    this.hotStandbyFeedback = on;
    this.interruptions += 1;
  }

  dropPhysical(): void {
    this.physical = null;
    this.disconnect();
  }

  recreatePhysical(): void {
    this.physical ??= { xmin: null, savedXmin: null };
  }

  doRestartpoint(): void {
    this.restartpoint = this.replay;
    for (const slot of this.standby.values()) slot.saved = positionOf(slot);
    const least = [...this.standby.values()].reduce(
      (a, { restart }) => (restart < a ? restart : a),
      this.replay,
    );
    for (const lsn of this.snapshots) if (lsn < least) this.snapshots.delete(lsn);
    // without a slot in memory all of them go
    for (const lsn of this.mappings) if (lsn < least || this.standby.size === 0) this.mappings.delete(lsn);
    if (least > this.walKept) this.walKept = least;
  }

  /** Stops and starts the standby; `clean`: what its slots have come to is saved first. */
  restart(clean: boolean): void {
    if (clean) this.doRestartpoint();
    for (const slot of this.standby.values()) Object.assign(slot, slot.saved);
    const count = this.standby.size + this.folders.size + this.otherSlots;
    if (count > this.maxSlotsNext) {
      const staged = [...this.folders.values()].filter(({ foreign }) => !foreign).map(({ name }) => name);
      this.refusedStarts.push({ staged });
      // somebody raises it, and it starts
      this.maxSlotsNext = count;
    }
    this.maxSlots = this.maxSlotsNext;
    for (const folder of this.folders.values())
      this.standby.set(folder.name, {
        ...folder,
        foreign: folder.foreign && !folder.asOurs,
        meant: folder.confirmed,
        consumed: false,
      });
    this.folders.clear();
    this.run += 1;
    this.disconnect();
    this.replay = this.restartpoint;
  }

  room(): number {
    return this.maxSlots - this.standby.size - this.otherSlots;
  }

  // ---- what others do there

  setMaxSlots(next: number): void {
    if (next < this.maxSlotsNext) this.intrusions += 1;
    this.maxSlotsNext = next;
  }

  otherSlot(): void {
    if (this.room() < 1) return;
    this.otherSlots += 1;
    this.intrusions += 1;
  }

  /** Somebody else puts a slot's file of some time ago there. */
  foreignFolder(name: string, couldBeOurs: (confirmed: bigint) => boolean): void {
    const slot = this.primary.get(name);
    if (!slot || slot.confirmed === null || this.folders.has(name) || this.standby.has(name)) return;
    this.intrusions += 1;
    const { db, plugin, twoPhase } = slot;
    const saved = { ...slot.saved, confirmed: slot.saved.confirmed - 1n };
    const asOurs = couldBeOurs(saved.confirmed);
    this.folders.set(name, { name, db, plugin, twoPhase, ...saved, saved, foreign: true, asOurs });
  }

  // ---- what the sidecar sees

  xid(count: number): Xid {
    return (((count - 3) % (2 ** 32 - 3)) + 3) as Xid;
  }

  seePrimary(): PrimaryView {
    for (const slot of this.primary.values()) slot.polled = true;
    const { physical } = this;
    return {
      systemIdentifier: "1",
      inRecovery: false,
      timeline: this.timeline,
      walLevel: "logical",
      serverVersionNum: this.version,
      walLsn: this.wal as Lsn,
      physicalSlot: physical && {
        name: "standby1",
        active: this.receiver !== null,
        walsender: this.receiver,
        catalogXmin: physical.xmin === null ? null : this.xid(physical.xmin),
      },
      slots: [...this.primary.values()].map((slot) => this.#shown(slot, slot.invalid)),
      registry: { kind: "absent", database: "postgres" },
      maySnapshot: false,
      mayReadFiles: true,
      stalledStandbySlots: [],
      prepared: [],
      remembered: false,
      oldestXid: this.xid(this.nextXid),
      pins: [...this.pins.values()].map(({ name }) => ({ name, pid: null })),
    };
  }

  seeStandby(): StandbyView {
    return {
      systemIdentifier: "1",
      inRecovery: true,
      serverVersionNum: this.version,
      walLevel: "logical",
      hotStandbyFeedback: this.hotStandbyFeedback,
      primarySlotName: "standby1",
      maxReplicationSlots: this.maxSlots,
      keptSegments: null,
      walSegmentBytes: Number(16n * MB),
      usedSlots: this.standby.size + this.otherSlots,
      replayLsn: this.replay as Lsn,
      flushedLsn: (this.flushed > this.replay ? this.flushed : this.replay) as Lsn,
      streaming: this.receiver !== null,
      receivedTimeline: this.receiver === null ? null : this.standbyTimeline,
      leastTimeline: this.standbyTimeline,
      slots: this.seeSlots(),
      databases: [1, 2].map((oid) => ({ oid, name: `db${oid}` })),
      syncsSlots: false,
      conninfoHasDatabase: true,
      physicalSlots: [],
      mayReplicate: true,
      feedbackSession: `standby1 ${this.receiver ?? ""} ${this.run}`,
      files: this.seeFiles(),
    };
  }

  seeFiles(): FilesView {
    const problem = { reason: "restart_pending", detail: "a problem" } as const;
    if (this.filesProblem === "blind")
      return { problem, folders: [], folderCount: 0, maxReplicationSlots: null };
    return {
      problem: this.filesProblem === "refuses" ? problem : null,
      folders: [...this.folders.values()].map(shownFolder),
      folderCount: this.standby.size + this.folders.size + this.otherSlots,
      maxReplicationSlots: Math.min(this.maxSlots, this.maxSlotsNext),
    };
  }

  seeSlots(): LogicalSlot[] {
    return [...this.standby.values()].map((slot) => this.#shown(slot, null));
  }

  #shown(
    slot: { name: string; confirmed: bigint | null } & Omit<Slot, "confirmed">,
    invalid: string | null,
  ): LogicalSlot {
    return {
      name: slot.name,
      database: `db${slot.db}`,
      databaseOid: slot.db,
      plugin: slot.plugin,
      twoPhase: slot.twoPhase,
      temporary: false,
      activePid: null,
      restartLsn: slot.restart as Lsn,
      confirmedFlushLsn: slot.confirmed as Lsn | null,
      catalogXmin: this.xid(slot.xmin),
      invalidation: invalid,
      failover: false,
      synced: false,
    };
  }

  // ---- what the sidecar does there. Each throws as the server would.

  /** `pg_replication_slot_advance`. */
  advance(name: string, to: bigint): void {
    const slot = this.standby.get(name);
    if (!slot) throw new Refused(`slot ${name} does not exist`);
    this.#move(slot, to < this.replay ? to : this.replay, this.replay);
  }

  /** The same by somebody's hand. */
  tryAdvance(slot: Slot, to: bigint): void {
    try {
      this.#move(slot, to, this.replay);
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
    }
  }

  #move(slot: Slot, to: bigint, replay: bigint): void {
    if (to < slot.confirmed) throw new Refused("minimum is");
    if (slot.restart < this.walKept)
      throw new Refused("requested WAL segment has already been removed", "wal_or_rows_removed");
    const { restart, xmin, serialized, blocked } = decode(this, slot, to, {
      snapshots: this.snapshots,
      replay,
      eager: false,
    });
    if (blocked) throw new Refused("canceling statement due to statement timeout");
    for (const lsn of serialized) this.snapshots.add(lsn);
    const moved = restart !== slot.restart || xmin !== slot.xmin;
    Object.assign(slot, { restart, xmin, confirmed: to });
    if (moved) slot.saved = positionOf(slot);
  }

  writeFolder(folder: Omit<Folder, "foreign" | "saved">, replace: boolean): void {
    if (this.folders.has(folder.name) && !replace) throw new Refused("the folder exists");
    this.folders.set(folder.name, { ...folder, saved: positionOf(folder), foreign: false });
  }

  /** Copies what WAL the primary still has. */
  fetchWal(from: bigint): void {
    if (from >= this.walKept) return;
    if (from < this.primaryWalKept)
      throw new Refused("the segment is neither here nor there", "wal_or_rows_removed");
    this.walKept = from;
  }

  // ---- promotion

  promote(): void {
    this.receiver = null;
    this.#replayTo(this.flushed);
  }

  /** Replay writes the mappings itself, whether a slot needs them or not. */
  #replayTo(to: bigint): void {
    for (const { began, lsn } of this.rewrites) if (lsn > this.replay && lsn <= to) this.mappings.add(began);
    this.replay = to;
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

  /** Copies `from` to a temporary slot, advances that, and copies it to the name (G2b). */
  materialise(from: string, slot: Pick<Slot, "name" | "db" | "plugin">, to: bigint): void {
    const source = this.standby.get(from);
    if (!source || source.db !== slot.db) throw new Refused(`no usable source ${from}`);
    if (this.version < 120_000) throw new Refused("function pg_copy_logical_replication_slot does not exist");
    if (this.room() < 2) throw new Refused(NO_ROOM);
    if (this.standby.has(slot.name) || this.folders.has(slot.name)) throw new Refused("already exists");
    const copy = { ...source, ...slot, twoPhase: false, foreign: false, meant: to, consumed: false };
    this.#move(copy, to, this.replay);
    this.standby.set(slot.name, { ...copy, saved: positionOf(copy) });
  }

  /**
   * Why reading this slot on the promoted standby would not give everything, or null (I2, I3, I4, I16). Rows whose removal lies before its
   * `restart` were deleted by transactions that had ended by then: it never looks for them; nor does one at the very position of another
   * slot for those whose removal lies before where that one's decoding begins (`sends`), for it sends no transaction of before.
   */
  whyUnsound(slot: Position, xmin: number | null, sends = slot.restart): string | null {
    if (slot.restart < this.walKept) return `I3: its WAL from ${slot.restart} on is gone`;
    // what was never received is not there to be decoded
    const end = slot.confirmed < this.flushed ? slot.confirmed : this.flushed;
    const { consistentAt } = decode(this, slot, end, {
      snapshots: this.snapshots,
      replay: end,
      eager: false,
    });
    if (consistentAt === null) return "I2: it starts too late";
    const sent = new Set(
      this.transactions
        .filter((each) => each.end !== null && each.end > slot.confirmed && each.end <= this.flushed)
        .map(({ xid }) => xid),
    );
    for (const { began, lsn, xids } of this.rewrites)
      if (lsn <= this.flushed && !this.mappings.has(began) && xids.some((xid) => sent.has(xid)))
        return `I16: what was moved at ${began} is not found`;
    const removed = this.removals.findLast(({ lsn }) => lsn <= this.flushed);
    if (xmin === null || removed === undefined || removed.lsn <= sends) return null;
    return removed.before > xmin ? `I4: rows deleted before ${removed.before} are gone` : null;
  }
}

export function shownFolder(folder: Folder): SlotFolder {
  return {
    name: folder.name,
    state: {
      databaseOid: folder.db,
      plugin: folder.plugin,
      twoPhase: folder.twoPhase,
      restartLsn: folder.restart as Lsn,
      confirmedFlushLsn: folder.confirmed as Lsn,
    },
  };
}

function positionOf({ restart, confirmed, xmin }: Position): Position {
  return { restart, confirmed, xmin };
}
