/** When `slotsync sync` is done. Pure. */
import type { Status } from "../domain/status.ts";

/** So many cycles without a change of any slot's protection count as the end, however busy the primary is. */
const QUIET_CYCLES = 5;

export class Settling {
  #verdicts = "";
  #quiet = 0;

  /**
   * `changed`: the cycle did something or saw positions move. `underWay`: something that it started has not ended.
   * A quiet primary settles with the first cycle that finds nothing to do; on a busy one positions always move.
   */
  isSettled(status: Pick<Status, "slots" | "problems">, changed: boolean, underWay: boolean): boolean {
    const verdicts = JSON.stringify([
      status.slots.map(({ name, protection, reason }) => [name, protection, reason]),
      status.problems.map(({ code }) => code),
    ]);
    this.#quiet = verdicts === this.#verdicts && !underWay ? this.#quiet + 1 : 0;
    this.#verdicts = verdicts;
    return !underWay && (!changed || this.#quiet >= QUIET_CYCLES);
  }
}
