/** Positions that subscribers confirm need not be places where a record can begin. */
import { expect, test } from "vitest";
import { formatLsn, type Lsn, parseLsn } from "../../src/domain/lsn.ts";
import type { SlotStatus } from "../../src/domain/status.ts";
import { startCluster, type TestCluster } from "../support/cluster-fixture.ts";
import { confirmByStream } from "../support/confirm.ts";
import { createLogicalSlot } from "../support/consumer.ts";
import { describeEach, usedOf } from "../support/majors.ts";
import { createFailoverSlot } from "../support/server-sync.ts";
import { startSidecar, type TestSidecar } from "../support/sidecar.ts";
import { failOver, hasGuard, keptStreams, promisedStreams, untilProblem } from "../support/steps.ts";
import { waitForReplay } from "../support/wal.ts";

const MAJORS = [16, 17, 18];

describeEach(MAJORS, usedOf(MAJORS), (major) => {
  test.each(major >= 17 ? ["copied", "flagged"] : ["copied"])(
    "a subscriber that confirms one byte past the end of WAL is not ahead of the standby: its slot, %s, is ready and loses nothing (I1, K7)",
    async (kind) => {
      const cluster = await startCluster({ major });
      const { primary, standby } = cluster;
      const sidecar = await startSidecar(standby);
      await sidecar.until("the guard", hasGuard);
      await primary.query("create table t (id int)");
      if (kind === "flagged") await createFailoverSlot(primary, "odd");
      else await createLogicalSlot(primary, "odd");
      await sidecar.untilSlot("odd");
      await primary.query("insert into t values (1)");
      const { slot, ready } = await confirmPastTheEnd(cluster, sidecar, "odd");
      expect({ ready, reason: slot.reason, detail: slot.detail }).toEqual({
        ready: true,
        reason: null,
        detail: null,
      });
      const promised = await promisedStreams(cluster, "odd");
      const { finish } = await failOver(cluster, sidecar);
      expect(finish, JSON.stringify(finish)).toMatchObject({
        complete: true,
        slots: [{ name: "odd", confirmedBeyondEndBytes: 0 }],
      });
      expect(await keptStreams(standby, ["odd"])).toEqual(promised);
    },
  );
});

describeEach([18], usedOf([18]), (major) => {
  test("a flagged slot for which the server's own sync raises leaves the others guarded, and is named with the server's words (I9)", async () => {
    const cluster = await startCluster({ major });
    const { primary, standby } = cluster;
    const sidecar = await startSidecar(standby);
    await sidecar.until("the guard", hasGuard);
    await primary.query("create table t (id int)");
    for (const name of ["odd", "idle"]) await createFailoverSlot(primary, name);
    await sidecar.until("both to be ready", ({ ready, slots }) => ready && slots.length === 2);
    await primary.query("insert into t values (1)");
    await confirmPastTheEnd(cluster, sidecar, "odd");
    const { problems } = await untilProblem(sidecar, "server_sync_failed");
    const told = problems.find(({ code }) => code === "server_sync_failed")?.message;
    expect(told).toMatch(/"odd" is ahead of the standby position/);
    const { ready, slots } = await sidecar.until("both", () => true);
    expect({ ready, told: slots.map(({ name, reason }) => [name, reason]) }).toEqual({
      ready: true,
      told: [
        ["idle", null],
        ["odd", null],
      ],
    });
    const promised = await promisedStreams(cluster, "odd", "idle");
    const { finish } = await failOver(cluster, sidecar);
    expect(finish?.complete, JSON.stringify(finish)).toBe(true);
    expect(await keptStreams(standby, promised.keys())).toEqual(promised);
  });
});

/** How the slot stands when its subscriber has confirmed the end of WAL and one byte more, and nothing has been written since. */
async function confirmPastTheEnd(
  { primary, standby }: TestCluster,
  sidecar: TestSidecar,
  name: string,
): Promise<{ slot: SlotStatus; ready: boolean }> {
  for (let attempt = 0; attempt < 20; attempt += 1) {
    const end = await waitForReplay(primary, standby);
    const past = formatLsn((parseLsn(end) + 1n) as Lsn);
    await confirmByStream(primary, name, parseLsn(past));
    const { slots, ready } = await sidecar.until("the confirmation to be seen", (status) =>
      status.slots.some((slot) => slot.name === name && slot.primaryConfirmedFlushLsn === past),
    );
    const slot = slots.find((each) => each.name === name);
    if (slot && (await waitForReplay(primary, standby)) === end) return { slot, ready };
  }
  throw new Error("the primary was never quiet");
}
