/** The newest status of the running sidecar, for whoever asks over HTTP. */
import { type Answer, answer, isCertain } from "../domain/assess.ts";
import { type SlotStatus, type Status, standsAgainst } from "../domain/status.ts";

/** How many cycles a slot was not ready for one reason: what `slotsync_skip_count` is to the built-in worker of PostgreSQL 19. */
export interface NotReadyCount {
  slot: string;
  database: string;
  reason: string;
  cycles: number;
}

export class StatusBoard {
  readonly #quietMs: number;
  readonly #now: () => number;
  #status: Status | null = null;
  #postedAt = 0;
  #cycles = 0;
  #notReady = new Map<string, NotReadyCount>();

  /** `quietMs`: the longest that a healthy sidecar posts nothing. */
  constructor(quietMs: number, now: () => number) {
    this.#quietMs = quietMs;
    this.#now = now;
  }

  post(status: Status, cycles: number): void {
    if (cycles > this.#cycles) this.#count(status.slots);
    this.#status = status;
    this.#cycles = cycles;
    this.#postedAt = this.#now();
  }

  /** For each slot that is there now, and each reason for which it was ever not ready since the sidecar started. */
  get notReady(): readonly NotReadyCount[] {
    return [...this.#notReady.values()];
  }

  #count(slots: readonly SlotStatus[]): void {
    const there = new Set(slots.map(({ name }) => name));
    for (const [key, { slot }] of this.#notReady) if (!there.has(slot)) this.#notReady.delete(key);
    for (const slot of slots) {
      const { name, database, reason } = slot;
      if (!standsAgainst(slot) || reason === null) continue;
      const key = `${name} ${reason}`;
      const cycles = (this.#notReady.get(key)?.cycles ?? 0) + 1;
      this.#notReady.set(key, { slot: name, database, reason, cycles });
    }
  }

  /** The newest status, or null before the first. */
  get status(): Status | null {
    return this.#status;
  }

  /** Cycles that this process has completed. */
  get cycles(): number {
    return this.#cycles;
  }

  /** The answer of `check`, from the newest status; one that is too old tells nothing. */
  answer(slotName?: string): Answer {
    const status = this.#status;
    if (status === null)
      return { code: 2, line: "cannot tell: the sidecar has not looked at the servers yet" };
    const age = this.#now() - this.#postedAt;
    // a primary has nothing to post; a promotion takes as long as it takes
    if (status.role === "standby" && age > this.#quietMs)
      return {
        code: 2,
        line: `cannot tell: stale, the sidecar has reported nothing for ${Math.round(age / 1_000)} s`,
      };
    return answer({ status, certain: isCertain(status.problems) }, slotName);
  }
}
