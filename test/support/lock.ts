import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { isAlive } from "../../src/sandbox/processes.ts";

/**
 * Runs the work while no other process holds the lock file. The lock of a process that was killed is taken over.
 * (Two may take it over at once: it saves work, and must not be what keeps data right.)
 */
export async function withFileLock<T>(file: string, work: () => Promise<T>): Promise<T> {
  while (!acquire(file)) {
    removeStaleLock(file);
    await sleep(50);
  }
  try {
    return await work();
  } finally {
    rmSync(file, { force: true });
  }
}

/** Removes a lock file whose holder is gone. */
export function removeStaleLock(file: string): void {
  try {
    const holder = Number(readFileSync(file, "utf8"));
    // empty: its holder is just writing it
    if (holder && !isAlive(holder)) rmSync(file, { force: true });
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
  }
}

function acquire(file: string): boolean {
  try {
    writeFileSync(file, String(process.pid), { flag: "wx" });
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "EEXIST") return false;
    throw error;
  }
}
