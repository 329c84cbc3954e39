/**
 * Whether the standby may be restarted now, so that it takes in the slots that were staged as files. Pure; the command is run by
 * src/restart. Each "no" has a name, and the first that holds is told:
 *
 *   never on a primary · never during a promotion · never while staging or another restart is under way · never twice for the
 *   same set · at most once per window
 */
import { assertNever } from "./assert-never.ts";

export interface RestartPolicy {
  mode: "never" | "window" | "immediate";
}

/** The last restart, as the journal keeps it. */
export interface RestartRecord {
  /** When the command was started (ms since the epoch). */
  at: number;
  /** What was staged then, sorted. */
  names: string[];
  /** One that a killed sidecar left "running" counts as done, for it may have been. */
  outcome: "running" | "done" | "failed";
  detail: string | null;
  /** When the window opened in which it was (ms since the epoch); null when it needed none. */
  window: number | null;
}

/** The time in which a restart may be started: from `openedAt` until just before `closesAt` (ms since the epoch). */
export interface OpenWindow {
  openedAt: number;
  closesAt: number;
}

export type WhyNoRestart =
  | "nothing_staged"
  | "mode_never"
  | "window_closed"
  | "window_used"
  | "did_not_help"
  | "not_a_standby"
  | "promoting"
  | "busy";

export type RestartDecision =
  | { restart: false; why: WhyNoRestart }
  | { restart: true; names: string[]; window: number | null };

export interface RestartInput {
  policy: RestartPolicy;
  /** What one restart would add. */
  staged: readonly string[];
  last: RestartRecord | null;
  /** The window that is open, by the caller's clock. */
  window: OpenWindow | null;
  now: number;
  inRecovery: boolean;
  promoting: boolean;
  /** Staging has not finished, or a restart is under way. */
  busy: boolean;
}

/** Says yes only with all that is staged, so that one restart serves them all. */
export function decideRestart(input: RestartInput): RestartDecision {
  const { policy, last } = input;
  const names = [...new Set(input.staged)].sort();
  if (!input.inRecovery) return no("not_a_standby");
  if (input.promoting) return no("promoting");
  if (names.length === 0) return no("nothing_staged");
  if (policy.mode === "never") return no("mode_never");
  // what the last restart was for and is still staged, the next would not bring either
  if (last && names.every((name) => last.names.includes(name))) return no("did_not_help");
  switch (policy.mode) {
    case "immediate":
      return input.busy ? no("busy") : { restart: true, names, window: null };
    case "window": {
      const window = openAt(input.window, input.now);
      if (!window) return no("window_closed");
      if (last && usedBy(last, window)) return no("window_used");
      return input.busy ? no("busy") : { restart: true, names, window: window.openedAt };
    }
    default:
      return assertNever(policy.mode);
  }
}

function no(why: WhyNoRestart): RestartDecision {
  return { restart: false, why };
}

/** A window that was looked up before a long wait may have closed since. */
function openAt(window: OpenWindow | null, now: number): OpenWindow | null {
  return window && window.openedAt <= now && now < window.closesAt ? window : null;
}

/** Also by a restart that needed no window, and by one that failed: both interrupted the standby. */
function usedBy(last: RestartRecord, window: OpenWindow): boolean {
  return last.window === window.openedAt || (window.openedAt <= last.at && last.at < window.closesAt);
}
