/** The small pure values: LSNs, transaction ids, names, naps and costs. */
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import {
  advanceCostMs,
  bucketCharge,
  refillBudget,
  restAfter,
  rideCostMs,
} from "../../../src/domain/cost.ts";
import {
  bytesBetween,
  bytesBeyond,
  formatLsn,
  isAhead,
  type Lsn,
  lastHad,
  maxLsn,
  minLsn,
  parseLsn,
  parseLsnOrNull,
} from "../../../src/domain/lsn.ts";
import {
  guardName,
  holdName,
  isForeignGuard,
  isGuardOf,
  isOwnSlotName,
  isValidSlotName,
  workName,
} from "../../../src/domain/names.ts";
import { nextNap, retryDelay } from "../../../src/domain/nap.ts";
import { parseXid, type Xid, xidPrecedesOrEquals } from "../../../src/domain/xid.ts";
import { lsn } from "./build.ts";

const anyLsn = fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }).map((value) => value as Lsn);

describe("LSNs", () => {
  test("are told as PostgreSQL tells them, and read back the same", () => {
    fc.assert(fc.property(anyLsn, (value) => parseLsn(formatLsn(value)) === value));
    expect(formatLsn(parseLsn("16/b374d848"))).toBe("16/B374D848");
    expect(parseLsnOrNull(null)).toBeNull();
  });

  test.each(["", "0", "/", "0/", "/0", "0/0/0", "0x1/0", "123456789/0", "0/-1", " 0/0", "0/0\n"])(
    "%j is refused",
    (text) => expect(() => parseLsn(text)).toThrow(RangeError),
  );

  test("compare and subtract beyond 32 bits", () => {
    expect(bytesBetween(parseLsn("0/FFFFFFFF"), parseLsn("1/1"))).toBe(2);
    expect(minLsn(lsn(3), lsn(1), lsn(2))).toBe(1n);
    expect(maxLsn(lsn(3), lsn(5))).toBe(5n);
    expect(() => minLsn()).toThrow(RangeError);
  });
});

describe("positions between two places where a record can begin, as clients confirm them", () => {
  test.each<[string, number, number, boolean]>([
    ["the same", 1_000, 1_000, false],
    ["a byte further: it skips what begins at 1000", 1_001, 1_000, true],
    ["a byte behind: it sends what begins at 1000", 1_000, 1_001, false],
    ["both before the same next place", 1_007, 1_001, false],
    ["at the next place", 1_008, 1_001, false],
    ["past the next place", 1_009, 1_008, true],
  ])("a slot is ahead of another where it skips what that one sends: %s (I1)", (_, a, b, ahead) => {
    expect(isAhead(lsn(a), lsn(b))).toBe(ahead);
  });

  test.each([
    [999, 0],
    [1_000, 0],
    [1_001, 0],
    [1_007, 0],
    [1_008, 8],
    [1_009, 9],
  ])("who confirmed %d has %d bytes of what lies past 1000 (I1)", (confirmed, bytes) => {
    expect(bytesBeyond(lsn(1_000), lsn(confirmed))).toBe(bytes);
  });

  test("nothing that is had ends between two such places", () => {
    expect([1_000, 1_001, 1_007, 1_008].map((at) => Number(lastHad(lsn(at))))).toEqual([
      1_000, 1_000, 1_000, 1_008,
    ]);
  });
});

describe("transaction ids", () => {
  const xid = (value: number) => value as Xid;

  test("compare around the wrap, as transam.c does (I4)", () => {
    expect(xidPrecedesOrEquals(xid(4_294_967_295), xid(3))).toBe(true);
    expect(xidPrecedesOrEquals(xid(3), xid(4_294_967_295))).toBe(false);
    expect(xidPrecedesOrEquals(xid(100), xid(100))).toBe(true);
    expect(xidPrecedesOrEquals(xid(2), xid(3_000_000_000))).toBe(true);
    expect(xidPrecedesOrEquals(xid(3_000_000_000), xid(2))).toBe(false);
  });

  test("the order is the same wherever in the circle two of them lie (I4)", () => {
    const normal = fc.integer({ min: 3, max: 0xffffffff });
    fc.assert(
      fc.property(normal, fc.integer({ min: 1, max: 2 ** 31 - 1 }), (a, step) => {
        const b = (a + step) >>> 0;
        return b < 3 || (xidPrecedesOrEquals(xid(a), xid(b)) && !xidPrecedesOrEquals(xid(b), xid(a)));
      }),
    );
  });

  test.each(["", "-1", "4294967296", "1.5", "1e3", "abc", " 1"])("%j is refused", (text) =>
    expect(() => parseXid(text)).toThrow(RangeError),
  );
});

describe("slot names (I13)", () => {
  test.each(["a", "sub_1", "a".repeat(63), "__proto__"])("%s is one", (name) =>
    expect(isValidSlotName(name)).toBe(true),
  );
  test.each(["", "A", "a-b", "../x", 'a"b', "a'b", "a b", "a\n", "a".repeat(64), "é"])("%j is none", (name) =>
    expect(isValidSlotName(name)).toBe(false),
  );

  test("our own are valid for the largest oid and serial, and known as ours", () => {
    const id = "ffffffff";
    for (const name of [
      guardName(id, 4_294_967_295, 2 ** 31),
      holdName(id, 4_294_967_295),
      workName(id, 4_294_967_295),
    ]) {
      expect(isValidSlotName(name)).toBe(true);
      expect(isOwnSlotName(name)).toBe(true);
    }
  });
});

describe("whose guard it is (I7)", () => {
  const id = "0badcafe";
  test.each<[string, "ours" | "another's" | "none"]>([
    [guardName(id, 16_384, 1), "ours"],
    [guardName(id, 4_294_967_295, 2 ** 31), "ours"],
    [guardName("deadbeef", 16_384, 1), "another's"],
    // an instance id where the database or the serial stands is none
    [guardName("00016384", 16_384, 16_384), "another's"],
    ["slotsync_guard_0badcafe_deadbeef_1", "another's"],
    ["slotsync_guard_16384_deadbeef_0badcafe", "another's"],
    ["slotsync_guard_16384_0badcafe1_1", "another's"],
    ["slotsync_guard_", "another's"],
    [holdName(id, 16_384), "none"],
    [workName(id, 16_384), "none"],
    [`x_${guardName(id, 16_384, 1)}`, "none"],
    ["orders", "none"],
  ])("%s is %s", (name, whose) => {
    expect(isGuardOf(name, id)).toBe(whose === "ours");
    expect(isForeignGuard(name, id)).toBe(whose === "another's");
  });
});

test("naps double from the least to the most, and fall back on a change", () => {
  const bounds = { minMs: 200, maxMs: 30_000 };
  expect([0, 200, 400, 20_000, 30_000].map((previous) => nextNap(false, previous, bounds))).toEqual([
    200, 400, 800, 30_000, 30_000,
  ]);
  expect(nextNap(true, 30_000, bounds)).toBe(200);
});

test("retries spread out and never wait longer than 15 s", () => {
  fc.assert(
    fc.property(fc.nat(10_000), fc.double({ min: 0, max: 0.999, noNaN: true }), (failures, random) => {
      const delay = retryDelay(failures, random);
      return delay >= 250 && delay <= 15_000;
    }),
  );
});

test("an advance costs by what is decoded from its restart_lsn, and a little in any case (G4)", () => {
  const MB = 1024 * 1024;
  const cost = (restart: number, to: number) => advanceCostMs(lsn(restart * MB), lsn(to * MB));
  expect(cost(100, 100)).toBeGreaterThan(0);
  expect(cost(200, 100)).toBe(cost(100, 100));
  expect(cost(0, 200) - cost(0, 100)).toBeCloseTo(cost(100, 200) - cost(100, 100));
  expect(cost(0, 1_000)).toBeGreaterThan(100 * cost(0, 0));
  // each slot more on a ride costs the same, however much is decoded
  const ride = (to: number, count: number) => rideCostMs(lsn(0), lsn(to * MB), count);
  expect(ride(100, 8) - ride(100, 4)).toBeCloseTo(ride(0, 8) - ride(0, 4));
  expect(ride(100, 0)).toBeGreaterThan(cost(0, 100));
});

test("copying is dearer than moving a few bytes and cheaper than decoding much many times (G4)", () => {
  const [restart, near, far] = [lsn(0), lsn(1_000), lsn(250 * 1024 * 1024)];
  expect(rideCostMs(restart, near, 100)).toBeGreaterThan(100 * advanceCostMs(restart, near));
  expect(rideCostMs(restart, far, 100)).toBeLessThan(100 * advanceCostMs(restart, far));
  expect(advanceCostMs(far, restart)).toBe(advanceCostMs(near, near));
});

test("the budget fills with time up to a ceiling, and what is dear pays by resting (G4)", () => {
  expect(refillBudget(0, 1_000, 0.1)).toBe(100);
  expect(refillBudget(900, 60_000, 0.1)).toBe(1_000);
  expect(refillBudget(-400, 1_000, 0.1)).toBe(-300);
  expect(bucketCharge(10_000)).toBe(500);
  expect(bucketCharge(10)).toBe(10);
  expect(restAfter(10, 0.1)).toBe(0);
  expect(restAfter(1_000, 0.1)).toBe(10_000);
});
