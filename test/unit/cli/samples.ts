import type { FinishReport } from "../../../src/domain/finish.ts";
import type { SlotStatus, Status } from "../../../src/domain/status.ts";

export const NOW = Date.parse("2026-01-02T03:04:05Z");

export function aSlot(more: Partial<SlotStatus> = {}): SlotStatus {
  return {
    name: "app",
    database: "shop",
    plugin: "pgoutput",
    chosenBy: ["registry"],
    protection: "synced",
    reason: null,
    detail: null,
    primaryConfirmedFlushLsn: "0/5400",
    standbyConfirmedFlushLsn: "0/5000",
    restartLsn: "0/4000",
    lagBytes: 1024,
    since: new Date(NOW - 90_000).toISOString(),
    ...more,
  };
}

export function aStatus(more: Partial<Status> = {}): Status {
  return {
    role: "standby",
    ready: true,
    source: "live",
    observedAt: new Date(NOW).toISOString(),
    primaryLostAt: null,
    problems: [],
    slots: [],
    notChosen: [],
    undecided: 0,
    guards: [],
    restart: null,
    finish: null,
    ...more,
  };
}

export function aFinish(more: Partial<FinishReport> = {}): FinishReport {
  const slot = {
    database: "shop",
    plugin: "pgoutput",
    detail: null,
    lastSeenAt: NOW - 20_000,
    timeline: 1,
    endOfWalLsn: "0/8000",
    certain: true,
    repair: null,
  };
  return {
    finishedAt: NOW - 10_000,
    durationMs: 42,
    endOfWalLsn: "0/8000",
    historyError: null,
    timeline: 2,
    unseen: null,
    complete: true,
    slots: [
      {
        ...slot,
        name: "app",
        outcome: "advanced",
        lastSeenLsn: "0/5000",
        positionLsn: "0/5000",
        confirmedBeyondEndBytes: 0,
      },
      {
        ...slot,
        name: "gone",
        outcome: "not_protected",
        detail: "no guard of this node reaches back to its position",
        lastSeenLsn: "0/1000",
        positionLsn: null,
        confirmedBeyondEndBytes: 0,
      },
      {
        ...slot,
        name: "ours",
        outcome: "materialised",
        lastSeenLsn: "0/9000",
        positionLsn: "0/8000",
        confirmedBeyondEndBytes: 4096,
      },
    ],
    ...more,
  };
}
