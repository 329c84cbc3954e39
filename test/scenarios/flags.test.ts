/** Flags that come and go while sidecars run without a single rule, registries that cannot be read, and flags after a failover. */
import { expect, onTestFinished, test } from "vitest";
import { parseConnInfo } from "../../src/pg/conninfo.ts";
import { createRegistry, deleteFlags, insertFlags } from "../../src/pg/registry-sql.ts";
import { alterFailover } from "../../src/pg/sql.ts";
import { waitStreaming } from "../../src/sandbox/cluster.ts";
import type { PgServer } from "../../src/sandbox/server.ts";
import { startCluster } from "../support/cluster-fixture.ts";
import { createLogicalSlot } from "../support/consumer.ts";
import { cyclesLater, QUICK, slotIn } from "../support/file-way.ts";
import { describeEach, usedOf } from "../support/majors.ts";
import { startSidecar, type TestSidecar } from "../support/sidecar.ts";
import { confirm, slotsOf } from "../support/slots.ts";
import { failOver, followInstead, untilProblem, untilStaged } from "../support/steps.ts";
import { eventually } from "../support/wait.ts";

const NO_RULES = { selection: { include: [], exclude: [] }, nap: QUICK };

async function script(server: PgServer, ...lines: string[]): Promise<void> {
  await server.query(lines.join("\n"));
}
const flag = (server: PgServer, ...names: string[]) =>
  script(server, ...createRegistry("postgres", true), insertFlags(names));
const unflag = (server: PgServer, ...names: string[]) => script(server, deleteFlags(names));

const untilGuard = (sidecar: TestSidecar) =>
  sidecar.until("the guard", ({ guards }) => guards.some((guard) => guard.confirmedFlushLsn !== null));

/** Waits until the slots that the sidecar knows are these, and so are those on its standby, guards left out. */
async function untilExactly(sidecar: TestSidecar, standby: PgServer, ...names: string[]): Promise<void> {
  await sidecar.until(
    `just ${names.join(", ")}`,
    ({ slots }) => slots.map(({ name }) => name).join() === names.join(),
  );
  await cyclesLater(sidecar);
  const there = [...(await slotsOf(standby)).keys()].filter((name) => !name.startsWith("slotsync_"));
  expect(there).toEqual(names);
}

describeEach([16], usedOf([16]), (major) => {
  test("flags set and cleared during a run are followed within a cycle; the registry chooses on after a failover", async () => {
    const cluster = await startCluster({ major, standbys: 2 });
    const { primary } = cluster;
    const [b, c] = cluster.standbys as [PgServer, PgServer];
    const sidecar = await startSidecar(b, NO_RULES);
    const other = await startSidecar(c, NO_RULES);
    expect((await untilProblem(sidecar, "nothing_chosen")).ready).toBe(false);
    await untilGuard(sidecar);
    await untilGuard(other);
    for (const name of ["app", "billing"]) await createLogicalSlot(primary, name);

    await flag(primary, "app", "not_yet");
    await sidecar.untilSlot("app", "synced");
    const status = await untilProblem(sidecar, "flagged_slot_missing");
    expect(slotIn(status, "app")?.chosenBy).toEqual(["registry"]);
    expect(status.notChosen?.map(({ name }) => name)).toEqual(["billing"]);
    await createLogicalSlot(primary, "not_yet");
    await sidecar.untilSlot("not_yet", "synced");
    await flag(primary, "billing");
    await sidecar.untilSlot("billing", "synced");
    await unflag(primary, "not_yet");
    await untilExactly(sidecar, b, "app", "billing");
    await untilExactly(other, c, "app", "billing");
    expect([...(await slotsOf(primary)).keys()]).toEqual(["app", "billing", "not_yet"]);

    const { finish } = await failOver(cluster, sidecar);
    expect(finish?.slots.map(({ name }) => name)).toEqual(["app", "billing"]);
    await followInstead(c, b);
    await waitStreaming(b, c.name);
    await flag(b, "billing");
    await untilExactly(other, c, "app", "billing");
    await unflag(b, "app");
    await untilExactly(other, c, "billing");
    await other.untilSlot("billing", "synced");
    await other.until("it to be ready", ({ ready }) => ready);
  });

  test("a registry that cannot be read, or has gone, has no slot dropped and no standby called ready, and positions go on", async () => {
    const { primary, standby } = await startCluster({ major });
    await primary.query("CREATE ROLE side LOGIN REPLICATION; GRANT pg_monitor TO side");
    await primary.query("GRANT EXECUTE ON FUNCTION pg_catalog.pg_log_standby_snapshot() TO side");
    const primaryConn = parseConnInfo(primary.dsn("postgres", "side"));
    const sidecar = await startSidecar(standby, { ...NO_RULES, primaryConn });
    await untilGuard(sidecar);
    await createLogicalSlot(primary, "app");
    await script(primary, ...createRegistry("side", true), insertFlags(["app"]));
    await sidecar.untilSlot("app", "synced");
    await sidecar.until("it to be ready", ({ ready }) => ready);
    const failedBefore = sidecar.log.filter((line) => line.includes("does not answer")).length;

    async function goesOn(problem: string, says: string): Promise<void> {
      const { problems } = await untilProblem(sidecar, problem);
      expect(problems).toMatchObject([{ severity: "doubt", message: expect.stringContaining(says) }]);
      await primary.query("select pg_catalog.pg_logical_emit_message(true, 'test', 'more')");
      await confirm(primary, "app");
      const goal = (await slotsOf(primary)).get("app")?.confirmed;
      const seen = await sidecar.until(
        "the slot to follow",
        (status) => slotIn(status, "app")?.standbyConfirmedFlushLsn === goal,
      );
      expect([seen.ready, seen.problems.map(({ code }) => code)]).toEqual([false, [problem]]);
      expect(slotIn(seen, "app")).toMatchObject({ protection: "synced", chosenBy: ["registry"] });
    }
    const readyAgain = () =>
      sidecar.until("it to be ready", ({ ready, problems }) => ready && problems.length === 0);

    await primary.query("REVOKE ALL ON SCHEMA slotsync FROM side");
    await goesOn("registry_unreadable", "GRANT USAGE ON SCHEMA slotsync TO side; GRANT SELECT");
    await primary.query("GRANT USAGE ON SCHEMA slotsync TO side");
    await readyAgain();

    const holder = await primary.connect();
    onTestFinished(() => holder.end());
    await holder.query("BEGIN; LOCK TABLE slotsync.failover_slot IN ACCESS EXCLUSIVE MODE");
    await goesOn("registry_unreadable", "lock timeout");
    await holder.query("ROLLBACK");
    await readyAgain();

    await primary.query("DROP SCHEMA slotsync CASCADE");
    await goesOn("registry_missing", 'is gone from database "postgres" of the primary');
    await script(primary, ...createRegistry("side", true), insertFlags(["app"]));
    await readyAgain();
    expect(sidecar.log.filter((line) => line.includes("does not answer")).length).toBe(failedBefore);

    // an empty one is an answer: nothing is flagged
    await unflag(primary, "app");
    await untilExactly(sidecar, standby);
    await untilProblem(sidecar, "nothing_chosen");
  });
});

describeEach([13], usedOf([13]), (major) => {
  test("a flag has a slot's file staged, and clearing it has that taken back", async () => {
    const { primary, standby } = await startCluster({ major });
    const sidecar = await startSidecar(standby, NO_RULES);
    for (const name of ["app", "billing"]) await createLogicalSlot(primary, name);
    await flag(primary, "app", "billing");
    await untilStaged(sidecar, "app", "billing");
    await unflag(primary, "billing");
    const { notChosen } = await sidecar.until(
      "the file to be taken back",
      ({ slots, restart }) => slots.length === 1 && restart?.staged.includes("billing") === false,
    );
    expect(notChosen?.map(({ name }) => name)).toEqual(["billing"]);
    expect(slotIn(await cyclesLater(sidecar), "app")?.reason).toBe("restart_pending");
  });
});

describeEach([17], usedOf([17]), (major) => {
  test("the server's own flag, set and cleared during a run, is followed without a rule, and is there after a failover", async () => {
    const cluster = await startCluster({ major });
    const { primary, standby } = cluster;
    const sidecar = await startSidecar(standby, NO_RULES);
    await untilGuard(sidecar);
    const replication = await primary.connect("postgres", "postgres", { replication: "database" } as object);
    onTestFinished(() => replication.end());
    for (const name of ["app", "billing"]) {
      await createLogicalSlot(primary, name);
      await replication.query(alterFailover(name, true));
    }
    await sidecar.untilSlot("billing");
    const status = await sidecar.untilSlot("app");
    expect(status.slots.map(({ chosenBy }) => chosenBy)).toEqual([["flag"], ["flag"]]);
    await replication.query(alterFailover("billing", false));
    const cleared = await sidecar.until("just app", ({ slots }) => slots.length === 1);
    expect(cleared.notChosen).toMatchObject([
      { name: "billing", why: "not flagged, slots.include is empty" },
    ]);
    await eventually(async () => !(await slotsOf(standby)).has("billing"), { what: "billing to be dropped" });

    await confirm(primary, "app");
    await sidecar.until("it to be ready", ({ ready }) => ready);
    await replication.end();
    await failOver(cluster, sidecar);
    expect(
      await standby.query("select slot_name::text as name, failover from pg_catalog.pg_replication_slots"),
    ).toEqual([{ name: "app", failover: true }]);
  });
});
