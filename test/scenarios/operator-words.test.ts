/** What an operator is told, by the command line and the log, when something is out of order (K7). */
import { rmSync, writeFileSync } from "node:fs";
import path from "node:path";
import { beforeAll, describe, expect, test } from "vitest";
import { buildCli, cli, startCli, writeConfig } from "../support/cli.ts";
import { startCluster } from "../support/cluster-fixture.ts";
import { createLogicalSlot } from "../support/consumer.ts";
import { onMajor, QUICK } from "../support/file-way.ts";
import { startSidecar } from "../support/sidecar.ts";
import { confirm, sidecarSlots } from "../support/slots.ts";
import { hasGuard, syncSlots, untilProblem } from "../support/steps.ts";
import { writeWal } from "../support/wal.ts";

beforeAll(buildCli);

onMajor(16, (major) => {
  describe("words", () => {
    test("sync that cannot reach a server ends with 2, and names the key of the configuration and what to do", async () => {
      const { primary, standby } = await startCluster({ major });
      const config = writeConfig(standby);
      await primary.stop();
      const away = await cli(["sync", "-c", config.file]);
      expect(away).toMatchObject({ code: 2, stderr: expect.stringContaining("cannot tell: ") });
      expect(away.stderr).toContain("primary_conninfo of the standby (or set primary.dsn): nothing listens");
      await standby.stop();
      const gone = await cli(["sync", "-c", config.file]);
      expect(gone).toMatchObject({
        code: 2,
        stderr: expect.stringContaining("standby.dsn: nothing listens"),
      });
    });

    test("a server that never was a standby is told as a primary, not as one being promoted; finish has nothing to do there and says why", async () => {
      const { primary } = await startCluster({ major, standbys: 0 });
      const config = writeConfig(primary);
      const check = await cli(["check", "-c", config.file]);
      expect(check).toMatchObject({ code: 1, stdout: "not ready: this node is a primary, not a standby\n" });
      const finish = await cli(["finish", "-c", config.file]);
      expect(finish).toMatchObject({
        code: 0,
        stdout: expect.stringContaining("no sidecar with the journal in"),
      });
      expect(finish.stdout).not.toContain("has not been a standby");
    });

    test("the log says when the primary answers again, and for how long nothing was seen of it", async () => {
      const { primary, standby, replicationProxy } = await startCluster({ major, proxied: true });
      const sidecar = await startSidecar(standby);
      await syncSlots(sidecar, primary, "app");
      await replicationProxy.cut();
      await untilProblem(sidecar, "primary_unreachable");
      await replicationProxy.restore();
      await sidecar.until("it to answer again", ({ source }) => source === "live");
      const again = sidecar.log.filter((line) => line.includes("the primary answers again"));
      expect(again).toEqual([expect.stringMatching(/nothing was seen of it for \d+ s/)]);
    });

    test("a guard is released by its name once no sidecar is left to drop it, and not before", async () => {
      const { primary, standby } = await startCluster({ major });
      await primary.query("select pg_catalog.pg_create_logical_replication_slot('app', 'test_decoding')");
      const config = writeConfig(standby);
      const sidecar = await startSidecar(standby, { stateDirectory: config.stateDirectory });
      await sidecar.until("the guard", hasGuard);
      const [guard = ""] = await sidecarSlots(standby);
      const kept = await cli(["release", "-c", config.file, guard]);
      expect(kept).toMatchObject({ code: 1, stdout: expect.stringContaining("it is the sidecar's own") });
      await sidecar.stop();
      expect(await cli(["release", "-c", config.file, guard])).toMatchObject({
        code: 0,
        stdout: expect.stringContaining(`released: ${guard}`),
      });
      expect(await sidecarSlots(standby)).toEqual([]);
      // also where the journal is gone with the sidecar's machine
      rmSync(path.join(config.stateDirectory, "journal.json"), { force: true });
      expect((await cli(["release", "-c", config.file, "--all-inactive"])).code).toBe(0);
    });

    test("a database that moves to another tablespace loses its slots on the standby: that is told, and they are protected again by themselves", async () => {
      const { primary, standby } = await startCluster({
        major,
        settings: { allow_in_place_tablespaces: "on" },
      });
      await primary.query("create database shop");
      await primary.query("create tablespace elsewhere location ''");
      const sidecar = await startSidecar(standby, { nap: QUICK });
      await sidecar.until("the guard", hasGuard);
      await createLogicalSlot(primary, "app", { database: "shop" });
      await sidecar.untilSlot("app", "synced");
      const seen = sidecar.history.length;
      await primary.query("alter database shop set tablespace elsewhere");
      await sidecar.until("the loss to be told", () =>
        sidecar.history.slice(seen).some(({ ready }) => !ready),
      );
      await sidecar.until("a new guard", hasGuard);
      await writeWal(primary, 1024);
      await confirm(primary, "app", null, "shop");
      await sidecar.until("new protection", ({ ready }) => ready);
    });

    test("what Patroni on the same node does with slots is told where the two are in each other's way", async () => {
      const { standby } = await startCluster({ major });
      const slots = { theirs: { type: "logical", database: "shop", plugin: "pgoutput" } };
      writeFileSync(path.join(standby.dataDir, "patroni.dynamic.json"), JSON.stringify({ slots }));
      const sidecar = await startSidecar(standby, { nap: QUICK });
      const { problems } = await untilProblem(sidecar, "patroni_permanent_slots");
      expect(problems.map(({ code }) => code)).toContain("patroni_drops_slots");
    });

    test("a leftover that holds more WAL in each look is told once in the log, and one that somebody keeps moving, as Patroni 4 does, no more", async () => {
      const { primary, standby } = await startCluster({ major });
      await standby.query("select pg_catalog.pg_create_physical_replication_slot('db3', true)");
      const sidecar = await startSidecar(standby, { nap: QUICK });
      await sidecar.until("the guard", hasGuard);
      await writeWal(primary, 64 * 1024);
      const first = await untilProblem(sidecar, "leftover_slots");
      const sizes = new Set<string>();
      const told = () =>
        sidecar.log.filter((line) => line.includes('"level":"info"') || line.includes('"level":30'));
      const lines = () => told().filter((line) => line.includes("hold WAL here")).length;
      const leftover = ({ problems }: typeof first) => problems.find(({ code }) => code === "leftover_slots");
      while (sizes.size < 4) {
        await writeWal(primary, 64 * 1024);
        const before = leftover(sidecar.status as typeof first)?.message;
        await sidecar.until("other figures", (status) => leftover(status)?.message !== before);
        sizes.add(leftover(sidecar.status as typeof first)?.message ?? "");
      }
      expect(lines()).toBe(1);
      await standby.query(
        "select pg_catalog.pg_replication_slot_advance('db3', pg_catalog.pg_last_wal_replay_lsn())",
      );
      await sidecar.until("it to be left over no more", (status) => leftover(status) === undefined);
      const since = sidecar.history.length;
      await writeWal(primary, 64 * 1024);
      await sidecar.until("a few looks", () => sidecar.history.length > since + 3);
      expect(sidecar.history.slice(since).filter((status) => leftover(status) !== undefined)).toEqual([]);
    });

    test("a former primary that has died is not called a primary: /ready cannot tell", async () => {
      const { primary, standby } = await startCluster({ major });
      await primary.query("select pg_catalog.pg_create_logical_replication_slot('app', 'test_decoding')");
      const config = writeConfig(standby, { http: { listen: "127.0.0.1:0" } });
      const running = startCli(["run", "-c", config.file]);
      const { http } = await running.logged(/^pg-slotsync /);
      await running.logged(/1 (guarded|synced|waiting)/);
      standby.promote();
      await running.logged(/^promotion finished/);
      await primary.kill();
      await standby.kill();
      await running.logged(/this node's server cannot be worked on/);
      const ready = await fetch(`http://${String(http)}/ready`);
      expect(ready.status).toBe(503);
      expect(await ready.text()).toMatch(/^cannot tell: this node's server cannot be worked on: /);
    });
  });
});
