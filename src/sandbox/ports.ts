import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import os from "node:os";
import path from "node:path";
import { isAlive } from "./processes.ts";

// Below the range from which systems pick the local port of an outgoing connection (32768 on Linux, 49152
// elsewhere). In that range some client could take the port of a server that is down for a moment, and one that
// keeps trying to connect to such a port can even end up connected to itself.
const FIRST = 20_000;
const LAST = 31_999;

/**
 * A free loopback port, reserved for this process until it is released or the process ends: a server that is
 * down for a while must find its port again, so no parallel process is given the same one.
 */
export async function reservePort(): Promise<number> {
  for (let attempt = 0; attempt < 1000; attempt++) {
    const port = FIRST + Math.floor(Math.random() * (LAST - FIRST + 1));
    if (!claim(port)) continue;
    if (await canListen(port)) return port;
    releasePort(port);
  }
  throw new Error(`no free loopback port between ${FIRST} and ${LAST}`);
}

/** Gives a reserved port back. */
export function releasePort(port: number): void {
  rmSync(claimFile(port), { force: true });
}

/** Gives back the ports of processes that were killed before they could. */
export function releaseAbandonedPorts(): void {
  const folder = claimFolder();
  for (const port of existsSync(folder) ? readdirSync(folder) : []) {
    if (!isAlive(holderOf(path.join(folder, port)))) releasePort(Number(port));
  }
}

function claimFolder(): string {
  return path.join(os.tmpdir(), `pg-slotsync-ports-${process.getuid?.() ?? 0}`);
}

function claimFile(port: number): string {
  return path.join(claimFolder(), String(port));
}

function claim(port: number): boolean {
  const file = claimFile(port);
  try {
    writeFileSync(file, String(process.pid), { flag: "wx" });
    return true;
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === "ENOENT") {
      mkdirSync(path.dirname(file), { recursive: true });
      return claim(port);
    }
    if (code !== "EEXIST") throw error;
  }
  // left by a process that was killed: free it, for a later try
  if (!isAlive(holderOf(file))) rmSync(file, { force: true });
  return false;
}

function holderOf(file: string): number {
  try {
    return Number(readFileSync(file, "utf8")) || process.pid;
  } catch {
    return process.pid;
  }
}

function canListen(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const probe = createServer();
    probe.once("error", () => resolve(false));
    probe.listen({ port, host: "127.0.0.1" }, () => probe.close(() => resolve(true)));
  });
}
