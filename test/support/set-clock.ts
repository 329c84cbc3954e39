/** A clock that a test sets, lets sleep, and reboots; between that it goes as the machine's own. */
import type { Clock } from "../../src/domain/clock.ts";
import { systemClock } from "../../src/observe/clock.ts";

export class SetClock implements Clock {
  readonly #real = systemClock();
  readonly bootId = this.#real.bootId;
  #wall = 0;
  #slept = 0;

  wall = () => this.#real.wall() + this.#wall + this.#slept;
  boot = () => this.#real.boot() + this.#slept;

  /** Somebody sets the wall clock forward, or back. */
  set(byMs: number): void {
    this.#wall += byMs;
  }

  /** The machine sleeps for so long: no timer of Node's goes on meanwhile. */
  sleep(ms: number): void {
    this.#slept += ms;
  }
}
