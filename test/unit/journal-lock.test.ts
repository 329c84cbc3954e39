import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import {
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  utimesSync,
  writeFileSync,
} from "node:fs";
import { hostname, tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { JournalWriteError } from "../../src/journal/errors.ts";
import { acquireLock, type Lock, LockedError, type LockOptions, readLock } from "../../src/journal/lock.ts";
import { isRunning, sameProcessSpace, startTimeOf } from "../../src/journal/process-identity.ts";

let root: string;
let directory: string;
const children: ChildProcess[] = [];
const locks: Lock[] = [];

beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), "slotsync-lock-"));
  directory = join(root, "state");
});
afterEach(async () => {
  for (const lock of locks.splice(0)) await lock.release();
  await Promise.all(children.splice(0).map(kill));
  rmSync(root, { recursive: true, force: true });
});

async function acquire(options: Partial<LockOptions> = {}): Promise<Lock> {
  const lock = await acquireLock(directory, { command: "slotsync run", ...options });
  locks.push(lock);
  return lock;
}

async function kill(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const exited = once(child, "exit");
  child.kill("SIGKILL");
  await exited;
}

/** Waits for "go", tries once, says how it went, and stays; "release" gives the lock up. */
const STARTER = `
  const { acquireLock } = await import(process.argv[1]);
  const lines = (await import("node:readline")).createInterface({ input: process.stdin });
  let lock;
  console.log("ready");
  for await (const line of lines) {
    if (line === "release") { await lock.release(); console.log("released"); continue; }
    try {
      lock = await acquireLock(process.argv[2], { command: "slotsync run" });
      console.log("won");
    } catch (error) { console.log(error.name + " " + error.holder?.pid); }
  }
`;

interface Starter {
  child: ChildProcess;
  pid: number;
  say(word: string): Promise<string>;
}

async function starter(): Promise<Starter> {
  const args = ["--import", "tsx", "--input-type=module", "-e", STARTER, "--"];
  const module = new URL("../../src/journal/lock.ts", import.meta.url).href;
  const child = spawn(process.execPath, [...args, module, directory], { stdio: ["pipe", "pipe", "inherit"] });
  children.push(child);
  const lines = createInterface({ input: child.stdout })[Symbol.asyncIterator]();
  await lines.next();
  return {
    child,
    pid: child.pid ?? 0,
    async say(word) {
      child.stdin.write(`${word}\n`);
      return String((await lines.next()).value);
    },
  };
}

function lockFiles(): string[] {
  return readdirSync(directory).filter((name) => name.startsWith("sidecar."));
}

describe("one sidecar per state directory", () => {
  test("the second one is refused and told who holds it", async () => {
    const since = Date.UTC(2026, 8, 30);
    await acquire({ now: () => since });
    const error = await acquire().catch((caught: unknown) => caught);
    expect(error).toBeInstanceOf(LockedError);
    expect((error as LockedError).holder).toEqual({
      pid: process.pid,
      host: hostname(),
      command: "slotsync run",
      since,
    });
    expect((error as Error).message).toBe(
      `the state directory ${directory} is in use by process ${process.pid} on ${hostname()} ` +
        "(slotsync run, since 2026-09-30T00:00:00.000Z): stop that one, or give this one its own state_directory",
    );
    expect(await readLock(directory)).toEqual((error as LockedError).holder);
  });

  test("a release makes way for the next, and releasing twice does it no harm", async () => {
    const first = await acquire();
    await first.release();
    expect(await readLock(directory)).toBeNull();
    await acquire({ command: "slotsync finish" });
    await first.release();
    expect((await readLock(directory))?.command).toBe("slotsync finish");
    await expect(acquire()).rejects.toThrow(LockedError);
  });

  test("nobody holds a directory that is not there, and asking does not make it", async () => {
    expect(await readLock(directory)).toBeNull();
    expect(readdirSync(root)).toEqual([]);
  });

  test("a holder killed with SIGKILL is succeeded at once, and nothing piles up (I10)", {
    timeout: 30_000,
  }, async () => {
    for (let round = 0; round < 3; round += 1) {
      const holder = await starter();
      expect(await holder.say("go")).toBe("won");
      await expect(acquire()).rejects.toMatchObject({ holder: { pid: holder.pid } });
      await kill(holder.child);
      expect(await readLock(directory)).toBeNull();
      const before = performance.now();
      const lock = await acquire();
      expect(performance.now() - before).toBeLessThan(1_000);
      await lock.release();
    }
    expect(readdirSync(directory)).toHaveLength(1);
  });

  test("a holder that is stopped, and not dead, still holds", async () => {
    const holder = await starter();
    await holder.say("go");
    holder.child.kill("SIGSTOP");
    await expect(acquire()).rejects.toThrow(LockedError);
    expect((await readLock(directory))?.pid).toBe(holder.pid);
  });

  test("of five starters at once exactly one wins, round after round, over released and killed holders", {
    timeout: 60_000,
  }, async () => {
    const starters = await Promise.all(Array.from({ length: 5 }, starter));
    for (let round = 0; round < 20; round += 1) {
      const answers = await Promise.all(starters.map((one) => one.say("go")));
      const winner = starters[answers.indexOf("won")];
      expect(answers.filter((answer) => answer === "won")).toHaveLength(1);
      expect(new Set(answers)).toEqual(new Set(["won", `LockedError ${winner?.pid}`]));
      if (!winner) break;
      if (round % 5 === 4) {
        await kill(winner.child);
        starters.splice(starters.indexOf(winner), 1, await starter());
      } else expect(await winner.say("release")).toBe("released");
    }
    expect(lockFiles()).toHaveLength(1);
  });

  test("twenty attempts in one process: exactly one wins", async () => {
    const results = await Promise.allSettled(Array.from({ length: 20 }, () => acquire()));
    expect(results.filter((result) => result.status === "fulfilled")).toHaveLength(1);
    for (const result of results)
      if (result.status === "rejected") expect(result.reason).toBeInstanceOf(LockedError);
  });
});

describe("telling whether the holder lives", () => {
  /** Rewrites the record of a lock of ours as if another had taken it. */
  async function forge(change: object): Promise<string> {
    const { path } = await acquire({ heartbeatMs: 1_000_000 });
    const record = JSON.parse(readFileSync(path, "utf8"));
    writeFileSync(path, JSON.stringify({ ...record, nonce: "another", ...change }));
    return path;
  }
  const ELSEWHERE = { host: "db2", bootId: "another-boot", pidNamespace: "pid:[1]" };

  test("a process id that was given to another process does not hold", async () => {
    await forge({ startTime: "1" });
    expect(await readLock(directory)).toBeNull();
    await acquire();
  });

  test("another host's or container's holder holds while it touches its file", async () => {
    const path = await forge(ELSEWHERE);
    const beats = setInterval(() => utimesSync(path, new Date(), new Date()), 20);
    try {
      await expect(acquire({ heartbeatMs: 100 })).rejects.toMatchObject({ holder: { host: "db2" } });
      expect((await readLock(directory))?.host).toBe("db2");
    } finally {
      clearInterval(beats);
    }
  });

  test("it has lost it when the file stood still for three beats, whatever the clocks say", async () => {
    const path = await forge(ELSEWHERE);
    const ahead = new Date(Date.now() + 3_600_000);
    utimesSync(path, ahead, ahead);
    const before = performance.now();
    await acquire({ heartbeatMs: 60 });
    expect(performance.now() - before).toBeGreaterThan(150);
  });

  test("`status` does not wait: it goes by when the file was last touched", async () => {
    await forge(ELSEWHERE);
    expect(await readLock(directory)).not.toBeNull();
    expect(await readLock(directory, () => Date.now() + 31_000)).toBeNull();
  });

  test("a lock file that makes no sense holds no longer than it is touched", async () => {
    mkdirSync(directory);
    writeFileSync(join(directory, "sidecar.41.lock"), "{");
    const lock = await acquire({ heartbeatMs: 20 });
    expect(lock.path).toBe(join(directory, "sidecar.42.lock"));
    expect(lockFiles()).toEqual(["sidecar.42.lock"]);
  });

  test("a holder whose file was taken away is told so, once", async () => {
    let lost = 0;
    const told = new Promise<void>((resolve) => {
      void acquire({
        heartbeatMs: 20,
        onLost: () => {
          lost += 1;
          resolve();
        },
      }).then(({ path }) => rmSync(path));
    });
    await told;
    expect(lost).toBe(1);
    await acquire();
  });

  test("processes are known by id and start, process tables by the kernel's word and not by the host's name", async () => {
    const child = spawn(process.execPath, ["-e", "setInterval(() => {}, 1000)"]);
    children.push(child);
    const pid = child.pid ?? 0;
    const started = await startTimeOf(pid);
    expect(started).not.toBeNull();
    expect(await isRunning(pid, started)).toBe(true);
    expect(await isRunning(pid, "another start")).toBe(false);
    expect(await isRunning(pid, null)).toBe(true);
    await kill(child);
    expect(await isRunning(pid, started)).toBe(false);

    const here = { host: "a", bootId: "1", pidNamespace: "n" };
    expect(sameProcessSpace(here, { ...here, host: "renamed" })).toBe(true);
    expect(sameProcessSpace(here, { ...here, bootId: "2" })).toBe(false);
    expect(sameProcessSpace(here, { ...here, pidNamespace: "m" })).toBe(false);
    const mac = { host: "a", bootId: null, pidNamespace: null };
    expect(sameProcessSpace(mac, mac)).toBe(true);
    expect(sameProcessSpace(mac, { ...mac, host: "b" })).toBe(false);
  });
});

describe("when the directory cannot be used", () => {
  test("a file in its place is named, with the way out", async () => {
    writeFileSync(directory, "");
    await expect(acquire()).rejects.toThrow(JournalWriteError);
    await expect(acquire()).rejects.toThrow(/correct state_directory/);
  });

  test.runIf(process.platform === "linux")(
    "one that nothing can be made in: told, without trying for long",
    async () => {
      // even root makes no files there
      directory = "/proc/self/task";
      await expect(acquire()).rejects.toThrow(JournalWriteError);
      await expect(acquire()).rejects.toThrow(/taking the lock|making the state directory/);
    },
  );
});
