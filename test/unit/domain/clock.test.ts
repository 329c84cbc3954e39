/** Boot time, and the axis that a journal's times are counted by (I15). */
import { expect, test } from "vitest";
import { type Clock, nowOn, onThisBoot, toWallTime } from "../../../src/domain/clock.ts";
import { emptyJournal, type JournalState } from "../../../src/domain/journal.ts";

const NOON = Date.parse("2027-01-15T12:00:00Z");
const HOUR = 3_600_000;

class SetClock implements Clock {
  bootId = "boot 1";
  wallMs = NOON;
  bootMs = 50_000;
  wall = () => this.wallMs;
  boot = () => this.bootMs;
  pass(ms: number): this {
    this.wallMs += ms;
    this.bootMs += ms;
    return this;
  }
}

const begun = (clock: Clock, more: Partial<JournalState> = {}) =>
  onThisBoot({ ...emptyJournal("0123abcd"), ...more }, clock);

test("the wall clock set back or forward by an hour changes no duration, and times are shown as it has them now (I15)", () => {
  for (const set of [-HOUR, HOUR]) {
    const clock = new SetClock();
    const { journal, axis } = begun(clock);
    const before = nowOn(axis, clock);
    clock.pass(1_000).wallMs += set;
    // another process, which reads the journal later
    const again = onThisBoot({ ...journal, observedAt: before }, clock);
    expect(again.axis).toEqual(axis);
    expect(nowOn(again.axis, clock) - before).toBe(1_000);
    expect(before + toWallTime(again.axis, clock)).toBe(NOON + set);
  }
});

test("after another boot nothing has lasted for a known time: what waits begins anew, and the primary may have lived on (I15)", () => {
  const clock = new SetClock();
  const { journal, axis } = begun(clock);
  const now = nowOn(axis, clock);
  const leftovers = [{ name: "x", restartLsn: 1n as never, since: now - HOUR, kept: false }];
  const known = { ...journal, observedAt: now, quietUntil: now, timelineSince: now - HOUR, leftovers };
  // the clock lost an hour with the power
  Object.assign(clock, { bootId: "boot 2", bootMs: 10, wallMs: clock.wallMs - HOUR });
  const after = onThisBoot(known, clock);
  const later = nowOn(after.axis, clock);
  expect(later).toBeGreaterThan(now);
  expect(after.journal).toMatchObject({
    alive: { at: later, how: "unwatched" },
    timelineSince: later,
    leftovers: [{ since: later }],
  });
  expect(onThisBoot({ ...known, primaryLostAt: now }, clock).journal.alive).toBeNull();
});

test("an uptime that is less than it was is another boot, whatever its id (I15)", () => {
  const clock = new SetClock();
  const { journal, axis } = begun(clock);
  const now = nowOn(axis, clock);
  clock.bootMs = 10;
  const after = onThisBoot({ ...journal, observedAt: now }, clock);
  expect(nowOn(after.axis, clock)).toBeGreaterThan(now);
});

test("a journal of before there was an axis is taken for one of another boot (I15)", () => {
  const clock = new SetClock();
  const { journal } = begun(clock, { observedAt: NOON - 1_000, quietUntil: NOON - 1_000 });
  expect(journal.alive).toMatchObject({ how: "unwatched" });
});
