/**
 * Notices a promotion before the server is asked: `pg_ctl promote` and `pg_promote()` leave the file `promote` in the data directory
 * for a moment (`PROMOTE_SIGNAL_FILE` in xlog.h), and the end of recovery removes standby.signal.
 */
import { type FSWatcher, watch } from "node:fs";

const TELLING = new Set(["promote", "standby.signal"]);

/** Calls `onSign` for each sign of a promotion. Without a readable directory it never does, and `failed` says why. */
export class PromotionWatch {
  readonly failed: string | null;
  readonly #watcher: FSWatcher | null;

  constructor(dataDirectory: string | null, onSign: () => void) {
    let watcher: FSWatcher | null = null;
    let failed: string | null = null;
    if (dataDirectory !== null) {
      try {
        watcher = watch(dataDirectory, { persistent: false }, (_event, name) => {
          if (name !== null && TELLING.has(name)) onSign();
        });
        watcher.on("error", () => {});
      } catch (error) {
        failed = error instanceof Error ? error.message : String(error);
      }
    }
    this.#watcher = watcher;
    this.failed = failed;
  }

  close(): void {
    this.#watcher?.close();
  }
}
