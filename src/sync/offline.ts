/**
 * Staging into the data directory of a standby that is not running: between a base backup and its first start, or while it is down.
 * The same plan and the same steps as beside a running one; what a start would remove from a running one is put in place at once.
 */
import { readFile } from "node:fs/promises";
import path from "node:path";
import type { Logger } from "pino";
import { completeSlot } from "../apply/complete.ts";
import { runFiles } from "../apply/files.ts";
import { PinKeeper } from "../apply/pin.ts";
import { SnapshotStore } from "../apply/snapshot-store.ts";
import { readIdentity, verifyDirectory } from "../datadir/identity.ts";
import { readSettings } from "../datadir/settings.ts";
import { listSlotFolders } from "../datadir/slot-folders.ts";
import { describeAction, type FileAction, isFileAction } from "../domain/action.ts";
import type { Selection } from "../domain/choice.ts";
import { type Clock, nowOn, onThisBoot } from "../domain/clock.ts";
import type { JournalState, Staged } from "../domain/journal.ts";
import {
  noteDone,
  noteIntents,
  noteObservation,
  noteSnapshotLost,
  noteStaged,
  startOver,
} from "../domain/journal-update.ts";
import { judge } from "../domain/judge.ts";
import { type Lsn, maxLsn, parseLsn } from "../domain/lsn.ts";
import type { PrimaryView, StandbyView } from "../domain/observation.ts";
import type { Policy } from "../domain/plan.ts";
import type { StandbySlot } from "../domain/slot.ts";
import type { Journal } from "../journal/store.ts";
import { DataDirectory } from "../observe/files.ts";
import { observePrimary } from "../observe/primary.ts";
import { describeError } from "../pg/errors.ts";
import type { PgSession } from "../pg/session.ts";
import { LIST_DATABASES, WAL_SEGMENT_BYTES } from "../pg/sql.ts";
import type { PrimaryLink } from "./links.ts";
import { CycleMemory } from "./memory.ts";

export interface OfflineOptions {
  directory: string;
  stateDirectory: string;
  journal: Journal;
  /** Made for `primary.dsn`, or for the primary_conninfo that {@link primaryConninfoIn} finds. */
  primary: PrimaryLink;
  primaryConninfo: string | null;
  selection: Selection;
  policy: Policy;
  log: Logger;
  clock: Clock;
}

export interface OfflineResult {
  /** What was done, or with `dryRun` would be. */
  actions: FileAction[];
  /** What is not staged though it should be, and why. */
  failures: { slot: string; why: string }[];
  /** Slots that will be there after the start. */
  staged: string[];
}

/** This directory must not be staged into now; the message says why and what to do. */
export class OfflineError extends Error {
  override readonly name = "OfflineError";
}

/** Where a standby that is down streams from, as its settings say; null when they do not. */
export async function primaryConninfoIn(directory: string): Promise<string | null> {
  const { major } = await readIdentity(directory);
  return (await readSettings(directory, major)).get("primary_conninfo") ?? null;
}

/** Stages all that the next start should load. Throws OfflineError, DataDirectoryError, and what a session throws. */
export async function stageOffline(options: OfflineOptions, dryRun: boolean): Promise<OfflineResult> {
  const { directory, primary, log, clock } = options;
  const { journal: known, axis } = onThisBoot(options.journal.state, clock);
  const now = () => nowOn(axis, clock);
  const session = await primary.session(options.primaryConninfo);
  const settings = await readSettings(directory, (await readIdentity(directory)).major);
  const seen = await observePrimary(session, settings.get("primary_slot_name") ?? "");
  const view = await lookOffline(options, session, seen);
  const memory = new CycleMemory(options.policy.duty).at(now(), {
    busyDatabases: new Set(),
    creatingGuards: new Set(),
    filesBusy: false,
  });
  const atOnce = { ...memory, stageAll: true };
  // promoted and demoted since: what it knew of its slots is not true any more
  let journal = known.phase === "primary" ? startOver(known) : known;
  const judged = judge(seen, view, journal, options.selection, options.policy, atOnce);
  if (!judged.trusted) throw new OfflineError(judged.problems.map(({ message }) => message).join("; "));
  // what a start has loaded is completed once it runs
  const actions = judged.plan.actions
    .filter(isFileAction)
    .filter(({ kind }) => kind === "stage" || kind === "unstage");
  const failures = judged.plan.unstaged.map(({ slot, reason, detail }) => ({
    slot,
    why: `${reason}: ${detail}`,
  }));
  if (dryRun) return { actions, failures, staged: [] };

  const { chosen, plan } = judged;
  const observed = { primary: seen, standby: view, chosen, plan, busy: new Set<number>(), filesBusy: true };
  // no look at a running standby: nothing of it counts as evidence for readiness
  journal = {
    ...noteObservation(journal, { ...observed, problems: [], now: now() }),
    observedAt: 0,
    standbyFlushedLsn: journal.standbyFlushedLsn,
  };
  journal = noteIntents(journal, actions);
  const record = async (next: JournalState) => {
    journal = next;
    await options.journal.save(next);
  };
  await record(journal);

  const pins = new PinKeeper(
    (purpose, database, patient) => primary.open(options.primaryConninfo, purpose, database, patient),
    journal.instanceId,
    now(),
  );
  const snapshots = new SnapshotStore(options.stateDirectory);
  const server = {
    major: Math.floor(view.serverVersionNum / 10_000),
    systemIdentifier: view.systemIdentifier,
    walSegmentBytes: view.walSegmentBytes,
  };
  const placed = new Map<string, Staged>();
  try {
    await runFiles(
      actions,
      {
        directory,
        openPrimary: (purpose, database, patient) =>
          primary.open(options.primaryConninfo, purpose, database, patient),
        pins,
        snapshots,
        server: () => server,
        noteStaged: (name, staged) => {
          placed.set(name, staged);
          return record(noteStaged(journal, name, staged));
        },
        sameRun: () => () => new DataDirectory(directory).assertRun(null),
        noteSnapshotLost: (name) => record(noteSnapshotLost(journal, name)),
        now,
      },
      new AbortController().signal,
      ({ action, error }) => {
        if (error === null) {
          journal = noteDone(journal, action);
          log.info(`done: ${describeAction(action)}`);
        } else if ("slot" in action) {
          placed.delete(action.slot);
          failures.push({ slot: action.slot, why: describeError(error) });
        }
      },
    );
    await record(journal);
    const upTo = await startsAt(directory, seen, view.walSegmentBytes);
    for (const [name, staged] of placed)
      await putInPlace(name, staged, upTo, {
        ...options,
        ...server,
        snapshots,
        sessionOf: async () => session,
      }).catch((error: unknown) => {
        // the start goes well without it: the sidecar completes the slot then, or says what is missing
        log.warn(`slot "${name}" is staged, and not complete yet: ${describeError(error)}`);
      });
  } finally {
    await pins.close();
  }
  return { actions, failures, staged: [...placed.keys()].toSorted() };
}

interface Placing {
  directory: string;
  major: number;
  systemIdentifier: string;
  walSegmentBytes: number;
  snapshots: SnapshotStore;
  sessionOf: () => Promise<PgSession>;
}

/** Nothing removes what a stopped server's directory holds, and the start finds the slot that needs it. */
async function putInPlace(name: string, staged: Staged, upTo: Lsn, placing: Placing): Promise<void> {
  const { sessionOf, ...rest } = placing;
  const action = {
    kind: "complete" as const,
    slot: name,
    database: "",
    databaseOid: staged.databaseOid,
    restart: staged.restartLsn,
    upTo: maxLsn(upTo, staged.restartLsn),
    snapshot: staged.snapshot === "kept",
  };
  await completeSlot(action, { ...rest, session: sessionOf, noteSnapshotLost: async () => {} });
}

/** Where the standby's own WAL will begin: a backup's start, else all that the primary has finished writing. */
async function startsAt(directory: string, primary: PrimaryView, segmentBytes: number): Promise<Lsn> {
  const label = await readFile(path.join(directory, "backup_label"), "utf8").catch(() => "");
  const start = /^START WAL LOCATION: ([0-9A-F]+\/[0-9A-F]+)/m.exec(label)?.[1];
  if (start) return parseLsn(start);
  const size = BigInt(segmentBytes);
  return ((primary.walLsn / size) * size) as Lsn;
}

/** What the running standby would show, as far as its files tell. */
async function lookOffline(
  options: OfflineOptions,
  session: PgSession,
  primary: PrimaryView,
): Promise<StandbyView> {
  const { directory, journal } = options;
  const major = Math.floor(session.serverVersionNum / 10_000);
  await verifyDirectory(directory, { systemIdentifier: primary.systemIdentifier, major, server: null });
  const identity = await readIdentity(directory);
  if (!identity.standby)
    throw new OfflineError(
      `${directory} would start as a primary: ${major >= 12 ? "create standby.signal there" : "write recovery.conf with standby_mode = on there"} first (slots are staged for standbys only)`,
    );
  const folders = await listSlotFolders(directory, major);
  const damaged = folders.find(({ problem }) => problem !== null);
  if (damaged)
    throw new OfflineError(
      `pg_replslot/${damaged.name} in ${directory} keeps PostgreSQL from starting: ${damaged.problem}; remove that folder`,
    );
  const loaded = new Set(ownedNames(journal.state));
  const files = await new DataDirectory(directory).lookStopped(major, loaded);
  if (files.maxReplicationSlots === null)
    throw new OfflineError(
      `how many slots the next start in ${directory} takes cannot be told, for not all of its settings files can be read: let them be readable, or start the standby and stage then`,
    );
  const databases = await session.query<{ oid: string; name: string }>(LIST_DATABASES);
  const [segment] = await session.query<{ bytes: string }>(WAL_SEGMENT_BYTES);
  return {
    systemIdentifier: identity.systemIdentifier,
    inRecovery: true,
    serverVersionNum: session.serverVersionNum,
    walLevel: "logical",
    hotStandbyFeedback: false,
    primarySlotName: null,
    maxReplicationSlots: files.maxReplicationSlots,
    keptSegments: null,
    walSegmentBytes: Number(segment?.bytes ?? 16 * 1024 * 1024),
    usedSlots: folders.length,
    replayLsn: 0n as Lsn,
    flushedLsn: 0n as Lsn,
    streaming: false,
    // it has yet to show that it follows that primary: until then nothing that is staged here is believed
    receivedTimeline: primary.timeline,
    leastTimeline: 0,
    slots: folders.filter(({ name }) => loaded.has(name)).flatMap((folder) => asLoaded(folder) ?? []),
    databases: databases.map(({ oid, name }) => ({ oid: Number(oid), name })),
    syncsSlots: false,
    conninfoHasDatabase: null,
    physicalSlots: [],
    mayReplicate: true,
    feedbackSession: "",
    files,
  };
}

/** Slots of ours that the server had when it was stopped: their folders are no staged ones. */
function ownedNames({ slots, guards, lowGuards }: JournalState): string[] {
  return [...slots.values(), ...Object.values(guards), ...Object.values(lowGuards)]
    .filter(({ state }) => state === "owned")
    .map(({ name }) => name);
}

function asLoaded({ name, state }: Awaited<ReturnType<typeof listSlotFolders>>[number]): StandbySlot | null {
  if (state === null) return null;
  return {
    name,
    database: "",
    databaseOid: state.databaseOid,
    plugin: state.plugin,
    twoPhase: state.twoPhase,
    temporary: state.persistency !== "persistent",
    activePid: null,
    restartLsn: state.restartLsn,
    confirmedFlushLsn: state.confirmedFlushLsn,
    catalogXmin: state.catalogXmin,
    invalidation: state.invalidated ? "wal_removed" : null,
    failover: state.failover,
    synced: state.synced,
  };
}
