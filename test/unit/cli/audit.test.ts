import pino from "pino";
import { expect, test, vi } from "vitest";
import { logAudit, startAudit } from "../../../src/cli/audit.ts";
import type { Answer } from "../../../src/domain/assess.ts";

function logged(): { lines: { level: number; msg: string; code: number }[]; log: pino.Logger } {
  const lines: { level: number; msg: string; code: number }[] = [];
  return { lines, log: pino({}, { write: (line: string) => lines.push(JSON.parse(line)) }) };
}
const board = (given: Answer) => ({ answer: () => given });

test("the audit says that a standby is ready quietly, and that it is not loudly", () => {
  const { lines, log } = logged();
  logAudit(board({ code: 0, line: "ready: 2 failover slots are safe" }), log);
  logAudit(board({ code: 1, line: "not ready: one is not" }), log);
  logAudit(board({ code: 2, line: "cannot tell: why" }), log);
  expect(lines.map(({ level, msg, code }) => [level, msg, code])).toEqual([
    [30, "audit: ready: 2 failover slots are safe", 0],
    [50, "audit: not ready: one is not", 1],
    [50, "audit: cannot tell: why", 2],
  ]);
});

test("the audit comes at the times of its schedule, and no more once it is stopped", async () => {
  vi.useFakeTimers({ now: new Date(2026, 0, 5, 5, 59, 58) });
  try {
    const { lines, log } = logged();
    const audit = startAudit("0 6 * * *", board({ code: 0, line: "ready" }), log);
    await vi.advanceTimersByTimeAsync(10_000);
    expect(lines.length).toBe(1);
    audit.stop();
    await vi.advanceTimersByTimeAsync(25 * 3_600_000);
    expect(lines.length).toBe(1);
  } finally {
    vi.useRealTimers();
  }
});
