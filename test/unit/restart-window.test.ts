/** The windows in which the standby may be restarted. */
import { expect, test } from "vitest";
import { RestartWindow } from "../../src/restart/window.ts";

// a Sunday
const at = (hour: number, minute: number, second = 0, ms = 0, day = 22) =>
  new Date(2026, 10, day, hour, minute, second, ms).getTime();

/** Whether the window is open at each time, and since when. */
function openings(schedule: string, minutes: number, times: readonly number[]): (number | null)[] {
  let now = 0;
  const window = new RestartWindow(schedule, minutes, () => now);
  const seen = times.map((time) => {
    now = time;
    const { open } = window;
    if (open) expect(open.closesAt - open.openedAt).toBe(minutes * 60_000);
    return open?.openedAt ?? null;
  });
  window.close();
  return seen;
}

test("a window opens at its time and closes after its length", () => {
  const opened = at(3, 30);
  expect(
    openings("30 3 * * 0", 60, [
      at(3, 29, 59, 999),
      opened,
      at(4, 29, 59, 999),
      at(4, 30),
      at(3, 30, 0, 0, 23),
      at(3, 31, 0, 0, 29),
    ]),
  ).toEqual([null, opened, opened, null, null, at(3, 30, 0, 0, 29)]);
});

test("a sidecar that is started inside a window knows that it is open", () => {
  expect(openings("30 3 * * *", 60, [at(4, 0)])).toEqual([at(3, 30)]);
  expect(openings("30 3 * * *", 1440, [at(3, 29, 59, 0, 23)])).toEqual([at(3, 30)]);
  expect(openings("30 3 * * *", 1, [at(3, 31)])).toEqual([null]);
});

test("of windows that overlap the last to open counts", () => {
  const times = [at(3, 30), at(3, 45), at(4, 0), at(4, 59), at(6, 0)];
  expect(openings("0,30 3 * * *", 60, times)).toEqual([at(3, 30), at(3, 30), at(3, 30), null, null]);
  expect(openings("0 * * * *", 60, times)).toEqual([at(3, 0), at(3, 0), at(4, 0), at(4, 0), at(6, 0)]);
});

test("seconds are kept, looked at often or seldom", () => {
  expect(openings("15,45 30 3 * * *", 1, [at(3, 30, 14), at(3, 30, 15), at(3, 30, 50)])).toEqual([
    null,
    at(3, 30, 15),
    at(3, 30, 45),
  ]);
  expect(openings("15,45 30 3 * * *", 1, [at(3, 31, 44)])).toEqual([at(3, 30, 45)]);
  expect(openings("15 30 3 * * *", 1, [at(3, 30, 0), at(3, 30, 30)])).toEqual([null, at(3, 30, 15)]);
});

test("a clock that is put back closes the window, and it opens again", () => {
  expect(openings("30 3 * * *", 60, [at(3, 40), at(3, 20), at(3, 35)])).toEqual([at(3, 30), null, at(3, 30)]);
});
