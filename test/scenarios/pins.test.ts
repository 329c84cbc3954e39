/** What the sidecar holds on the primary while it stages: never in the way of anybody, and never left behind (I12). */

import type { AddressInfo } from "node:net";
import { createServer, connect as dial } from "node:net";
import { expect, onTestFinished, test } from "vitest";
import type { Status } from "../../src/domain/status.ts";
import { parseConnInfo } from "../../src/pg/conninfo.ts";
import type { PgServer } from "../../src/sandbox/server.ts";
import { startCluster } from "../support/cluster-fixture.ts";
import { createLogicalSlot } from "../support/consumer.ts";
import { onMajor, QUICK } from "../support/file-way.ts";
import { startSidecar } from "../support/sidecar.ts";
import { untilProblem, untilStaged } from "../support/steps.ts";
import { eventually } from "../support/wait.ts";

async function pinsOf(primary: PgServer): Promise<{ name: string; database: string }[]> {
  return primary.query(
    `select slot_name as name, database from pg_catalog.pg_replication_slots
     where temporary and slot_name like 'slotsync_pin_%' order by 1`,
  );
}

/** A session that lives on when its client is gone, as a connection pooler keeps it, with a temporary slot in it. */
async function leaveBehind(primary: PgServer, name: string, { role = "postgres", atWork = false } = {}) {
  const session = await primary.connect("postgres", role);
  // the server may end it
  session.on("error", () => {});
  onTestFinished(() => session.end().catch(() => {}));
  if (atWork) await session.query("begin");
  await session.query("select pg_catalog.pg_create_logical_replication_slot($1, 'pgoutput', true)", [name]);
  return session;
}

/** A relay that tells each client another process than the one that serves it, as poolers do. */
async function startPooler(port: number): Promise<number> {
  const server = createServer((client) => {
    const upstream = dial(port, "127.0.0.1");
    client.on("error", () => upstream.destroy());
    upstream.on("error", () => client.destroy());
    client.pipe(upstream);
    upstream.on("data", (data) => {
      const at = data.indexOf(Buffer.from([0x4b, 0, 0, 0, 12]));
      if (at >= 0) data.writeUInt32BE((data.readUInt32BE(at + 5) ^ 0x55555) & 0x7fffffff, at + 5);
      client.write(data);
    });
    upstream.on("close", () => client.destroy());
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  onTestFinished(() => void server.close());
  return (server.address() as AddressInfo).port;
}

onMajor(
  15,
  (major) => {
    test("a database whose last failover slot is gone can be dropped while pins are held for what is staged from it (I12)", async () => {
      const { primary, standby } = await startCluster({ major });
      await primary.query("create database shop");
      await createLogicalSlot(primary, "app", { database: "shop" });
      const sidecar = await startSidecar(standby, { nap: QUICK });
      await untilStaged(sidecar, "app");
      const pins = await pinsOf(primary);
      expect(pins.length).toBeGreaterThan(0);
      expect(pins.map(({ database }) => database)).not.toContain("shop");
      await primary.query("select pg_catalog.pg_drop_replication_slot('app')");
      await primary.query(major >= 13 ? "drop database shop with (force)" : "drop database shop");
    });

    test("a pin that a killed sidecar has left in a pooler's session is ended; another sidecar's, and one that is at work, are not (I7, I12)", async () => {
      const { primary, standby } = await startCluster({ major });
      await createLogicalSlot(primary, "app");
      const sidecar = await startSidecar(standby, { nap: QUICK });
      await sidecar.until("a first look", ({ source }) => source === "live");
      const { instanceId } = sidecar.sidecar.journal;
      const foreign = "slotsync_pin_deadbeef_1";
      await leaveBehind(primary, foreign);
      await leaveBehind(primary, `slotsync_pin_${instanceId}_1`);
      // idle, and not the sidecar's role's
      await primary.query("create role somebody superuser login");
      const theirs = `slotsync_pin_${instanceId}_3`;
      await leaveBehind(primary, theirs, { role: "somebody" });
      const atWork = `slotsync_pin_${instanceId}_2`;
      const busy = await leaveBehind(primary, atWork, { atWork: true });
      const names = async () => (await pinsOf(primary)).map(({ name }) => name);
      await eventually(async () => !(await names()).includes(`slotsync_pin_${instanceId}_1`), {
        what: "the stray pin to be ended",
      });
      const said = ({ problems }: Pick<Status, "problems">) =>
        problems.find(({ code }) => code === "stray_pins")?.message ?? "";
      const told = await sidecar.until("the other two to be told", (status) =>
        [atWork, theirs].every((name) => said(status).includes(`"${name}" in server process `)),
      );
      expect(said(told)).toMatch(/SELECT pg_terminate_backend\(\d+\)/);
      expect(await names()).toContain(foreign);
      await busy.query("commit").catch(() => {});
      await eventually(async () => !(await names()).includes(atWork), {
        what: "that one to be ended too",
      });
      expect(await names()).toEqual(expect.arrayContaining([foreign, theirs]));
      // what it holds itself stays
      await untilStaged(sidecar, "app");
      const [own] = (await names()).filter((name) => name.includes(instanceId) && name !== theirs);
      const cycles = sidecar.history.length;
      await sidecar.until("more cycles", () => sidecar.history.length > cycles + 3);
      expect(await names()).toContain(own);
    });

    test("a connection that leads through a pooler is told, with the key that it comes from", async () => {
      const { primary, standby } = await startCluster({ major });
      const port = await startPooler(primary.port);
      const sidecar = await startSidecar(standby, {
        nap: QUICK,
        primaryConn: parseConnInfo(`host=127.0.0.1 port=${port} user=postgres dbname=postgres`),
      });
      const { problems } = await untilProblem(sidecar, "connection_pooled");
      const { severity, message } = problems.find(({ code }) => code === "connection_pooled") ?? {};
      expect(severity).toBe("warning");
      expect(message).toMatch(/^primary\.dsn leads through a connection pooler/);
    });
  },
  12,
);
