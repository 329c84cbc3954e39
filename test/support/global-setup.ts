import { accessSync, constants, statfsSync } from "node:fs";
import os from "node:os";
import { availableMajors, ensureServerBinaries } from "../../src/sandbox/binaries.ts";
import { removeAbandoned } from "../../src/sandbox/workspace.ts";
import { cleanTemplates } from "./template.ts";

/** Before all tests with real servers: fetch the binaries, remove what killed runs left. */
export async function setup(): Promise<void> {
  removeAbandoned();
  process.env.PG_SLOTSYNC_WORK ??= memoryFolder();
  removeAbandoned();
  await cleanTemplates();
  // of all majors: the tests that choose theirs by themselves must not download within their own time
  for (const major of availableMajors()) {
    await ensureServerBinaries(major, { onProgress: (message) => process.stderr.write(`${message}\n`) });
  }
}

/** After them: the workers have ended, the killed ones without cleaning up. */
export function teardown(): void {
  removeAbandoned();
}

/**
 * A roomy file system in memory, if there is one. Every test makes and removes thousands of small files; some disk
 * file systems take a second for what takes a tenth there.
 */
function memoryFolder(): string {
  const folder = "/dev/shm";
  const enough = 4 * 2 ** 30;
  try {
    accessSync(folder, constants.W_OK);
    const { bavail, bsize } = statfsSync(folder);
    if (bavail * bsize >= enough) return folder;
  } catch {
    // not on this system
  }
  return os.tmpdir();
}
