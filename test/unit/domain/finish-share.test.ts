import { expect, test } from "vitest";
import type { FinishStep } from "../../../src/domain/finish.ts";
import { shareDecodes } from "../../../src/domain/finish-share.ts";
import { GUARD, lsn, record } from "./build.ts";

const MB = 1024 ** 2;

function advance(name: string, restart: number, to: number, databaseOid = 1, twoPhase = false): FinishStep {
  const at = { databaseOid, twoPhase, primaryConfirmedFlushLsn: lsn(to * MB) };
  return {
    kind: "advance",
    record: record(name, "owned", restart * MB, at),
    restart: lsn(restart * MB),
    to: lsn(to * MB),
  };
}

/** A guard in each of databases 1 and 2, that decodes from 90 MB on. */
const guarded = ({ databaseOid }: { databaseOid: number }) =>
  databaseOid > 2 ? null : { name: GUARD.replace("_1_", `_${databaseOid}_`), restart: lsn(90 * MB) };

interface Case {
  claim: string;
  steps: FinishStep[];
  /** `name` decodes for itself, `name<guard` is a copy. */
  done: string[];
}

const CASES: Case[] = [
  {
    claim: "1 slots that are far behind one position share one decoding",
    steps: [advance("a", 100, 400), advance("b", 110, 400), advance("c", 100, 400)],
    done: [`a<${GUARD}`, `b<${GUARD}`, `c<${GUARD}`],
  },
  {
    claim: "2 one alone decodes for itself",
    steps: [advance("a", 100, 400)],
    done: ["a"],
  },
  {
    claim: "3 so do those that have little to decode: two swaps cost more",
    steps: [advance("a", 399, 400), advance("b", 399, 400)],
    done: ["a", "b"],
  },
  {
    claim: "4 where the guard starts far behind them, its decoding costs more than theirs",
    steps: [advance("a", 300, 400), advance("b", 300, 400)],
    done: ["a", "b"],
  },
  {
    claim: "5 without a guard behind it none is dropped: a crash in between must find it again (I10)",
    steps: [advance("a", 100, 400, 3), advance("b", 100, 400, 3)],
    done: ["a", "b"],
  },
  {
    claim: "6 a copy is exact: other positions do not share (I1)",
    steps: [advance("a", 100, 400), advance("b", 100, 401), advance("c", 100, 400), advance("d", 100, 399)],
    done: [`a<${GUARD}`, "b", `c<${GUARD}`, "d"],
  },
  {
    claim: "7 each database has its own",
    steps: [
      advance("a", 100, 400),
      advance("b", 100, 400, 2),
      advance("c", 100, 400),
      advance("d", 100, 400, 2),
    ],
    done: [
      `a<${GUARD}`,
      `b<${GUARD.replace("_1_", "_2_")}`,
      `c<${GUARD}`,
      `d<${GUARD.replace("_1_", "_2_")}`,
    ],
  },
  {
    claim: "8 a two_phase slot decodes for itself: a copy would lose it (G5)",
    steps: [advance("a", 100, 400), advance("b", 100, 400, 1, true), advance("c", 100, 400)],
    done: [`a<${GUARD}`, "b", `c<${GUARD}`],
  },
];

test.each(CASES)("$claim", ({ steps, done }) => {
  const shared = shareDecodes(steps, guarded);
  expect(shared.map((step) => step.record)).toEqual(steps.map((step) => step.record));
  expect(
    shared.map((step) => step.record.name + (step.kind === "materialise" ? `<${step.from}` : "")),
  ).toEqual(done);
  for (const [index, step] of shared.entries())
    if (step.kind === "materialise")
      expect(step).toMatchObject({
        to: (steps[index] as { to: bigint }).to,
        outcome: "advanced",
        dropFirst: expect.any(String),
      });
});

test("a guard that lacks the rows of one of them serves none of them (I4)", () => {
  const steps = [advance("a", 100, 400), advance("b", 110, 400), advance("c", 100, 400)];
  const source = (each: { name: string; databaseOid: number }) => (each.name === "b" ? null : guarded(each));
  expect(shareDecodes(steps, source)).toEqual(steps);
});

test("what is no advance stays as it is", () => {
  const kept: FinishStep = { kind: "keep", record: record("k", "owned", 400), position: lsn(400) };
  const none: FinishStep = { kind: "none", record: record("n", "seen", null), why: "" };
  expect(shareDecodes([kept, none], guarded)).toEqual([kept, none]);
});
