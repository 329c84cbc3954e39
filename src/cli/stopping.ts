/** Signals: the first one asks for a graceful end, the second one forces it. */
import { SIGNAL_EXIT } from "./exit.ts";

const STOP_SIGNALS = ["SIGTERM", "SIGINT", "SIGHUP"] as const;

export interface Stopping {
  readonly signal: AbortSignal;
  /** The signal that came, or null. */
  readonly by: NodeJS.Signals | null;
  /** Ends the command from within. */
  stop(): void;
  /** No longer listens. */
  release(): void;
}

/** Listens for signals; `onFirst` is called once, before the abort. */
export function stopOnSignals(onFirst: (name: NodeJS.Signals) => void = () => {}): Stopping {
  const controller = new AbortController();
  let by: NodeJS.Signals | null = null;
  const listener = (name: NodeJS.Signals) => {
    if (by !== null) process.exit(SIGNAL_EXIT[name] ?? 1);
    by = name;
    onFirst(name);
    controller.abort();
  };
  for (const name of STOP_SIGNALS) process.on(name, listener);
  return {
    signal: controller.signal,
    get by() {
      return by;
    },
    stop: () => controller.abort(),
    release: () => {
      for (const name of STOP_SIGNALS) process.off(name, listener);
    },
  };
}

/** The exit code of a command that a signal has cut short. */
export function signalExit(stopping: Stopping): number {
  return SIGNAL_EXIT[stopping.by ?? "SIGINT"] ?? 1;
}
