/** 18 and later: which of our slots are to be used lest the server give them up, and when none of them can be counted on any more. */
import { describe, expect, test } from "vitest";
import { dueForUse, idleTooLong, longestNapMs, toUseAtPromotion } from "../../../src/domain/idle.ts";
import { GUARD, guard, HOLD, hold, journalOf, planFor, record, slot, standbyView } from "./build.ts";

const TIMEOUT_MS = 60_000;
const idleFor = (ages: Record<string, number>) => ({
  idleness: { timeoutMs: TIMEOUT_MS, idleMs: new Map(Object.entries(ages)) },
});
const served = { synced: true, failover: true };
const journal = journalOf([
  record("ours", "owned", 500),
  record("flagged", "owned", 500, { served: true, failover: true }),
]);
const here = [
  guard(400),
  hold(300),
  slot("ours", 500),
  slot("flagged", 500, served),
  slot("theirs", 500),
  slot("work", 500, { temporary: true }),
];

describe("on a standby", () => {
  test.each<[string, number, string[]]>([
    ["a quarter of the time-out", 15_000, [GUARD, HOLD, "ours"]],
    ["less", 14_999, []],
    ["more than all of it", 100_000, [GUARD, HOLD, "ours"]],
  ])(
    "ours are used once they have been idle for %s; what the server syncs and what others made is not (I7, I18)",
    (_, age, due) => {
      const ages = Object.fromEntries(here.map(({ name }) => [name, age]));
      expect(dueForUse(standbyView(here, idleFor(ages)), journal).map(({ name }) => name)).toEqual(due);
    },
  );

  test("what is in use, or given up already, and what stands where ours never was, is left alone (I7)", () => {
    const gone = [guard(400, { invalidation: "idle_timeout" }), slot("ours", 501), hold(300)];
    expect(dueForUse(standbyView(gone, idleFor({ [GUARD]: 99_999, ours: 99_999 })), journal)).toEqual([]);
  });

  test("where the server gives up none there is nothing to do, and no hurry", () => {
    expect(dueForUse(standbyView(here), journal)).toEqual([]);
    expect(longestNapMs(standbyView(here))).toBe(Number.POSITIVE_INFINITY);
    expect(longestNapMs(standbyView(here, idleFor({})))).toBe(15_000);
  });

  test.each<[string, Record<string, number>, string]>([
    ["ours itself, at three quarters", { ours: 45_000 }, "waiting(idle_timeout)"],
    ["ours itself, a little before", { ours: 44_999 }, "synced"],
    ["the guard that it does not need", { [GUARD]: 45_000 }, "synced"],
  ])(
    "a slot that nobody has used for long is not counted on, for the promotion's own checkpoint may give it up: %s (I18)",
    (_, ages, told) => {
      expect(verdictOf([guard(400), slot("ours", 500)], ages)).toBe(told);
    },
  );

  test("nor is what only such a guard holds; what the server syncs is spared (I18)", () => {
    expect(verdictOf([guard(400)], { [GUARD]: 45_000 })).toBe("waiting(idle_timeout)");
    expect(verdictOf([guard(400)], { [GUARD]: 44_999 })).toBe("guarded");
    expect(idleTooLong(slot("x", 500, served), standbyView([], idleFor({ x: 99_999 })))).toBeNull();
  });
});

test("after a promotion all that the journal knows is used, whoever has synced it, and nothing else (I7, I18)", () => {
  const found = [...here, slot("busy", 500, { activePid: 7 }), slot("stray", 500, served)];
  const known = journalOf([...journal.slots.values(), record("busy", "owned", 500)]);
  expect(toUseAtPromotion(found, known).map(({ name }) => name)).toEqual([GUARD, "ours", "flagged"]);
});

function verdictOf(slots: ReturnType<typeof slot>[], ages: Record<string, number>): string | undefined {
  const verdict = planFor({
    there: [slot("ours", 500)],
    here: slots,
    journal: journalOf(slots.some(({ name }) => name === "ours") ? [record("ours", "owned", 500)] : []),
    standby: idleFor(ages),
  }).verdicts.get("ours");
  return verdict && `${verdict.protection}${verdict.reason === null ? "" : `(${verdict.reason})`}`;
}
