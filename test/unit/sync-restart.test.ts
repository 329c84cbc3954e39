/** What the last restart of the standby still counts for. */
import { expect, test } from "vitest";
import { PROVEN, UNPROVISIONED } from "../../src/domain/journal.ts";
import type { RestartRecord } from "../../src/domain/restart.ts";
import { RestartKeeper } from "../../src/sync/restart.ts";
import type { Sidecar } from "../../src/sync/sidecar.ts";
import { journalOf, NOW, record } from "./domain/build.ts";

function namesLeft(outcome: RestartRecord["outcome"], proof = PROVEN, staged: string[] = []): string[] {
  const restart = {
    at: NOW - 1_000,
    names: ["x", "y"],
    outcome,
    detail: null,
    failures: 0,
    retryAt: null,
    window: null,
  };
  const journal = journalOf([record("x", "owned", 500, { proof })], { restart });
  const sidecar = {
    now: () => NOW,
    options: { clock: { wall: () => NOW } },
    journal,
    lastLook: { view: { inRecovery: true } },
  };
  const options = { policy: { mode: "never" as const }, window: null, command: [], timeoutMs: 1_000 };
  new RestartKeeper(options).consider(sidecar as unknown as Sidecar, staged, false);
  return sidecar.journal.restart?.names ?? [];
}

test("a slot that it has helped may be restarted for again, one that took the sidecar with it included", () => {
  for (const outcome of ["done", "failed", "running"] as const) expect(namesLeft(outcome)).toEqual(["y"]);
});

test("one that it has not helped, or that is staged again, may not", () => {
  expect(namesLeft("running", UNPROVISIONED.proof)).toEqual(["x", "y"]);
  expect(namesLeft("running", PROVEN, ["x"])).toEqual(["x", "y"]);
});
