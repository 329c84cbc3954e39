/** Slots that send a prepared transaction when it is prepared (14 and later): exact only through their files (G5). */
import { expect, test } from "vitest";
import { startCluster, type TestCluster } from "../support/cluster-fixture.ts";
import { readSlot } from "../support/consumer.ts";
import { describeEach, fileMajors } from "../support/majors.ts";
import { startSidecar } from "../support/sidecar.ts";
import { positionOf, slotsOf } from "../support/slots.ts";
import { failOver, untilStaged } from "../support/steps.ts";
import { eventually } from "../support/wait.ts";
import { waitForReplay } from "../support/wal.ts";

const INSERT = "table public.written: INSERT: id[bigint]:1";
/** Each of what a prepared transaction is sent as. */
const PREPARED = ["BEGIN", INSERT, "PREPARE TRANSACTION 'later'"];
const COMMITTED = ["COMMIT PREPARED 'later'"];

describeEach([14, 15], fileMajors(), (major) => {
  test.each([
    { prepared: "before its slot is staged", taken: true },
    { prepared: "before its slot is staged", taken: false },
    { prepared: "after its slot has come", taken: true },
    { prepared: "after its slot has come", taken: false },
  ])(
    "a transaction prepared $prepared (sent already: $taken) and committed on the new primary is delivered exactly once (I1, I2, G5)",
    async ({ prepared, taken }) => {
      const cluster = await startCluster({ major, settings: { max_prepared_transactions: 10 } });
      const { primary, standby } = cluster;
      const early = prepared.startsWith("before");
      await primary.query("create table written (id bigint primary key)");
      await primary.query(
        "select pg_catalog.pg_create_logical_replication_slot('twophase', 'test_decoding', false, true)",
      );
      const sent: string[] = [];
      if (early) sent.push(...(await prepare(cluster, taken)));
      const sidecar = await startSidecar(standby);
      await untilStaged(sidecar, "twophase");
      await standby.restart();
      await sidecar.untilSlot("twophase", "synced");
      if (!early) sent.push(...(await prepare(cluster, taken)));
      expect(sent).toEqual(taken ? PREPARED : []);

      // what was confirmed must have been seen, or it is sent again
      const confirmed = await positionOf(primary, "twophase");
      await eventually(async () => (await positionOf(standby, "twophase")) === confirmed, {
        what: "the standby's slot to be where the primary's is",
      });
      await sidecar.untilSlot("twophase", "synced");
      await waitForReplay(primary, standby);
      await failOver(cluster, sidecar);
      expect([...(await slotsOf(standby)).keys()]).toEqual(["twophase"]);
      sent.push(...(await read(standby)));
      expect(sent).toEqual(PREPARED);
      await standby.query("commit prepared 'later'");
      sent.push(...(await read(standby)));
      expect(sent).toEqual([...PREPARED, ...COMMITTED]);
      expect(await read(standby)).toEqual([]);
    },
  );
});

/** Prepares the transaction; its consumer may take it at once. Returns what that got. */
async function prepare({ primary }: TestCluster, taken: boolean): Promise<string[]> {
  const client = await primary.connect();
  try {
    for (const sql of ["begin", "insert into written values (1)", "prepare transaction 'later'"])
      await client.query(sql);
  } finally {
    await client.end();
  }
  return taken ? read(primary) : [];
}

async function read(server: TestCluster["primary"]): Promise<string[]> {
  return (await readSlot(server, "twophase")).map(({ data }) => data);
}
