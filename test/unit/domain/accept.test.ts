import { readdirSync, readFileSync } from "node:fs";
import path from "node:path";
import { describe, expect, test } from "vitest";
import { leniencyOf } from "../../../src/cli/check.ts";
import { ACCEPTABLE, answerAccepting, whyNotAcceptable } from "../../../src/domain/accept.ts";
import type { Problem } from "../../../src/domain/prerequisites.ts";
import type { SlotStatus, Status } from "../../../src/domain/status.ts";
import { aSlot, aStatus } from "../cli/samples.ts";

const good = aSlot({ name: "app" });
const old = aSlot({
  name: "old",
  protection: "waiting",
  reason: "wal_or_rows_removed",
  detail: "it is behind",
});
const ahead = aSlot({
  name: "ahead",
  protection: "waiting",
  reason: "wal_not_flushed",
  detail: "it is ahead",
});
const stop = (code: string): Problem => ({ code, severity: "stop", message: `${code} it is` });
const NOTHING: Problem = { code: "nothing_chosen", severity: "doubt", message: "no slot is chosen" };

interface Case {
  slots?: SlotStatus[];
  problems?: Problem[];
  certain?: boolean;
  status?: Partial<Status>;
  accept?: string[];
  allowEmpty?: boolean;
  slot?: string;
}

function ask({
  slots = [good],
  problems = [],
  certain = true,
  status,
  accept = [],
  allowEmpty = false,
  slot,
}: Case) {
  const reading = { status: aStatus({ slots, problems, ...status }), certain };
  return answerAccepting(reading, slot, { accept: new Set(accept), allowEmpty });
}

describe("what is accepted by name lets a failover through, and the line says what it may cost (I17)", () => {
  test("a slot's reason: the slot, the reason, the cost, and how the others stand", () => {
    const { code, line, accepted } = ask({ slots: [good, old], accept: ["wal_or_rows_removed"] });
    expect([code, line]).toEqual([
      0,
      'not safe, and accepted: "old" is waiting: it is behind (accepted: wal_or_rows_removed; it may cost: the slot does not exist after the failover, and its subscriber has to be built anew); apart from that ready: 1 failover slot is safe on this standby',
    ]);
    expect(accepted).toMatchObject([{ reason: "wal_or_rows_removed", slot: "old" }]);
  });

  test.each<[string, Case, 0 | 1 | 2]>([
    ["another reason than the slot's", { slots: [old], accept: ["wal_not_flushed"] }, 1],
    ["one of two reasons", { slots: [old, ahead], accept: ["wal_not_flushed"] }, 1],
    ["both of them", { slots: [old, ahead], accept: ["wal_not_flushed", "wal_or_rows_removed"] }, 0],
    [
      "the reason of the slot that is asked about",
      { slots: [old, good], slot: "old", accept: ["wal_or_rows_removed"] },
      0,
    ],
    [
      "the reason of another slot than that",
      { slots: [old, ahead], slot: "old", accept: ["wal_not_flushed"] },
      1,
    ],
    ["a problem's code", { problems: [stop("feedback_off")], accept: ["feedback_off"] }, 0],
    [
      "one of two problems",
      { problems: [stop("feedback_off"), stop("primary_wal_level")], accept: ["feedback_off"] },
      1,
    ],
    [
      "a problem, with a slot that is not safe besides",
      { slots: [old], problems: [stop("feedback_off")], accept: ["feedback_off"] },
      1,
    ],
    [
      "what keeps one from telling, not named",
      { problems: [stop("journal_stale")], certain: false, accept: ["feedback_off", "wal_not_flushed"] },
      2,
    ],
    [
      "what keeps one from telling, by its very name",
      { problems: [stop("journal_stale")], certain: false, accept: ["journal_stale"] },
      0,
    ],
    [
      "one of two that keep one from telling",
      { problems: [stop("journal_stale"), stop("split_brain")], certain: false, accept: ["journal_stale"] },
      2,
    ],
    ["something, where nobody says why one cannot tell", { certain: false, accept: ["journal_stale"] }, 2],
    ["everything, on a primary", { status: { role: "primary" }, accept: [...ACCEPTABLE] }, 1],
    ["that nothing is chosen", { slots: [], problems: [NOTHING], accept: ["nothing_chosen"] }, 0],
  ])("%s", (_, given, code) => {
    expect(ask(given).code).toBe(code);
  });

  test("nothing is said of it where nothing had to be accepted", () => {
    expect(ask({ accept: ["wal_not_flushed"], allowEmpty: true })).toEqual({
      code: 0,
      line: "ready: 1 failover slot is safe on this standby",
    });
  });
});

describe("--allow-empty lets a primary through that has nothing to lose", () => {
  test.each<[string, Case, 0 | 2, RegExp]>([
    [
      "none at all",
      { status: { undecided: 0 }, allowEmpty: true },
      0,
      /^ready: the primary has no logical slot/,
    ],
    ["none, and it was not asked for", { status: { undecided: 0 } }, 2, /^cannot tell: no slot is chosen$/],
    [
      "some that nothing chooses",
      { status: { undecided: 2 }, allowEmpty: true },
      2,
      /the primary has 2 logical slot/,
    ],
    ["some maybe, it was never seen", { status: { undecided: null }, allowEmpty: true }, 2, /was never seen/],
  ])("slots there: %s", (_, given, code, says) => {
    const { code: got, line } = ask({ slots: [], problems: [NOTHING], ...given });
    expect([got, line]).toEqual([code, expect.stringMatching(says)]);
  });

  test("not while one cannot tell", () => {
    const problems = [NOTHING, stop("journal_stale")];
    expect(
      ask({ slots: [], problems, certain: false, status: { undecided: 0 }, allowEmpty: true }).code,
    ).toBe(2);
  });
});

describe("names", () => {
  test.each([
    ["wal_or_row_removed", /no reason or problem "wal_or_row_removed"; did you mean wal_or_rows_removed\?/],
    ["feedback-off", /did you mean feedback_off\?/],
    ["cannot_tell", /cannot be accepted: nothing is known of the standby then/],
    ["standby_unreachable", /cannot be accepted/],
    ["zzz", /there are absent_on_primary, /],
  ])("%s is refused, with what was meant", (name, says) => {
    expect(() => leniencyOf({ accept: ["journal_stale", name] })).toThrow(says);
  });

  test("every problem that stands against being ready can be accepted by name, or is one of those that never are", () => {
    const src = path.resolve(import.meta.dirname, "../../../src");
    const files = readdirSync(src, { recursive: true, encoding: "utf8" }).filter((name) =>
      name.endsWith(".ts"),
    );
    const codes = files.flatMap((name) => {
      const text = readFileSync(path.join(src, name), "utf8");
      return [
        ...text.matchAll(/\bstop\(\s*"([a-z_]+)"/g),
        ...text.matchAll(/code: "([a-z_]+)",\s+severity: "(?:stop|doubt)"/g),
        ...text.matchAll(/reportProblem\(\s*sidecar,\s*"([a-z_]+)"/g),
      ].map((found) => found[1] ?? "");
    });
    expect(codes.length).toBeGreaterThan(20);
    const unknown = codes.filter((code) => whyNotAcceptable(code)?.startsWith("there is no"));
    expect(unknown, "say in src/domain/accept.ts what a failover may lose by it").toEqual([]);
  });
});
