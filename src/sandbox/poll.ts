import { setTimeout as sleep } from "node:timers/promises";
import { inspect } from "node:util";

export interface PollOptions {
  /** what is awaited, for the message: "the standby to stream" */
  what: string;
  timeoutMs?: number;
  intervalMs?: number;
}

/**
 * Calls until the answer is truthy, and returns it. Errors count as "not yet"; the last one becomes the cause of
 * the failure when time is up.
 */
export async function eventually<T>(
  probe: () => T | Promise<T>,
  { what, timeoutMs = 30_000, intervalMs = 20 }: PollOptions,
): Promise<NonNullable<T>> {
  const deadline = performance.now() + timeoutMs;
  let cause: unknown;
  let answer: T | undefined;
  for (;;) {
    try {
      cause = undefined;
      answer = await probe();
      if (answer) return answer;
    } catch (error) {
      cause = error;
    }
    if (performance.now() >= deadline) break;
    await sleep(intervalMs);
  }
  const last = cause === undefined ? `last answer: ${inspect(answer)}` : `last error: ${String(cause)}`;
  throw new Error(`waited ${timeoutMs} ms for ${what} (${last})`, { cause });
}
