import { spawn } from "node:child_process";
import { readdirSync, realpathSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { describe, expect, onTestFinished, test } from "vitest";
import { judgeDemo, type SlotEvidence } from "../../src/demo/verdict.ts";
import { serverProcessesUnder } from "../../src/sandbox/processes.ts";
import { testedMajors } from "../support/majors.ts";
import { eventually } from "../support/wait.ts";

const root = path.resolve(import.meta.dirname, "..", "..");
// an address, for the demo starts its sidecar with the same options in another folder
const TSX = import.meta.resolve("tsx");
const SLOTS = ["demo_subscription", "demo_reader", "demo_lagging", "demo_idle"];

interface Demo {
  pid: number;
  readonly output: string;
  /** The exit code, or the name of the signal that ended it. */
  ended: Promise<number | NodeJS.Signals | null>;
}

/** `slotsync demo …` in a process of its own, as a user starts it. */
function startDemo(...args: string[]): Demo {
  const child = spawn(process.execPath, ["--import", TSX, "src/main.ts", "demo", ...args], { cwd: root });
  let output = "";
  for (const stream of [child.stdout, child.stderr])
    stream.setEncoding("utf8").on("data", (text: string) => {
      output += text;
    });
  const ended = new Promise<number | NodeJS.Signals | null>((resolve, reject) => {
    child.once("error", reject);
    child.once("close", (code, signal) => resolve(code ?? signal));
  });
  onTestFinished(async () => {
    child.kill("SIGTERM");
    await ended;
  });
  return {
    pid: child.pid ?? 0,
    get output() {
      return output;
    },
    ended,
  };
}

/** What a demo has left: its servers, its sidecar (which works in the same folder), its files. */
function leftBy({ pid }: Demo): unknown[] {
  const folder = realpathSync(process.env.PG_SLOTSYNC_WORK ?? os.tmpdir());
  const prefix = `pg-slotsync-work-${pid}-`;
  return [
    ...serverProcessesUnder(path.join(folder, prefix)),
    ...readdirSync(folder).filter((name) => name.startsWith(prefix)),
  ];
}

/** What the demo says of the time to protection where it takes a restart. */
const PROTECTED: Readonly<Record<number, RegExp>> = {
  11: /^ {2}slots protected +within \d+ ms of the beginning of the restart that loads them$/m,
  ...Object.fromEntries(
    [12, 13, 14, 15].map((major) => [
      major,
      /^ {2}slots protected +within \d+ ms of their creation, without a restart$/m,
    ]),
  ),
};

/** One for each way in which slots come to a standby: their files, those of guards, SQL. */
const ONE_OF_EACH_WAY = [11, 12, 16];

function demoMajors(): number[] {
  return process.env.PG_MAJORS === undefined ? ONE_OF_EACH_WAY : testedMajors();
}

describe.each(demoMajors())("PostgreSQL %i", (major) => {
  test("the demo loses no row in a failover, and says so", async () => {
    const demo = startDemo("--pg", String(major));
    const code = await demo.ended;
    expect.soft(code, demo.output).toBe(0);
    expect(demo.output).toMatch(/^Verdict: nothing was lost/m);
    expect(demo.output).toMatch(
      PROTECTED[major] ?? /^ {2}slots protected +within \d+ ms of their creation$/m,
    );
    expect(demo.output.match(/the standby is restarted/g) ?? []).toHaveLength(major < 16 ? 1 : 0);
    expect(demo.output).toMatch(/^ {2}check before +exit code 0, ready: 4 failover slots are safe/m);
    expect(demo.output).toMatch(/^ {2}promoted +\d+ ms after the kill/m);
    expect(demo.output).toMatch(/^ {2}slots usable +\d+ ms after that$/m);
    expect(demo.output).toMatch(/^ {2}rows +[1-9][\d,]* written, 0 lost, [\d,]+ repeated$/m);
    for (const slot of SLOTS)
      expect(demo.output).toMatch(
        // protected, how it came through, rows before it, received, lost, repeated
        new RegExp(
          `^  ${slot} +\\d+ ms +(kept|advanced|materialised) +[\\d,]+ +[1-9][\\d,]* +0 +[\\d,]+$`,
          "m",
        ),
      );
    expect(leftBy(demo)).toEqual([]);
  });

  // what it takes away is the same on every major
  test.runIf(major >= 16)(
    "an interrupted demo takes its servers, its sidecar and its files away",
    async () => {
      const demo = startDemo("--pg", String(major));
      await eventually(() => demo.output.includes("writers at work"), {
        what: "the demo to be in its middle",
      });
      expect(leftBy(demo).length).toBeGreaterThan(4);
      process.kill(demo.pid, "SIGINT");
      expect(await demo.ended).toBe(130);
      expect(leftBy(demo)).toEqual([]);
    },
  );
});

test("the demo says which majors it knows", async () => {
  const demo = startDemo("--pg", "10");
  expect(await demo.ended).toBe(2);
  expect(demo.output).toContain("Give a major version from 11 to 18.");
});

describe("the demo's verdict", () => {
  const slot: SlotEvidence = {
    name: "s",
    protectedMs: 1,
    outcome: "kept",
    rowsBefore: new Set([1]),
    received: [2, 3],
    mayRepeat: false,
  };
  const judge = (change: Partial<SlotEvidence>, newPrimary = [1, 2, 3]) => {
    const verdict = judgeDemo({
      slots: [{ ...slot, ...change }],
      newPrimary,
      acknowledged: new Set([1, 2, 8]),
      unanswered: new Set([9]),
    });
    return { ...verdict, fault: verdict.slots[0]?.fault };
  };

  test("is good when every row arrived once; what the standby never received is told apart", () => {
    expect(judge({})).toMatchObject({ fault: null, missing: 0, repeated: 0, neverReplicated: 1 });
    expect(judge({ received: [2, 8, 9, 3] })).toMatchObject({ fault: null, slots: [{ onlyOld: 2 }] });
    expect(judge({ received: [2, 3, 2], mayRepeat: true })).toMatchObject({ fault: null, repeated: 1 });
  });

  test.each<[string, Partial<SlotEvidence>, RegExp]>([
    ["a row is missing", { received: [3] }, /1 rows of the new primary did not arrive/],
    ["a row came twice where none may", { received: [2, 3, 2] }, /1 rows arrived twice/],
    [
      "a row came that was never committed",
      { received: [2, 3, 7] },
      /1 rows arrived that were never committed/,
    ],
    ["the slot is gone", { outcome: null }, /not on the new primary/],
    ["the slot was dropped", { outcome: "dropped" }, /did not come through the promotion \(dropped\)/],
    ["the slot was never protected", { protectedMs: null }, /never protected/],
  ])("is bad when %s", (_, change, fault) => {
    expect(judge(change).fault).toMatch(fault);
  });
});
