/**
 * On 11, on 12 and on older minor releases of 13 to 17, `pg_replication_slot_advance` lets go of catalog rows that transactions still need
 * which are open where the slot comes to stand. What was advanced there holds too little once the standby is a primary (I4).
 */
import { expect, onTestFinished, test } from "vitest";
import type { PgServer } from "../../src/sandbox/server.ts";
import { startCluster } from "../support/cluster-fixture.ts";
import { createLogicalSlot, readSlot } from "../support/consumer.ts";
import { cyclesLater, isReady, onMajor, QUICK, untilRecorded } from "../support/file-way.ts";
import { startSidecar } from "../support/sidecar.ts";
import { comparable, peek, slotsOf } from "../support/slots.ts";
import { failOver, promisedStreams, untilStaged } from "../support/steps.ts";
import { waitForReplay } from "../support/wal.ts";

for (const at of [11, 12])
  onMajor(at, (major) => {
    test("rows of a type that was changed under an open transaction are there after a failover and a vacuum, or the slot is not ready and not there (I4, I6)", async () => {
      const cluster = await startCluster({ major });
      const { primary, standby } = cluster;
      const sessions = [await session(primary), await session(primary)] as const;
      const [changing, inserting] = sessions;
      await primary.query("create type basket as (apples int, pears int, mangos int)");
      await primary.query("create table harvest (id int, fruits basket)");
      await createLogicalSlot(primary, "x");
      await primary.query("insert into harvest values (1, (1, 1, 1))");
      await primary.query("checkpoint");
      const sidecar = await startSidecar(standby, { nap: QUICK });
      await untilStaged(sidecar, "x");
      await standby.restart();
      await sidecar.untilSlot("x");
      await readSlot(primary, "x");
      await untilRecorded(sidecar, primary, "x");

      await changing.query("begin");
      await changing.query("select txid_current()");
      await inserting.query("begin");
      await inserting.query("insert into harvest values (2, (1, 2, 3))");
      await changing.query("alter type basket drop attribute mangos");
      await changing.query("commit");
      for (let round = 0; round < 3; round += 1) {
        await primary.query("checkpoint");
        await primary.query("select pg_catalog.pg_logical_emit_message(false, 'round', 'x')");
        await readSlot(primary, "x");
        await untilRecorded(sidecar, primary, "x");
        await waitForReplay(primary, standby);
        await cyclesLater(sidecar, 2);
      }
      await inserting.query("commit");
      await waitForReplay(primary, standby);
      await cyclesLater(sidecar, 2);
      const ready = sidecar.status !== null && isReady(sidecar.status, "x");
      const told = JSON.stringify(sidecar.status);
      if (major < 13) expect(told).toContain("advance_runs_ahead");
      const promised = (await promisedStreams(cluster, "x")).get("x") ?? [];
      expect(promised.join()).toContain("(1,2,3)");

      const { finish } = await failOver(cluster, sidecar);
      await standby.query("vacuum pg_attribute");
      const there = (await slotsOf(standby)).has("x");
      expect(there || !ready, `${told} ${JSON.stringify(finish)}`).toBe(true);
      if (!there) return;
      const sent = comparable(await peek(standby, "x"));
      // left behind its position, it sends again what its subscriber has
      expect(sent.slice(-promised.length), JSON.stringify(finish)).toEqual(promised);
      const [line] = finish?.slots ?? [];
      if (sent.length > promised.length) expect(line?.detail).toContain("it was left at");
    });
  });

async function session(server: PgServer) {
  const client = await server.connect();
  onTestFinished(() => client.end());
  return client;
}
