/** `check` and a promotion go by one rule: by the journal as it is on disk (I17). */
import { describe, expect, test } from "vitest";
import { buildCli, cli, writeConfig } from "../support/cli.ts";
import { startCluster } from "../support/cluster-fixture.ts";
import { createLogicalSlot } from "../support/consumer.ts";
import { testedMajors } from "../support/majors.ts";
import { startSidecar } from "../support/sidecar.ts";
import { hasGuard, untilReason } from "../support/steps.ts";
import { waitForReplay } from "../support/wal.ts";

// before 16 a slot that is behind the guards comes by its file
describe.each(testedMajors().filter((major) => major >= 16))("PostgreSQL %i", (major) => {
  test("a slot older than the guard whose subscriber goes on past it while no sidecar runs is not ready: a promotion would give it up (I17, K1)", async () => {
    await buildCli();
    const { primary, standby } = await startCluster({ major });
    await createLogicalSlot(primary, "older", { plugin: "pgoutput" });
    await primary.query("create table t (id int)");
    const config = writeConfig(standby);
    const check = () => cli(["check", "-c", config.file]);
    const { stateDirectory } = config;
    const first = await startSidecar(standby, { stateDirectory });
    await first.until("the guard", hasGuard);
    await untilReason(first, "older", "wal_or_rows_removed");
    await first.stop();

    await primary.query("insert into t values (1)");
    await primary.query("select pg_replication_slot_advance('older', pg_current_wal_lsn())");
    await waitForReplay(primary, standby);
    const answer = await check();
    expect(answer).toMatchObject({ code: 1, stdout: expect.stringContaining("not_recorded") });
    expect(answer.stdout).toContain("start slotsync run");

    // a sidecar that runs records it, and then it is so: what check says is what comes of a promotion
    const second = await startSidecar(standby, { stateDirectory });
    await second.untilSlot("older", "synced");
    expect(await check()).toMatchObject({ code: 0 });
    await second.stop();
    await primary.kill();
    await standby.promote();
    await standby.waitPromoted();
    expect(await cli(["finish", "-c", config.file])).toMatchObject({ code: 0 });
    const [slot] = await standby.query(
      "select slot_name from pg_replication_slots where slot_name = 'older'",
    );
    expect(slot).toBeDefined();
  });
});
