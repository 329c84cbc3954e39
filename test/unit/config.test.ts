import { chmodSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import fc from "fast-check";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import {
  type Config,
  ConfigError,
  type ConfigSources,
  describeProblem,
  loadConfig,
} from "../../src/config/load.ts";
import { CONFIG_KEYS, configSchemaJson, parseListen, SECTION_NAMES } from "../../src/config/schema.ts";
import { suggest } from "../../src/config/suggest.ts";

const ROOT = path.join(import.meta.dirname, "../..");
const DSN = "host=db2 user=slotsync dbname=postgres";
let directory = "";
beforeAll(() => {
  directory = mkdtempSync(path.join(os.tmpdir(), "slotsync-config-"));
});
afterAll(() => rmSync(directory, { recursive: true }));

function write(yaml: string): string {
  const file = path.join(directory, "slotsync.yaml");
  writeFileSync(file, yaml);
  return file;
}

const load = (yaml: string | undefined, more: Partial<ConfigSources> = {}) =>
  loadConfig({ env: {}, ...(yaml !== undefined && { file: write(yaml) }), ...more });
const loadEnv = (env: Record<string, string>): Config =>
  loadConfig({ env: { SLOTSYNC_STANDBY_DSN: DSN, ...env } }).config;

/** The problems, one line each, without the temporary folder. */
function problemsOf(act: () => unknown): string[] {
  try {
    act();
  } catch (error) {
    if (!(error instanceof ConfigError)) throw error;
    for (const problem of error.problems) expect(error.message).toContain(describeProblem(problem));
    return error.problems.map((problem) => describeProblem(problem).replaceAll(`${directory}/`, ""));
  }
  return [];
}

describe("a configuration is read into its parts", () => {
  it("standby.dsn alone is enough; everything else has a default, and an empty include is warned of", () => {
    const { config, warnings } = load(`standby: {dsn: "${DSN}"}`);
    expect(config).toEqual({
      standby: { conn: expect.objectContaining({ host: "db2", user: "slotsync", database: "postgres" }) },
      primary: { dsn: null, patroniUrl: null },
      slots: { include: [], exclude: [], provision: "auto", onConflict: "adopt", unproven: "drop" },
      stateDirectory: "/var/lib/pg-slotsync",
      nap: { minMs: 200, maxMs: 30_000 },
      log: { level: "info", format: "json" },
      http: {},
      timeouts: { connectMs: 5_000, statementMs: 10_000, answerMs: 15_000 },
      guards: { databases: "auto" },
      advance: { duty: 0.05 },
      finish: { connections: 4 },
      restart: { mode: "never", windowMinutes: 60, timeoutMs: 300_000 },
      audit: {},
    });
    expect(warnings).toEqual([]);
  });

  it("every key", () => {
    const { config, warnings } = load(`
standby: {dsn: "${DSN}", data_directory: /data, name: b}
primary: {dsn: "postgresql://u:p@db1/x", patroni_url: "https://db1:8008/a"}
slots:
  include: [{name: a, name_like: "a%", plugin: pgoutput, database: shop}]
  exclude: [{name: b}]
  provision: file
state_directory: /state
nap: {min_ms: 10, max_ms: 10}
log: {level: debug, format: pretty}
http: {listen: "[::1]:9287"}
timeouts: {connect_ms: 100, statement_ms: 200, answer_ms: 300}
guards: {databases: [shop]}
advance: {duty: 0.5}
finish: {connections: 32}
restart: {mode: window, schedule: "30 3 * * 0", window_minutes: 1440, command: [pg_ctl, restart], timeout_ms: 1000}
audit: {schedule: "0 6 * * *"}
`);
    expect(warnings).toEqual([]);
    expect(config).toMatchObject({
      standby: { dataDirectory: "/data", name: "b" },
      primary: {
        dsn: { hosts: [{ host: "db1", user: "u", database: "x" }], attrs: null },
        patroniUrl: "https://db1:8008/a",
      },
      slots: {
        include: [{ name: "a", nameLike: "a%", plugin: "pgoutput", database: "shop" }],
        exclude: [{ name: "b" }],
        provision: "file",
      },
      stateDirectory: "/state",
      nap: { minMs: 10, maxMs: 10 },
      log: { level: "debug", format: "pretty" },
      http: { listen: { host: "::1", port: 9287 } },
      timeouts: { connectMs: 100, statementMs: 200, answerMs: 300 },
      guards: { databases: ["shop"] },
      advance: { duty: 0.5 },
      finish: { connections: 32 },
      restart: {
        mode: "window",
        schedule: "30 3 * * 0",
        windowMinutes: 1440,
        command: ["pg_ctl", "restart"],
        timeoutMs: 1_000,
      },
      audit: { schedule: "0 6 * * *" },
    });
  });

  it("sections and keys without a value are not set", () => {
    const { config } = load(
      `standby: {dsn: "${DSN}", name: }\nprimary:\nnap: {min_ms: }\nslots:\n  include:\n`,
    );
    expect(config.nap.minMs).toBe(200);
  });

  it("flags win over the environment, the environment over the file", () => {
    const yaml = `standby: {dsn: "${DSN}"}\nnap: {min_ms: 100, max_ms: 1000}\nlog: {level: warn}`;
    const env = { SLOTSYNC_NAP_MIN_MS: "101", SLOTSYNC_LOG_LEVEL: "error" };
    const { config } = load(yaml, {
      env,
      flags: { "log.level": "debug", "http.listen": "0", "nap.max_ms": undefined },
    });
    expect(config).toMatchObject({
      nap: { minMs: 101, maxMs: 1000 },
      log: { level: "debug" },
      http: { listen: { host: "127.0.0.1", port: 0 } },
    });
  });

  it("SLOTSYNC_CONFIG names the file, and --config wins over it", () => {
    const file = write(`standby: {dsn: "${DSN}"}\nlog: {level: warn}`);
    expect(loadConfig({ env: { SLOTSYNC_CONFIG: file } }).config.log.level).toBe("warn");
    expect(
      loadConfig({ file, env: { SLOTSYNC_CONFIG: "/nowhere", PG_SLOTSYNC_CACHE: "/c" } }).config.log.level,
    ).toBe("warn");
  });

  it("what a dsn leaves out comes from libpq's variables", () => {
    const { config } = loadConfig({
      env: { SLOTSYNC_STANDBY_DSN: "host=db2", PGUSER: "u", PGPASSWORD: "hunter2", PGSSLMODE: "require" },
    });
    expect(config.standby.conn).toMatchObject({ user: "u", sslmode: "require" });
    expect(config.standby.conn.password?.reveal()).toBe("hunter2");
    expect(JSON.stringify(config)).not.toContain("hunter2");
  });
});

describe("every key is also a variable", () => {
  it.each(CONFIG_KEYS.map((key) => [key.env, key] as const))("%s", (name, key) => {
    const example: Record<string, string> = {
      text: "/x",
      number: String(key.default),
      listen: "9287",
      databases: "shop,crm",
      selectors: "name=a",
      arguments: '["pg_ctl", "restart"]',
    };
    const text = {
      "log.level": "warn",
      "log.format": "pretty",
      "standby.dsn": DSN,
      "primary.dsn": DSN,
      "primary.patroni_url": "http://127.0.0.1:8008",
      "audit.schedule": "0 6 * * *",
      "restart.schedule": "30 3 * * 0",
      "restart.mode": "never",
      "slots.provision": "sql",
      "slots.on_conflict": "refuse",
      "slots.unproven": "keep",
      "slots.release_after_minutes": "1440",
    }[key.path];
    expect(() => loadEnv({ [name]: text ?? example[key.form] ?? "" })).not.toThrow();
    expect(problemsOf(() => loadEnv({ [name]: key.form === "text" ? "=\0=" : "{" })).length).toBe(
      // paths and names may be any text
      ["standby.data_directory", "standby.name", "state_directory"].includes(key.path) ||
        key.form === "databases"
        ? 0
        : 1,
    );
  });

  it("numbers, addresses and lists are read from text", () => {
    const config = loadEnv({
      SLOTSYNC_NAP_MIN_MS: " 50 ",
      SLOTSYNC_ADVANCE_DUTY: ".5",
      SLOTSYNC_HTTP_LISTEN: "9287",
      SLOTSYNC_GUARDS_DATABASES: "shop, crm",
      SLOTSYNC_STANDBY_NAME: "",
    });
    expect(config.nap.minMs).toBe(50);
    expect(config.advance.duty).toBe(0.5);
    expect(config.http.listen).toEqual({ host: "127.0.0.1", port: 9287 });
    expect(config.guards.databases).toEqual(["shop", "crm"]);
    expect(config.standby.name).toBeUndefined();
    expect(loadEnv({ SLOTSYNC_GUARDS_DATABASES: '["a,b"]' }).guards.databases).toEqual(["a,b"]);
    expect(loadEnv({ SLOTSYNC_GUARDS_DATABASES: "auto" }).guards.databases).toBe("auto");
  });

  it.each<[string, unknown[]]>([
    ['[{"name_like": "app_%", "plugin": "pgoutput"}]', [{ nameLike: "app_%", plugin: "pgoutput" }]],
    ["[{name: a}, {database: b}]", [{ name: "a" }, { database: "b" }]],
    ["{name: a}", [{ name: "a" }]],
    ["- name: a\n- name: b", [{ name: "a" }, { name: "b" }]],
    ["name_like=app_%;plugin=pgoutput", [{ nameLike: "app_%", plugin: "pgoutput" }]],
    ["name=a, name_like = b% ; database = c=d", [{ name: "a" }, { nameLike: "b%", database: "c=d" }]],
  ])("slots.include as %s", (text, expected) => {
    expect(loadEnv({ SLOTSYNC_SLOTS_INCLUDE: text }).slots.include).toEqual(expected);
  });
});

describe("a problem names the key, where it was set, the value and the fix", () => {
  it("all of them at once", () => {
    const yaml = `
standby:
  dns: ${DSN}
nap:
  min_ms: 5
  max_ms: soon
slot:
  include: []
log: {level: loud}
advance: {duty: 2}
`;
    const env = { SLOTSYNC_NAP_MINMS: "1", SLOTSYNC_FINISH_CONNECTIONS: "many" };
    const problems = problemsOf(() => load(yaml, { env, flags: { "log.levle": "x" } }));
    expect(problems).toEqual([
      "standby.dns (slotsync.yaml line 3): there is no such key; did you mean standby.dsn?",
      "slot (slotsync.yaml line 8): there is no such key; did you mean slots?",
      "SLOTSYNC_NAP_MINMS (environment): there is no such variable; did you mean SLOTSYNC_NAP_MIN_MS?",
      "log.levle (command line): there is no such key; did you mean log.level?",
      expect.stringMatching(
        /^standby\.dsn: it is required; give a libpq connection string .* or as SLOTSYNC_STANDBY_DSN$/,
      ),
      "nap.min_ms (slotsync.yaml line 5) = 5: too small; give a whole number of milliseconds from 10 to 60000",
      expect.stringMatching(
        /^nap\.max_ms \(slotsync\.yaml line 6\) = "soon": not the right kind of value; give /,
      ),
      expect.stringMatching(
        /^log\.level \(slotsync\.yaml line 9\) = "loud": not valid; give one of trace, debug/,
      ),
      "advance.duty (slotsync.yaml line 10) = 2: too big; give a number from 0.001 to 1",
      expect.stringMatching(
        /^finish\.connections \(SLOTSYNC_FINISH_CONNECTIONS\) = "many": not the right kind/,
      ),
    ]);
  });

  it.each<[string, string, string]>([
    [
      "an empty rule",
      "slots: {include: [{}]}",
      "slots.include[0] (slotsync.yaml line 2): it is empty and would match",
    ],
    ["a pattern as a name", 'slots: {include: [{name: "a%"}]}', "for a pattern use name_like"],
    [
      "a misspelt condition",
      "slots: {exclude: [{plugn: x}]}",
      "slots.exclude[0].plugn (slotsync.yaml line 2): there",
    ],
    ["a trailing backslash", "slots: {include: [{name_like: 'a\\'}]}", "no backslash stands last"],
    [
      "a rule that is none",
      "slots: {include: [app]}",
      'slots.include[0] (slotsync.yaml line 2) = "app": not the right',
    ],
    ["a list that is none", "slots: {include: app}", 'slots.include (slotsync.yaml line 2) = "app"'],
    [
      "a section that is none",
      "nap: 5",
      "nap (slotsync.yaml line 2) = 5: not a section; put the keys min_ms, max_ms",
    ],
    ["a key at the wrong place", "data_directory: /x", "did you mean standby.data_directory?"],
    ["a key in another spelling", "nap: {minMs: 5}", "did you mean nap.min_ms?"],
    ["an unlike key", "zzz: 1", "zzz (slotsync.yaml line 2): there is no such key; take it out"],
    [
      "nap.max below nap.min",
      "nap: {min_ms: 200, max_ms: 100}",
      "nap.max_ms (100) must be at least nap.min_ms (200)",
    ],
    [
      "nap.min above the default",
      "nap: {min_ms: 50000}",
      "nap.min_ms (slotsync.yaml line 2) = 50000: nap.max_ms (30000)",
    ],
    [
      "an answer before the statement ends",
      "timeouts: {answer_ms: 10000}",
      "timeouts.answer_ms (10000) must be more than timeouts.statement_ms (10000)",
    ],
    ["a port alone with a colon", 'http: {listen: ":80"}', "http.listen"],
    ["a port too high", "http: {listen: 70000}", "http.listen"],
    ["no database to guard", "guards: {databases: []}", "guards.databases"],
    ["a bad primary", "primary: {dsn: 'host=a,b port=1,2,3'}", "3 port numbers cannot be matched to 2 hosts"],
    ["a password in a URL", 'primary: {patroni_url: "http://u:p@db1:8008"}', "a URL without a password"],
    ["a bad state directory", "state_directory: [x]", "state_directory (slotsync.yaml line 2) = a list"],
  ])("%s", (_, yaml, expected) => {
    const problems = problemsOf(() => load(`standby: {dsn: "${DSN}"}\n${yaml}`));
    expect(problems).toEqual([expect.stringContaining(expected)]);
  });

  it.each<[string, string, string[]]>([
    [
      "a window that never opens, and nothing to run in it",
      "restart: {mode: window}",
      [
        'restart.mode (slotsync.yaml line 2) = "window": it needs restart.schedule, which is not set; give a cron',
        'restart.mode (slotsync.yaml line 2) = "window": it needs restart.command, which is not set; give a list',
      ],
    ],
    [
      "restarts without a command",
      'restart: {mode: immediate, schedule: "0 6 * * *"}',
      ["or SLOTSYNC_RESTART_COMMAND"],
    ],
    [
      "a command for a shell",
      'restart: {mode: immediate, command: "pg_ctl restart --token=hunter2"}',
      [
        'restart.command (slotsync.yaml line 2): not the right kind of value; write it as a list, such as ["pg_ctl"',
      ],
    ],
    [
      "no command at all",
      "restart: {mode: immediate, command: []}",
      ["restart.command (slotsync.yaml line 2): too small; give a list of 1 to 100"],
    ],
    [
      "an argument that is a number",
      "restart: {command: [sleep, 5]}",
      ["restart.command[1] (slotsync.yaml line 2): not the right kind of value; give a text, in quotes"],
    ],
    ["an empty argument", 'restart: {command: [""]}', ["restart.command[0] (slotsync.yaml line 2): empty"]],
    [
      "an argument that no program can be given",
      'restart: {command: [a, "hunter2\\0"]}',
      ["restart.command[1] (slotsync.yaml line 2): empty, or not valid"],
    ],
    [
      "a time that is none",
      "restart: {schedule: sundays}",
      ['restart.schedule (slotsync.yaml line 2) = "sun'],
    ],
    ["a window too long", "restart: {window_minutes: 1441}", ["from 1 to 1440"]],
    [
      "a file without a place",
      "slots: {provision: file}",
      ['slots.provision (slotsync.yaml line 2) = "file": it needs standby.data_directory, which is not set'],
    ],
    // the reason why it is not set was told already
    ["an unreadable schedule", "restart: {mode: window, schedule: x, command: [a]}", ["restart.schedule"]],
  ])("restarts: %s", (_, yaml, expected) => {
    const problems = problemsOf(() => load(`standby: {dsn: "${DSN}"}\n${yaml}`));
    expect(problems).toEqual(expected.map((text) => expect.stringContaining(text)));
    expect(problems.join()).not.toContain("hunter2");
  });

  it("the restart command in the environment is a list, or refused", () => {
    const command = (text: string) => loadEnv({ SLOTSYNC_RESTART_COMMAND: text }).restart.command;
    expect(command('["pg_ctl","restart","a b"]')).toEqual(["pg_ctl", "restart", "a b"]);
    expect(command("- pg_ctl\n- restart")).toEqual(["pg_ctl", "restart"]);
    expect(problemsOf(() => command("pg_ctl restart"))).toEqual([
      expect.stringContaining(
        "restart.command (SLOTSYNC_RESTART_COMMAND): not the right kind of value; write",
      ),
    ]);
    const unreadable = { SLOTSYNC_RESTART_MODE: "immediate", SLOTSYNC_RESTART_COMMAND: "[pg_ctl" };
    expect(problemsOf(() => loadEnv(unreadable))).toEqual([expect.stringContaining("not valid YAML")]);
  });

  it("in the short form of the selectors", () => {
    expect(problemsOf(() => loadEnv({ SLOTSYNC_SLOTS_INCLUDE: "sub1" }))).toEqual([
      expect.stringContaining('slots.include (SLOTSYNC_SLOTS_INCLUDE) = "sub1": a condition has no "="'),
    ]);
    expect(problemsOf(() => loadEnv({ SLOTSYNC_SLOTS_INCLUDE: "nam=sub1" }))).toEqual([
      expect.stringContaining("did you mean name?"),
    ]);
    expect(problemsOf(() => loadEnv({ SLOTSYNC_SLOTS_INCLUDE: "[{name" }))[0]).toContain("not valid YAML");
  });

  it.each<[string, string, string]>([
    ["a tab", "standby:\n\tdsn: x", "slotsync.yaml line 2 column 1: not valid YAML"],
    [
      "a key twice",
      "log: {}\nlog: {}",
      "slotsync.yaml line 2 column 1: not valid YAML: Map keys must be unique",
    ],
    ["not keys", "- a", "slotsync.yaml: the file has no keys"],
    ["an alias to nothing", "log: *x", "slotsync.yaml: not valid YAML: its aliases cannot be resolved"],
  ])("YAML: %s", (_, yaml, expected) => {
    expect(problemsOf(() => load(yaml))[0]).toContain(expected);
  });

  it("a file that is not there", () => {
    expect(problemsOf(() => loadConfig({ file: path.join(directory, "none"), env: {} }))[0]).toBe(
      "none: the file cannot be read (ENOENT); give the path of a YAML file with --config or SLOTSYNC_CONFIG",
    );
  });

  it("nothing at all", () => {
    expect(problemsOf(() => loadConfig({ env: {} }))).toEqual([
      expect.stringContaining("standby.dsn: it is required"),
    ]);
  });
});

describe.skipIf(process.platform === "win32")("a file that others may write to (I13)", () => {
  const restart = "restart: { mode: immediate, command: [/bin/true] }";
  const withMode = (mode: number, more = "") => {
    const file = write(`standby: { dsn: "${DSN}", data_directory: /d }\n${more}`);
    chmodSync(file, mode);
    return file;
  };
  afterAll(() => rmSync(path.join(directory, "slotsync.yaml"), { force: true }));

  it("by its group or everybody is warned of, with the way to mend it", () => {
    expect(loadConfig({ file: withMode(0o644), env: {} }).warnings).toEqual([]);
    expect(loadConfig({ file: withMode(0o664), env: {} }).warnings.join()).toMatch(
      /by its group .*chmod go-w /,
    );
    expect(loadConfig({ file: withMode(0o646), env: {} }).warnings.join()).toMatch(
      /by everybody .*chmod go-w /,
    );
  });

  it("is refused where it names a command that is run as us", () => {
    expect(loadConfig({ file: withMode(0o644, restart), env: {} }).config.restart.command).toEqual([
      "/bin/true",
    ]);
    expect(() => loadConfig({ file: withMode(0o646, restart), env: {} })).toThrow(
      /restart\.command.*everybody/s,
    );
  });
});

describe("a password is never shown", () => {
  it.each([
    `standby: {dsn: "host=a password=hunter2 nokey=1"}`,
    `standby: {dsn: "postgresql://u:hunter2@a,b/x"}`,
    `standby: {dsn: "host=a password=my hunter2"}`,
    `standby: "host=a password=hunter2"`,
    `standby: {dsn: ["password=hunter2"]}`,
    `standby: {dsn: "${DSN}", password: hunter2}`,
    `standby: {dsn: "${DSN}"}\nlog: {level: "password=hunter2"}`,
    `standby:\n  dsn: "host=a password=hunter2\nlog: {}`,
    `standby:\n  dsn: host=a password: hunter2`,
    `standby:\n  dsn: 'host=a' hunter2`,
    `standby:\n  dsn: *hunter2`,
    `standby:\n  dsn: "a \\hunter2"`,
    `standby: {dsn: "${DSN}"}\nhttp: {listen: "postgres://u:hunter2@h"}`,
  ])("%s", (yaml) => {
    const problems = problemsOf(() => load(yaml));
    expect(problems.length).toBeGreaterThan(0);
    expect(problems.join("\n")).not.toContain("hunter2");
  });

  it("a variable that we do not know may hold one", () => {
    expect(problemsOf(() => loadEnv({ SLOTSYNC_STANDBY_DNS: "hunter2" })).join()).not.toContain("hunter2");
  });
});

describe("variables that begin like ours and are not", () => {
  // what kubelet and Docker's links make of a Service, or container, of that name
  const linked = (service: string): Record<string, string> => ({
    [`${service}_SERVICE_HOST`]: "10.96.0.7",
    [`${service}_SERVICE_PORT`]: "9287",
    [`${service}_SERVICE_PORT_HTTP`]: "9287",
    [`${service}_SERVICE_PORT_HTTP_METRICS`]: "9288",
    [`${service}_PORT`]: "tcp://10.96.0.7:9287",
    [`${service}_PORT_9287_TCP`]: "tcp://10.96.0.7:9287",
    [`${service}_PORT_9287_TCP_PROTO`]: "tcp",
    [`${service}_PORT_9287_TCP_PORT`]: "9287",
    [`${service}_PORT_5432_TCP_ADDR`]: "10.96.0.7",
    [`${service}_PORT_53_UDP`]: "udp://10.96.0.7:53",
    [`${service}_PORT_38412_SCTP_ADDR`]: "10.96.0.7",
  });

  // each name's own variables may look like one of ours that is misspelt
  it.each(["SLOTSYNC", "SLOTSYNC_METRICS", "SLOTSYNC_STANDBY", "SLOTSYNC_LOG", "SLOTSYNC_HTTP"])(
    "a Kubernetes Service called %s does not keep the sidecar from starting",
    (service) => {
      const env = linked(service);
      const { config, ignored } = loadConfig({ env: { SLOTSYNC_STANDBY_DSN: DSN, ...env } });
      expect(config.http.listen).toBeUndefined();
      expect(ignored).toEqual(Object.keys(env).toSorted());
    },
  );

  it.each([
    "SLOTSYNC_NAME",
    "SLOTSYNC_ENV_NODE_VERSION",
    "SLOTSYNC_IMAGE",
    "SLOTSYNC_HTTP_PORT",
    "SLOTSYNC_",
  ])("%s is somebody else's, and ignored", (name) => {
    const { ignored } = loadConfig({ env: { SLOTSYNC_STANDBY_DSN: DSN, [name]: "x" } });
    expect(ignored).toEqual([name]);
  });

  it.each([
    ["SLOTSYNC_LOG_LEVLE", "SLOTSYNC_LOG_LEVEL"],
    ["SLOTSYNC_LOGLEVEL", "SLOTSYNC_LOG_LEVEL"],
    ["SLOTSYNC_STANDBY__DSN", "SLOTSYNC_STANDBY_DSN"],
    ["SLOTSYNC_SLOT_INCLUDE", "SLOTSYNC_SLOTS_INCLUDE"],
    ["SLOTSYNC_CONFG", "SLOTSYNC_CONFIG"],
  ])("%s is %s misspelt, and refused", (name, meant) => {
    expect(problemsOf(() => loadEnv({ [name]: "9287" }))).toContain(
      `${name} (environment): there is no such variable; did you mean ${meant}?`,
    );
  });
});

it("whatever the file says, the loader answers or throws ConfigError", () => {
  const word = fc.constantFrom(
    ...SECTION_NAMES,
    ...CONFIG_KEYS.map((key) => key.path.split(".").at(-1) ?? ""),
    "x",
  );
  const value = fc.oneof(fc.jsonValue({ maxDepth: 2 }), fc.constantFrom(DSN, 5, 200, "auto", null));
  const file = fc.dictionary(word, fc.oneof(value, fc.dictionary(word, value)));
  fc.assert(
    fc.property(file, (content) => {
      try {
        load(JSON.stringify(content));
      } catch (error) {
        expect(error).toBeInstanceOf(ConfigError);
      }
    }),
    { numRuns: 300 },
  );
  fc.assert(
    fc.property(fc.string(), (text) => {
      expect(() => load(text)).toThrow(ConfigError);
    }),
    { numRuns: 300 },
  );
});

describe("addresses to listen on", () => {
  it.each<[string | number, unknown]>([
    [9287, { host: "127.0.0.1", port: 9287 }],
    ["9287", { host: "127.0.0.1", port: 9287 }],
    ["0.0.0.0:0", { host: "0.0.0.0", port: 0 }],
    ["db-2.example:80", { host: "db-2.example", port: 80 }],
    ["[::]:80", { host: "::", port: 80 }],
    ["::1:80", undefined],
    [":80", undefined],
    ["a:b", undefined],
    ["a:65536", undefined],
    ["", undefined],
  ])("%s", (text, expected) => {
    expect(parseListen(text)).toEqual(expected);
  });
});

describe("did you mean", () => {
  it.each<[string, string | undefined]>([
    ["statsu", "status"],
    ["STATUS", "status"],
    ["chek", "check"],
    ["syn", "sync"],
    ["r", undefined],
    ["completely-different", undefined],
    ["", undefined],
    ["x".repeat(100_000), undefined],
  ])("%s", (word, expected) => {
    expect(suggest(word, ["run", "sync", "status", "check", "finish", "demo"])).toBe(expected);
  });
});

describe("what is shipped in config/ says the same as the code", () => {
  const example = readFileSync(path.join(ROOT, "config/slotsync.example.yaml"), "utf8");

  it("the example is accepted, without a warning", () => {
    const { config, warnings } = loadConfig({
      file: path.join(ROOT, "config/slotsync.example.yaml"),
      env: {},
    });
    expect(warnings).toEqual([]);
    expect(config.slots.include).toEqual([
      { nameLike: "app\\_%", plugin: "pgoutput" },
      { name: "billing", database: "shop" },
    ]);
    expect(config.slots.exclude).toEqual([{ nameLike: "%\\_scratch" }]);
  });

  it("the example has every key, and is accepted with those that are commented out too", () => {
    const uncommented = example.replace(
      /^( *)# (?=(data_directory|name|dsn|patroni_url|listen|schedule|command|release_after_minutes): )/gm,
      "$1",
    );
    const { config } = load(uncommented);
    expect(config).toMatchObject({
      standby: { name: "db2", dataDirectory: expect.any(String) },
      primary: { dsn: { hosts: [{ host: "db1" }] }, patroniUrl: "http://127.0.0.1:8008" },
      http: { listen: { port: 9287 } },
      restart: { mode: "never", schedule: "30 3 * * 0", command: expect.arrayContaining(["pg_ctl"]) },
      audit: { schedule: "0 6 * * *" },
    });
    for (const key of CONFIG_KEYS) {
      const name = key.path.split(".").at(-1);
      expect(uncommented).toMatch(new RegExp(`^ *${name}:`, "m"));
    }
  });

  it("the example shows the defaults", () => {
    const { config: shown } = loadConfig({ file: path.join(ROOT, "config/slotsync.example.yaml"), env: {} });
    const { standby: _, slots: __, ...defaults } = loadEnv({});
    expect(shown).toMatchObject(defaults);
  });

  it("the JSON Schema is the generated one (npx tsx scripts/generate-schema.ts)", () => {
    const committed: unknown = JSON.parse(
      readFileSync(path.join(ROOT, "config/slotsync.schema.json"), "utf8"),
    );
    expect(committed).toEqual(configSchemaJson());
  });

  it("the JSON Schema describes every key, and has no words of ours", () => {
    const text = JSON.stringify(configSchemaJson());
    for (const key of CONFIG_KEYS) expect(text).toContain(JSON.stringify(key.description));
    expect(text).not.toContain('"expects"');
    expect(text).not.toContain('"form"');
  });
});
