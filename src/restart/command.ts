/**
 * Runs the operator's restart command. `pg_ctl restart` without a log file leaves a server behind that writes to what was our
 * child's output, for as long as it lives. A pipe would keep us waiting for the server, or break under it when we leave; a pipe
 * that nobody reads would stop it. So the output goes to a file without a name, and we read that while the command runs.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { type FileHandle, mkdtemp, open, rm } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { StringDecoder } from "node:string_decoder";
import { setTimeout as sleep } from "node:timers/promises";
import type { Logger } from "pino";

const KILL_AFTER_MS = 5_000;
const LOOK_EVERY_MS = 200;
const LONGEST_LINE = 500;
const MOST_LINES = 300;
/** No more than this is read, however long a line is: a command that writes without end must not keep us busy. */
const MOST_BYTES = 1024 * 1024;
const CHUNK_BYTES = 16 * 1024;

export interface CommandOptions {
  timeoutMs: number;
  log: Logger;
  /** Ends the waiting, not the command: cut off between stop and start, it would leave the standby down. */
  signal: AbortSignal;
}

export interface CommandResult {
  /** The exit code, or null when a signal ended it. */
  code: number | null;
  signal: string | null;
  timedOut: boolean;
}

/**
 * Resolves when the command itself has exited, whatever it has left running. On a timeout its whole process group is ended, on
 * an exit of its own nothing is. Rejects when the command cannot be started, and with the signal's reason on an abort.
 */
export async function runRestartCommand(
  command: readonly string[],
  { timeoutMs, log, signal }: CommandOptions,
): Promise<CommandResult> {
  const [program, ...args] = command;
  if (program === undefined) throw new Error("the restart command is empty");
  const output = await openNameless();
  const lines = new OutputLog(output, log);
  let looking: NodeJS.Timeout | undefined;
  try {
    signal.throwIfAborted();
    // a group of its own, so that a timeout reaches what a script has started
    const child = spawn(program, args, {
      stdio: ["ignore", output.fd, output.fd],
      detached: true,
      env: environmentFor(process.env),
    });
    looking = setInterval(() => void lines.look().catch(() => undefined), LOOK_EVERY_MS);
    return await ended(child, timeoutMs, signal);
  } catch (error) {
    if (signal.aborted) throw error;
    throw new Error(`running the restart command "${program}"`, { cause: error });
  } finally {
    clearInterval(looking);
    await lines.finish().catch((error: unknown) => log.warn({ err: error }, "its output cannot be read"));
    // ours only: a server that was left behind goes on writing to its own
    await output.close();
  }
}

function ended(child: ChildProcess, timeoutMs: number, signal: AbortSignal): Promise<CommandResult> {
  return new Promise((resolve, reject) => {
    let timedOut = false;
    let killed = false;
    let killing: NodeJS.Timeout | undefined;
    const timer = setTimeout(() => {
      timedOut = true;
      signalGroup(child, "SIGTERM");
      killing = setTimeout(() => {
        killed = true;
        signalGroup(child, "SIGKILL");
      }, KILL_AFTER_MS);
    }, timeoutMs);
    const leave = () => {
      // once we have begun to end it we see to the end
      if (timedOut) return;
      clearTimeout(timer);
      child.unref();
      reject(signal.reason);
    };
    signal.addEventListener("abort", leave, { once: true });
    const settle = () => {
      clearTimeout(timer);
      signal.removeEventListener("abort", leave);
    };
    child.once("error", (error) => {
      settle();
      reject(error);
    });
    // "exit", not "close": the latter waits for everybody who has the output open
    child.once("exit", async (code, by) => {
      settle();
      // what the command started may need its time too: before 12, pg_ctl leaves the server in its own group
      while (killing !== undefined && !killed && signalGroup(child, 0)) await sleep(LOOK_EVERY_MS);
      clearTimeout(killing);
      resolve({ code, signal: by, timedOut });
    });
  });
}

/** Tells whether somebody is left in the group. */
function signalGroup(child: ChildProcess, name: NodeJS.Signals | 0): boolean {
  if (child.pid === undefined) return false;
  try {
    return process.kill(-child.pid, name);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    // gone, or (macOS) only unreaped ones are left of it, or they run as somebody else
    if (code !== "ESRCH" && code !== "EPERM") throw error;
    return false;
  }
}

/** The command may reach the server in its own way; our passwords are not for it. */
export function environmentFor(env: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  const entries = Object.entries(env).filter(
    ([name]) => name !== "PGPASSWORD" && !name.startsWith("SLOTSYNC_"),
  );
  return Object.fromEntries(entries);
}

/** A file for us and our child alone, which vanishes with the last of those who have it open. */
async function openNameless(): Promise<FileHandle> {
  const folder = await mkdtemp(path.join(os.tmpdir(), "slotsync-restart-"));
  try {
    // "a": two that write at once do not write over each other; "+": we read
    return await open(path.join(folder, "output"), "ax+", 0o600);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

/** Logs what is written to a file, line by line and bounded. */
class OutputLog {
  readonly #file: FileHandle;
  readonly #log: Logger;
  readonly #decoder = new StringDecoder("utf8");
  readonly #buffer = Buffer.alloc(CHUNK_BYTES);
  #position = 0;
  #lines = 0;
  #rest = "";
  #cut = false;
  #last: Promise<void> = Promise.resolve();

  constructor(file: FileHandle, log: Logger) {
    this.#file = file;
    this.#log = log;
  }

  /** Logs the lines that were added. One look at a time. */
  look(): Promise<void> {
    this.#last = this.#last.catch(() => undefined).then(() => this.#read());
    return this.#last;
  }

  /** Logs what is left, also a line without an end. */
  async finish(): Promise<void> {
    await this.look();
    this.#rest += this.#decoder.end();
    if (this.#rest !== "") this.#line();
  }

  async #read(): Promise<void> {
    while (!this.#full) {
      const { bytesRead } = await this.#file.read(this.#buffer, 0, CHUNK_BYTES, this.#position);
      if (bytesRead === 0) return;
      this.#position += bytesRead;
      this.#take(this.#decoder.write(this.#buffer.subarray(0, bytesRead)));
      if (this.#full) this.#log.warn("restart: there is more output, which is not logged");
    }
  }

  get #full(): boolean {
    return this.#lines >= MOST_LINES || this.#position >= MOST_BYTES;
  }

  #take(text: string): void {
    const parts = text.split("\n");
    parts.forEach((part, index) => {
      const room = LONGEST_LINE - this.#rest.length;
      if (part.length > room) this.#cut = true;
      this.#rest += part.slice(0, Math.max(0, room));
      if (index < parts.length - 1) this.#line();
    });
  }

  #line(): void {
    const line = printable(this.#rest.replace(/\r$/, "")) + (this.#cut ? "…" : "");
    this.#rest = "";
    this.#cut = false;
    if (line === "" || this.#lines >= MOST_LINES) return;
    this.#lines += 1;
    this.#log.info(`restart: ${line}`);
  }
}

/** Nothing in it moves a terminal's cursor or reverses the reading. */
function printable(text: string): string {
  return text
    .replaceAll("\t", " ")
    .replaceAll(/[\p{Cc}\p{Cf}\u2028\u2029]/gu, (each) => `\\u${hex(each.codePointAt(0) ?? 0)}`);
}

function hex(code: number): string {
  return code.toString(16).padStart(4, "0");
}
