/** The poll of the primary against registries of every kind, sound and hostile ones, as a role that is no superuser (I12, I13). */
import { afterAll, afterEach, beforeAll, expect, onTestFinished, test } from "vitest";
import { MOST_FLAGS } from "../../src/domain/registry.ts";
import { observePrimary } from "../../src/observe/primary.ts";
import { parseConnInfo } from "../../src/pg/conninfo.ts";
import { openSession, type PgSession } from "../../src/pg/session.ts";
import type { PgServer } from "../../src/sandbox/server.ts";
import { startCluster, type TestCluster } from "../support/cluster-fixture.ts";
import { createLogicalSlot } from "../support/consumer.ts";
import { describeEach, usedOf } from "../support/majors.ts";

/** The oldest, and one with flags of its own. */
const MAJORS = [11, 17];

const TABLE = `
  CREATE SCHEMA slotsync;
  CREATE TABLE slotsync.failover_slot (name text PRIMARY KEY, flagged_at timestamptz NOT NULL DEFAULT now());
  GRANT USAGE ON SCHEMA slotsync TO "Side car"; GRANT SELECT ON slotsync.failover_slot TO "Side car";
  INSERT INTO slotsync.failover_slot VALUES ('app')`;

describeEach(MAJORS, usedOf(MAJORS), (major) => {
  let cluster: TestCluster;
  let primary: PgServer;
  beforeAll(async () => {
    cluster = await startCluster({ major, standbys: 0, lifetime: "manual" });
    primary = cluster.primary;
    await primary.query(`
      CREATE ROLE "Side car" LOGIN REPLICATION; GRANT pg_monitor TO "Side car"; CREATE ROLE other_one;
      CREATE TABLE public.caught (by text); GRANT INSERT ON public.caught TO PUBLIC;
      CREATE FUNCTION public.evil(text) RETURNS text LANGUAGE sql VOLATILE AS
        $$ INSERT INTO public.caught VALUES (current_user); SELECT $1 $$;
      CREATE FUNCTION public.quiet() RETURNS text LANGUAGE plpgsql IMMUTABLE AS
        $$ BEGIN IF current_user = 'Side car' THEN PERFORM public.evil('app'); END IF; RETURN ''; END $$`);
    await createLogicalSlot(primary, "app");
  });
  afterAll(() => cluster.dispose());
  afterEach(async () => {
    await primary.query("DROP SCHEMA IF EXISTS slotsync CASCADE");
    await primary.query("TRUNCATE public.caught");
  });

  async function connect(): Promise<PgSession> {
    const times = { statementTimeoutMs: 10_000, queryTimeoutMs: 15_000, connectTimeoutMs: 10_000 };
    const conn = parseConnInfo(primary.dsn("postgres", "Side car"));
    const session = await openSession(conn, { applicationName: "slotsync-test", ...times });
    onTestFinished(() => session.close());
    return session;
  }

  /** What a poll sees; all else of it must be there whatever the registry is like. */
  async function look(session: PgSession) {
    const { registry, slots } = await observePrimary(session, "");
    expect(slots.map(({ name }) => name)).toEqual(["app"]);
    expect(await primary.query("SELECT by FROM public.caught"), "code of others ran as our role").toEqual([]);
    return registry;
  }
  const read = (...names: string[]) => ({ kind: "read", names: new Set(names) });
  const unreadable = (why: string) => ({ kind: "unreadable", why: expect.stringContaining(why) });

  test("it is seen to come, change and go, in one round trip of the poll (I12)", async () => {
    const session = await connect();
    expect(await look(session)).toEqual({ kind: "absent", database: "postgres" });
    await primary.query(TABLE);
    expect(await look(session)).toEqual(read("app"));
    await primary.query("INSERT INTO slotsync.failover_slot VALUES ('billing'), ('Not A Slot')");
    expect(await look(session)).toEqual(read("app", "billing"));
    await primary.query("DROP SCHEMA slotsync CASCADE");
    expect(await look(session)).toEqual({ kind: "absent", database: "postgres" });
    await primary.query(TABLE);
    expect(await look(session)).toEqual(read("app"));
  });

  test("a registry that the role may not read fails no poll, and says what to grant (I9)", async () => {
    const session = await connect();
    await primary.query(TABLE);
    await primary.query('REVOKE USAGE ON SCHEMA slotsync FROM "Side car"');
    expect(await look(session)).toEqual(
      unreadable('GRANT USAGE ON SCHEMA slotsync TO "Side car"; GRANT SELECT'),
    );
    await primary.query('GRANT USAGE ON SCHEMA slotsync TO "Side car"');
    expect(await look(session)).toEqual(read("app"));
    await primary.query('REVOKE SELECT ON slotsync.failover_slot FROM "Side car"');
    expect(await look(session)).toEqual(unreadable("GRANT SELECT ON slotsync.failover_slot"));
    expect(await look(session)).toEqual(unreadable("GRANT SELECT ON slotsync.failover_slot"));
    await primary.query('GRANT SELECT (name) ON slotsync.failover_slot TO "Side car"');
    expect(await look(session)).toEqual(read("app"));
  });

  test("one that is locked is not waited for", async () => {
    const session = await connect();
    await primary.query(TABLE);
    expect(await look(session)).toEqual(read("app"));
    const holder = await primary.connect();
    onTestFinished(() => holder.end());
    await holder.query("BEGIN; LOCK TABLE slotsync.failover_slot IN ACCESS EXCLUSIVE MODE");
    expect(await look(session)).toEqual(unreadable("55P03"));
    await holder.query("ROLLBACK");
    expect(await look(session)).toEqual(read("app"));
  });

  const GRANT =
    'GRANT USAGE ON SCHEMA slotsync TO "Side car"; GRANT SELECT ON slotsync.failover_slot TO "Side car"';
  const VIEW = `CREATE SCHEMA IF NOT EXISTS slotsync;
    CREATE VIEW slotsync.failover_slot AS SELECT public.evil('app') AS name; ${GRANT}`;
  const CAST_TYPE = `CREATE SCHEMA slotsync; CREATE TYPE slotsync.word AS ENUM ('app');
    CREATE FUNCTION slotsync.word_text(slotsync.word) RETURNS text LANGUAGE sql AS $$ SELECT public.evil('app') $$;
    CREATE CAST (slotsync.word AS text) WITH FUNCTION slotsync.word_text(slotsync.word) AS IMPLICIT;
    CREATE TABLE slotsync.failover_slot (name slotsync.word);
    INSERT INTO slotsync.failover_slot VALUES ('app'); ${GRANT}`;
  const POLICY = `ALTER TABLE slotsync.failover_slot ENABLE ROW LEVEL SECURITY;
    CREATE POLICY p ON slotsync.failover_slot USING (public.evil(name) IS NOT NULL)`;

  test.each([
    ["a view", VIEW],
    ["a table with a policy", `${TABLE}; ${POLICY}`],
    ["a column of another's type", CAST_TYPE],
    [
      "a table without the column",
      `CREATE SCHEMA slotsync; CREATE TABLE slotsync.failover_slot (slot text); ${GRANT}`,
    ],
  ])("%s in its place is not read, and runs nothing under our role (I13)", async (_, sql) => {
    const session = await connect();
    await primary.query(sql);
    expect(await look(session)).toEqual(unreadable("is not the table that slotsync flag makes"));
  });

  test.each([
    ["a view", `DROP SCHEMA slotsync CASCADE; ${VIEW}`],
    ["a policy", POLICY],
    ["a column of another's type", `DROP SCHEMA slotsync CASCADE; ${CAST_TYPE}`],
  ])("%s that takes its place between two polls runs nothing under our role (I13)", async (_, sql) => {
    const session = await connect();
    await primary.query(TABLE);
    expect(await look(session)).toEqual(read("app"));
    await primary.query(sql);
    const seen = await look(session);
    // a type of another's is shown as it is, without its cast; from then on it is known for what it is
    if (seen.kind !== "read") expect(seen).toEqual(unreadable("is not the table that slotsync flag makes"));
  });

  const OTHERS = `${TABLE}; ALTER TABLE slotsync.failover_slot OWNER TO other_one`;
  const INDEX = "CREATE INDEX ON slotsync.failover_slot ((name || public.quiet()))";
  const PARTIAL = "CREATE INDEX ON slotsync.failover_slot (name) WHERE public.quiet() = ''";
  test.each([
    ["an index over a function", INDEX],
    ["an index with a function in its condition", PARTIAL],
  ])(
    "%s of another's, which the server would run to plan the read, runs nothing under our role (I13)",
    async (_, sql) => {
      const session = await connect();
      await primary.query(`${OTHERS}; ${sql}`);
      expect(await look(session)).toEqual(unreadable("ALTER TABLE slotsync.failover_slot OWNER TO"));
      await primary.query("DROP SCHEMA slotsync CASCADE");
      await primary.query(TABLE);
      expect(await look(session)).toEqual(read("app"));
      // in its place between two polls
      await primary.query("DROP SCHEMA slotsync CASCADE");
      await primary.query(`${OTHERS}; ${sql}`);
      expect(await look(session)).toEqual(unreadable("ALTER TABLE slotsync.failover_slot OWNER TO"));
    },
  );

  test("whose table it is and whose schema: members of our role are trusted as it is itself (I13)", async () => {
    const session = await connect();
    await primary.query(TABLE);
    await primary.query("ALTER SCHEMA slotsync OWNER TO other_one");
    expect(await look(session)).toEqual(unreadable("ALTER SCHEMA slotsync OWNER TO"));
    await primary.query('GRANT "Side car" TO other_one');
    expect(await look(session)).toEqual(read("app"));
    await primary.query('REVOKE "Side car" FROM other_one; ALTER SCHEMA slotsync OWNER TO "Side car"');
    expect(await look(session)).toEqual(read("app"));
  });

  test("what others may hang on it or fill it with stays out: children, floods, names without end (I13)", async () => {
    const session = await connect();
    await primary.query(TABLE);
    await primary.query(`
      CREATE TABLE slotsync.child () INHERITS (slotsync.failover_slot);
      INSERT INTO slotsync.child VALUES ('from_a_child');
      ALTER TABLE slotsync.failover_slot DROP CONSTRAINT failover_slot_pkey;
      INSERT INTO slotsync.failover_slot VALUES (repeat('x', 50000000)), (md5(random()::text) || repeat(md5('y'), 90))`);
    expect(await look(session)).toEqual(read("app"));
    await primary.query(
      `INSERT INTO slotsync.failover_slot SELECT 's' || i FROM generate_series(1, ${MOST_FLAGS}) AS i`,
    );
    expect(await look(session)).toEqual(unreadable("more than"));
  });
});
