/** Processor time and memory of processes, read from /proc. */
import { execFileSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { childrenOf } from "../src/sandbox/processes.ts";

const TICK_MS = 1000 / Number(execFileSync("getconf", ["CLK_TCK"], { encoding: "utf8" }));

/** What a process has used, and what its ended children had used, in ms; zeros when it is gone. */
function cpuOf(pid: number): { ownMs: number; endedMs: number } {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
    // after "pid (name) ": state is field 3, utime stime cutime cstime are 14 to 17
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    const [utime, stime, cutime, cstime] = fields.slice(11, 15).map(Number) as [
      number,
      number,
      number,
      number,
    ];
    return { ownMs: (utime + stime) * TICK_MS, endedMs: (cutime + cstime) * TICK_MS };
  } catch {
    return { ownMs: 0, endedMs: 0 };
  }
}

/** A single process. */
export function processCpuMs(pid: number): number {
  return cpuOf(pid).ownMs;
}

/** A whole PostgreSQL server: the postmaster, its children, and those that have ended. */
export function serverCpuMs(postmaster: number): number {
  const { ownMs, endedMs } = cpuOf(postmaster);
  return childrenOf(postmaster).reduce((sum, pid) => sum + cpuOf(pid).ownMs, ownMs + endedMs);
}

/** The largest resident set of a process so far. */
export function peakRssMiB(pid: number): number {
  const kib = /^VmHWM:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/status`, "utf8"))?.[1];
  return Number(kib) / 1024;
}

/** The busy time of the whole machine, all cores together. */
function machineBusyMs(): number {
  const [user = 0, nice = 0, system = 0, , , irq = 0, softirq = 0] =
    readFileSync("/proc/stat", "utf8").split("\n")[0]?.trim().split(/\s+/).slice(1).map(Number) ?? [];
  return (user + nice + system + irq + softirq) * TICK_MS;
}

/** Cores in use while `work` runs, per source and for the whole machine. */
export async function coresDuring<K extends string>(
  sources: Record<K, () => number>,
  work: () => Promise<unknown>,
): Promise<Record<K | "machine", number>> {
  const all: Record<string, () => number> = { ...sources, machine: machineBusyMs };
  const read = () => Object.fromEntries(Object.entries(all).map(([key, source]) => [key, source()]));
  const before = read();
  const started = performance.now();
  await work();
  const after = read();
  const elapsed = performance.now() - started;
  return Object.fromEntries(
    Object.keys(all).map((key) => [key, ((after[key] ?? 0) - (before[key] ?? 0)) / elapsed]),
  ) as Record<K | "machine", number>;
}

/** Waits until others leave the machine moderately idle, but not for ever. Returns the cores they last used. */
export async function calm(maxCores = 0.6, timeoutMs = 30_000): Promise<number> {
  const deadline = performance.now() + timeoutMs;
  for (;;) {
    const { machine } = await coresDuring({}, () => sleep(3_000));
    if (machine <= maxCores || performance.now() > deadline) return machine;
  }
}
