/**
 * A switchover there and back, again and again, with three nodes and a sidecar beside each of them all the time: SWITCHOVERS says how
 * often (10 for a thorough run).
 */
import { expect, test } from "vitest";
import { isOwnSlotName } from "../../src/domain/names.ts";
import { ensurePhysicalSlot, waitStreaming } from "../../src/sandbox/cluster.ts";
import type { PgServer } from "../../src/sandbox/server.ts";
import { buildCli, cli, writeConfig } from "../support/cli.ts";
import { startCluster } from "../support/cluster-fixture.ts";
import { createLogicalSlot, insertedIds, readSlot, repoint, subscribe } from "../support/consumer.ts";
import { isReady, QUICK } from "../support/file-way.ts";
import { describeEach, testedMajors } from "../support/majors.ts";
import { startReader } from "../support/reader.ts";
import { startSidecar } from "../support/sidecar.ts";
import { slotsOf } from "../support/slots.ts";
import { hasGuard, untilStaged } from "../support/steps.ts";
import { comeBack, switchOver, type TestNode, untilNoted } from "../support/switchover.ts";
import { eventually } from "../support/wait.ts";
import { logRunningTransactions } from "../support/wal.ts";
import { startWriters } from "../support/writers.ts";

const ROUNDS = Number(process.env.SWITCHOVERS ?? 2);
const MAJORS = [12, 13, 14, 15, 16, 17, 18];
const NAMES = ["busy", "idle", "sub1"];

function switchesOver(major: number): void {
  test(`${ROUNDS} switchovers there and back lose nothing, and every node has just the slots that it should have (I1 to I7)`, {
    timeout: 60_000 + ROUNDS * 40_000,
  }, async () => {
    await buildCli();
    const cluster = await startCluster({ major, standbys: 2, subscriber: true });
    const { subscriber } = cluster;
    const nodes: TestNode[] = [];
    for (const server of [cluster.primary, ...cluster.standbys])
      nodes.push({ server, sidecar: await startSidecar(server, { nap: QUICK }) });
    let [primary, next, third] = nodes as [TestNode, TestNode, TestNode];
    for (const server of [primary.server, subscriber])
      await server.query(
        "create table written (id bigint primary key, writer integer not null, filler text)",
      );
    if (major >= 16) for (const { sidecar } of [next, third]) await sidecar.until("the guard", hasGuard);
    for (const name of ["idle", "busy"]) await createLogicalSlot(primary.server, name);
    await subscribe({ publisher: primary.server, subscriber, name: "sub1", tables: ["written"] });
    for (const { server, sidecar } of major < 16 ? [next, third] : []) {
      await untilStaged(sidecar, ...NAMES);
      await server.restart();
    }

    const writers = await startWriters(primary.server, { connections: 4 });
    const taken = new Set<number>();
    for (let round = 1; round <= ROUNDS; round++) {
      const reader = await startReader(primary.server, { slot: "busy", table: "written" });
      await writers.waitForCommits(50);
      for (const node of [next, third]) await untilAllReady(node, primary.server);
      expect(await slotNames(next.server), `round ${round}`).toEqual(NAMES);
      expect(await slotNames(third.server), `round ${round}`).toEqual(NAMES);
      if (round === 1) await untilNoted(primary, "idle");
      await writers.waitForCommits(20);
      await reader.stop();
      for (const id of reader.taken) taken.add(id);

      await switchOver(primary, next);
      const { server } = next;
      expect(next.sidecar.status?.finish?.complete, `round ${round}`).toBe(true);
      expect([...(await slotsOf(server)).keys()].toSorted(), `round ${round}`).toEqual(NAMES);
      writers.retarget(server);
      await repoint(subscriber, "sub1", server);
      await follow(third.server, server);
      await comeBack(primary, next);
      if (major < 16) {
        await primary.sidecar.until("its guards to be staged", ({ restart }) => (restart?.guards ?? 0) > 0);
        await primary.server.restart();
      }
      await releaseLeftovers(primary);
      expect(await physicalSlots(server)).toEqual([primary.server.name, third.server.name].toSorted());
      [primary, next] = [next, primary];
    }

    const reader = await startReader(primary.server, { slot: "busy", table: "written" });
    for (const node of [next, third]) {
      await untilAllReady(node, primary.server);
      expect(await slotNames(node.server)).toEqual(NAMES);
      expect(await physicalSlots(node.server)).toEqual([]);
    }
    await writers.stop();
    await reader.stop();
    for (const id of reader.taken) taken.add(id);
    for (const id of insertedIds(await readSlot(primary.server, "busy"), "written")) taken.add(id);
    const there = await idsOf(primary.server);
    expect([...writers.committed].filter((id) => !there.has(id))).toEqual([]);
    expect([...writers.rolledBack].filter((id) => there.has(id))).toEqual([]);
    expect(there.size).toBeGreaterThan(ROUNDS * 60);
    expect(taken).toEqual(there);
    expect(new Set(insertedIds(await readSlot(primary.server, "idle"), "written"))).toEqual(there);
    await eventually(async () => (await idsOf(subscriber)).size >= there.size, {
      what: "the subscriber to have every row",
    });
    expect(await idsOf(subscriber)).toEqual(there);
  });
}

/** Every slot is ready; records of running transactions, which let slots go on, come now instead of within 15 seconds. */
async function untilAllReady({ sidecar }: TestNode, primary: PgServer): Promise<void> {
  await eventually(
    async () => {
      const { status } = sidecar;
      if (status?.role === "standby" && status.ready && NAMES.every((name) => isReady(status, name)))
        return true;
      await logRunningTransactions(primary);
      return false;
    },
    { what: "all to be ready", timeoutMs: 40_000, intervalMs: 200 },
  ).catch((error: unknown) => {
    throw new Error(`${String(error)}; last status: ${JSON.stringify(sidecar.status)}`, { cause: error });
  });
}

/** Has a standby follow another primary; from 13 on without a restart. */
async function follow(standby: PgServer, primary: PgServer): Promise<void> {
  const { name } = standby;
  await ensurePhysicalSlot(primary, name);
  standby.follow({ host: primary.host, port: primary.port, slotName: name, applicationName: name });
  if (standby.major >= 13) standby.reload();
  else await standby.restart();
  await waitStreaming(primary, name);
}

/** The logical slots that are not a sidecar's own. */
async function slotNames(server: PgServer): Promise<string[]> {
  return [...(await slotsOf(server)).keys()].filter((name) => !isOwnSlotName(name)).toSorted();
}

async function physicalSlots(server: PgServer): Promise<string[]> {
  const rows = await server.query<{ name: string }>(
    "select slot_name::text as name from pg_catalog.pg_replication_slots where slot_type = 'physical' order by slot_name",
  );
  return rows.map(({ name }) => name);
}

/** What a former primary is left with: the physical slots of the other two. */
async function releaseLeftovers({ server, sidecar }: TestNode): Promise<void> {
  const { file } = writeConfig(server, { state_directory: sidecar.stateDirectory });
  const released = await cli(["release", "-c", file, "--all-inactive"]);
  expect(released, `${released.stdout}${released.stderr}`).toMatchObject({ code: 0 });
  expect(await physicalSlots(server)).toEqual([]);
}

async function idsOf(server: PgServer): Promise<Set<number>> {
  const rows = await server.query<{ id: string }>("select id from written");
  return new Set(rows.map(({ id }) => Number(id)));
}

const used = process.env.PG_MAJORS === undefined ? MAJORS : testedMajors().filter((major) => major >= 12);
describeEach(used.length > 0 ? used : MAJORS, used, switchesOver);
