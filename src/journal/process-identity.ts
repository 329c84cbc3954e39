/** Which process is which, across reboots, reused process ids and containers. */
import { execFile } from "node:child_process";
import { readFile, readlink } from "node:fs/promises";
import { hostname } from "node:os";
import { promisify } from "node:util";

/** Where a process id means something: one process table. */
export interface ProcessSpace {
  host: string;
  /** Linux: the kernel's boot id. Null elsewhere. */
  bootId: string | null;
  /** Linux: the process id namespace; each container has its own. Null elsewhere. */
  pidNamespace: string | null;
}

/** The process table that this process sees. */
export async function ownProcessSpace(): Promise<ProcessSpace> {
  return {
    host: hostname(),
    bootId: await readFile("/proc/sys/kernel/random/boot_id", "utf8").then(
      (text) => text.trim(),
      () => null,
    ),
    pidNamespace: await readlink("/proc/self/ns/pid").catch(() => null),
  };
}

/** True when both see the same processes. A host's name may change or be shared, its boot id and namespace are the kernel's word. */
export function sameProcessSpace(a: ProcessSpace, b: ProcessSpace): boolean {
  if (a.bootId === null || a.pidNamespace === null)
    return b.bootId === null && b.pidNamespace === null && a.host === b.host;
  return a.bootId === b.bootId && a.pidNamespace === b.pidNamespace;
}

/** When a process started, in the system's own words, to be compared only; null when it cannot be told. */
export async function startTimeOf(pid: number): Promise<string | null> {
  const stat = await procStat(pid);
  return stat ? stat.startTime : startTimeFromPs(pid);
}

/** True while the process that started then has that id; when its start cannot be told, while any process has it. */
export async function isRunning(pid: number, startTime: string | null): Promise<boolean> {
  const stat = await procStat(pid);
  // a zombie waits for its parent only: it will never write again
  if (stat?.zombie) return false;
  if (!stat && !idInUse(pid)) return false;
  const started = stat ? stat.startTime : await startTimeFromPs(pid);
  return started === null || startTime === null || started === startTime;
}

async function procStat(pid: number): Promise<{ startTime: string; zombie: boolean } | null> {
  let text: string;
  try {
    text = await readFile(`/proc/${pid}/stat`, "utf8");
  } catch {
    return null;
  }
  // the command's name, in parentheses, may hold spaces and parentheses itself: count from its end, at field 3
  const fields = text.slice(text.lastIndexOf(")") + 2).split(" ");
  const [state, startTime] = [fields[0], fields[22 - 3]];
  if (startTime === undefined) return null;
  return { startTime, zombie: state === "Z" || state === "X" };
}

/** Also tells when /proc hides other users' processes. */
function idInUse(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === "EPERM";
  }
}

async function startTimeFromPs(pid: number): Promise<string | null> {
  if (process.platform === "linux") return null;
  try {
    // its words depend on language and time zone: two starters must read the same
    const env = { ...process.env, LC_ALL: "C", TZ: "UTC" };
    const { stdout } = await promisify(execFile)("ps", ["-o", "lstart=", "-p", String(pid)], { env });
    return stdout.trim() || null;
  } catch {
    return null;
  }
}
