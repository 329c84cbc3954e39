/** What a slot may lose on a standby. */
import type { TestCluster } from "./cluster-fixture.ts";
import type { TestSidecar } from "./sidecar.ts";
import { confirm } from "./slots.ts";
import { untilProblem } from "./steps.ts";
import { eventually } from "./wait.ts";
import { logRunningTransactions } from "./wal.ts";

/** With feedback off the primary removes catalog rows that the standby's slot needs, and the standby is told so by the WAL. */
export async function loseCatalogRows(
  { primary, standby }: TestCluster,
  sidecar: TestSidecar,
  slot: string,
): Promise<void> {
  standby.configure({ hot_standby_feedback: false });
  await untilProblem(sidecar, "feedback_off");
  await eventually(
    async () => {
      const rows = await primary.query(
        "select from pg_catalog.pg_replication_slots where slot_name = 'standby1' and catalog_xmin is null",
      );
      return rows.length === 1;
    },
    { what: "the primary to be without feedback" },
  );
  for (let round = 0; round < 3; round++) {
    await primary.query("create table scratch (a int)");
    await primary.query("drop table scratch");
    await logRunningTransactions(primary);
    await confirm(primary, slot);
    await confirm(primary, slot);
  }
  await primary.query("vacuum pg_catalog.pg_class, pg_catalog.pg_attribute, pg_catalog.pg_type");
}
