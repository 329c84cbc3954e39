// The promises of src/pg/session.ts, on real servers: nothing a server, a role or a network does reaches the caller
// as anything but an answer or an error in good time.
import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from "vitest";
import { type ConnInfo, parseConnInfo } from "../../src/pg/conninfo.ts";
import { ConnectError, describeError, isPgError, SessionLostError, SQLSTATE } from "../../src/pg/errors.ts";
import { openSession, type PgSession, type SessionOptions } from "../../src/pg/session.ts";
import { giveTo } from "../../src/sandbox/account.ts";
import type { PgServer } from "../../src/sandbox/server.ts";
import {
  CA_CERTIFICATE,
  CLIENT_CERTIFICATE,
  CLIENT_KEY,
  OTHER_CA_CERTIFICATE,
  SERVER_CERTIFICATE,
  SERVER_KEY,
} from "../support/certificates.ts";
import { startCluster, type TestCluster } from "../support/cluster-fixture.ts";
import { testedMajors } from "../support/majors.ts";
import { startProxy } from "../support/proxy.ts";
import { eventually } from "../support/wait.ts";

const TIMES = { statementTimeoutMs: 5_000, queryTimeoutMs: 8_000, connectTimeoutMs: 5_000 };

const rejection = (promise: Promise<unknown>): Promise<unknown> =>
  promise.then(
    () => expect.fail("expected a rejection"),
    (error: unknown) => error,
  );

async function open(conn: ConnInfo, options: Partial<SessionOptions> = {}): Promise<PgSession> {
  const session = await openSession(conn, { applicationName: "slotsync-test", ...TIMES, ...options });
  onTestFinished(() => session.close());
  return session;
}

async function proxyTo(server: PgServer) {
  const proxy = await startProxy({ targetPort: server.port });
  onTestFinished(() => proxy.close());
  const conn = parseConnInfo(`host=${proxy.host} port=${proxy.port} user=postgres dbname=postgres`);
  return { proxy, conn };
}

describe.each(testedMajors())("a session with PostgreSQL %i", (major) => {
  let cluster: TestCluster;
  let server: PgServer;
  let conn: ConnInfo;
  beforeAll(async () => {
    cluster = await startCluster({ major, standbys: 0, lifetime: "manual" });
    server = cluster.primary;
    conn = parseConnInfo(server.dsn());
  });
  afterAll(() => cluster.dispose());

  /** Runs until the session of that pid runs a statement, so that what follows meets it in mid-air. */
  const busy = (pid: number) =>
    eventually(
      async () => {
        const sql = "select 1 from pg_catalog.pg_stat_activity where pid = $1 and state = 'active'";
        return (await server.query(sql, [pid])).length === 1;
      },
      { what: `backend ${pid} to run a statement` },
    );

  it("values come as text, except int2, int4 and bool", async () => {
    const session = await open(conn);
    expect(session.serverVersionNum).toBeGreaterThanOrEqual(major * 10_000);
    const sql =
      "select 7::int4 as i, 7::int2 as s, 7::int8 as l, true as b, '0/16B3748'::pg_lsn as lsn, '7'::xid as x, " +
      "null as n, 1.5::float8 as f, '2020-01-01 00:00:00+02'::timestamptz as t, '\\x01'::bytea as y, array[1] as a, " +
      "pg_backend_pid() as pid";
    expect(await session.query(sql)).toEqual([
      {
        i: 7,
        s: 7,
        l: "7",
        b: true,
        lsn: "0/16B3748",
        x: "7",
        n: null,
        f: "1.5",
        t: "2019-12-31 22:00:00+00",
        y: "\\x01",
        a: "{1}",
        pid: session.backendPid,
      },
    ]);
    expect(
      await session.query("select $1::text as a, $2::int8 as b, $3::text[] as c", ["x", 7n, ["p", "q"]]),
    ).toEqual([{ a: "x", b: "7", c: "{p,q}" }]);
  });

  it("a script gives the rows of each of its statements, in order", async () => {
    const session = await open(conn);
    expect(
      await session.script("select 1 as a; set local lock_timeout = 1; select 2 as b union all select 3"),
    ).toEqual([[{ a: 1 }], [], [{ b: 2 }, { b: 3 }]]);
    expect(await session.script("select 1 as a")).toEqual([[{ a: 1 }]]);
  });

  it("an error says what was being done and keeps its SQLSTATE, and the session goes on", async () => {
    const session = await open(conn);
    const error = await rejection(session.query("select 1/0", [], { what: "dividing" }));
    expect(isPgError(error, "22012")).toBe(true);
    expect(describeError(error)).toBe(`dividing on ${session.target}: division by zero (SQLSTATE 22012)`);
    expect(isPgError(await rejection(session.script("select 1; select nothing")), "42703")).toBe(true);
    expect(await session.query("select 1 as a")).toEqual([{ a: 1 }]);
  });

  it("calls that overlap are sent one after another, and one that fails stops no other", async () => {
    const session = await open(conn);
    const results = await Promise.allSettled([
      session.query("select 1 as a"),
      session.query("select nothing"),
      session.script("select 2 as a"),
    ]);
    expect(results.map((result) => result.status)).toEqual(["fulfilled", "rejected", "fulfilled"]);
  });

  it("what a role and a database set has no effect: search_path, isolation, timeouts, formats (I13)", async () => {
    await server.query("create database hostile");
    await server.query("create role victim superuser login");
    await server.query("create schema evil", [], "hostile");
    await server.query(
      "create function evil.lower(text) returns text language sql as 'select ''evil'''",
      [],
      "hostile",
    );
    for (const what of ["database hostile", "role victim", "role victim in database hostile"]) {
      for (const setting of [
        "search_path = evil, pg_catalog",
        "default_transaction_isolation = 'serializable'",
        "statement_timeout = '1ms'",
        "lock_timeout = '1ms'",
        "datestyle = 'SQL, DMY'",
        "timezone = 'Asia/Tokyo'",
        "bytea_output = 'escape'",
        "client_encoding = 'LATIN1'",
        ...(major >= 14 ? ["idle_session_timeout = '3s'"] : []),
        ...(major >= 17 ? ["transaction_timeout = '3s'"] : []),
      ]) {
        await server.query(`alter ${what} set ${setting}`);
      }
    }
    const session = await open(parseConnInfo(server.dsn("hostile", "victim")));
    const [row] = await session.query(
      "select lower('X') as l, current_setting('search_path') as p, current_setting('transaction_isolation') as i, " +
        "current_setting('statement_timeout') as s, current_setting('client_encoding') as e, " +
        "'2020-01-02'::date as d, '\\x01'::bytea as y, U&'\\20AC' as u, pg_sleep(0.01) as z, " +
        "coalesce(current_setting('idle_session_timeout', true), '0') as n, " +
        "coalesce(current_setting('transaction_timeout', true), '0') as o",
    );
    expect(row).toEqual({
      l: "x",
      p: "",
      i: "read committed",
      s: "5s",
      e: "UTF8",
      d: "2020-01-02",
      y: "\\x01",
      u: "€",
      z: "",
      n: "0",
      o: "0",
    });
    expect(session.usable).toBe(true);
  });

  it("options in the connection string are kept, but ours win", async () => {
    const session = await open(
      parseConnInfo(`${server.dsn()}?options=-c%20search_path%3Devil%20-c%20work_mem%3D1MB`),
    );
    const sql = "select current_setting('search_path') as p, current_setting('work_mem') as w";
    expect(await session.query(sql)).toEqual([{ p: "", w: "1MB" }]);
  });

  it("a statement past its timeout is cancelled by the server, and the session goes on", async () => {
    const session = await open(conn, { statementTimeoutMs: 50 });
    expect(isPgError(await rejection(session.query("select pg_sleep(30)")), SQLSTATE.queryCanceled)).toBe(
      true,
    );
    expect(session.usable).toBe(true);
    expect(await session.query("select 1 as a")).toEqual([{ a: 1 }]);
  });

  it("timeouts that contradict each other are refused", async () => {
    await expect(open(conn, { statementTimeoutMs: 100, queryTimeoutMs: 100 })).rejects.toThrow(RangeError);
  });

  it("a half-open connection is given up in time, and everybody waiting is told", async () => {
    const { proxy, conn } = await proxyTo(server);
    const session = await open(conn, { statementTimeoutMs: 200, queryTimeoutMs: 300 });
    const told: SessionLostError[] = [];
    session.onLost((why) => told.push(why));
    await proxy.halfOpen();
    const [first, second] = await Promise.all([
      rejection(session.query("select 1", [], { what: "first" })),
      rejection(session.query("select 2", [], { what: "second" })),
    ]);
    expect(first).toBeInstanceOf(SessionLostError);
    expect(first).toMatchObject({ reason: "timeout", message: expect.stringContaining("first on ") });
    expect(second).toMatchObject({ reason: "timeout", message: expect.stringContaining("second on ") });
    expect(session.usable).toBe(false);
    expect(told).toHaveLength(1);
    await session.close();
  });

  it("connecting to a server that accepts and stays silent ends in time", async () => {
    const { proxy, conn } = await proxyTo(server);
    await proxy.halfOpen();
    const error = await rejection(open(conn, { connectTimeoutMs: 200 }));
    expect(error).toBeInstanceOf(ConnectError);
    expect(describeError(error)).toContain("no answer within 200 ms");
  });

  it("a lost idle connection is told of, with its cause, and is no unhandled error", async () => {
    const session = await open(conn);
    const lost = new Promise<SessionLostError>((resolve) => session.onLost(resolve));
    await server.query("select pg_catalog.pg_terminate_backend($1)", [session.backendPid]);
    const why = await lost;
    expect(why.reason).toBe("connection");
    expect(isPgError(why, SQLSTATE.adminShutdown)).toBe(true);
    expect(session.usable).toBe(false);
    expect(await rejection(session.query("select 1"))).toBeInstanceOf(SessionLostError);
    const later = new Promise((resolve) => session.onLost(resolve));
    expect(await later).toBeInstanceOf(SessionLostError);
  });

  it("a connection that is cut or ended in mid-query rejects it as lost", async () => {
    const { proxy, conn } = await proxyTo(server);
    const cut = await open(conn);
    const cutQuery = rejection(cut.query("select pg_sleep(30)"));
    await busy(cut.backendPid);
    await proxy.cut();
    expect(await cutQuery).toMatchObject({ reason: "connection" });

    const ended = await open(parseConnInfo(server.dsn()));
    const endedQuery = rejection(ended.query("select pg_sleep(30)"));
    await busy(ended.backendPid);
    await server.query("select pg_catalog.pg_terminate_backend($1)", [ended.backendPid]);
    const error = await endedQuery;
    expect(error).toBeInstanceOf(SessionLostError);
    expect(isPgError(error, SQLSTATE.adminShutdown)).toBe(true);
  });

  it("an abort ends connecting, a query, and an idle session", async () => {
    const { proxy, conn: slow } = await proxyTo(server);
    await proxy.halfOpen();
    const connecting = new AbortController();
    const never = rejection(open(slow, { signal: connecting.signal }));
    connecting.abort(new Error("stopping"));
    expect(await never).toMatchObject({ name: "SessionLostError", reason: "aborted" });
    expect(describeError(await never)).toContain("stopping");
    expect(await rejection(open(conn, { signal: connecting.signal }))).toMatchObject({ reason: "aborted" });

    const whole = new AbortController();
    const session = await open(conn, { signal: whole.signal });
    const query = rejection(session.query("select pg_sleep(30)"));
    await busy(session.backendPid);
    whole.abort();
    expect(await query).toMatchObject({ reason: "aborted" });
    expect(session.usable).toBe(false);

    const one = new AbortController();
    const other = await open(conn);
    const call = rejection(other.query("select pg_sleep(30)", [], { signal: one.signal }));
    await busy(other.backendPid);
    one.abort();
    expect(await call).toMatchObject({ reason: "aborted" });

    const idle = new AbortController();
    const idleSession = await open(conn, { signal: idle.signal });
    const lost = new Promise<SessionLostError>((resolve) => idleSession.onLost(resolve));
    idle.abort();
    expect((await lost).reason).toBe("aborted");
  });

  it("a call that was aborted before its turn leaves the session alone", async () => {
    const session = await open(conn);
    const error = await rejection(
      session.query("select 1", [], { signal: AbortSignal.abort(new Error("late")) }),
    );
    expect(describeError(error)).toContain("late");
    expect(await session.query("select 1 as a")).toEqual([{ a: 1 }]);
  });

  it("closing ends the backend, rejects what is under way, and tells nobody", async () => {
    const idle = await open(conn);
    const told: unknown[] = [];
    idle.onLost((why) => told.push(why));
    await Promise.all([idle.close(), idle.close()]);
    await eventually(
      async () =>
        (await server.query("select from pg_catalog.pg_stat_activity where pid = $1", [idle.backendPid]))
          .length === 0,
      { what: "the backend to end" },
    );
    const session = await open(conn);
    const query = rejection(session.query("select pg_sleep(30)"));
    await busy(session.backendPid);
    await session.close();
    expect(await query).toMatchObject({ reason: "closed" });
    expect(told).toEqual([]);
  });

  it("a refused connection and a missing database are told apart", async () => {
    const refused = await rejection(open({ ...conn, port: 1 }));
    expect(refused).toBeInstanceOf(ConnectError);
    expect(describeError(refused)).toContain("ECONNREFUSED");
    const missing = await rejection(open(conn, { database: "none" }));
    expect(missing).toBeInstanceOf(ConnectError);
    expect(isPgError(missing, SQLSTATE.invalidCatalogName)).toBe(true);
  });
});

describe("passwords and TLS", () => {
  let cluster: TestCluster;
  let server: PgServer;
  let directory: string;
  const FILES = {
    "ca.crt": CA_CERTIFICATE,
    "other-ca.crt": OTHER_CA_CERTIFICATE,
    "server.crt": SERVER_CERTIFICATE,
    "server.key": SERVER_KEY,
    "client.crt": CLIENT_CERTIFICATE,
    "client.key": CLIENT_KEY,
  };
  const PASSWORD = "p'w \\d:é";

  beforeAll(async () => {
    cluster = await startCluster({ standbys: 0, lifetime: "manual" });
    server = cluster.primary;
    directory = mkdtempSync(path.join(os.tmpdir(), "slotsync-tls-"));
    for (const [name, content] of Object.entries(FILES)) {
      writeFileSync(path.join(directory, name), content, { mode: 0o600 });
    }
    for (const name of ["server.key", "server.crt", "ca.crt"] as const) {
      const copy = path.join(server.dataDir, name);
      writeFileSync(copy, FILES[name], { mode: 0o600 });
      giveTo(server.workspace.account, copy);
    }
    const client = await server.connect();
    await client.query("set password_encryption = 'scram-sha-256'");
    for (const role of ["secret", "tlsonly", "plainonly"]) {
      await client.query(`create role ${role} login password ${client.escapeLiteral(PASSWORD)}`);
    }
    await client.query("create role certified login");
    await client.end();
    const hba = path.join(server.dataDir, "pg_hba.conf");
    const rules = [
      "host all secret 127.0.0.1/32 scram-sha-256",
      "hostssl all tlsonly 127.0.0.1/32 scram-sha-256",
      "hostnossl all tlsonly 127.0.0.1/32 reject",
      "hostnossl all plainonly 127.0.0.1/32 scram-sha-256",
      "hostssl all plainonly 127.0.0.1/32 reject",
      "hostssl all certified 127.0.0.1/32 cert",
    ];
    writeFileSync(hba, `${rules.join("\n")}\n${readFileSync(hba, "utf8")}`);
    giveTo(server.workspace.account, hba);
    server.configure({ ssl: true, ssl_ca_file: "ca.crt" });
    await server.restart();
  }, 120_000);
  afterAll(async () => {
    await cluster.dispose();
    rmSync(directory, { recursive: true });
  });

  const dsn = (user: string, more = "", host = "localhost") =>
    parseConnInfo(
      `host=${host} hostaddr=127.0.0.1 port=${server.port} user=${user} dbname=postgres ` +
        `sslcertmode=disable sslrootcert='' ${more}`,
      // keeps this machine's own ~/.postgresql and ~/.pgpass out of it
      { PGSSLROOTCERT: path.join(directory, "none"), PGPASSFILE: path.join(directory, "none") },
    );
  const file = (name: string) => path.join(directory, name);
  const withPassword = `password='${PASSWORD.replace(/[\\']/g, "\\$&")}'`;
  const encrypted = async (conn: ConnInfo): Promise<boolean> => {
    const session = await open(conn);
    const sql = "select ssl from pg_catalog.pg_stat_ssl where pid = pg_catalog.pg_backend_pid()";
    return (await session.query<{ ssl: boolean }>(sql))[0]?.ssl ?? false;
  };

  it.each<[user: string, mode: string, expected: boolean | "refused"]>([
    ["secret", "disable", false],
    ["secret", "allow", false],
    ["secret", "prefer", true],
    ["secret", "require", true],
    ["tlsonly", "disable", "refused"],
    ["tlsonly", "allow", true],
    ["plainonly", "prefer", false],
    ["plainonly", "require", "refused"],
  ])("%s with sslmode=%s: encrypted %s", async (user, mode, expected) => {
    const conn = dsn(user, `sslmode=${mode} ${withPassword}`);
    if (expected === "refused") {
      expect(isPgError(await rejection(open(conn)), SQLSTATE.invalidAuthorization)).toBe(true);
    } else expect(await encrypted(conn)).toBe(expected);
  });

  it("verify-full checks chain and name, verify-ca the chain only, require with a root the chain", async () => {
    const root = `sslrootcert=${file("ca.crt")} ${withPassword}`;
    const foreign = `sslrootcert=${file("other-ca.crt")} ${withPassword}`;
    expect(await encrypted(dsn("secret", `sslmode=verify-full ${root}`))).toBe(true);
    expect(await encrypted(dsn("secret", `sslmode=verify-ca ${root}`, "wrong.example"))).toBe(true);
    const wrongName = await rejection(open(dsn("secret", `sslmode=verify-full ${root}`, "wrong.example")));
    expect(wrongName).toBeInstanceOf(ConnectError);
    expect(describeError(wrongName)).toContain("wrong.example");
    for (const mode of ["verify-full", "verify-ca", "require"]) {
      expect(await rejection(open(dsn("secret", `sslmode=${mode} ${foreign}`)))).toBeInstanceOf(ConnectError);
    }
  });

  it("a client certificate is presented", async () => {
    const cert = `sslmode=require sslcertmode=allow sslcert=${file("client.crt")} sslkey=${file("client.key")}`;
    expect(await encrypted(dsn("certified", cert))).toBe(true);
  });

  it("TLS against a server without it: prefer goes on in the clear, require is refused", async () => {
    const plain = await startCluster({ standbys: 0 });
    const text = `host=localhost hostaddr=127.0.0.1 port=${plain.primary.port} user=postgres dbname=postgres`;
    expect(await encrypted(parseConnInfo(`${text} sslmode=prefer`))).toBe(false);
    expect(await rejection(open(parseConnInfo(`${text} sslmode=require`)))).toBeInstanceOf(ConnectError);
  });

  it("an encrypted connection that goes half-open is given up in time too", async () => {
    const { proxy } = await proxyTo(server);
    const conn = { ...dsn("secret", `sslmode=require ${withPassword}`), port: proxy.port };
    const session = await open(conn, { statementTimeoutMs: 200, queryTimeoutMs: 300 });
    await proxy.halfOpen();
    expect(await rejection(session.query("select 1"))).toMatchObject({ reason: "timeout" });
  });

  it("the password may come from the password file; one that others can read is named", async () => {
    const passfile = file("pass");
    writeFileSync(passfile, `localhost:*:postgres:secret:${PASSWORD.replace(/[\\:]/g, "\\$&")}\n`, {
      mode: 0o600,
    });
    expect(await encrypted(dsn("secret", `passfile=${passfile} sslmode=require`))).toBe(true);
    chmodSync(passfile, 0o644);
    const warnings: string[] = [];
    const error = await rejection(
      open(dsn("secret", `passfile=${passfile} sslmode=disable`), {
        onWarning: (text) => warnings.push(text),
      }),
    );
    expect(describeError(error)).toContain("has group or world access");
    expect(warnings).toHaveLength(1);
  });

  it("a wrong password is told by its SQLSTATE, a missing one in words, and neither shows any", async () => {
    const wrong = await rejection(open(dsn("secret", "password=hunter2")));
    expect(isPgError(wrong, SQLSTATE.invalidPassword)).toBe(true);
    expect(describeError(wrong)).not.toContain("hunter2");
    expect(describeError(await rejection(open(dsn("secret"))))).toContain(
      "asks for a password and there is none",
    );
  });
});
