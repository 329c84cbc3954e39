import { sleep } from "../pg/sleep.ts";

export interface WaitOptions {
  /** what is awaited, for the message */
  what: string | (() => string);
  signal: AbortSignal;
  timeoutMs?: number;
  intervalMs?: number;
}

/** Asks until the answer is truthy, and returns it. Throws what the signal was aborted with, the probe's error, or that it took too long. */
export async function waitFor<T>(
  probe: () => T | Promise<T>,
  { what, signal, timeoutMs = 20_000, intervalMs = 20 }: WaitOptions,
): Promise<NonNullable<T>> {
  const deadline = performance.now() + timeoutMs;
  for (;;) {
    signal.throwIfAborted();
    const answer = await probe();
    if (answer) return answer;
    if (performance.now() > deadline) {
      const awaited = typeof what === "string" ? what : what();
      throw new Error(`waited ${timeoutMs / 1_000} s for ${awaited}`);
    }
    await sleep(intervalMs, signal);
  }
}
