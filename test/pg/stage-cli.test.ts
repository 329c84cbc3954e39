/** `slotsync stage`, `unstage` and `seed` as an operator runs them, on servers of the file way. */
import { existsSync, readdirSync } from "node:fs";
import path from "node:path";
import { beforeAll, describe, expect, test } from "vitest";
import { backupInto } from "../../src/sandbox/backup.ts";
import { ensurePhysicalSlot, newServer, waitStreaming } from "../../src/sandbox/cluster.ts";
import type { PgServer } from "../../src/sandbox/server.ts";
import { buildCli, cli, startCli, writeConfig } from "../support/cli.ts";
import { startCluster } from "../support/cluster-fixture.ts";
import { createLogicalSlot } from "../support/consumer.ts";
import { peek, slotsOf } from "../support/slots.ts";
import { eventually } from "../support/wait.ts";
import { waitForReplay } from "../support/wal.ts";

beforeAll(buildCli);

function foldersOf(server: PgServer): string[] {
  return readdirSync(path.join(server.dataDir, "pg_replslot")).toSorted();
}

async function untilReady(config: { file: string }): Promise<void> {
  await eventually(async () => (await cli(["check", "-c", config.file])).code === 0, {
    what: "check to say that the standby is ready",
    timeoutMs: 30_000,
  });
}

describe("beside a running standby (15)", () => {
  test("stage says what it would do and does it, unstage takes it back, and a start loads what is staged (I11)", async () => {
    const { primary, standby } = await startCluster({ major: 15 });
    for (const name of ["app", "other"]) await createLogicalSlot(primary, name);
    const config = writeConfig(standby);
    const before = foldersOf(standby);

    const dry = await cli(["stage", "-c", config.file, "--dry-run"]);
    expect(dry).toMatchObject({ code: 0, stdout: expect.stringContaining('would stage slot "app"') });
    expect(foldersOf(standby)).toEqual(before);

    const staged = await cli(["stage", "-c", config.file, "--json"]);
    expect(staged.code, staged.stderr).toBe(0);
    expect(JSON.parse(staged.stdout)).toMatchObject({
      notStaged: [],
      staged: expect.arrayContaining(["app", "other"]),
    });
    expect(foldersOf(standby)).toHaveLength(before.length + 4);
    // idempotent
    expect(await cli(["stage", "-c", config.file])).toMatchObject({
      code: 0,
      stdout: expect.stringMatching(/^staged for the next start: .*app, other/),
    });
    expect((await slotsOf(primary)).size, "nothing is left on the primary").toBe(2);

    expect(await cli(["unstage", "-c", config.file])).toMatchObject({
      code: 0,
      stdout: expect.stringMatching(/^taken back: .*app, other/),
    });
    expect(foldersOf(standby)).toEqual(before);
    expect(await cli(["unstage", "-c", config.file])).toMatchObject({
      code: 0,
      stdout: "nothing was staged\n",
    });

    expect(await cli(["stage", "-c", config.file])).toMatchObject({ code: 0 });
    await standby.restart();
    const running = startCli(["run", "-c", config.file]);
    await untilReady(config);
    expect([...(await slotsOf(standby)).keys()]).toEqual(expect.arrayContaining(["app", "other"]));

    // beside a running sidecar
    await createLogicalSlot(primary, "late");
    const waited = await cli(["stage", "-c", config.file]);
    expect(waited.code, waited.stdout).toBe(0);
    expect(await cli(["unstage", "-c", config.file])).toMatchObject({
      code: 1,
      stderr: expect.stringMatching(/stop it first/),
    });
    running.kill("SIGTERM");
    await running.ended;
  });
});

describe("with the standby stopped (12)", () => {
  test("stage works on its data directory alone, and refuses one that would start as a primary", async () => {
    const { primary, standby } = await startCluster({ major: 12 });
    await createLogicalSlot(primary, "app");
    const config = writeConfig(standby);
    await standby.stop();
    const staged = await cli(["stage", "-c", config.file]);
    expect(staged, staged.stderr).toMatchObject({
      code: 0,
      stdout: expect.stringMatching(/^staged for the next start: app, /),
    });
    await standby.start();
    const running = startCli(["run", "-c", config.file]);
    await untilReady(config);
    running.kill("SIGTERM");
    await running.ended;

    await primary.stop();
    const wrong = writeConfig(primary, { primary: { dsn: standby.dsn() } });
    expect(await cli(["stage", "-c", wrong.file])).toMatchObject({ code: 1 });
  });
});

describe("where the role may not read slot files (13)", () => {
  test("stage and seed name each slot with the exact GRANT, and end with 1; so do their dry runs", async () => {
    const { primary, standby } = await startCluster({ major: 13 });
    await primary.query('CREATE ROLE "side car" LOGIN REPLICATION; GRANT pg_monitor TO "side car"');
    for (const name of ["app", "other"]) await createLogicalSlot(primary, name);
    await waitForReplay(primary, standby);
    const config = writeConfig(standby, {
      standby: { dsn: standby.dsn("postgres", "side car"), data_directory: standby.dataDir },
      primary: { dsn: primary.dsn("postgres", "side car") },
    });
    const before = foldersOf(standby);
    const GRANT = `GRANT EXECUTE ON FUNCTION pg_read_binary_file(text, bigint, bigint, boolean) TO "side car"`;
    async function refused(...args: string[]): Promise<void> {
      const { code, stdout, stderr } = await cli([...args, "-c", config.file]);
      const told = `${args.join(" ")}\n${stdout}${stderr}`;
      expect(code, told).toBe(1);
      for (const name of ["app", "other"])
        expect(told).toMatch(new RegExp(`^not staged: ${name}: permission_denied: .*GRANT EXECUTE`, "m"));
      expect(told).toContain(`${GRANT}; there, in database "postgres"`);
      expect(told).not.toMatch(/nothing/);
      expect(foldersOf(standby)).toEqual(before);
    }
    await refused("stage", "--dry-run");
    await refused("stage");
    await standby.stop();
    for (const command of ["stage", "seed"]) {
      await refused(command, "--dry-run");
      await refused(command);
    }
    const json = await cli(["seed", "-c", config.file, "--json"]);
    expect(JSON.parse(json.stdout)).toMatchObject({
      staged: [],
      failures: expect.arrayContaining([{ slot: "app", why: expect.stringContaining(GRANT) }]),
    });

    await primary.query(GRANT);
    const staged = await cli(["stage", "-c", config.file]);
    expect(staged, staged.stdout).toMatchObject({
      code: 0,
      stdout: expect.stringMatching(/^staged .* app, other/),
    });
  });

  test("a dry run that cannot look at the primary says so, and not that there is nothing to do", async () => {
    const { primary, standby } = await startCluster({ major: 13 });
    const config = writeConfig(standby);
    await primary.kill();
    for (const command of ["stage", "sync"]) {
      const { code, stdout, stderr } = await cli([command, "--dry-run", "-c", config.file]);
      expect([code, `${stdout}${stderr}`]).toEqual([2, expect.stringMatching(/cannot tell/)]);
      expect(stdout).not.toMatch(/nothing (to do|is staged)/);
    }
  });
});

describe.each([11, 13])("a base backup that has never been started (%i)", (major) => {
  test("seeded, the standby has the slots from its first start on, and loses nothing by a failover (I2, I3, I4)", async () => {
    const { primary, workspace } = await startCluster({ major, standbys: 0 });
    await createLogicalSlot(primary, "app");
    await primary.query("create table written (id bigint primary key)");
    const standby = await newServer({ major, workspace, fsync: false, name: "seeded" });
    await ensurePhysicalSlot(primary, "seeded");
    await backupInto(primary, standby);
    standby.follow({ host: primary.host, port: primary.port, slotName: "seeded", applicationName: "seeded" });
    const config = writeConfig(standby);
    const dry = await cli(["seed", "-c", config.file, "--dry-run"]);
    expect(dry, dry.stderr).toMatchObject({
      code: 0,
      stdout: expect.stringContaining('would stage slot "app"'),
    });
    expect(existsSync(path.join(standby.dataDir, "pg_replslot", "app"))).toBe(false);
    const seeded = await cli(["seed", "-c", config.file]);
    expect(seeded, seeded.stderr).toMatchObject({ code: 0 });
    await standby.start();
    await waitStreaming(primary, "seeded");
    const running = startCli(["run", "-c", config.file]);
    await primary.query("insert into written select generate_series(1, 10)");
    await untilReady(config);
    await primary.kill();
    standby.promote();
    await running.logged(/promotion finished/);
    const changes = await peek(standby, "app");
    expect(changes.filter(({ data }) => data.includes("INSERT"))).toHaveLength(10);
    running.kill("SIGTERM");
    await running.ended;
  });
});
