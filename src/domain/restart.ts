/**
 * Whether the standby may be restarted now, so that it takes in the slots that were staged as files. Pure; the command is run by
 * src/restart. Each "no" has a name, and the first that holds is told:
 *
 *   never on a primary · never during a promotion · never while staging or another restart is under way · never twice for the
 *   same set, unless the command failed, and then only after a pause that grows · at most once per window
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
  /** One that a killed sidecar left "running" counts as done, for it may have been. "not_started": the command could not be run at all. */
  outcome: "running" | "done" | "failed" | "not_started";
  detail: string | null;
  /** How often in a row it has failed or not been started. */
  failures: number;
  /** Before that nothing is tried again (ms since the epoch); null unless it has failed. */
  retryAt: number | null;
  /** When the window opened in which it was (ms since the epoch); null when it needed none. */
  window: number | null;
}

/** The time in which a restart may be started: from `openedAt` until just before `closesAt` (ms since the epoch). */
export interface OpenWindow {
  openedAt: number;
  closesAt: number;
}

const FIRST_PAUSE_MS = 60_000;
const LONGEST_PAUSE_MS = 30 * 60_000;

/** Whether the command itself is to blame: what it was for may yet be had. */
export function hasFailed(last: RestartRecord | null): boolean {
  return last?.outcome === "failed" || last?.outcome === "not_started";
}

/** The record of a command that has failed at `now`, after `before`; a pause that grows from one minute to half an hour comes next. */
export function failedRestart(
  record: RestartRecord,
  outcome: "failed" | "not_started",
  detail: string,
  before: RestartRecord | null,
  now: number,
): RestartRecord {
  const failures = (before !== null && hasFailed(before) ? before.failures : 0) + 1;
  const pause = Math.min(LONGEST_PAUSE_MS, FIRST_PAUSE_MS * 2 ** Math.min(failures - 1, 10));
  return { ...record, outcome, detail, failures, retryAt: now + pause };
}

export type WhyNoRestart =
  | "nothing_staged"
  | "mode_never"
  | "window_closed"
  | "window_used"
  | "did_not_help"
  | "retry_later"
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
  if (last !== null && hasFailed(last)) {
    // a clock that was set back does not keep it waiting; also for something new: a command that fails must not be run for each slot that is staged
    if (last.at <= input.now && input.now < (last.retryAt ?? 0)) return no("retry_later");
  } else if (last !== null && names.every((name) => last.names.includes(name))) {
    // what the last restart was for and is still staged, the next would not bring either
    return no("did_not_help");
  }
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

/** Also by a restart that needed no window, and by one that failed: both may have interrupted the standby. */
function usedBy(last: RestartRecord, window: OpenWindow): boolean {
  if (last.outcome === "not_started") return false;
  return last.window === window.openedAt || (window.openedAt <= last.at && last.at < window.closesAt);
}
