/** Output plugins that could be loaded once and cannot any more: by a file that goes, or by a setting. */
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, rmSync, symlinkSync } from "node:fs";
import path from "node:path";
import { expect, test } from "vitest";
import { installationVariable } from "../../src/sandbox/binaries.ts";
import type { PgServer } from "../../src/sandbox/server.ts";
import { buildCli, cli, writeConfig } from "../support/cli.ts";
import { startCluster, type TestCluster } from "../support/cluster-fixture.ts";
import { createLogicalSlot } from "../support/consumer.ts";
import { slotIn } from "../support/file-way.ts";
import { describeEach, usedOf } from "../support/majors.ts";
import { startSidecar, type TestSidecar } from "../support/sidecar.ts";
import { confirm } from "../support/slots.ts";
import {
  failOver,
  hasGuard,
  keptStreams,
  promisedStreams,
  untilReason,
  untilStaged,
} from "../support/steps.ts";
import { eventually } from "../support/wait.ts";
import { logRunningTransactions } from "../support/wal.ts";

describeEach([15, 16], usedOf([15, 16]), (major) => {
  test("a plugin whose library is taken away makes its slots not ready, however often it loaded before; brought back, it counts again (I18, K6)", async () => {
    const cluster = await startCluster({ major });
    const { standby } = cluster;
    const library = ownLibraries(cluster);
    standby.configure({ dynamic_library_path: path.dirname(library) });
    const { sidecar } = await readySlots(cluster);
    const target = path.join(librariesOf(standby), path.basename(library));
    rmSync(library);
    await untilReason(sidecar, "decoded", "plugin_missing");
    expect(slotIn(await sidecar.until("the other", () => true), "plain")?.reason).toBeNull();
    symlinkSync(target, library);
    await sidecar.until("all to be ready again", ({ ready }) => ready);
  });
});

/** The majors of which a server with the setting can be had here. */
const SIBLINGS = [15, 16, 17, 18];
const WITH_SETTING = SIBLINGS.filter(hasSetting);
const WHERE = `with output_plugin_libraries (15.19 and its siblings; ${SIBLINGS.map(installationVariable).join(", ")} name such servers)`;
describeEach(SIBLINGS, usedOf(WITH_SETTING), (major) => {
  test(`${WHERE}: what the standby lets nobody load is not ready, and after a promotion the report says so (I18, K6)`, async () => {
    const cluster = await startCluster({ major });
    const { standby } = cluster;
    const { sidecar, config } = await readySlots(cluster);
    const check = async () => {
      const { code, stdout } = await cli(["check", "-c", config]);
      return `${code} ${stdout}`;
    };
    await expect(check()).resolves.toMatch(/^0 ready/);

    allow(standby, "pgoutput, wal2json");
    await untilReason(sidecar, "decoded", "plugin_refused");
    expect(slotIn(await sidecar.until("the other", () => true), "plain")?.reason).toBeNull();
    await expect(check()).resolves.toMatch(/^1 .*output_plugin_libraries.*does not list "test_decoding"/);

    allow(standby, "test_decoding");
    await untilReason(sidecar, "plain", "plugin_refused");
    await sidecar.until("the other to be ready", (status) => slotIn(status, "decoded")?.reason === null);

    allow(standby, "test_decoding, pgoutput");
    await sidecar.until("all to be ready again", ({ ready }) => ready);
    const promised = await promisedStreams(cluster, "decoded");
    allow(standby, "test_decoding");
    await untilReason(sidecar, "plain", "plugin_refused");
    const { finish } = await failOver(cluster, sidecar);
    expect(finish?.slots.find(({ name }) => name === "plain")?.detail).toContain("output_plugin_libraries");
    expect(finish?.slots.find(({ name }) => name === "decoded")).toMatchObject({
      outcome: "kept",
      detail: null,
    });
    expect(await keptStreams(standby, ["decoded"])).toEqual(promised);
  });

  test(`${WHERE}: where pgoutput may not be loaded, guards that are there go on making slots with other plugins (I18)`, async () => {
    const cluster = await startCluster({ major });
    const { primary, standby } = cluster;
    const { sidecar } = await readySlots(cluster);
    allow(standby, "test_decoding");
    await untilReason(sidecar, "plain", "plugin_refused");
    await createLogicalSlot(primary, "late");
    await primary.query("insert into t values (1)");
    // a guard counts once it has come past its own beginnings, and it waits for the slots
    await eventually(
      async () => {
        await logRunningTransactions(primary);
        for (const name of ["decoded", "plain", "late"]) await confirm(primary, name);
        return ["guarded", "synced"].includes(
          slotIn(await sidecar.until("it", () => true), "late")?.protection ?? "",
        );
      },
      { what: "the late one to be ready", timeoutMs: 60_000, intervalMs: 500 },
    );
    await primary.query("insert into t values (2)");
    const promised = await promisedStreams(cluster, "late");
    const { finish } = await failOver(cluster, sidecar);
    expect(finish?.slots.find(({ name }) => name === "late")?.detail ?? null).toBeNull();
    expect(await keptStreams(standby, ["late"])).toEqual(promised);
  });
});

/** A slot of each plugin, ready on the standby; and the sidecar's settings for the command. */
async function readySlots(cluster: TestCluster): Promise<{ sidecar: TestSidecar; config: string }> {
  const { major, primary, standby } = cluster;
  await buildCli();
  await primary.query("create table t (id int)");
  const { file: config, stateDirectory } = writeConfig(standby);
  if (major < 16) {
    await createLogicalSlot(primary, "decoded");
    await createLogicalSlot(primary, "plain", { plugin: "pgoutput" });
  }
  const sidecar = await startSidecar(standby, { stateDirectory, nap: { minMs: 50, maxMs: 200 } });
  if (major < 16) {
    await untilStaged(sidecar, "decoded", "plain");
    await standby.restart();
  } else {
    await sidecar.until("the guard", hasGuard);
    await createLogicalSlot(primary, "decoded");
    await createLogicalSlot(primary, "plain", { plugin: "pgoutput" });
  }
  await primary.query("insert into t values (0)");
  await sidecar.until("all to be ready", ({ ready, slots }) => ready && slots.length === 2);
  return { sidecar, config };
}

function librariesOf({ binaries }: PgServer): string {
  const found = ["lib/postgresql", "lib"].map((name) => path.join(binaries.binDir, "..", name));
  return found.find((folder) => existsSync(path.join(folder, "pgoutput.so"))) ?? "";
}

/** A folder of links to the server's libraries; returns the one to test_decoding. */
function ownLibraries({ workspace, standby }: TestCluster): string {
  const folder = path.join(workspace.dir, "libraries");
  mkdirSync(folder);
  for (const name of readdirSync(librariesOf(standby)).filter((each) => each.endsWith(".so")))
    symlinkSync(path.join(librariesOf(standby), name), path.join(folder, name));
  return path.join(folder, "test_decoding.so");
}

function allow(server: PgServer, plugins: string): void {
  server.configure({ output_plugin_libraries: plugins });
}

/** Whether a server of that major was named here that has the setting. */
function hasSetting(major: number): boolean {
  const folder = process.env[installationVariable(major)];
  if (!folder) return false;
  const settings = execFileSync(path.join(folder, "postgres"), ["--describe-config"], { encoding: "utf8" });
  return settings.split("\n").some((line) => line.startsWith("output_plugin_libraries"));
}
