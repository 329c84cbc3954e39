/** What the process remembers between cycles: back-off, budget, clocks. Losing it costs time, never safety. */
import { refillBudget } from "../domain/cost.ts";
import { retryDelay } from "../domain/nap.ts";
import type { Backoff, Memory } from "../domain/plan.ts";
import { afterServerSync, type ServerSyncMemory } from "../domain/plan-served.ts";
import type { Reason } from "../domain/protection.ts";

export class CycleMemory {
  readonly #duty: number;
  readonly #backoff = new Map<string, Backoff>();
  readonly #guardAdvancedAt = new Map<string, number>();
  readonly #pluginProbedAt = new Map<string, number>();
  readonly #restUntil = new Map<string, number>();
  #serverSync: ServerSyncMemory | null = null;
  #budgetMs = 100;
  #lastNow: number | null = null;

  constructor(duty: number) {
    this.#duty = duty;
  }

  /** The planner's view at `now` (ms); refills the budget. */
  at(now: number, lanes: Pick<Memory, "busyDatabases" | "creatingGuards" | "filesBusy">): Memory {
    if (this.#lastNow !== null)
      this.#budgetMs = refillBudget(this.#budgetMs, Math.max(0, now - this.#lastNow), this.#duty);
    this.#lastNow = now;
    return {
      now,
      budgetMs: this.#budgetMs,
      backoff: this.#backoff,
      guardAdvancedAt: this.#guardAdvancedAt,
      pluginProbedAt: this.#pluginProbedAt,
      restUntil: this.#restUntil,
      serverSync: this.#serverSync,
      busyDatabases: lanes.busyDatabases,
      creatingGuards: lanes.creatingGuards,
      filesBusy: lanes.filesBusy,
    };
  }

  /** Takes over what a plan has spent. */
  spend(budgetMs: number, rests: ReadonlyMap<string, number>): void {
    this.#budgetMs = budgetMs;
    for (const [slot, until] of rests) this.#restUntil.set(slot, until);
  }

  /** The server's own slot sync has been called while the slots stood so. */
  serverSynced(state: string, now: number): void {
    this.#serverSync = afterServerSync(this.#serverSync, state, now);
  }

  /** An output plugin has loaded. */
  pluginLoaded(plugin: string, now: number): void {
    this.#pluginProbedAt.set(plugin, now);
  }

  guardAdvanced(guard: string, now: number): void {
    this.#guardAdvancedAt.set(guard, now);
  }

  /** Notes a failure; the retry comes later with each one in a row. Returns how many there were. */
  failed(key: string, failure: { reason: Reason; detail: string }, now: number): number {
    const failures = (this.#backoff.get(key)?.failures ?? 0) + 1;
    this.#backoff.set(key, { ...failure, failures, retryAt: now + retryDelay(failures, Math.random()) });
    return failures;
  }

  /** False while what failed last time rests. */
  mayTry(key: string, now: number): boolean {
    return (this.#backoff.get(key)?.retryAt ?? 0) <= now;
  }

  succeeded(key: string): void {
    this.#backoff.delete(key);
  }

  /** Takes over failures that an earlier process has journalled, for a verdict that does not forget them. */
  recall(failures: Iterable<[string, { reason: Reason; detail: string }]>): void {
    for (const [key, failure] of failures) this.#backoff.set(key, { ...failure, failures: 1, retryAt: 0 });
  }
}
