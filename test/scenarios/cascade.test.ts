/** A standby of a standby is protected from the primary at the root. */
import { expect, test } from "vitest";
import { createFailoverSlot } from "../conformance/steps.ts";
import { startCascade } from "../support/cascade.ts";
import { createLogicalSlot } from "../support/consumer.ts";
import { untilRecorded } from "../support/file-way.ts";
import { describeEach, usedOf } from "../support/majors.ts";
import { startSidecar } from "../support/sidecar.ts";
import { confirm } from "../support/slots.ts";
import {
  keptStreams,
  promisedStreams,
  syncSlots,
  untilAllSynced,
  untilFinished,
  untilProblem,
  untilStaged,
} from "../support/steps.ts";
import { waitForReceipt } from "../support/wal.ts";

describeEach([13, 16, 17], usedOf([13, 16, 17]), (major) => {
  test("a standby of a standby that is promoted when both others are dead has every slot and every change (I1, I2, I4)", async () => {
    const { root, middle, leaf, sidecar } = await startCascade(major);
    await root.query("create table t (id int)");
    if (major < 16) {
      for (const name of ["idle", "read"]) await createLogicalSlot(root, name);
      await untilStaged(sidecar, "idle", "read");
      await leaf.restart();
      for (const name of ["idle", "read"]) await sidecar.untilSlot(name, "synced");
    } else await syncSlots(sidecar, root, "idle", "read");
    // the server's own sync refuses a standby of a standby: the guard holds what is flagged for it
    const flagged = major >= 17 ? ["flagged"] : [];
    for (const name of flagged) {
      await createFailoverSlot(root, name);
      await sidecar.untilSlot(name, "guarded");
    }
    const all = ["idle", "read", ...flagged];
    await root.query("insert into t values (1)");
    await confirm(root, "read");
    await root.query("alter table t add column more text");
    await root.query("insert into t values (2, 'x')");
    // what the slots need of the catalogs is dead, and is kept for the leaf alone
    await root.query("vacuum pg_catalog.pg_class");
    await root.query("vacuum pg_catalog.pg_attribute");
    await untilRecorded(sidecar, root, ...all);
    await sidecar.until("all to be ready", ({ ready }) => ready);

    // what the leaf needs has come through: the middle has no logical slot of its own
    const held = await root.query(
      "select from pg_catalog.pg_replication_slots where slot_name = $1 and catalog_xmin is not null",
      [middle.name],
    );
    expect(held).toHaveLength(1);
    const promised = await promisedStreams({ primary: root, standby: leaf }, ...all);
    await root.kill();
    await middle.kill();
    leaf.promote();
    const { finish } = await untilFinished(sidecar);
    expect(finish?.complete).toBe(true);
    expect(await keptStreams(leaf, all)).toEqual(promised);
  });
});

describeEach([13, 16], usedOf([13, 16]), (major) => {
  test("a standby of a standby is not ready while the one between passes no feedback on (I4)", async () => {
    const { root, middle, sidecar } = await startCascade(major);
    await createLogicalSlot(root, "kept");
    await sidecar.until(
      "the chain to be accepted",
      ({ slots, problems }) => slots.length === 1 && problems.length === 0,
    );
    middle.configure({ hot_standby_feedback: false });
    const { ready, problems } = await untilProblem(sidecar, "cascade_unproven");
    expect(ready).toBe(false);
    expect(problems.map(({ message }) => message).join()).toContain("hot_standby_feedback is off there");
    middle.configure({ hot_standby_feedback: true });
    await sidecar.until("the chain to be accepted again", (status) => status.problems.length === 0);
  });
});

describeEach([16], usedOf([16]), (major) => {
  test("when the one between is promoted in the root's place, the leaf is synced on from it, and loses nothing when it is promoted next", async () => {
    const { root, middle, leaf, sidecar } = await startCascade(major, true);
    await root.query("create table t (id int)");
    const beside = await startSidecar(middle, { nap: { minMs: 100, maxMs: 500 } });
    await syncSlots(beside, root, "kept");
    await untilAllSynced(sidecar, root);
    await waitForReceipt(root, leaf);
    await root.kill();
    middle.promote();
    await untilFinished(beside);
    await middle.query("insert into t values (1)");
    await confirm(middle, "kept");
    await middle.query("insert into t values (2)");
    await untilAllSynced(sidecar, middle);
    const promised = await promisedStreams({ primary: middle, standby: leaf }, "kept");
    await middle.kill();
    leaf.promote();
    await untilFinished(sidecar);
    expect(await keptStreams(leaf, ["kept"])).toEqual(promised);
  });
});
