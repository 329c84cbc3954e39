import { inspect } from "node:util";
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  type ConnInfo,
  ConnInfoError,
  describeConnInfo,
  formatConnInfo,
  parseConnInfo,
  parseConnTargets,
  quoteConnInfoValue,
  redactConnInfo,
} from "../../src/pg/conninfo.ts";

const HOST = { osUser: () => "osuser", socketExists: (path: string) => path === "/tmp/.s.PGSQL.5432" };
const parse = (text: string, env: Record<string, string> = {}) => parseConnInfo(text, env, HOST);

/** Only what the case is about, passwords in the clear. */
function seen(conn: ConnInfo): Record<string, unknown> {
  const { password, sslpassword, ...rest } = conn;
  return {
    ...rest,
    ...(password && { password: password.reveal() }),
    ...(sslpassword && { sslpassword: sslpassword.reveal() }),
  };
}

const UNSAID = { host: "/tmp", port: 5432, user: "osuser", sslmode: "prefer" };

describe("a connection string is read as libpq reads it", () => {
  it.each<[string, Record<string, unknown>]>([
    ["", {}],
    ["host=db1", { host: "db1" }],
    ["  host = db1   port\t=\n5433 ", { host: "db1", port: 5433 }],
    ["host='db1'port=5433", { host: "db1", port: 5433 }],
    ["host=a host=b", { host: "b" }],
    ["user='o''x'", { error: 'a "=" is missing' }],
    ["user='o\\'x' password=a\\ b\\\\c", { user: "o'x", password: "a b\\c" }],
    ["password='' dbname=''", {}],
    ["host=/run/pg port=5444 dbname=app", { host: "/run/pg", port: 5444, database: "app" }],
    ["hostaddr=10.0.0.1", { host: "10.0.0.1", hostaddr: "10.0.0.1" }],
    ["host=db1 hostaddr=fe80::1", { host: "db1", hostaddr: "fe80::1" }],
    ["connect_timeout=7 application_name=x", { connectTimeoutS: 7, applicationName: "x" }],
    ["connect_timeout=0 keepalives_idle=0", {}],
    [
      "keepalives=0 keepalives_idle=5 keepalives_interval=6 keepalives_count=7",
      { keepalives: false, keepalivesIdleS: 5, keepalivesIntervalS: 6, keepalivesCount: 7 },
    ],
    ["sslmode=verify-full sslrootcert=/ca", { sslmode: "verify-full", sslrootcert: "/ca" }],
    ["sslrootcert=system", { sslmode: "verify-full", sslrootcert: "system" }],
    ["sslcert=/c sslkey=/k sslpassword=s", { sslcert: "/c", sslkey: "/k", sslpassword: "s" }],
    ["postgresql://", {}],
    ["postgres://db1", { host: "db1" }],
    ["postgresql://u@db1:5433/app", { host: "db1", port: 5433, user: "u", database: "app" }],
    [
      "postgresql://u:p%40%2F%3a%25@db1/a%20b",
      { host: "db1", user: "u", password: "p@/:%", database: "a b" },
    ],
    ["postgresql://u:p?q@db1", { host: "db1", user: "u", password: "p?q" }],
    ["postgresql://[2001:db8::1]:5433/app", { host: "2001:db8::1", port: 5433, database: "app" }],
    ["postgresql:///app?host=/run/pg&port=5433", { host: "/run/pg", port: 5433, database: "app" }],
    ["postgresql://%2Frun%2Fpg/app", { host: "/run/pg", database: "app" }],
    ["postgresql://db1?ssl=true", { host: "db1", sslmode: "require" }],
    ["postgresql://db1?sslmode=require&password=a%26b", { host: "db1", sslmode: "require", password: "a&b" }],
    ["postgresql://%C3%A9:%e2%82%ac@db1", { host: "db1", user: "é", password: "€" }],
  ])("%s", (text, expected) => {
    if (typeof expected.error === "string") expect(() => parse(text)).toThrow(expected.error);
    else expect(seen(parse(text))).toEqual({ ...UNSAID, ...expected });
  });

  it("what `pg_basebackup -R` writes is accepted", () => {
    const text =
      "user=repl passfile='/var/lib/pg/.pgpass' channel_binding=prefer host=10.0.0.1 port=5432 sslmode=prefer " +
      "sslcompression=0 sslcertmode=allow sslsni=1 ssl_min_protocol_version=TLSv1.2 gssencmode=prefer " +
      "krbsrvname=postgres gssdelegation=0 target_session_attrs=any load_balance_hosts=disable";
    expect(seen(parse(text))).toEqual({
      host: "10.0.0.1",
      port: 5432,
      user: "repl",
      passfile: "/var/lib/pg/.pgpass",
      sslmode: "prefer",
      sslcertmode: "allow",
      sslMinVersion: "TLSv1.2",
    });
  });

  it("what is missing comes from the environment, what is given wins", () => {
    const env = {
      PGHOST: "envhost",
      PGPORT: "6000",
      PGUSER: "envuser",
      PGDATABASE: "envdb",
      PGPASSWORD: "envpw",
      PGPASSFILE: "/envpass",
      PGSSLMODE: "require",
      PGSSLROOTCERT: "/envca",
      PGSSLCERT: "/envcert",
      PGSSLKEY: "/envkey",
      PGCONNECT_TIMEOUT: "3",
    };
    expect(seen(parse("", env))).toEqual({
      host: "envhost",
      port: 6000,
      user: "envuser",
      database: "envdb",
      password: "envpw",
      passfile: "/envpass",
      sslmode: "require",
      sslrootcert: "/envca",
      sslcert: "/envcert",
      sslkey: "/envkey",
      connectTimeoutS: 3,
    });
    expect(parse("host=db1 port=5432 user=u sslmode=disable", env)).toMatchObject({
      host: "db1",
      port: 5432,
      user: "u",
      sslmode: "disable",
    });
  });

  it("without a host and without a socket it is loopback TCP", () => {
    expect(parse("port=5499").host).toBe("localhost");
  });
});

describe("several hosts are paired with their addresses and ports as libpq pairs them", () => {
  const places = (text: string, env: Record<string, string> = {}) =>
    parseConnTargets(text, env, HOST).hosts.map(
      ({ host, hostaddr, port }) => `${host}${hostaddr === undefined ? "" : `=${hostaddr}`}:${port}`,
    );

  it.each<[string, string[]]>([
    ["host=a", ["a:5432"]],
    ["host=a,b", ["a:5432", "b:5432"]],
    ["host=a,b port=5433", ["a:5433", "b:5433"]],
    ["host=a,b port=5433,5434", ["a:5433", "b:5434"]],
    ["host=a,b port=5433,", ["a:5433", "b:5432"]],
    ["host=a,b port=,5434", ["a:5432", "b:5434"]],
    ["host=,b", ["/tmp:5432", "b:5432"]],
    ["host=a,/run/pg,::1", ["a:5432", "/run/pg:5432", "::1:5432"]],
    ["hostaddr=10.0.0.1,10.0.0.2", ["10.0.0.1=10.0.0.1:5432", "10.0.0.2=10.0.0.2:5432"]],
    ["host=a,b hostaddr=10.0.0.1,", ["a=10.0.0.1:5432", "b:5432"]],
    ["host=,b hostaddr=10.0.0.1,::2", ["10.0.0.1=10.0.0.1:5432", "b=::2:5432"]],
    ["postgresql://a,b/app", ["a:5432", "b:5432"]],
    ["postgresql://a:1,b:2/app", ["a:1", "b:2"]],
    ["postgresql://a,b:2/app", ["a:5432", "b:2"]],
    ["postgresql://u:p@[::1]:1,[fe80::2],c:3/app", ["::1:1", "fe80::2:5432", "c:3"]],
    ["postgresql:///app?host=a,b&port=1,2", ["a:1", "b:2"]],
    ["postgresql://%2Frun%2Fpg,b/app", ["/run/pg:5432", "b:5432"]],
  ])("%s", (text, expected) => {
    expect(places(text)).toEqual(expected);
  });

  it("the environment's lists count as well", () => {
    expect(places("", { PGHOST: "a,b", PGPORT: "1,2" })).toEqual(["a:1", "b:2"]);
  });

  it("everything else is everybody's, and which server is wanted is kept", () => {
    const text = "host=a,b user=u password=p dbname=app sslmode=require target_session_attrs=read-write";
    const { hosts, attrs } = parseConnTargets(text, {}, HOST);
    const common = { port: 5432, user: "u", database: "app", sslmode: "require", password: "p" };
    expect(hosts.map(seen)).toEqual([
      { host: "a", ...common },
      { host: "b", ...common },
    ]);
    expect(attrs).toBe("read-write");
    expect(parseConnTargets("host=a", {}, HOST).attrs).toBeNull();
    expect(parseConnTargets("host=a", { PGTARGETSESSIONATTRS: "any" }, HOST).attrs).toBe("any");
  });
});

describe("a connection string that cannot be used is refused, and the message names the key", () => {
  it.each<[string, string]>([
    ["host", "neither"],
    ["host=a port", 'missing after "port"'],
    ["=x", "no key"],
    ["host='a", '"host" does not end'],
    ["host=a hots=b", 'no key "hots"'],
    ["toString=1", 'no key "toString"'],
    ["__proto__=1", 'no key "__proto__"'],
    ["postgresql://db1?sslmod=require", 'no key "sslmod"'],
    ["postgresql://db1?sslmode", "key=value"],
    ["postgresql://db1?a=b=c", "key=value"],
    ["postgresql://u:%zz@db1", "percent-encoding"],
    ["postgresql://u:%00@db1", "percent-encoding"],
    ["postgresql://[::1/db", "IPv6"],
    ["host=a,b", "it names several hosts"],
    ["postgresql://a:1,b:2/db", "it names several hosts"],
    ["port=1,2 host=a", "2 port numbers cannot be matched to 1 hosts"],
    ["port=1,2 host=a,b,c", "2 port numbers cannot be matched to 3 hosts"],
    ["host=a,b hostaddr=10.0.0.1", "2 host names cannot be matched to 1 hostaddr values"],
    ["postgresql://a:1,b:x/db", "port must be"],
    ["host=a,@b", "abstract"],
    ["hostaddr=10.0.0.1,db1", "hostaddr must be an IP address"],
    ["host=a target_session_attrs=writable", "target_session_attrs must be one of any, read-write"],
    ["port=0", "port must be"],
    ["port=65536", "port must be"],
    ["port=5432x", "port must be"],
    ["connect_timeout=soon", "connect_timeout must be"],
    ["sslmode=yes", "sslmode must be one of disable, allow"],
    ["sslmode=require sslrootcert=system", "too weak"],
    ["sslnegotiation=direct", "too weak"],
    ["hostaddr=db1", "hostaddr must be an IP address"],
    ["channel_binding=require", "channel_binding is supported with"],
    ["gssencmode=require", "gssencmode is supported with"],
    ["require_auth=scram-sha-256", "require_auth is not supported"],
    ["service=prod", "service is not supported"],
    ["host=@abstract", "abstract"],
    ["host=a\0b", "zero byte"],
  ])("%s", (text, message) => {
    expect(() => parse(text)).toThrow(ConnInfoError);
    expect(() => parse(text)).toThrow(message);
  });

  it("without any user", () => {
    expect(() => parseConnInfo("", {}, { ...HOST, osUser: () => undefined })).toThrow("there is no user");
  });

  it("the parser throws nothing but ConnInfoError, whatever the text", () => {
    const piece = fc.constantFrom(
      "host",
      "password",
      "=",
      "'",
      "\\",
      " ",
      "%",
      "%41",
      "@",
      ":",
      "/",
      "?",
      "&",
      "[",
      "]",
      ",",
      "postgres://",
      "postgresql://",
      "x",
      "5432",
      "\0",
      "é",
    );
    const text = fc.oneof(
      fc.string({ unit: "binary" }),
      fc.array(piece).map((pieces) => pieces.join("")),
      fc.array(piece).map((pieces) => `postgresql://${pieces.join("")}`),
    );
    fc.assert(
      fc.property(text, (anything) => {
        redactConnInfo(anything);
        try {
          parse(anything);
        } catch (error) {
          expect(error).toBeInstanceOf(ConnInfoError);
        }
      }),
      { numRuns: 2000 },
    );
  });
});

describe("quoting", () => {
  const value = fc.string({ minLength: 1, unit: "binary" }).filter((text) => !text.includes("\0"));

  it("a quoted value is read back as it was", () => {
    fc.assert(
      fc.property(value, value, (password, database) => {
        const conn = parse(
          `password=${quoteConnInfoValue(password)} dbname=${quoteConnInfoValue(database)} port=1`,
        );
        expect([conn.password?.reveal(), conn.database, conn.port]).toEqual([password, database, 1]);
        const formatted = parse(
          formatConnInfo({ password, dbname: database, port: 1, user: undefined, host: "" }),
        );
        expect([formatted.password?.reveal(), formatted.database, formatted.port]).toEqual([
          password,
          database,
          1,
        ]);
      }),
    );
  });

  it("a percent-encoded value is read back as it was", () => {
    const text = fc.string({ minLength: 1, unit: "grapheme" }).filter((one) => !one.includes("\0"));
    fc.assert(
      fc.property(text, text, (user, password) => {
        const conn = parse(
          `postgresql://${encodeURIComponent(user)}:${encodeURIComponent(password)}@db1/app`,
        );
        expect([conn.user, conn.password?.reveal()]).toEqual([user, password]);
      }),
    );
  });
});

describe("a password is never shown", () => {
  it("not by the parsed value, however it is printed", () => {
    const conn = parse("host=h password=hunter2 sslpassword=hunter3");
    const shown = `${JSON.stringify(conn)} ${inspect(conn)} ${conn.password} ${describeConnInfo(conn)}`;
    expect(shown).not.toContain("hunter");
    expect(JSON.stringify({ ...conn, port: 1 })).not.toContain("hunter");
  });

  it.each<[string, string]>([
    ["host=db1 password=hunter2 user=u", "host=db1 password=*** user=u"],
    ["password='hunter2 hunter2' user=u", "password=*** user=u"],
    ["password=my hunter2 user=u", "password=*** …"],
    ["password=my hunter2=x user=u", "password=*** …"],
    ["password='hunter2", "…"],
    ["pasword=hunter2 host=a", "pasword=*** host=a"],
    ["hunter2", "…"],
    ["host=a sslpassword=hunter2", "host=a sslpassword=***"],
    [
      "postgresql://u:hunter2@db1:5433/app?sslmode=require",
      "postgresql://u:***@db1:5433/app?sslmode=require",
    ],
    ["postgresql://u:hun/hunter2@db1/app", "postgresql://u…"],
    ["postgresql://u:hun@hunter2@db1/app", "postgresql://u:***@…"],
    ["postgresql://u:hun?hunter2@db1/app", "postgresql://u:***@db1/app"],
    ["postgresql://u:hunter2", "postgresql://u:***"],
    ["postgresql://db1/app?password=hunter2&user=u", "postgresql://db1/app?password=***&user=u"],
    ["postgresql://db1/app?pasword=hunter2", "postgresql://db1/app?***"],
    ["postgresql://[::1]:5432/app", "postgresql://[::1]:5432/app"],
    ["postgresql://u@db1", "postgresql://u@db1"],
  ])("redacted: %s", (text, expected) => {
    expect(redactConnInfo(text)).toBe(expected);
  });

  it("not by any refusal, however the password was misquoted", () => {
    const secret = "hunter2";
    const part = fc.constantFrom(secret, " ", "=", "'", "\\", "/", "@", ":", "?", "%", "%zz", ",", "&", "x");
    const password = fc.array(part, { minLength: 1 }).map((parts) => parts.join("") + secret);
    const strings = password.chain((pw) =>
      fc.constantFrom(
        `host=h password=${pw} user=u`,
        `host=h password=${pw}`,
        `host=h password='${pw}' user=u`,
        `postgresql://u:${pw}@db1:5432/app`,
        `postgresql://db1/app?password=${pw}&user=u`,
      ),
    );
    fc.assert(
      fc.property(strings, (text) => {
        try {
          parse(text);
        } catch (error) {
          expect(String(error)).not.toContain(secret);
        }
        expect(redactConnInfo(text)).not.toContain(secret);
      }),
      { numRuns: 5000 },
    );
  });
});
