/** What ends a nap between two cycles. */
import { expect, test } from "vitest";
import type { Sidecar } from "../../src/sync/sidecar.ts";
import { napUntil, Sign } from "../../src/sync/vigil.ts";

/** Answers every short question as an idle cluster does. */
const idle = {
  script: async () => [
    [
      {
        in_recovery: true,
        wal_lsn: "0/100",
        slots_digest: "d",
        replay_lsn: null,
        receive_lsn: null,
        message_age_ms: null,
      },
    ],
  ],
};

function sidecarWith(primary: { current: object | null }): Sidecar {
  const sidecar = {
    options: { signal: new AbortController().signal },
    primary: { ...primary, lookAbout: () => false },
    standby: { control: async () => idle },
    primaryWalLsn: 0x100n,
    primarySlots: "d",
    quietUntil: 0,
    vouched: true,
    journal: { primaryLostAt: null },
    hear: () => {},
    now: () => Date.now(),
  };
  return sidecar as unknown as Sidecar;
}

test("a session with the primary that is lost during a long nap ends it: noted late, what was seen last would not count", async () => {
  const sidecar = sidecarWith({ current: idle });
  const nap = napUntil(sidecar, new Sign(), 20_000);
  setTimeout(() => Object.assign(sidecar.primary, { current: null }), 100);
  expect(await nap).toBe("news");
});

test("while the primary is lost, and while it has written nothing, the nap is slept out", async () => {
  for (const current of [null, idle])
    expect(await napUntil(sidecarWith({ current }), new Sign(), 1_000)).toBe("slept");
});

test("a slot that is copied, dropped, flagged or set back ends the nap, though the primary has written no WAL (I15)", async () => {
  const sidecar = sidecarWith({ current: idle });
  Object.assign(sidecar, { primarySlots: "other" });
  expect(await napUntil(sidecar, new Sign(), 20_000)).toBe("news");
  expect(sidecar.quietUntil, "nor does what was seen last still hold").toBe(0);
});
