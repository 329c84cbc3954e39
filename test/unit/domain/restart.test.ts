/** When the standby is restarted for the slots that only its next start takes in, and why not. */
import { describe, expect, test } from "vitest";
import {
  decideRestart,
  failedRestart,
  type RestartInput,
  type RestartRecord,
  type WhyNoRestart,
} from "../../../src/domain/restart.ts";

const NOW = 1_000_000;
const WINDOW = { openedAt: NOW - 1_000, closesAt: NOW + 1_000 };

const base: RestartInput = {
  policy: { mode: "immediate" },
  staged: ["b", "a"],
  last: null,
  window: null,
  now: NOW,
  inRecovery: true,
  promoting: false,
  busy: false,
};
const lastFor = (names: string[], more: Partial<RestartRecord> = {}): RestartRecord => ({
  at: NOW - 100_000,
  names,
  outcome: "done",
  detail: null,
  failures: 0,
  retryAt: null,
  window: null,
  ...more,
});
const windowed: Partial<RestartInput> = { policy: { mode: "window" }, window: WINDOW };

describe("a restart is refused", () => {
  test.each<[string, Partial<RestartInput>, WhyNoRestart]>([
    ["on a primary, whatever is staged", { inRecovery: false }, "not_a_standby"],
    ["on a primary that has nothing to gain", { inRecovery: false, staged: [] }, "not_a_standby"],
    ["while a promotion runs", { promoting: true }, "promoting"],
    ["when nothing is staged", { staged: [] }, "nothing_staged"],
    ["when restarts are the operator's", { policy: { mode: "never" } }, "mode_never"],
    [
      "when restarts are the operator's, also in a window",
      { ...windowed, policy: { mode: "never" } },
      "mode_never",
    ],
    ["while more is being staged", { busy: true }, "busy"],
    ["while more is being staged, in a window", { ...windowed, busy: true }, "busy"],
    ["outside a window", { ...windowed, window: null }, "window_closed"],
    ["when the window has just closed", { ...windowed, now: WINDOW.closesAt }, "window_closed"],
    ["when the window is yet to open", { ...windowed, now: WINDOW.openedAt - 1 }, "window_closed"],
    ["twice for the same set", { last: lastFor(["a", "b"]) }, "did_not_help"],
    ["twice for a part of the set", { last: lastFor(["a", "b", "c"]) }, "did_not_help"],
    [
      "again after it failed, before its pause is over",
      { last: lastFor(["a", "b"], { outcome: "failed", failures: 1, retryAt: NOW + 1 }) },
      "retry_later",
    ],
    [
      "for something new while a failed one pauses: no command is run for each slot that is staged",
      { last: lastFor(["a"], { outcome: "not_started", failures: 3, retryAt: NOW + 1 }) },
      "retry_later",
    ],
    [
      "in the window in which it failed, though its pause is over",
      {
        ...windowed,
        last: lastFor(["a", "b"], { at: NOW - 500, outcome: "failed", failures: 1, retryAt: NOW }),
      },
      "window_used",
    ],
    [
      "again when the sidecar was killed during it, for it may have been done",
      { last: lastFor(["a", "b"], { outcome: "running" }) },
      "did_not_help",
    ],
    ["for the same set in the next window", { ...windowed, last: lastFor(["a", "b"]) }, "did_not_help"],
    [
      "twice in a window, also for something new",
      { ...windowed, last: lastFor(["c"], { at: NOW - 500, window: WINDOW.openedAt }) },
      "window_used",
    ],
    [
      "in a window in which one that needed none was made",
      { ...windowed, last: lastFor(["c"], { at: NOW - 500 }) },
      "window_used",
    ],
    [
      "in a window in which one failed",
      { ...windowed, last: lastFor(["c"], { at: NOW - 500, outcome: "failed" }) },
      "window_used",
    ],
  ])("%s", (_, more, why) => {
    expect(decideRestart({ ...base, ...more })).toEqual({ restart: false, why });
  });
});

describe("a restart is made", () => {
  test.each<[string, Partial<RestartInput>, string[], number | null]>([
    ["at once, for all that is staged, sorted", {}, ["a", "b"], null],
    ["each slot counted once", { staged: ["b", "a", "b"] }, ["a", "b"], null],
    ["for a set with something new in it", { last: lastFor(["a"]) }, ["a", "b"], null],
    ["in immediate mode without regard to windows", { window: WINDOW }, ["a", "b"], null],
    ["as soon as the window opens", { ...windowed, now: WINDOW.openedAt }, ["a", "b"], WINDOW.openedAt],
    [
      "in the next window, for something new",
      { ...windowed, last: lastFor(["a"], { window: WINDOW.openedAt - 5_000 }) },
      ["a", "b"],
      WINDOW.openedAt,
    ],
    [
      "again for the same set once the pause after a failure is over",
      { last: lastFor(["a", "b"], { outcome: "failed", failures: 1, retryAt: NOW }) },
      ["a", "b"],
      null,
    ],
    [
      "again in the next window after a failure",
      {
        ...windowed,
        last: lastFor(["a", "b"], { outcome: "failed", failures: 1, retryAt: NOW, window: 1 }),
      },
      ["a", "b"],
      WINDOW.openedAt,
    ],
    [
      "again in the same window when the command could not be started at all",
      {
        ...windowed,
        last: lastFor(["a", "b"], { at: NOW - 500, outcome: "not_started", failures: 1, retryAt: NOW }),
      },
      ["a", "b"],
      WINDOW.openedAt,
    ],
  ])("%s", (_, more, names, window) => {
    expect(decideRestart({ ...base, ...more })).toEqual({ restart: true, names, window });
  });
});

test("the pauses after failures in a row grow from a minute to half an hour, and begin anew after a success", () => {
  const record = lastFor(["a"], { outcome: "running" });
  let last: RestartRecord | null = null;
  const minutes = Array.from({ length: 8 }, () => {
    last = failedRestart(record, "failed", "exit code 1", last, NOW);
    return ((last.retryAt ?? 0) - NOW) / 60_000;
  });
  expect(minutes).toEqual([1, 2, 4, 8, 16, 30, 30, 30]);
  const success = lastFor(["a"], { failures: 8 });
  expect(failedRestart(record, "failed", "", success, NOW)).toMatchObject({
    failures: 1,
    retryAt: NOW + 60_000,
  });
});
