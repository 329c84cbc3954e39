/**
 * The windows in which the standby may be restarted. They are found by looking back from now, not by a timer: a sidecar that is
 * started inside a window, or a machine that slept through its beginning, knows that it is open.
 */
import { createTask, parse, type ScheduledTask } from "node-cron";
import type { OpenWindow } from "../domain/restart.ts";

const MINUTE_MS = 60_000;

/** The window that opened last counts where windows overlap. */
export class RestartWindow {
  readonly #task: ScheduledTask;
  readonly #seconds: readonly number[];
  readonly #lengthMs: number;
  readonly #now: () => number;
  /** The last time at or before `#seenTo` at which a window opened, as far back as it matters; null when there was none. */
  #openedAt: number | null = null;
  #seenTo: number | null = null;

  /** `schedule` is a cron expression in local time; `now` gives ms since the epoch. */
  constructor(schedule: string, minutes: number, now: () => number) {
    // never started: it only says which times match
    this.#task = createTask(schedule, () => undefined, { name: "restart window" });
    this.#seconds = parse(schedule).second.toSorted((a, b) => b - a);
    this.#lengthMs = minutes * MINUTE_MS;
    this.#now = now;
  }

  /** The window that is open now, or null. */
  get open(): OpenWindow | null {
    const now = this.#now();
    // a clock that was put back: what was seen lies ahead
    if (this.#seenTo !== null && now < this.#seenTo) this.#seenTo = null;
    const since = Math.max(this.#seenTo ?? Number.NEGATIVE_INFINITY, now - this.#lengthMs);
    const newest = this.#lastOpening(since, now);
    if (newest !== null || this.#seenTo === null) this.#openedAt = newest;
    this.#seenTo = now;
    if (this.#openedAt === null) return null;
    const closesAt = this.#openedAt + this.#lengthMs;
    return now < closesAt ? { openedAt: this.#openedAt, closesAt } : null;
  }

  close(): void {
    void this.#task.destroy();
  }

  /** The last match after `since`, up to `to`. */
  #lastOpening(since: number, to: number): number | null {
    for (let minute = floorTo(to, MINUTE_MS); minute + MINUTE_MS > since; minute -= MINUTE_MS) {
      // the seconds do not depend on the other fields: one of them tells for the whole minute
      const [anySecond = 0] = this.#seconds;
      if (!this.#task.match(new Date(minute + anySecond * 1_000))) continue;
      const second = this.#seconds.find((each) => minute + each * 1_000 <= to);
      if (second === undefined) continue;
      const at = minute + second * 1_000;
      return at > since ? at : null;
    }
    return null;
  }
}

/** Every zone in use is whole minutes from UTC. */
function floorTo(ms: number, unit: number): number {
  return Math.floor(ms / unit) * unit;
}
