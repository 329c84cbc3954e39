/**
 * One sidecar per state directory.
 *
 * Node has no flock(), so the lock is a chain of files `sidecar.<n>.lock`, and the highest number decides: it is held while its
 * process runs. Why a chain: a single file would have to be removed before it can be taken over, and of two starters that found
 * it stale, the slower one would remove the faster one's lock. Here
 *   - a file appears whole, by link(), which fails when the number is taken: of all who found `n` stale one gets `n + 1`;
 *   - the highest is never removed (a release empties it), so no number is ever drawn again while it could still matter;
 *   - lower ones are removed by the holder. A starter that was asleep in between may get such a number: it looks again after
 *     linking, sees a higher one, and takes its own away.
 *
 * Whether the holder runs: in our own process table (same boot, same pid namespace) by process id and start time, at once.
 * From elsewhere (another host or container, or before a reboot) its processes cannot be seen. The holder touches its file every
 * 5 s; a starter watches it for 15 s, and takes over only when it stood still. No clocks are compared. A holder that was
 * suspended for that long and wakes up finds its file gone, and is told by `onLost`.
 */
import { randomUUID } from "node:crypto";
import { link, readdir, readFile, rm, stat, truncate, utimes } from "node:fs/promises";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { z } from "zod";
import { errnoOf, JournalReadError, JournalWriteError } from "./errors.ts";
import { ensureDirectory, writeDurably } from "./files.ts";
import {
  isRunning,
  ownProcessSpace,
  type ProcessSpace,
  sameProcessSpace,
  startTimeOf,
} from "./process-identity.ts";

const HEARTBEAT_MS = 5_000;
const WATCH_BEATS = 3;
/** For `readLock`, which does not wait: a file that was not touched for this long has lost its holder. */
const STALE_MS = 30_000;
const ATTEMPTS = 50;

const LOCK_FILE = /^sidecar\.(\d{1,15})\.lock$/;
const DRAFT_FILE = /^sidecar\.lock\.[0-9a-f-]{36}\.tmp$/;

/** Who holds the lock. */
export interface LockHolder {
  pid: number;
  host: string;
  command: string;
  /** Since when, ms since the epoch. */
  since: number;
}

export interface Lock {
  readonly path: string;
  /** Gives the lock up; does nothing when it is no longer ours. */
  release(): Promise<void>;
}

export interface LockOptions {
  /** What this process is doing, for the message to the second one: `slotsync run`. */
  command: string;
  /** Called once when the lock was lost (its file was removed, or taken over while we were suspended): stop at once. */
  onLost?: () => void;
  now?: () => number;
  heartbeatMs?: number;
}

/** The lock is held by a process that runs. `holder` is null when its file cannot be read, and it is still touched. */
export class LockedError extends Error {
  override readonly name = "LockedError";
  readonly holder: LockHolder | null;

  constructor(directory: string, path: string, holder: LockHolder | null) {
    const who = holder
      ? `process ${holder.pid} on ${holder.host} (${holder.command}, since ${new Date(holder.since).toISOString()})`
      : `another process (unknown: ${path} cannot be read)`;
    super(
      `the state directory ${directory} is in use by ${who}: stop that one, or give this one its own state_directory`,
    );
    this.holder = holder;
  }
}

const recordSchema = z.object({
  pid: z.int().positive(),
  host: z.string(),
  command: z.string(),
  since: z.number().min(-8.64e15).max(8.64e15),
  startTime: z.string().nullable(),
  bootId: z.string().nullable(),
  pidNamespace: z.string().nullable(),
  nonce: z.string(),
});
type LockRecord = z.infer<typeof recordSchema>;

/** Takes the lock, or throws LockedError, or JournalWriteError when the directory cannot be written. */
export async function acquireLock(directory: string, options: LockOptions): Promise<Lock> {
  const { command, now = Date.now, heartbeatMs = HEARTBEAT_MS } = options;
  await ensureDirectory(directory);
  const space = await ownProcessSpace();
  const record: LockRecord = {
    pid: process.pid,
    ...space,
    command,
    since: now(),
    startTime: await startTimeOf(process.pid),
    nonce: randomUUID(),
  };
  const number = await takeNext(directory, record, heartbeatMs);
  await tidy(directory, number);
  return held(lockPath(directory, number), record.nonce, heartbeatMs, options.onLost);
}

/** Who holds the lock, or null; changes nothing. */
export async function readLock(directory: string, now: () => number = Date.now): Promise<LockHolder | null> {
  const top = await readTop(directory);
  if (!top || top.content === "" || top.record === null) return null;
  const alive = sameProcessSpace(top.record, await ownProcessSpace())
    ? await isRunning(top.record.pid, top.record.startTime)
    : Math.abs(now() - top.touchedAt) < STALE_MS;
  return alive ? holderOf(top.record) : null;
}

async function takeNext(directory: string, record: LockRecord, heartbeatMs: number): Promise<number> {
  for (let attempt = 0; attempt < ATTEMPTS; attempt += 1) {
    const top = await readTop(directory);
    if (top && (await isHeld(top, record, heartbeatMs)))
      throw new LockedError(directory, top.path, top.record && holderOf(top.record));
    const mine = (top?.number ?? 0) + 1;
    if (!(await linkLock(directory, mine, record, attempt))) continue;
    if ((await highest(directory)) === mine) return mine;
    // a number from before our time: somebody above it holds the lock
    await rm(lockPath(directory, mine), { force: true });
  }
  throw new Error(
    `the lock in ${directory} changes hands all the time: stop what keeps starting slotsync there`,
  );
}

/** False when another starter was faster. */
async function linkLock(
  directory: string,
  number: number,
  record: LockRecord,
  attempt: number,
): Promise<boolean> {
  const draft = join(directory, `sidecar.lock.${record.nonce}.tmp`);
  const target = lockPath(directory, number);
  try {
    await writeDurably(draft, JSON.stringify(record));
    await link(draft, target);
    return true;
  } catch (error) {
    if (errnoOf(error) === "EEXIST") return false;
    // one that has just got the lock has tidied our draft away; or the directory is gone, which trying again shows
    if (errnoOf(error) === "ENOENT" && attempt < 5) return false;
    throw new JournalWriteError("taking the lock", target, error);
  } finally {
    await rm(draft, { force: true }).catch(() => undefined);
  }
}

interface TopLock {
  number: number;
  path: string;
  content: string;
  /** Null when it cannot be understood. */
  record: LockRecord | null;
  touchedAt: number;
}

async function isHeld(top: TopLock, space: ProcessSpace, heartbeatMs: number): Promise<boolean> {
  // released: a lock that is held was never empty, for it was linked whole
  if (top.content === "") return false;
  if (top.record && sameProcessSpace(top.record, space))
    return isRunning(top.record.pid, top.record.startTime);
  return isTouched(top, heartbeatMs);
}

/** True when the file changes while it is watched: touched, emptied or removed are all for the next look to judge. */
async function isTouched(top: TopLock, heartbeatMs: number): Promise<boolean> {
  const step = heartbeatMs / 5;
  for (let waited = 0; waited < heartbeatMs * WATCH_BEATS; waited += step) {
    await sleep(step);
    const file = await stat(top.path).catch(() => null);
    if (!file || file.size === 0) return false;
    if (file.mtimeMs !== top.touchedAt) return true;
  }
  return false;
}

function held(path: string, nonce: string, heartbeatMs: number, onLost: (() => void) | undefined): Lock {
  let released = false;
  const beat = async (): Promise<void> => {
    const time = new Date();
    try {
      await utimes(path, time, time);
    } catch (error) {
      // anything else, such as a disk that went read-only, does not make it another's
      if (errnoOf(error) !== "ENOENT" || released) return;
      clearInterval(timer);
      released = true;
      onLost?.();
    }
  };
  const timer = setInterval(() => void beat(), heartbeatMs);
  timer.unref();
  return {
    path,
    async release() {
      clearInterval(timer);
      if (released) return;
      released = true;
      const current = await readFile(path, "utf8").catch(() => "");
      if (!current.includes(nonce)) return;
      // emptied and not removed (see above); when that fails, our end releases it as well
      await truncate(path).catch(() => undefined);
    },
  };
}

/** Takes away what starters that were killed or overtaken have left. */
async function tidy(directory: string, own: number): Promise<void> {
  for (const name of await readdir(directory).catch(() => [])) {
    if (DRAFT_FILE.test(name) || (numberOf(name) ?? own) < own)
      await rm(join(directory, name), { force: true }).catch(() => undefined);
  }
}

async function readTop(directory: string): Promise<TopLock | null> {
  for (let attempt = 0; attempt < ATTEMPTS; attempt += 1) {
    const number = await highest(directory);
    if (number === 0) return null;
    const path = lockPath(directory, number);
    try {
      // in this order: a touch between the two is then seen as a change
      const { mtimeMs } = await stat(path);
      const content = await readFile(path, "utf8");
      return { number, path, content, record: parseRecord(content), touchedAt: mtimeMs };
    } catch (error) {
      // gone since it was listed: there is a higher one now
      if (errnoOf(error) !== "ENOENT") throw new JournalReadError(path, error);
    }
  }
  return null;
}

function parseRecord(content: string): LockRecord | null {
  try {
    return recordSchema.parse(JSON.parse(content));
  } catch {
    return null;
  }
}

/** The number that decides; 0 when there is none. */
async function highest(directory: string): Promise<number> {
  const names = await readdir(directory).catch((error: unknown) => {
    if (errnoOf(error) === "ENOENT") return [];
    throw new JournalReadError(directory, error);
  });
  return names.reduce((top, name) => Math.max(top, numberOf(name) ?? 0), 0);
}

function numberOf(name: string): number | null {
  const match = LOCK_FILE.exec(name);
  return match ? Number(match[1]) : null;
}

function lockPath(directory: string, number: number): string {
  return join(directory, `sidecar.${number}.lock`);
}

function holderOf({ pid, host, command, since }: LockRecord): LockHolder {
  return { pid, host, command, since };
}
