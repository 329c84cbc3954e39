import { waitStreaming } from "../../src/sandbox/cluster.ts";
import type { PgServer } from "../../src/sandbox/server.ts";
import { startCluster } from "./cluster-fixture.ts";
import { startSidecar } from "./sidecar.ts";
import { followInstead, hostsOf } from "./steps.ts";
import { eventually } from "./wait.ts";

/** A standby of a standby, root → middle → leaf, with a sidecar beside the leaf. */
export async function startCascade(major: number, several = false) {
  const { primary: root, standbys } = await startCluster({ major, standbys: 2 });
  const [middle, leaf] = standbys as [PgServer, PgServer];
  await followInstead(leaf, middle);
  await waitStreaming(middle, leaf.name);
  const dropped = `select pg_catalog.pg_drop_replication_slot(slot_name) from pg_catalog.pg_replication_slots
                    where slot_name = '${leaf.name}' and not active`;
  await eventually(async () => (await root.query(dropped)).length === 1, {
    what: "the leaf's slot on the root to be given up",
  });
  const primary = { dsn: several ? hostsOf(root, middle, leaf) : hostsOf(root), patroniUrl: null };
  const sidecar = await startSidecar(leaf, { nap: { minMs: 100, maxMs: 500 }, primary });
  return { root, middle, leaf, sidecar };
}
