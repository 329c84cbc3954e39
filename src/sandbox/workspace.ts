import { spawnSync } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, realpathSync, rmSync, statSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { type Account, giveTo, serverAccount } from "./account.ts";
import { releaseAbandonedPorts } from "./ports.ts";
import { isAlive, serverProcessesUnder, signal } from "./processes.ts";

const PREFIX = "pg-slotsync-work-";

/** How the paths of all workspaces of this process start. */
const ownPrefix = () => path.join(workRoot(), `${PREFIX}${process.pid}-`);

/**
 * Where work folders go: `PG_SLOTSYNC_WORK`, or the system's temporary folder. Without links in it: processes are
 * found by the true path of their folder.
 */
const workRoot = () => realpathSync(process.env.PG_SLOTSYNC_WORK ?? os.tmpdir());

/** What a workspace needs of its servers; PgServer is the only one. */
export interface WorkspaceServer {
  readonly name: string;
  readonly dataDir: string;
  readonly pid: number | undefined;
  /** kills it, waits for its end, and gives back what it had reserved */
  dispose(): Promise<void>;
  /** the same without waiting */
  disposeNow(): void;
}

const workspaces = new Set<Workspace>();

/** A temporary folder with servers in it. Disposing of it, or the end of this process, leaves nothing behind. */
export class Workspace {
  readonly dir: string;
  readonly account: Account | undefined;
  readonly servers = new Set<WorkspaceServer>();

  constructor() {
    cleanUpOnExit();
    this.account = serverAccount();
    this.dir = mkdtempSync(ownPrefix());
    giveTo(this.account, this.dir);
    workspaces.add(this);
  }

  /** Kills the servers and removes all files. */
  async dispose(): Promise<void> {
    await Promise.all([...this.servers].map((server) => server.dispose()));
    this.disposeNow();
  }

  /** The same, synchronously, for a process that is ending. */
  disposeNow(): void {
    for (const server of this.servers) server.disposeNow();
    removeWorkFolder(this.dir);
    workspaces.delete(this);
  }
}

/** The workspaces of this process that were not disposed of. */
export function openWorkspaces(): Workspace[] {
  return [...workspaces];
}

/** Disposes of every workspace of this process. */
export async function disposeAll(): Promise<void> {
  await Promise.all(openWorkspaces().map((workspace) => workspace.dispose()));
}

/** The server processes that this process started, in whatever state its workspaces are. */
export function ownServerProcesses(): number[] {
  return serverProcessesUnder(ownPrefix());
}

/**
 * Kills the servers, removes the work folders and frees the ports of processes that were themselves killed before
 * they could. Returns the folders.
 */
export function removeAbandoned(): string[] {
  releaseAbandonedPorts();
  const removed: string[] = [];
  for (const name of readdirSync(workRoot())) {
    if (!name.startsWith(PREFIX)) continue;
    const owner = Number(name.slice(PREFIX.length).split("-")[0]);
    if (isAlive(owner)) continue;
    const folder = path.join(workRoot(), name);
    if (!isOurs(folder)) continue;
    for (const pid of serverProcessesUnder(folder + path.sep)) signal(pid, "SIGKILL");
    removeWorkFolder(folder);
    removed.push(folder);
  }
  return removed;
}

/** Whether we may remove it: another account's is its own affair. */
function isOurs(folder: string): boolean {
  const uid = process.getuid?.();
  return uid === 0 || statSync(folder, { throwIfNoEntry: false })?.uid === uid;
}

/** The lines of a server's `postmaster.pid`; none when it is stopped. */
export function pidFile(dataDir: string): string[] {
  try {
    return readFileSync(path.join(dataDir, "postmaster.pid"), "utf8").split("\n");
  } catch {
    return [];
  }
}

function dataFolders(folder: string): string[] {
  try {
    return readdirSync(folder).map((name) => path.join(folder, name, "data"));
  } catch {
    return [];
  }
}

function removeWorkFolder(folder: string): void {
  for (const dataDir of dataFolders(folder)) removeSharedMemory(dataDir);
  // a server that was just killed may write for a moment longer
  rmSync(folder, { recursive: true, force: true, maxRetries: 10, retryDelay: 20 });
}

/**
 * A killed server leaves a small System V shared memory segment, which only its next start would remove. Systems
 * allow a few thousand of them in all (32 on macOS), so a long series of crash tests would run out.
 */
function removeSharedMemory(dataDir: string): void {
  const [, id] = pidFile(dataDir)[6]?.trim().split(/\s+/) ?? [];
  if (id) spawnSync("ipcrm", ["-m", id], { stdio: "ignore" });
}

let cleansUpOnExit = false;

function cleanUpOnExit(): void {
  if (cleansUpOnExit) return;
  cleansUpOnExit = true;
  const disposeNow = () => {
    for (const workspace of workspaces) workspace.disposeNow();
  };
  process.on("exit", disposeNow);
  for (const [name, number] of [
    ["SIGHUP", 1],
    ["SIGINT", 2],
    ["SIGTERM", 15],
  ] as const) {
    process.on(name, () => {
      // a listener of ours keeps Node from ending by itself; somebody else's means that they will end it
      if (process.listenerCount(name) === 1) process.exit(128 + number);
    });
  }
}
