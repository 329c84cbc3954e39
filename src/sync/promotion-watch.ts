/**
 * Notices a promotion before the server is asked. `pg_ctl promote` and `pg_promote()` leave the file `promote` in the data directory for a
 * moment (`PROMOTE_SIGNAL_FILE` in xlog.h): that is a sign. The end of recovery removes standby.signal, but HA managers also write that file
 * again whenever they write the settings: only that it stays away is worth asking the server.
 */
import { existsSync, type FSWatcher, watch } from "node:fs";
import path from "node:path";

const PROMOTE = "promote";
const STANDBY_SIGNAL = "standby.signal";

/** Longer than it takes to put a new file in the place of the old one. */
const GONE_FOR_GOOD_MS = 100;

export interface PromotionSigns {
  /** Somebody has asked for a promotion. */
  onPromote: () => void;
  /** standby.signal has gone and stays away: the server knows whether it is a standby still. */
  onSignalGone: () => void;
}

/** Watches one data directory by its path. Without a readable directory it never calls anybody, and `failed` says why. */
export class PromotionWatch {
  readonly #directory: string | null;
  readonly #signs: PromotionSigns;
  #failed: string | null = null;
  #watcher: FSWatcher | null = null;
  #gone: NodeJS.Timeout | undefined;

  constructor(directory: string | null, signs: PromotionSigns) {
    this.#directory = directory;
    this.#signs = signs;
    this.rearm();
  }

  /** Why the directory cannot be watched now, or null. */
  get failed(): string | null {
    return this.#failed;
  }

  /**
   * Watches what is at the path now. To be called whenever the server has been away: a directory that was put in the place of the old one
   * has another inode, and the old watch would never tell anything again.
   */
  rearm(): void {
    if (this.#directory === null) return;
    this.close();
    try {
      this.#watcher = watch(this.#directory, { persistent: false }, (_event, name) => this.#changed(name));
      this.#watcher.on("error", () => {});
      this.#failed = null;
    } catch (error) {
      this.#failed = error instanceof Error ? error.message : String(error);
    }
  }

  #changed(name: string | null): void {
    // the server takes the file away again within moments: that it was there is enough
    if (name === PROMOTE) this.#signs.onPromote();
    if (name !== STANDBY_SIGNAL) return;
    clearTimeout(this.#gone);
    this.#gone = setTimeout(() => {
      if (!this.#isSignalThere()) this.#signs.onSignalGone();
    }, GONE_FOR_GOOD_MS);
    this.#gone.unref();
  }

  #isSignalThere(): boolean {
    return this.#directory !== null && existsSync(path.join(this.#directory, STANDBY_SIGNAL));
  }

  close(): void {
    clearTimeout(this.#gone);
    this.#watcher?.close();
    this.#watcher = null;
  }
}
