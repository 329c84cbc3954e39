import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import type * as FsPromises from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { acquireLock, LockedError, readLock } from "../../src/journal/lock.ts";

/** What happens in the instant between a starter's look and its own step. */
let beforeLink: () => Promise<void> | void = () => undefined;

vi.mock("node:fs/promises", async (importOriginal) => {
  const fs = await importOriginal<typeof FsPromises>();
  return {
    ...fs,
    link: async (from: string, to: string) => {
      const act = beforeLink;
      beforeLink = () => undefined;
      await act();
      return fs.link(from, to);
    },
  };
});

let directory: string;
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), "slotsync-lock-race-"));
});
afterEach(() => rmSync(directory, { recursive: true, force: true }));

const run = { command: "slotsync run" };

test("a starter that slept while others came and went is refused, and leaves the holder's lock alone", async () => {
  await (await acquireLock(directory, run)).release();
  let holder: Awaited<ReturnType<typeof acquireLock>> | undefined;
  beforeLink = async () => {
    await (await acquireLock(directory, run)).release();
    holder = await acquireLock(directory, { command: "slotsync finish" });
  };
  await expect(acquireLock(directory, run)).rejects.toThrow(LockedError);
  expect((await readLock(directory))?.command).toBe("slotsync finish");
  expect(readdirSync(directory)).toEqual(["sidecar.3.lock"]);
  await holder?.release();
});

test("a number from before the holder's, free again, is not a lock", async () => {
  const first = await acquireLock(directory, run);
  const record = readFileSync(first.path, "utf8");
  await first.release();
  // the holder has removed the lower numbers, and not yet our draft
  beforeLink = () => {
    writeFileSync(join(directory, "sidecar.3.lock"), record);
    rmSync(first.path);
  };
  await expect(acquireLock(directory, run)).rejects.toThrow(LockedError);
  expect(readdirSync(directory)).toEqual(["sidecar.3.lock"]);
});

test("of two that found the same lock free, the slower one is refused", async () => {
  beforeLink = async () => {
    await acquireLock(directory, { command: "slotsync finish" });
  };
  await expect(acquireLock(directory, run)).rejects.toMatchObject({ holder: { command: "slotsync finish" } });
});

test("a directory that vanishes in mid-start is told, not waited for", async () => {
  const vanish = () => {
    rmSync(directory, { recursive: true });
    beforeLink = vanish;
  };
  beforeLink = vanish;
  await expect(acquireLock(directory, run)).rejects.toThrow(/\(ENOENT\): the state directory is gone/);
});
