/**
 * What is watched between and beside the cycles: signs of a promotion, the standby's role, and new WAL on the primary. Where WAL
 * flows, a slot that is made is seen soon however long nothing has happened to the slots; where none does, no subscriber can have
 * confirmed anything new, and what was observed last still holds.
 */

import { unseenUntil } from "../domain/vouch.ts";
import { askPulse } from "../observe/primary.ts";
import { pulseOfStandby } from "../observe/standby.ts";
import { sleep } from "../pg/sleep.ts";
import type { Sidecar } from "./sidecar.ts";

/** How often the short questions are asked, … */
const PULSE_MS = 400;
/** … and once a nap has become long: still often enough to notice a promotion within a second. */
const LONG_NAP_MS = 3_000;
const LONG_NAP_PULSE_MS = 900;

/** A sign of promotion, given once and waited for by whoever naps. */
export class Sign {
  given = false;
  #wake = () => {};

  give(): void {
    this.given = true;
    this.#wake();
  }

  onGiven(wake: () => void): void {
    this.#wake = wake;
  }
}

/** Resolves with null at a sign of promotion, or when the standby is one no more; never when `over` aborts before. */
export async function keepVigil(sidecar: Sidecar, sign: Sign, over: AbortSignal): Promise<null> {
  const wake = new AbortController();
  sign.onGiven(() => wake.abort());
  while (!over.aborted) {
    await sleep(PULSE_MS, AbortSignal.any([over, wake.signal]));
    if (sign.given) return null;
    if (over.aborted) break;
    // what is wrong with the standby is for the cycle itself to find
    const standby = await askStandby(sidecar).catch(() => true);
    if (!standby) return null;
  }
  return new Promise<null>(() => {});
}

/** Whether the standby still is one; what it has heard of the primary is noted on the way. Throws what its session throws. */
async function askStandby(sidecar: Sidecar): Promise<boolean> {
  const pulse = await pulseOfStandby(await sidecar.standby.control());
  if (pulse.inRecovery) sidecar.hear({ ...pulse, refused: false });
  return pulse.inRecovery;
}

/** True when the primary that cannot be asked has shown just now that it goes on: what was seen last does not count any more. */
function livesOn({ journal, alive }: Sidecar): boolean {
  if (journal.primaryLostAt === null || unseenUntil(journal, journal.alive) !== null) return false;
  return unseenUntil(journal, alive) !== null;
}

/** Naps; ends early at a sign of promotion, and at news from the primary. Throws when the standby is lost. */
export async function napUntil(
  sidecar: Sidecar,
  sign: Sign,
  napMs: number,
): Promise<"slept" | "news" | "promotion"> {
  const { signal } = sidecar.options;
  const wake = new AbortController();
  const wakeUp = () => wake.abort();
  const primary = new PrimaryPulse(sidecar, wakeUp);
  const until = sidecar.now() + napMs;
  const pulseMs = napMs < LONG_NAP_MS ? PULSE_MS : LONG_NAP_PULSE_MS;
  sign.onGiven(wakeUp);
  signal.addEventListener("abort", wakeUp);
  try {
    for (let left = napMs; left > 0; left = until - sidecar.now()) {
      if (sign.given) return "promotion";
      await sleep(Math.min(left, pulseMs), wake.signal);
      if (signal.aborted) return "slept";
      if (sign.given) return "promotion";
      if (primary.news) return "news";
      if (napMs <= PULSE_MS) continue;
      primary.ask();
      if (sidecar.primary.lookAbout()) return "news";
      if (!(await askStandby(sidecar))) return "promotion";
      if (livesOn(sidecar)) return "news";
    }
    return "slept";
  } finally {
    signal.removeEventListener("abort", wakeUp);
  }
}

/**
 * Asks the primary without waiting for it: one that hangs must not keep a promotion from being seen. A session that was there when the nap
 * began and is no more is news as well: what was seen last counts only if the loss is noted soon.
 */
class PrimaryPulse {
  news = false;
  readonly #sidecar: Sidecar;
  readonly #wake: () => void;
  readonly #connected: boolean;
  #asking = false;

  constructor(sidecar: Sidecar, wake: () => void) {
    this.#sidecar = sidecar;
    this.#wake = wake;
    this.#connected = sidecar.primary.current !== null;
  }

  ask(): void {
    const session = this.#sidecar.primary.current;
    if (!session) {
      // while the primary is lost the nap is the pause before the next try
      if (this.#connected) this.#tell();
      return;
    }
    if (this.#asking) return;
    this.#asking = true;
    const askedAt = this.#sidecar.now();
    askPulse(session)
      .then(
        ({ walLsn, slotsDigest }) =>
          walLsn !== null &&
          walLsn === this.#sidecar.primaryWalLsn &&
          slotsDigest === this.#sidecar.primarySlots,
        () => false,
      )
      .then((quiet) => {
        this.#asking = false;
        if (!quiet) this.#tell();
        else if (this.#sidecar.vouched) this.#sidecar.quietUntil = askedAt;
      });
  }

  #tell(): void {
    this.news = true;
    this.#wake();
  }
}
