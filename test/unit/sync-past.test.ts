/** What a standby asks its primary about their common past, and how often. */
import { pino } from "pino";
import { expect, test } from "vitest";
import { CycleMemory } from "../../src/sync/memory.ts";
import { learnHistory } from "../../src/sync/past.ts";
import type { Sidecar } from "../../src/sync/sidecar.ts";
import { journalOf, NOW, primaryView, slot, standbyView } from "./domain/build.ts";

test("a history that cannot be read is not asked for in every cycle: each time is a connection to the primary (I12)", async () => {
  let asked = 0;
  let now = NOW;
  const sidecar = {
    journal: journalOf([], { life: { timeline: 1, history: [], unmoved: [] } }),
    policy: { onConflict: "adopt" },
    memory: new CycleMemory(0.1),
    lastLook: { primaryConninfo: null },
    primary: {
      openReplication: () => {
        asked += 1;
        return Promise.reject(new Error("no pg_hba.conf entry for replication connection"));
      },
    },
    log: pino({ enabled: false }),
    now: () => now,
  } as unknown as Sidecar;
  const look = () =>
    learnHistory(sidecar, primaryView([slot("x", 500)], { timeline: 2 }), standbyView([slot("x", 400)]));
  for (let cycle = 0; cycle < 5; cycle++) await look();
  expect(asked).toBe(1);
  now += 60_000;
  await look();
  expect(asked).toBe(2);
});
