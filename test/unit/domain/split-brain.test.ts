import { expect, test } from "vitest";
import { trustworthy } from "../../../src/domain/prerequisites.ts";
import { splitBrainProblems } from "../../../src/domain/split-brain.ts";

const asked = { target: "a:1/x as u", systemIdentifier: "7", timeline: 1 };
const twin = { target: "b:2/x as u", systemIdentifier: "7", timeline: 2 };
const foreign = { target: "c:3/x as u", systemIdentifier: "8", timeline: 1 };

test("one primary is no split brain", () => {
  expect(splitBrainProblems(asked, [])).toEqual([]);
});

test("two primaries of one cluster: nothing that either says is believed, and both are named with their timelines", () => {
  const problems = splitBrainProblems(asked, [twin]);
  expect(problems).toEqual([
    {
      code: "split_brain",
      severity: "stop",
      message: expect.stringMatching(
        /^2 servers .*a:1\/x as u \(timeline 1\) and b:2\/x as u \(timeline 2\): nothing is synced/,
      ),
    },
  ]);
  expect(trustworthy(problems)).toBe(false);
});

test("a primary of another cluster among the hosts stops everything too (I5)", () => {
  const problems = splitBrainProblems(asked, [twin, foreign]);
  expect(problems.map(({ code }) => code)).toEqual(["split_brain", "system_identifier_differs"]);
  expect(problems[1]?.message).toContain("c:3/x as u has 8");
});
