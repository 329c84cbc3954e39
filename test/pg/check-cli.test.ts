/** `slotsync check` where nothing is chosen, and where something is accepted, as an HA manager's hook asks it. */
import { readFileSync } from "node:fs";
import path from "node:path";
import { beforeAll, describe, expect, test } from "vitest";
import { buildCli, type CliResult, cli, startCli, writeConfig } from "../support/cli.ts";
import { startCluster } from "../support/cluster-fixture.ts";
import { createLogicalSlot } from "../support/consumer.ts";
import { testedMajors } from "../support/majors.ts";
import { eventually } from "../support/wait.ts";

beforeAll(buildCli);

describe.each(testedMajors().slice(0, 1))("PostgreSQL %i", (major) => {
  test("rules that match nothing are not ready; a primary without any logical slot is let through on purpose only, dead or alive", async () => {
    const { primary, standby } = await startCluster({ major });
    const config = writeConfig(standby, { slots: { include: [{ name_like: "app%" }] } });
    const running = startCli(["run", "-c", config.file]);
    const check = (...args: string[]) => cli(["check", "-c", config.file, ...args]);
    const until = (code: number, says: RegExp, ...args: string[]): Promise<CliResult> =>
      eventually(
        async () => {
          const result = await check(...args);
          return result.code === code && says.test(result.stdout) ? result : null;
        },
        { what: `check ${args.join(" ")} to say ${says}`, timeoutMs: 45_000 },
      );
    const NONE =
      /^cannot tell: .*rule name_like "app%" matches no logical slot of the primary \(it has none\)/;
    await until(2, NONE);
    await until(0, /^ready: the primary has no logical slot .*\(--allow-empty\)/, "--allow-empty");

    await createLogicalSlot(primary, "billing");
    await until(2, /the primary has 1 logical slot\(s\) that nothing chooses/, "--allow-empty");
    await primary.query("select pg_catalog.pg_drop_replication_slot('billing')");
    // recorded by the sidecar, from whose journal a dead primary is judged
    const journal = path.join(config.stateDirectory, "journal.json");
    await eventually(() => readFileSync(journal, "utf8").includes('"undecided":0'), {
      what: "the sidecar to have seen that the slot is gone",
    });
    await primary.kill();
    await until(2, /^cannot tell: no slot is chosen/);
    await until(0, /--allow-empty/, "--allow-empty");
    running.kill("SIGTERM");
    await running.ended;
  });

  test("check --accept lets a failover through that loses a named thing, names it with its cost, and refuses names that there are not", async () => {
    const { primary, standby } = await startCluster({ major });
    await createLogicalSlot(primary, "app_old");
    await primary.query("select pg_catalog.pg_logical_emit_message(true, 'test', 'more')");
    const config = writeConfig(standby);
    const running = startCli(["run", "-c", config.file]);
    const check = (...args: string[]) => cli(["check", "-c", config.file, ...args]);
    await eventually(async () => (await check()).stdout.includes("(wal_or_rows_removed)"), {
      what: "the slot to be told as too old",
      timeoutMs: 45_000,
    });
    expect(await check("--accept", "wal_not_flushed")).toMatchObject({ code: 1 });
    expect(await check("--accept", "wal_not_flushed", "--accept", "wal_or_rows_removed")).toMatchObject({
      code: 0,
      stdout: expect.stringMatching(
        /^not safe, and accepted: "app_old" is waiting: .*\(accepted: wal_or_rows_removed; it may cost: the slot does not exist after the failover/,
      ),
    });
    const json = await check("--accept", "wal_or_rows_removed", "--json");
    expect(JSON.parse(json.stdout)).toMatchObject({ code: 0, accepted: [{ slot: "app_old" }] });
    expect(await check("--accept", "wal_or_row_removed")).toMatchObject({
      code: 2,
      stderr: expect.stringMatching(/did you mean wal_or_rows_removed\?/),
    });
    running.kill("SIGTERM");
    await running.ended;
  });
});
