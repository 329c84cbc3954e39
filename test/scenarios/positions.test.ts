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
import { failOver, hasGuard, keptStreams, promisedStreams } from "../support/steps.ts";
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
