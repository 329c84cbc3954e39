/** The restart command, with real processes. */
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import pino from "pino";
import { afterAll, afterEach, beforeAll, expect, test, vi } from "vitest";
import { environmentFor, runRestartCommand } from "../../src/restart/command.ts";
import { eventually } from "../../src/sandbox/poll.ts";
import { isAlive } from "../../src/sandbox/processes.ts";

let folder = "";
beforeAll(() => {
  folder = mkdtempSync(path.join(os.tmpdir(), "slotsync-command-"));
});
afterAll(() => rmSync(folder, { recursive: true }));

const strays: number[] = [];
afterEach(() => {
  for (const pid of strays.splice(0)) if (isAlive(pid)) process.kill(pid, "SIGKILL");
});

function run(
  script: string,
  { timeoutMs = 20_000, signal = new AbortController().signal, args = [""] } = {},
) {
  const lines: string[] = [];
  const log = pino({}, { write: (line: string) => lines.push(JSON.parse(line).msg) });
  const command = [process.execPath, "-e", script, ...args];
  const result = runRestartCommand(command, { timeoutMs, log, signal });
  return { lines, result };
}

/** A script that starts another process, which says its pid in a file and lives on. */
const leaving = (file: string, more: string, options = "") => `
  const child = require("node:child_process").spawn(process.execPath,
    ["-e", ${JSON.stringify(more)}], { stdio: "inherit"${options} });
  require("node:fs").writeFileSync(${JSON.stringify(file)}, String(child.pid));
  child.unref();`;
const LIVE = "setInterval(() => console.log('still here'), 20)";

async function pidIn(file: string): Promise<number> {
  const pid = await eventually(() => Number(readFileSync(file, "utf8")), { what: `a pid in ${file}` });
  strays.push(pid);
  return pid;
}

const gone = (pid: number) => eventually(() => !isAlive(pid), { what: `process ${pid} to end` });
const fileFor = (name: string) => path.join(folder, name);

test("what it writes is logged line by line, and its exit code told", async () => {
  const { lines, result } = run(
    "console.log('one\\ntwo\\r\\n'); console.error(process.argv[1]); process.stdout.write('three'); process.exitCode = 3",
    { args: ["a b; $HOME `x`"] },
  );
  expect(await result).toEqual({ code: 3, signal: null, timedOut: false });
  expect(lines).toEqual(["restart: one", "restart: two", "restart: a b; $HOME `x`", "restart: three"]);
});

test("output is logged while the command runs", async () => {
  const { lines, result } = run("console.log('stopping'); setTimeout(() => {}, 1500)");
  let ended = false;
  void result.then(() => {
    ended = true;
  });
  await eventually(() => lines.length === 1, { what: "the first line" });
  expect(ended).toBe(false);
  await result;
});

test("long lines are cut, and many lines are left out", async () => {
  const { lines, result } = run(
    "console.log('x'.repeat(100000)); for (let n = 0; n < 1000; n++) console.log(n)",
  );
  await result;
  expect(lines[0]).toBe(`restart: ${"x".repeat(500)}…`);
  expect(lines[1]).toBe("restart: 0");
  expect(lines.length).toBe(301);
  expect(lines.at(-1)).toBe("restart: there is more output, which is not logged");
});

test("control characters are made visible, and a character on the edge of what is read stays whole", async () => {
  const { lines, result } = run(
    "console.log('\\x1b[2Ja\\tb\\u202e\\x07'); console.log(' '.repeat(16369) + '\\n' + 'é'.repeat(20))",
  );
  await result;
  expect(lines[0]).toBe("restart: \\u001b[2Ja b\\u202e\\u0007");
  expect(lines.at(-1)).toBe(`restart: ${"é".repeat(20)}`);
});

test("a command that is not there is told at once", async () => {
  const log = pino({ level: "silent" });
  const { signal } = new AbortController();
  await expect(
    runRestartCommand(["/nowhere/pg_ctl", "restart"], { timeoutMs: 1_000, log, signal }),
  ).rejects.toThrow('running the restart command "/nowhere/pg_ctl"');
});

test("a server that it leaves running is not waited for, can go on writing, and lives on", async () => {
  const file = fileFor("daemon");
  const began = performance.now();
  const { lines, result } = run(`${leaving(file, LIVE)} console.log('started')`);
  expect(await result).toEqual({ code: 0, signal: null, timedOut: false });
  expect(performance.now() - began).toBeLessThan(10_000);
  expect(lines).toContain("restart: started");
  const pid = await pidIn(file);
  const told = lines.length;
  await new Promise((resolve) => setTimeout(resolve, 500));
  expect(isAlive(pid)).toBe(true);
  expect(lines.length).toBe(told);
});

test("a command that takes too long is ended, with what it started", async () => {
  const file = fileFor("slow");
  const { result } = run(`${leaving(file, LIVE)} setInterval(() => {}, 1000)`, { timeoutMs: 1_000 });
  const pid = await pidIn(file);
  expect(await result).toEqual({ code: null, signal: "SIGTERM", timedOut: true });
  await gone(pid);
});

test("after a timeout what the command started has time to end too", async () => {
  const file = fileFor("orderly");
  const orderly =
    "process.on('SIGTERM', () => setTimeout(() => { console.log('ended'); process.exit() }, 1000)); console.log('up'); setInterval(() => {}, 1000)";
  const { lines, result } = run(`${leaving(file, orderly)} setInterval(() => {}, 1000)`, {
    timeoutMs: 1_500,
  });
  await pidIn(file);
  expect(await result).toEqual({ code: null, signal: "SIGTERM", timedOut: true });
  expect(lines).toEqual(["restart: up", "restart: ended"]);
}, 20_000);

test("a command that will not end is killed five seconds later", async () => {
  const file = fileFor("stubborn");
  const deaf = `process.on('SIGTERM', () => {}); ${LIVE}`;
  const { lines, result } = run(
    `process.on('SIGTERM', () => console.log('no')); ${leaving(file, deaf)} setInterval(() => {}, 1000)`,
    { timeoutMs: 1_000 },
  );
  const pid = await pidIn(file);
  expect(await result).toEqual({ code: null, signal: "SIGKILL", timedOut: true });
  expect(lines).toContain("restart: no");
  await gone(pid);
}, 20_000);

test("a sidecar that is stopped leaves the command to its end, which would leave the standby down", async () => {
  const file = fileFor("left");
  const stop = new AbortController();
  const write = `require('node:fs').writeFileSync(${JSON.stringify(file)}, String(process.pid))`;
  const { result } = run(`${write}; setInterval(() => console.log('busy'), 20)`, { signal: stop.signal });
  const pid = await pidIn(file);
  stop.abort(new Error("stopping"));
  await expect(result).rejects.toThrow("stopping");
  expect(isAlive(pid)).toBe(true);
  await expect(run("", { signal: stop.signal }).result).rejects.toThrow("stopping");
});

test("no file is left while it runs", async () => {
  vi.stubEnv("TMPDIR", mkdtempSync(fileFor("tmp-")));
  const { lines, result } = run("console.log('running'); setTimeout(() => {}, 500)");
  await eventually(() => lines.length === 1, { what: "the first line" });
  expect(readdirSync(os.tmpdir())).toEqual([]);
  await result;
  vi.unstubAllEnvs();
});

test("our passwords are not in its environment", async () => {
  expect(
    environmentFor({ PATH: "/bin", PGPASSWORD: "x", PGPASSFILE: "/p", SLOTSYNC_STANDBY_DSN: "password=x" }),
  ).toEqual({ PATH: "/bin", PGPASSFILE: "/p" });
  vi.stubEnv("SLOTSYNC_STANDBY_DSN", "password=hunter2");
  const { lines, result } = run("console.log(String(process.env.SLOTSYNC_STANDBY_DSN), !!process.env.PATH)");
  await result;
  vi.unstubAllEnvs();
  expect(lines).toEqual(["restart: undefined true"]);
});
