/** What an HA manager does to a standby's files and settings while there is no leader, and when it builds the standby anew. */
import { execFileSync } from "node:child_process";
import { renameSync, rmSync, writeFileSync } from "node:fs";
import path from "node:path";
import { beforeAll, expect, test } from "vitest";
import type { PgServer } from "../../src/sandbox/server.ts";
import { buildCli, cli, writeConfig } from "../support/cli.ts";
import { startCluster } from "../support/cluster-fixture.ts";
import { createLogicalSlot } from "../support/consumer.ts";
import { onMajor, QUICK } from "../support/file-way.ts";
import { startSidecar } from "../support/sidecar.ts";
import { hasGuard, untilFinished, untilProblem, untilStaged } from "../support/steps.ts";
import { eventually } from "../support/wait.ts";

beforeAll(buildCli);

/** As Patroni does it: over the settings that there are, by a reload; the signal file is written again. */
async function setUpstream(standby: PgServer, conninfo: string | null, slot: string | null): Promise<void> {
  const to = (value: string | null) => (value === null ? "default" : `'${value}'`);
  const set = async (name: string, value: string | null) =>
    standby.query(value === null ? `alter system reset ${name}` : `alter system set ${name} = ${to(value)}`);
  await set("primary_conninfo", conninfo);
  await set("primary_slot_name", slot);
  writeFileSync(path.join(standby.dataDir, "standby.signal"), "");
  standby.reload();
}

onMajor(
  15,
  (major) => {
    test("while there is no leader, and its settings are cleared and standby.signal is written again, check goes on answering from the journal; a promotion is finished (K7, I17)", async () => {
      const { primary, standby } = await startCluster({ major });
      await createLogicalSlot(primary, "app");
      const config = writeConfig(standby);
      const sidecar = await startSidecar(standby, { nap: QUICK, stateDirectory: config.stateDirectory });
      if (major < 16) {
        await untilStaged(sidecar, "app");
        await standby.restart();
      } else await sidecar.until("the guard", hasGuard);
      await primary.query("select pg_catalog.pg_logical_emit_message(true, 'test', 'something')");
      await primary.query(
        "select pg_catalog.pg_replication_slot_advance('app', pg_catalog.pg_current_wal_lsn())",
      );
      await sidecar.until("it to be ready", ({ ready }) => ready);

      await primary.kill();
      await sidecar.until("the loss to be seen", ({ primaryLostAt }) => primaryLostAt !== null);
      await setUpstream(standby, "", "");
      const told = await untilProblem(sidecar, "primary_slot_name_unset");
      expect(told).toMatchObject({ role: "standby", ready: true, source: "journal" });
      const check = await cli(["check", "-c", config.file]);
      expect(check).toMatchObject({ code: 0, stdout: expect.stringMatching(/^ready: .*as last seen at/) });
      await standby.restart();
      const back = sidecar.history.length;
      await sidecar.until("it to be looked at again", ({ source }) => source === "journal");
      await eventually(() => sidecar.history.length > back + 2, { what: "a few more looks" });
      expect(await cli(["check", "-c", config.file])).toMatchObject({ code: 0 });
      expect(sidecar.history.map(({ role }) => role)).not.toContain("promoting");

      standby.promote();
      const { finish } = await untilFinished(sidecar);
      expect(finish).toMatchObject({
        complete: true,
        slots: [{ name: "app", outcome: expect.stringMatching(/kept|advanced|materialised/) }],
      });
    });

    test("signs of promotion are seen also in a data directory that was put in the place of the old one (K7, I8)", async () => {
      const { primary, standby } = await startCluster({ major });
      await createLogicalSlot(primary, "app");
      const sidecar = await startSidecar(standby, { nap: QUICK });
      await sidecar.until("a first look", ({ source }) => source === "live");
      await standby.stop();
      await sidecar.until("the loss to be seen", ({ problems }) =>
        problems.some(({ code }) => code === "standby_unreachable"),
      );
      renameSync(standby.dataDir, `${standby.dataDir}.old`);
      // with its owner, under which the server runs
      execFileSync("cp", ["-a", `${standby.dataDir}.old`, standby.dataDir]);
      rmSync(`${standby.dataDir}.old`, { recursive: true });
      await standby.start();
      await sidecar.until("it to be back", ({ problems }) =>
        problems.every(({ code }) => code !== "standby_unreachable"),
      );
      // no server looks at it without a signal: nobody but the watch can have seen it
      writeFileSync(path.join(standby.dataDir, "promote"), "");
      await sidecar.until("the sign", ({ role }) => role === "promoting");
      rmSync(path.join(standby.dataDir, "promote"));
    });
  },
  13,
);
