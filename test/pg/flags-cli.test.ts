/** `slotsync flag`, `unflag` and `flags` as an operator types them: before 17 a table, from 17 on the server's own flag. */
import type pg from "pg";
import { beforeAll, expect, onTestFinished, test } from "vitest";
import { parseConnInfo } from "../../src/pg/conninfo.ts";
import { openSession } from "../../src/pg/session.ts";
import type { PgServer } from "../../src/sandbox/server.ts";
import { runCommands } from "../../src/sync/flags.ts";
import { buildCli, type CliConfig, cli, writeConfig } from "../support/cli.ts";
import { startCluster } from "../support/cluster-fixture.ts";
import { createLogicalSlot } from "../support/consumer.ts";
import { describeEach, usedOf } from "../support/majors.ts";
import { eventually } from "../support/wait.ts";

beforeAll(buildCli);

const FLAGS_ONLY = { slots: {} };

async function json(config: CliConfig, command: "flags" | "status") {
  const { code, stdout, stderr } = await cli([command, "-c", config.file, "--json"]);
  expect(code, stdout + stderr).toBe(0);
  return JSON.parse(stdout);
}

/** Flags `busy`, as if it had been taken after it was looked at; then lets it go. Nothing of it may come about then. */
async function neverLater(primary: PgServer, reader: pg.Client): Promise<void> {
  const openReplication = () =>
    openSession(parseConnInfo(primary.dsn()), {
      ...{ applicationName: "flagging", replication: true },
      ...{ statementTimeoutMs: 2_000, queryTimeoutMs: 2_500, connectTimeoutMs: 10_000 },
    });
  const commands = [{ name: "busy", text: 'ALTER_REPLICATION_SLOT "busy" (FAILOVER true);' }];
  const failures = await runCommands({ openReplication }, commands);
  expect([...failures]).toEqual([["busy", expect.stringContaining('changing the flag of slot "busy"')]]);
  const gone = (where: string) => async () =>
    (await primary.query(`select from pg_catalog.pg_stat_activity where ${where}`)).length === 0;
  await eventually(gone("application_name = 'flagging'"), { what: "the command to be given up" });
  const [holder] = await primary.query(
    "select active_pid from pg_catalog.pg_replication_slots where slot_name = 'busy'",
  );
  await reader.end();
  await eventually(gone(`pid = ${holder?.active_pid}`), { what: "the slot to be let go" });
}

async function tempSlot(server: PgServer, name: string): Promise<void> {
  const client = await server.connect();
  onTestFinished(() => client.end());
  await client.query("select pg_catalog.pg_create_logical_replication_slot($1, 'pgoutput', true)", [name]);
}

describeEach([13], usedOf([13]), (major) => {
  test("before 17: flag makes the registry and shows its SQL; status says what chose each slot; unflag takes it back", async () => {
    const { primary, standby } = await startCluster({ major });
    for (const name of ["app", "billing", "scratch"]) await createLogicalSlot(primary, name);
    await tempSlot(primary, "tmp");
    const config = writeConfig(standby, { slots: { include: [{ name: "billing" }] } });
    const run = (...args: string[]) => cli([...args, "-c", config.file]);

    expect(await run("flags")).toMatchObject({
      code: 0,
      stdout: expect.stringMatching(/^no slot is flagged on /),
    });
    const first = await run("flag", "app", "not_yet", "tmp", "standby1");
    expect(first.code, first.stdout + first.stderr).toBe(1);
    expect(first.stdout).toMatch(
      /^on .*postgres as postgres:\n {2}CREATE SCHEMA IF NOT EXISTS slotsync;\n[\s\S]* {2}INSERT INTO slotsync\.failover_slot \(name\) VALUES \('app'\), \('not_yet'\)[^\n]*\napp: flagged\nnot_yet: flagged; there is no such slot yet[^\n]*\ntmp: not done: it is a temporary slot[^\n]*\nstandby1: not done: it is a physical slot[^\n]*\n$/,
    );
    expect(await run("flag", "app")).toMatchObject({ code: 0, stdout: "app: was flagged already\n" });
    expect(await json(config, "flags")).toMatchObject({
      database: "postgres",
      registry: true,
      flags: [
        {
          name: "app",
          server: false,
          registry: true,
          slot: { plugin: "test_decoding", database: "postgres", active: false },
          flaggedBy: "postgres",
        },
        { name: "not_yet", slot: null },
      ],
    });
    expect((await run("flags")).stdout).toMatch(
      /^NAME +FLAG +SLOT +SINCE +BY\napp +registry +test_decoding in postgres +20\d\d-[^\n]* postgres\nnot_yet +registry +there is none/,
    );

    const status = await json(config, "status");
    expect(
      status.slots.map(({ name, chosenBy }: { name: string; chosenBy: string[] }) => [name, chosenBy]),
    ).toEqual([
      ["app", ["registry"]],
      ["billing", ['rule name "billing"']],
    ]);
    expect(status.notChosen).toEqual([
      {
        excluded: false,
        name: "scratch",
        database: "postgres",
        plugin: "test_decoding",
        why: "not flagged, no rule of slots.include matches",
      },
    ]);
    expect(status.problems.map(({ code }: { code: string }) => code)).toContain("flagged_slot_missing");
    expect((await run("status")).stdout).toMatch(
      /NOT CHOSEN +DATABASE +WHY\nscratch +postgres +not flagged, no rule/,
    );

    expect(await run("unflag", "app", "not_yet", "scratch")).toMatchObject({
      code: 0,
      stdout: expect.stringMatching(
        /DELETE FROM slotsync\.failover_slot WHERE name IN \('app', 'not_yet'\);\napp: unflagged\nnot_yet: unflagged\nscratch: was not flagged\n$/,
      ),
    });
    expect(await json(config, "flags")).toMatchObject({ registry: true, flags: [] });
    expect(await run("flag", "App")).toMatchObject({
      code: 2,
      stdout: "",
      stderr: expect.stringContaining('"App" is not the name of a slot'),
    });
  });

  test("before 17: what --print-sql prints is complete, and lets the sidecar's role read what another makes", async () => {
    const { primary, standby } = await startCluster({ major });
    await createLogicalSlot(primary, "app");
    await primary.query('CREATE ROLE "Side-car" LOGIN REPLICATION');
    const config = writeConfig(standby, {
      ...FLAGS_ONLY,
      primary: { dsn: primary.dsn("postgres", "Side-car") },
    });
    const run = (...args: string[]) => cli([...args, "-c", config.file]);
    expect(await run("check")).toMatchObject({
      code: 2,
      stdout: expect.stringContaining("slotsync flag NAME"),
    });

    expect(await run("flag", "app")).toMatchObject({
      code: 1,
      stderr: expect.stringMatching(
        /permission denied.*let a role that may run what --print-sql prints, in database "postgres"/,
      ),
    });
    const printed = await run("flag", "app", "--print-sql");
    expect(printed).toMatchObject({ code: 0, stderr: expect.stringContaining('in database "postgres"') });
    expect(await json(config, "flags")).toMatchObject({ registry: false, flags: [] });
    const hostile = await primary.connect();
    onTestFinished(() => hostile.end());
    // as psql in a session of whatever settings; and again, for it may be repeated
    await hostile.query(
      "CREATE SCHEMA mine; CREATE DOMAIN mine.text AS pg_catalog.int4; SET search_path = mine, public",
    );
    for (let time = 0; time < 2; time++) await hostile.query(printed.stdout);
    expect(await json(config, "flags")).toMatchObject({
      registry: true,
      flags: [{ name: "app", flaggedBy: "postgres" }],
    });

    expect(await run("flag", "other")).toMatchObject({
      code: 1,
      stderr: expect.stringContaining("--print-sql"),
    });
    await hostile.query((await run("unflag", "app", "--print-sql")).stdout);
    expect(await json(config, "flags")).toMatchObject({ flags: [] });

    await primary.query("CREATE ROLE other_one; ALTER TABLE slotsync.failover_slot OWNER TO other_one");
    await primary.query('GRANT ALL ON slotsync.failover_slot TO "Side-car"');
    expect(await run("flag", "app"), "a table whose triggers another one may write").toMatchObject({
      code: 1,
      stderr: expect.stringContaining('ALTER TABLE slotsync.failover_slot OWNER TO "Side-car"'),
    });
    await primary.query('REVOKE ALL ON SCHEMA slotsync FROM "Side-car"');
    expect(await run("flags")).toMatchObject({
      code: 1,
      stderr: expect.stringContaining('GRANT USAGE ON SCHEMA slotsync TO "Side-car"'),
    });
    await primary.query("DROP SCHEMA slotsync CASCADE; CREATE SCHEMA slotsync AUTHORIZATION other_one");
    await primary.query('GRANT ALL ON SCHEMA slotsync TO "Side-car"');
    for (const options of [[], ["--print-sql"]])
      expect(
        await run("flag", "app", ...options),
        "a schema in which another one may be first",
      ).toMatchObject({
        code: 1,
        stdout: "",
        stderr: expect.stringContaining("ALTER SCHEMA slotsync OWNER"),
      });
    await primary.query('DROP SCHEMA slotsync CASCADE; CREATE SCHEMA slotsync AUTHORIZATION "Side-car"');
    // as config/grants-11.sql has it: the role itself may then flag
    expect(await run("flag", "app")).toMatchObject({
      code: 0,
      stdout: expect.stringContaining("\napp: flagged\n"),
    });
  });
});

describeEach([17], usedOf([17]), (major) => {
  test("17 and later: flag and unflag set the server's own flag, and never wait for a slot in use", async () => {
    const { primary, standby } = await startCluster({ major });
    for (const name of ["app", "busy"]) await createLogicalSlot(primary, name);
    await tempSlot(primary, "tmp");
    const config = writeConfig(standby, FLAGS_ONLY);
    const run = (...args: string[]) => cli([...args, "-c", config.file]);
    const flagged = async () =>
      (
        await primary.query(
          "select slot_name::text as name from pg_catalog.pg_replication_slots where failover order by 1",
        )
      ).map(({ name }) => name);

    const reader = await primary.connect("postgres", "postgres", { replication: "database" } as object);
    onTestFinished(() => reader.end());
    const reading = reader.query(`START_REPLICATION SLOT "busy" LOGICAL 0/0`);
    reading.catch(() => {});
    await primary.query(
      "do $$ begin while not exists (select from pg_replication_slots where slot_name = 'busy' and active) loop perform pg_sleep(0.01); end loop; end $$",
    );
    expect(await run("flag", "app", "--print-sql")).toMatchObject({
      code: 0,
      stdout: 'ALTER_REPLICATION_SLOT "app" (FAILOVER true);\n',
      stderr: expect.stringContaining("replication=database"),
    });
    expect(await flagged()).toEqual([]);
    const first = await run("flag", "app", "busy", "nosuch", "tmp", "standby1");
    expect(first).toMatchObject({ code: 1, stderr: "" });
    expect(first.stdout).toMatch(
      /^on .*:\n {2}ALTER_REPLICATION_SLOT "app" \(FAILOVER true\);\napp: flagged\nbusy: not done: it is in use by server process \d+, [^\n]*ALTER SUBSCRIPTION[^\n]*\nnosuch: not done: there is no such slot[^\n]*\ntmp: not done: it is a temporary[^\n]*\nstandby1: not done: it is a physical[^\n]*\n$/,
    );
    expect(await flagged()).toEqual(["app"]);
    await neverLater(primary, reader);
    expect(await flagged()).toEqual(["app"]);
    expect(await run("flag", "app")).toMatchObject({ code: 0, stdout: "app: was flagged already\n" });
    expect(await json(config, "flags")).toMatchObject({
      registry: false,
      flags: [{ name: "app", server: true, registry: false, slot: { plugin: "test_decoding" } }],
    });
    const status = await json(config, "status");
    expect(status.slots).toMatchObject([{ name: "app", chosenBy: ["flag"] }]);
    expect(status.notChosen).toMatchObject([{ name: "busy", why: "not flagged, slots.include is empty" }]);
    expect(await run("unflag", "app")).toMatchObject({
      code: 0,
      stdout: expect.stringContaining("\napp: unflagged\n"),
    });
    expect(await flagged()).toEqual([]);
    expect(
      (await primary.query("select from pg_catalog.pg_namespace where nspname = 'slotsync'")).length,
    ).toBe(0);
  });
});
