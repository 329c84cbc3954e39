/** The server drops the lock of a sidecar that was killed when it notices that its session is gone, which may take a moment. */
import { sleep } from "../pg/sleep.ts";
import { StandbyLockedError } from "../sync/links.ts";

const PREDECESSOR_MS = 5_000;
const RETRY_MS = 250;

/** Runs what takes the lock on the standby, again for a while when another has it; then lets StandbyLockedError through. */
export async function afterPredecessor<T>(work: () => Promise<T>, signal: AbortSignal): Promise<T> {
  const until = performance.now() + PREDECESSOR_MS;
  for (;;) {
    try {
      return await work();
    } catch (error) {
      if (!(error instanceof StandbyLockedError) || performance.now() > until || signal.aborted) throw error;
      await sleep(RETRY_MS, signal);
    }
  }
}
