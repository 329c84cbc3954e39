/**
 * A position names WAL only together with its timeline (I14, K3). Subscribers are ahead of every standby when the first primary dies, and the
 * node that is promoted in the end has WAL of its own over the same numbers.
 */
import { expect, test } from "vitest";
import type { FinishedSlot, FinishReport } from "../../src/domain/finish.ts";
import { type Lsn, parseLsn } from "../../src/domain/lsn.ts";
import type { Status } from "../../src/domain/status.ts";
import type { PgServer } from "../../src/sandbox/server.ts";
import { startCluster } from "../support/cluster-fixture.ts";
import { createLogicalSlot, repoint, subscribe, waitSubscribed } from "../support/consumer.ts";
import { slotIn } from "../support/file-way.ts";
import { describeEach, testedMajors } from "../support/majors.ts";
import { startSidecar, type TestSidecar } from "../support/sidecar.ts";
import { confirm, peek, positionOf } from "../support/slots.ts";
import { followInstead, hasGuard, hostsOf, syncSlots, untilFinished, untilStaged } from "../support/steps.ts";
import { eventually } from "../support/wait.ts";
import { waitForReplay, writeWal } from "../support/wal.ts";

const SOON = { minMs: 100, maxMs: 500 };

/** A primary and standbys that stop receiving when `proxy` is half open. */
async function startNodes(major: number, standbys: number) {
  const cluster = await startCluster({ major, standbys, proxied: true });
  const a = cluster.primary;
  await a.query("create table t (id int primary key)");
  return { a, standbys: cluster.standbys, proxy: cluster.replicationProxy };
}

/** Makes the slot, and has it loaded by a restart where slots come by their files. */
async function protect(sidecar: TestSidecar, a: PgServer, standby: PgServer, name: string): Promise<void> {
  if (a.major >= 16) return syncSlots(sidecar, a, name);
  await createLogicalSlot(a, name);
  await untilStaged(sidecar, name);
  await standby.restart();
  await sidecar.untilSlot(name, "synced");
}

/** The same of a second standby, once the slot is on the primary. */
async function protectedToo(sidecar: TestSidecar, standby: PgServer, name: string): Promise<void> {
  if (standby.major < 16) {
    await untilStaged(sidecar, name);
    await standby.restart();
  }
  await sidecar.untilSlot(name, "synced");
}

/** Rows that one of the standbys never gets, and a subscriber that has them; resolves when the sidecars have seen where it stands. */
async function getAhead(a: PgServer, name: string, ...sidecars: TestSidecar[]): Promise<Lsn> {
  await insert(a, 1, 50);
  await writeWal(a, 200_000);
  // its commit writes the filler out
  await insert(a, 51, 1);
  await confirm(a, name);
  const position = await positionOf(a, name);
  for (const sidecar of sidecars)
    await sidecar.until(
      "the subscriber to be seen ahead",
      (status) => positionIn(status, name) === position && slotIn(status, name)?.reason === "wal_not_flushed",
    );
  return position;
}

function positionIn(status: Status, name: string): Lsn | null {
  const text = slotIn(status, name)?.primaryConfirmedFlushLsn;
  return text ? parseLsn(text) : null;
}

/** One transaction for each row. */
async function insert(server: PgServer, from: number, count: number): Promise<void> {
  for (let id = from; id < from + count; id++) await server.query("insert into t values ($1)", [id]);
}

async function walPosition(server: PgServer): Promise<Lsn> {
  const [row] = await server.query<{ lsn: string }>("select pg_catalog.pg_current_wal_lsn()::text as lsn");
  return parseLsn(row?.lsn ?? "");
}

/** Writes rows past that position, with some of them before it. */
async function overtake(server: PgServer, position: Lsn): Promise<void> {
  await insert(server, 1_000, 40);
  expect(await walPosition(server), "the rows begin before where the subscriber stood").toBeLessThan(
    position,
  );
  await writeWal(server, Number(position - (await walPosition(server))) + 1_000);
  await insert(server, 2_000, 10);
}

/** The rows that a slot sends, against those that are there. */
async function sentAndThere(server: PgServer, name: string) {
  const sent = (await peek(server, name)).flatMap(
    ({ data }) => /INSERT: id\[integer\]:(\d+)/.exec(data)?.[1] ?? [],
  );
  const there = await server.query<{ id: number }>("select id from t order by id");
  return { sent: sent.map(Number), there: there.map(({ id }) => id) };
}

function lineOf(report: FinishReport | null, name: string): FinishedSlot {
  const line = report?.slots.find((slot) => slot.name === name);
  if (!line) throw new Error(`the gap report does not name "${name}"`);
  return line;
}

/** The report says that the subscriber has more than the node, and from where on. */
function expectNamed(report: FinishReport | null, name: string, position: Lsn): void {
  const { confirmedBeyondEndBytes, certain, endOfWalLsn } = lineOf(report, name);
  expect(confirmedBeyondEndBytes).toBeGreaterThan(0);
  expect(certain).toBe(true);
  expect(Number(position - parseLsn(endOfWalLsn ?? ""))).toBe(confirmedBeyondEndBytes);
}

/** What {@link overtake} wrote, all of it, and nothing that this node does not have. */
async function expectAllSent(server: PgServer, name: string): Promise<void> {
  const { sent, there } = await sentAndThere(server, name);
  expect(sent).toEqual(there);
  expect(there).toHaveLength(50);
}

async function promote(standby: PgServer): Promise<void> {
  standby.promote();
  await standby.waitPromoted();
}

const MAJORS = [16];
const used = process.env.PG_MAJORS === undefined ? MAJORS : testedMajors();

describeEach(used, used, (major) => {
  test("after two failovers, the sidecar having seen the first primary only, a subscriber that was ahead of the first is sent every row from there on, and the gap report names it (I14, K3)", async () => {
    const { a, standbys, proxy } = await startNodes(major, 2);
    const [b, c] = standbys as [PgServer, PgServer];
    const sidecar = await startSidecar(c, { nap: SOON, primary: { dsn: hostsOf(a), patroniUrl: null } });
    await protect(sidecar, a, c, "kept");
    await waitForReplay(a, b);
    await proxy.halfOpen();
    const position = await getAhead(a, "kept", sidecar);
    await a.kill();
    await promote(b);
    await followInstead(c, b);
    await overtake(b, position);
    await waitForReplay(b, c);
    await b.kill();
    c.promote();
    const { finish } = await untilFinished(sidecar);
    await expectAllSent(c, "kept");
    expectNamed(finish, "kept", position);
    expect(lineOf(finish, "kept").timeline).toBe(1);
  });

  test("after two failovers, the sidecars following, a subscriber that never came back from the first gap is sent every row and is named by the second report as well (I14, K3)", async () => {
    const { a, standbys, proxy } = await startNodes(major, 2);
    const [b, c] = standbys as [PgServer, PgServer];
    const primary = { dsn: hostsOf(a, b), patroniUrl: null };
    const beside = await startSidecar(b, { nap: SOON, primary: { dsn: hostsOf(a), patroniUrl: null } });
    const sidecar = await startSidecar(c, { nap: SOON, primary });
    await protect(beside, a, b, "kept");
    await protectedToo(sidecar, c, "kept");
    await proxy.halfOpen();
    const position = await getAhead(a, "kept", beside, sidecar);
    await a.kill();
    b.promote();
    expectNamed((await untilFinished(beside)).finish, "kept", position);
    await followInstead(c, b);
    const restored = await positionOf(b, "kept");
    await sidecar.until("the new primary's slot", (status) => positionIn(status, "kept") === restored);
    await overtake(b, position);
    await waitForReplay(b, c);
    await b.kill();
    c.promote();
    const { finish } = await untilFinished(sidecar);
    await expectAllSent(c, "kept");
    expectNamed(finish, "kept", position);
    expect(lineOf(finish, "kept").detail).toContain("on timeline 1 its subscriber had confirmed");
  });

  test("a new primary that crashed before it was finished: what its last recovery replayed is its own, and every row of it is sent to a subscriber that was ahead (I14, K3)", async () => {
    const { a, standbys, proxy } = await startNodes(major, 1);
    const [b] = standbys as [PgServer];
    const before = await startSidecar(b, { nap: SOON, primary: { dsn: hostsOf(a), patroniUrl: null } });
    await protect(before, a, b, "kept");
    await proxy.halfOpen();
    const position = await getAhead(a, "kept", before);
    await before.stop();
    await a.kill();
    await promote(b);
    await overtake(b, position);
    await b.kill();
    await b.start();
    const { stateDirectory } = before;
    const { finish } = await untilFinished(await startSidecar(b, { nap: SOON, stateDirectory }));
    await expectAllSent(b, "kept");
    expectNamed(finish, "kept", position);
  });

  test("the statements of the gap report put a native subscription back to where it misses nothing, and leave one of the same name in another database alone (I14)", async () => {
    const cluster = await startCluster({ major, subscriber: true, proxied: true });
    const { primary: a, standby: b, subscriber } = cluster;
    for (const server of [a, subscriber]) await server.query("create table t (id int primary key)");
    const sidecar = await startSidecar(b, { nap: SOON, primary: { dsn: hostsOf(a), patroniUrl: null } });
    if (major < 16) {
      await sidecar.until("the guard to be staged", ({ restart }) => (restart?.guards ?? 0) > 0);
      await b.restart();
    }
    await sidecar.until("the guard", hasGuard);
    await subscribe({ publisher: a, subscriber, name: "app" });
    await sidecar.untilSlot("app");
    await subscribeElsewhere(subscriber, "app");
    await cluster.replicationProxy.halfOpen();
    await insert(a, 1, 50);
    await writeWal(a, 200_000);
    await insert(a, 51, 1);
    await eventually(async () => (await rowsOf(subscriber)).length === 51, {
      what: "the subscriber to get ahead",
    });
    const there = () => positionOf(a, "app");
    const end = await walPosition(a);
    await eventually(async () => (await there()) >= end, { what: "the subscriber to confirm it" });
    const position = await there();
    await sidecar.until(
      "the subscriber to be seen ahead",
      (status) => (positionIn(status, "app") ?? 0n) >= position,
    );
    await a.kill();
    b.promote();
    const { finish } = await untilFinished(sidecar);
    await overtake(b, position);
    const { repair, confirmedBeyondEndBytes } = lineOf(finish, "app");
    expect(confirmedBeyondEndBytes).toBeGreaterThan(0);
    await follow(repair ?? "", subscriber, () => repoint(subscriber, "app", b));
    const here = (await b.query<{ id: number }>("select id from t")).map(({ id }) => id);
    expect(here).toHaveLength(50);
    await eventually(async () => (await rowsOf(subscriber)).length >= 101, {
      what: "all rows of the new primary",
    });
    expect(new Set(await rowsOf(subscriber))).toEqual(
      new Set([...Array.from({ length: 51 }, (_, i) => i + 1), ...here]),
    );

    await subscriber.query("alter subscription app enable", [], "elsewhere");
    await eventually(async () => (await rowsOf(subscriber, "elsewhere")).length === 5, {
      what: "the five rows of the other subscription",
    });
  });
});

/** A subscription of the same name, and with a slot of the same name, in another database; five rows wait for it while it is off. */
async function subscribeElsewhere(subscriber: PgServer, name: string): Promise<void> {
  for (const database of ["source", "elsewhere"]) {
    await subscriber.query(`create database ${database}`);
    await subscriber.query("create table t (id int primary key)", [], database);
  }
  await subscriber.query("create publication other for table t", [], "source");
  await createLogicalSlot(subscriber, name, { plugin: "pgoutput", database: "source" });
  const { host, port } = subscriber;
  await subscriber.query(
    `create subscription ${name} connection 'host=${host} port=${port} user=postgres dbname=source' publication other
       with (create_slot = false, copy_data = false)`,
    [],
    "elsewhere",
  );
  await waitSubscribed(subscriber, name, "elsewhere");
  await subscriber.query("insert into t values (0)", [], "source");
  await eventually(async () => (await rowsOf(subscriber, "elsewhere")).length === 1, {
    what: "the first row",
  });
  await subscriber.query("delete from t", [], "elsewhere");
  await subscriber.query(`alter subscription ${name} disable`, [], "elsewhere");
  for (let id = 1; id <= 5; id++) await subscriber.query("insert into t values ($1)", [id], "source");
}

async function rowsOf(server: PgServer, database = "postgres"): Promise<number[]> {
  const rows = await server.query<{ id: number }>("select id from t order by id", [], database);
  return rows.map(({ id }) => id);
}

/** Runs the statements as an operator does: one after the other, that for the worker's end until it returns no row, with the new address before the last. */
async function follow(repair: string, subscriber: PgServer, connect: () => Promise<void>): Promise<void> {
  const statements = repair.split("\n").filter((line) => !line.startsWith("--"));
  expect(statements.length).toBeGreaterThan(3);
  for (const sql of statements) {
    if (sql === statements.at(-1)) await connect();
    if (sql.includes("pg_stat_subscription"))
      await eventually(async () => (await subscriber.query(sql)).length === 0, { what: "the worker to end" });
    else {
      const rows = await subscriber.query<{ subname?: string }>(sql);
      if (sql.startsWith("SELECT")) expect(rows.map(({ subname }) => subname)).toEqual(["app"]);
    }
  }
}
