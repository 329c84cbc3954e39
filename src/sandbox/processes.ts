import { spawnSync } from "node:child_process";
import { readdirSync, readFileSync, readlinkSync } from "node:fs";

// Everything here is synchronous: it also runs in process.on("exit"), where nothing else can.

interface ProcessRow {
  pid: number;
  parent: number;
  zombie: boolean;
}

function processRow(pid: number): ProcessRow | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
    // "pid (name) state ppid …": the name may hold spaces and brackets itself
    const [state, parent] = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    return { pid, parent: Number(parent), zombie: state === "Z" || state === "X" };
  } catch {
    return undefined;
  }
}

function procPids(): number[] {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .map(Number);
}

function allProcesses(): ProcessRow[] {
  if (process.platform === "linux") return procPids().flatMap((pid) => processRow(pid) ?? []);
  const { stdout } = spawnSync("ps", ["-A", "-o", "pid=,ppid=,state="], { encoding: "utf8" });
  return stdout
    .split("\n")
    .map((line) => line.trim().split(/\s+/))
    .filter((fields) => fields.length === 3)
    .map(([pid, parent, state]) => ({
      pid: Number(pid),
      parent: Number(parent),
      zombie: state?.[0] === "Z",
    }));
}

/** The direct children of a process; a PostgreSQL server has no deeper ones. */
export function childrenOf(pid: number): number[] {
  return allProcesses().flatMap((row) => (row.parent === pid && !row.zombie ? [row.pid] : []));
}

/** Whether a process runs; one that has ended but was not reaped by its parent does not. */
export function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "EPERM") return false;
  }
  const row =
    process.platform === "linux" ? processRow(pid) : allProcesses().find((each) => each.pid === pid);
  return row !== undefined && !row.zombie;
}

/** Sends a signal to a process that may have ended meanwhile; tells whether it was still there. */
export function signal(pid: number, name: NodeJS.Signals): boolean {
  try {
    return process.kill(pid, name);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ESRCH") return false;
    throw error;
  }
}

/** SIGKILL to a process and its children, returned: nothing can be forked in between, for the parent is stopped first. */
export function killTree(pid: number): number[] {
  if (!signal(pid, "SIGSTOP")) return [];
  const victims = [...childrenOf(pid), pid];
  for (const victim of victims) signal(victim, "SIGKILL");
  return victims;
}

/**
 * The server processes that work in a folder whose path starts so, the folder removed or not. Linux: also the
 * children of a postmaster that is gone; elsewhere the postmasters only.
 */
export function serverProcessesUnder(pathPrefix: string): number[] {
  if (process.platform === "linux")
    return procPids().filter((pid) => workingFolder(pid).startsWith(pathPrefix));
  const { stdout } = spawnSync("ps", ["-A", "-o", "pid=,args="], { encoding: "utf8" });
  return stdout
    .split("\n")
    .filter((line) => line.includes(`postgres -D ${pathPrefix}`))
    .map((line) => Number.parseInt(line, 10));
}

/** Every server process works in its data folder. Empty for a process that is gone or that is not ours to see. */
function workingFolder(pid: number): string {
  try {
    return readlinkSync(`/proc/${pid}/cwd`);
  } catch {
    return "";
  }
}
