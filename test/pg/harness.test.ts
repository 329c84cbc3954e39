import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { describe, expect, onTestFinished, test } from "vitest";
import { addStandby, createPrimary, rejoin, waitStreaming } from "../../src/sandbox/cluster.ts";
import { isAlive, serverProcessesUnder, signal } from "../../src/sandbox/processes.ts";
import { removeAbandoned } from "../../src/sandbox/workspace.ts";
import { startCluster } from "../support/cluster-fixture.ts";
import {
  createLogicalSlot,
  insertedIds,
  readSlot,
  repoint,
  subscribe,
  waitForSubscriber,
} from "../support/consumer.ts";
import { failOnLeaks, leaksSince, openThings } from "../support/leaks.ts";
import { testedMajors } from "../support/majors.ts";
import { startProxy } from "../support/proxy.ts";
import { eventually } from "../support/wait.ts";
import { waitForReplay } from "../support/wal.ts";
import { startWriters } from "../support/writers.ts";

const COUNT = "select count(*)::int as n from t";

describe.each(testedMajors())("the servers that tests stand on, PostgreSQL %i", (major) => {
  test("a cluster streams through physical slots, its standbys named after them", async () => {
    const { primary, standbys } = await startCluster({ major, standbys: 2 });
    await primary.query("create table t as select generate_series(1, 10) as id");
    for (const standby of standbys) {
      await waitForReplay(primary, standby);
      expect(await standby.query(COUNT)).toEqual([{ n: 10 }]);
    }
    const slots =
      "select slot_name::text as name, active from pg_catalog.pg_replication_slots order by slot_name";
    expect(await primary.query(slots)).toEqual([
      { name: "standby1", active: true },
      { name: "standby2", active: true },
    ]);
  });

  test("clusters share a system identifier, fresh ones and subscribers do not", async () => {
    const clusters = [
      await startCluster({ major, standbys: 0, subscriber: true }),
      await startCluster({ major, standbys: 0 }),
      await startCluster({ major, standbys: 0, fresh: true }),
    ];
    const servers = [...clusters.map(({ primary }) => primary), clusters[0]?.subscriber];
    const ids = await Promise.all(
      servers.map(async (server) => {
        const rows = await server?.query<{ id: string }>(
          "select system_identifier::text as id from pg_catalog.pg_control_system()",
        );
        return rows?.[0]?.id;
      }),
    );
    expect(ids[0]).toBe(ids[1]);
    expect(new Set(ids).size).toBe(3);
  });

  test("a standby made from a backup streams, and follows a former standby after both were switched", async () => {
    const { primary, standby } = await startCluster({ major });
    const other = await addStandby(primary, { slotName: "standby2" });
    await primary.query("create table t as select generate_series(1, 10) as id");
    await waitForReplay(primary, other);
    expect(await other.query(COUNT)).toEqual([{ n: 10 }]);

    await primary.stop();
    standby.promote();
    await standby.waitPromoted();
    await rejoin(primary, standby, { slotName: "former" });
    await standby.query("insert into t values (11)");
    await waitForReplay(standby, primary);
    expect(await primary.query(COUNT)).toEqual([{ n: 11 }]);
  });

  test("kill -9 leaves no process, the standby can be promoted, and the dead server started again", async () => {
    const { primary, standby } = await startCluster({ major });
    await primary.query("create table t as select 1 as id");
    await waitForReplay(primary, standby);

    await primary.kill();
    expect(serverProcessesUnder(primary.dataDir)).toEqual([]);
    await expect(primary.query("select 1")).rejects.toMatchObject({ code: "ECONNREFUSED" });

    standby.promote();
    await standby.waitPromoted();
    await standby.query("insert into t values (2)");
    expect(await standby.query(COUNT)).toEqual([{ n: 2 }]);

    await primary.start();
    expect(await primary.query(COUNT)).toEqual([{ n: 1 }]);
  });

  test("a disposed cluster leaves neither processes nor files", async () => {
    const cluster = await startCluster({ major, lifetime: "manual" });
    const { dir } = cluster.workspace;
    expect(serverProcessesUnder(dir).length).toBeGreaterThan(0);
    await cluster.dispose();
    expect(serverProcessesUnder(dir)).toEqual([]);
    expect(existsSync(dir)).toBe(false);
  });

  test("a server that cannot start says why at once", async () => {
    const { primary } = await startCluster({ major, standbys: 0 });
    await primary.stop();
    primary.configure({ shared_buffers: "not a size" });
    const began = performance.now();
    await expect(primary.start()).rejects.toThrow(/invalid value for parameter "shared_buffers"/);
    expect(performance.now() - began).toBeLessThan(5_000);
  });

  test("a paused server holds its connections and answers after it is resumed", async () => {
    const { primary } = await startCluster({ major, standbys: 0 });
    const client = await primary.connect();
    primary.pause();
    const answer = client.query("select 1 as one").then(() => "answered");
    expect(await Promise.race([answer, sleep(300, "silent")])).toBe("silent");
    primary.resume();
    expect(await answer).toBe("answered");
    await client.end();
  });

  test("a changed setting holds after a reload", async () => {
    const { primary } = await startCluster({ major, standbys: 0 });
    primary.configure({ work_mem: "7MB" });
    await eventually(async () => (await primary.query("show work_mem"))[0]?.work_mem === "7MB", {
      what: "the reload",
    });
  });

  test("writers overlap; what they call committed is there after a crash, what they call rolled back is not", async () => {
    const { primary } = await startCluster({ major, standbys: 0 });
    await createLogicalSlot(primary, "logical1");
    const writers = await startWriters(primary, { seed: 7 });
    await writers.waitForCommits(60);
    await primary.kill();
    await primary.start();
    await writers.waitForCommits(60);
    await writers.stop();

    const rows = await primary.query<{ id: number }>("select id::int from written order by id");
    const there = new Set(rows.map(({ id }) => id));
    expect([...writers.committed].filter((id) => !there.has(id))).toEqual([]);
    expect([...writers.rolledBack].filter((id) => there.has(id))).toEqual([]);
    expect([...there].filter((id) => !writers.committed.has(id) && !writers.unknown.has(id))).toEqual([]);

    const sent = insertedIds(await readSlot(primary, "logical1"), "written");
    expect(sent.toSorted((a, b) => a - b)).toEqual(rows.map(({ id }) => id));
    // committed in another order than begun: they overlapped
    expect(sent).not.toEqual(sent.toSorted((a, b) => a - b));
    expect(await readSlot(primary, "logical1")).toEqual([]);
  });

  test("a subscription follows its publisher to a new address", async () => {
    const { primary, subscriber } = await startCluster({ major, standbys: 0, subscriber: true });
    for (const server of [primary, subscriber]) await server.query("create table t (id integer primary key)");
    await primary.query("insert into t values (1)");
    await subscribe({ publisher: primary, subscriber });
    await primary.query("insert into t values (2)");
    await waitForSubscriber(primary);
    const proxy = await startProxy({ targetPort: primary.port });
    onTestFinished(() => proxy.close());
    await repoint(subscriber, "sub1", proxy);
    await eventually(() => proxy.connections > 0, { what: "the subscriber to come through the proxy" });
    await primary.query("insert into t values (3)");
    await waitForSubscriber(primary);
    expect(await subscriber.query(COUNT)).toEqual([{ n: 3 }]);
  });

  test("a cut proxy refuses connections; restored, the standby catches up", async () => {
    const { primary, standby, replicationProxy } = await startCluster({ major, proxied: true });
    expect(replicationProxy.connections).toBe(1);
    await replicationProxy.cut();
    expect(replicationProxy.connections).toBe(0);
    const behindIt = Object.assign(Object.create(primary), { port: replicationProxy.port });
    await expect(primary.query.call(behindIt, "select 1")).rejects.toMatchObject({ code: "ECONNREFUSED" });
    const streaming = "select from pg_catalog.pg_stat_replication";
    await eventually(async () => (await primary.query(streaming)).length === 0, {
      what: "the end of streaming",
    });
    await primary.query("create table t as select 1 as id");

    await replicationProxy.restore();
    await waitStreaming(primary, standby.name);
    await waitForReplay(primary, standby);
    expect(await standby.query(COUNT)).toEqual([{ n: 1 }]);
  });

  test("a half-open proxy keeps its connections and delivers nothing until it is restored", async () => {
    const { primary, standby, replicationProxy } = await startCluster({ major, proxied: true });
    await primary.query("create table t (id integer)");
    await waitForReplay(primary, standby);
    await replicationProxy.halfOpen();
    await primary.query("insert into t values (1)");
    await sleep(500);
    expect(await standby.query(COUNT)).toEqual([{ n: 0 }]);
    expect(replicationProxy.connections).toBe(1);
    expect(await primary.query("select state from pg_catalog.pg_stat_replication")).toEqual([
      { state: "streaming" },
    ]);

    await replicationProxy.restore();
    await waitForReplay(primary, standby);
    expect(await standby.query(COUNT)).toEqual([{ n: 1 }]);
    expect(replicationProxy.connections).toBe(1);
  });

  test("a slow proxy delays both directions", async () => {
    const { primary, standby, replicationProxy } = await startCluster({ major, proxied: true });
    replicationProxy.delay(300);
    const began = performance.now();
    await primary.query("create table t (id integer)");
    await waitForReplay(primary, standby);
    expect(performance.now() - began).toBeGreaterThan(295);
  });

  test("a server or proxy that a test leaves behind is reported and ended", async () => {
    const before = openThings();
    const left = await createPrimary({ major, fsync: false });
    const proxy = await startProxy({ targetPort: left.port });
    const pid = left.pid ?? 0;
    expect(leaksSince(before)).toEqual(
      expect.arrayContaining([
        `server process ${pid} is alive`,
        `the proxy on port ${proxy.port} is open`,
        `the work folder ${left.workspace.dir} was not disposed of`,
        expect.stringMatching(/sockets listen that did not before/),
      ]),
    );
    await expect(failOnLeaks(before)).rejects.toThrow(`server process ${pid} is alive`);
    expect(isAlive(pid)).toBe(false);
    expect(leaksSince(before)).toEqual([]);
  });

  test("a process that is terminated takes its servers along; one that is killed leaves them to the next run", async () => {
    for (const [end, removed] of [
      ["SIGTERM", false],
      ["SIGKILL", true],
    ] as const) {
      const other = await startOtherProcess(major);
      signal(other.processId, end);
      await other.ended;
      expect(isAlive(other.serverPid)).toBe(removed);
      expect(removeAbandoned().includes(other.dir)).toBe(removed);
      await eventually(() => serverProcessesUnder(other.dir).filter(isAlive).length === 0, {
        what: "its servers' end",
      });
      expect(existsSync(other.dir)).toBe(false);
    }
  });
});

async function startOtherProcess(major: number) {
  const script = path.join(import.meta.dirname, "..", "support", "abandoned-server.ts");
  const child = spawn(process.execPath, ["--import", "tsx", script, String(major)], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  const ended = once(child, "exit");
  const [line] = await once(child.stdout, "data");
  const { dir, pid } = JSON.parse(String(line)) as { dir: string; pid: number };
  return { processId: child.pid ?? 0, serverPid: pid, dir, ended };
}
