import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { matchesLike, matchSelectors } from "../../src/domain/selector.ts";

describe("LIKE patterns match as in SQL", () => {
  it.each<[text: string, pattern: string, expected: boolean]>([
    ["app_1", "app_1", true],
    ["appx1", "app_1", true],
    ["appx1", "app\\_1", false],
    ["app_1", "app\\_1", true],
    ["app_1", "app%", true],
    ["app_1", "%", true],
    ["", "%", true],
    ["", "_", false],
    ["", "", true],
    ["a", "", false],
    ["app", "app_", false],
    ["myapp", "app%", false],
    ["abcabd", "%ab_", true],
    ["abcabdx", "%ab_", false],
    ["aXbYbZ", "a%b%Z", true],
    ["100%", "100\\%", true],
    ["1000", "100\\%", false],
    ["a\\b", "a\\\\b", true],
    ["App", "app", false],
    ["a.c", "a.c", true],
    ["abc", "a.c", false],
    ["é1", "_1", true],
    ["😀1", "_1", true],
    ["a\\", "a\\", true],
  ])("%j like %j: %s", (text, pattern, expected) => {
    expect(matchesLike(text, pattern)).toBe(expected);
  });

  it("agrees with the plain definition of LIKE", () => {
    const like = (text: string, pattern: string): boolean => {
      if (pattern === "") return text === "";
      if (pattern[0] === "%")
        return like(text, pattern.slice(1)) || (text !== "" && like(text.slice(1), pattern));
      if (pattern[0] === "\\" && pattern.length > 1) {
        return text[0] === pattern[1] && like(text.slice(1), pattern.slice(2));
      }
      return (
        text !== "" && (pattern[0] === "_" || pattern[0] === text[0]) && like(text.slice(1), pattern.slice(1))
      );
    };
    const some = (...chars: string[]) =>
      fc.array(fc.constantFrom(...chars), { maxLength: 8 }).map((a) => a.join(""));
    fc.assert(
      fc.property(some("a", "b", "_", "%", "\\"), some("a", "b", "_", "%", "\\"), (text, pattern) => {
        expect(matchesLike(text, pattern)).toBe(like(text, pattern));
      }),
      { numRuns: 3000 },
    );
  });

  it("a pattern made to be slow is not", () => {
    const started = performance.now();
    expect(matchesLike("a".repeat(63), `${"%a".repeat(90)}%b`)).toBe(false);
    expect(matchesLike("a".repeat(20_000), `${"%a".repeat(90)}%b`)).toBe(false);
    expect(performance.now() - started).toBeLessThan(1_000);
  });
});

describe("rules choose slots", () => {
  const slot = { name: "app_orders", plugin: "pgoutput", database: "shop" };

  it("nothing is selected when nothing is included or flagged", () => {
    const by = ["not flagged", "slots.include is empty"];
    expect(matchSelectors(slot, [], [], [])).toEqual({ selected: false, by });
  });

  it("a flag is enough, and all that chooses a slot is named", () => {
    expect(matchSelectors(slot, [], [], ["registry"])).toEqual({ selected: true, by: ["registry"] });
    expect(matchSelectors(slot, [{ name: "x" }], [], ["flag"])).toEqual({ selected: true, by: ["flag"] });
    expect(matchSelectors(slot, [{ name: "app_orders" }], [], ["flag", "registry"])).toEqual({
      selected: true,
      by: ["flag", "registry", 'rule name "app_orders"'],
    });
  });

  it("all the conditions of a rule must hold, one rule is enough", () => {
    expect(matchSelectors(slot, [{ name: "x" }, { nameLike: "app%", plugin: "pgoutput" }], [], [])).toEqual({
      selected: true,
      by: ['rule name_like "app%", plugin "pgoutput"'],
    });
    for (const wrong of [{ name: "x" }, { plugin: "x" }, { database: "x" }, { nameLike: "x%" }]) {
      const rule = { name: "app_orders", nameLike: "app%", plugin: "pgoutput", database: "shop", ...wrong };
      expect(matchSelectors(slot, [rule], [], [])).toEqual({
        selected: false,
        by: ["not flagged", "no rule of slots.include matches"],
      });
    }
  });

  it("an exclusion wins over rules and flags", () => {
    expect(matchSelectors(slot, [{ name: "app_orders" }], [{ database: "shop" }], ["flag"])).toEqual({
      selected: false,
      by: ['excluded by rule database "shop"'],
    });
  });

  it("a rule without conditions matches nothing, on either side", () => {
    expect(matchSelectors(slot, [{}], [], []).selected).toBe(false);
    expect(matchSelectors(slot, [{ database: "shop" }], [{}], []).selected).toBe(true);
  });
});
