import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { isOn, parseConfigFile, parseInteger, parseStartOptions } from "../../src/datadir/config-file.ts";
import { asksForStandby, nextStart, readSettings } from "../../src/datadir/settings.ts";

describe("a line of postgresql.conf", () => {
  test.each([
    ["max_replication_slots = 20", "max_replication_slots", "20"],
    ["MAX_replication_Slots=20", "max_replication_slots", "20"],
    ["max_replication_slots 20 # as many as there are", "max_replication_slots", "20"],
    ["  wal_level\t=\tlogical\r", "wal_level", "logical"],
    ["work_mem = 64MB", "work_mem", "64MB"],
    ["work_mem = '64 MB'", "work_mem", "64 MB"],
    ["a = 0x1F", "a", "0x1F"],
    ["a = -1", "a", "-1"],
    ["a = 1.5", "a", "1.5"],
    ["a = .5e3", "a", ".5e3"],
    ["my.thing = on", "my.thing", "on"],
    ["a = /var/lib", undefined, undefined],
    ["a = host.name:5432/x", "a", "host.name:5432/x"],
    ["a = ''", "a", ""],
    ["a = 'it''s # no comment'#but this", "a", "it's # no comment"],
    ["a = 'it\\'s \\\\ \\n \\101\\x'", "a", "it's \\ \n Ax"],
    ["primary_conninfo = 'host=a password=''b c'''", "primary_conninfo", "host=a password='b c'"],
    ["a 'b'", "a", "b"],
    ["a = 'b", undefined, undefined],
    ["a = ", undefined, undefined],
    ["a = b c", undefined, undefined],
    ["= b", undefined, undefined],
    ["1a = b", undefined, undefined],
    ["größe = 'ä'", "größe", "ä"],
  ])("%s", (line, name, value) => {
    expect(parseConfigFile(line)).toEqual([
      name === undefined ? { kind: "error", line: 1 } : { kind: "setting", line: 1, name, value },
    ]);
  });

  test("comments and empty lines say nothing", () => {
    expect(parseConfigFile("\n  \n# a = b\n\t# c\r\n")).toEqual([]);
  });

  test("includes are told from settings", () => {
    expect(parseConfigFile("include 'a'\ninclude_if_exists = b\nInclude_Dir 'c'")).toEqual([
      { kind: "include", line: 1, target: "a" },
      { kind: "include_if_exists", line: 2, target: "b" },
      { kind: "include_dir", line: 3, target: "c" },
    ]);
  });
});

describe("a postmaster.opts", () => {
  test.each([
    ['/usr/bin/postgres "-D" "/data"\n', "/usr/bin/postgres", "/data", {}],
    ["/usr/bin/postgres\n", "/usr/bin/postgres", null, {}],
    [
      '/opt/my pg/postgres "-D" "/my data" "-c" "config_file=/etc/pg main/postgresql.conf"\n',
      "/opt/my pg/postgres",
      "/my data",
      { config_file: "/etc/pg main/postgresql.conf" },
    ],
    [
      '/p "-D/data" "-cwal_level=logical" "--max-replication-slots=5"',
      "/p",
      "/data",
      {
        wal_level: "logical",
        max_replication_slots: "5",
      },
    ],
    ['/p "-i" "-p" "5433" "-c" "a=1" "-c" "a=2=3"', "/p", null, { port: "5433", a: "2=3" }],
    ['/p "-ip5433" "-N" "50"', "/p", null, { port: "5433", max_connections: "50" }],
    ['/p "-h" "" "-k" "/tmp"', "/p", null, { listen_addresses: "", unix_socket_directories: "/tmp" }],
    ['/p "-c" "A.B=x"', "/p", null, { "a.b": "x" }],
  ])("%s", (text, executable, dataDirectory, settings) => {
    const options = parseStartOptions(text);
    expect(options).toMatchObject({ executable, dataDirectory });
    expect(Object.fromEntries(options?.settings ?? [])).toEqual(settings);
  });

  test("an empty one says nothing", () => expect(parseStartOptions("\n")).toBeNull());
});

test.each([
  ["20", 20],
  [" 0x14 ", 20],
  ["024", 20],
  ["0", 0],
  ["-1", -1],
  ["09", null],
  ["20kB", null],
  ["", null],
  ["2.5", null],
])("the integer %j", (text, value) => expect(parseInteger(text)).toBe(value));

test.each([
  ["on", true],
  ["TRUE", true],
  ["y", true],
  ["1", true],
  ["o", false],
  ["off", false],
  [undefined, false],
])("the boolean %j", (text, value) => expect(isOn(text)).toBe(value));

describe("the configuration of a data directory", () => {
  let root: string;
  let dir: string;
  beforeEach(() => {
    root = mkdtempSync(join(tmpdir(), "slotsync-datadir-"));
    dir = join(root, "data");
    mkdirSync(dir);
    put("data/postgresql.conf", "wal_level = logical\n");
    put("data/postgresql.auto.conf", "# by ALTER SYSTEM\n");
  });
  afterEach(() => rmSync(root, { recursive: true, force: true }));

  function put(path: string, text: string): string {
    const full = join(root, path);
    mkdirSync(dirname(full), { recursive: true });
    writeFileSync(full, text);
    return full;
  }

  async function read(major = 15) {
    const skipped: string[] = [];
    const settings = Object.fromEntries(await readSettings(dir, major, skipped));
    return { settings, skipped: skipped.map((path) => path.replace(root, "")) };
  }

  test("the last line wins, ALTER SYSTEM over the files, the command line over all", async () => {
    put("data/postgresql.conf", "a = 1\na = 2\nb = 1\nc = 1\nd = 1\n");
    put("data/postgresql.auto.conf", "b = '2'\nc = '2'\n");
    put("data/postmaster.opts", `/p "-D" "${dir}" "-c" "c=3"\n`);
    expect(await read()).toEqual({ settings: { a: "2", b: "2", c: "3", d: "1" }, skipped: [] });
  });

  test("includes stand where they are written, relative to their own file", async () => {
    put("data/postgresql.conf", "a = 1\ninclude 'sub/more.conf'\nb = 1\ninclude_if_exists 'none.conf'\n");
    put("data/sub/more.conf", "a = 2\nb = 2\ninclude_dir 'conf.d'\n");
    put("data/sub/conf.d/10.conf", "c = 1\nd = 1");
    put("data/sub/conf.d/9.conf", "c = 2");
    put("data/sub/conf.d/.hidden.conf", "c = 3");
    put("data/sub/conf.d/z.conf.bak", "c = 3");
    mkdirSync(join(dir, "sub/conf.d/x.conf"));
    expect(await read()).toEqual({ settings: { a: "2", b: "1", c: "2", d: "1" }, skipped: [] });
  });

  test("what cannot be read is named, and the rest is read", async () => {
    put("data/postgresql.conf", "include 'none.conf'\nthis is not a setting\ninclude_dir 'nowhere'\na = 1\n");
    expect(await read()).toEqual({
      settings: { a: "1" },
      skipped: ["/data/none.conf", "/data/postgresql.conf:2", "/data/nowhere"],
    });
  });

  test("a file that includes itself ends at PostgreSQL's depth", async () => {
    put("data/postgresql.conf", "a = 1\ninclude 'postgresql.conf'\n");
    expect(await read()).toEqual({ settings: { a: "1" }, skipped: ["/data/postgresql.conf"] });
  });

  test("before 12 recovery.conf says more, later it is not read", async () => {
    put("data/recovery.conf", "standby_mode = 'on'\nprimary_slot_name = 's1'\n");
    expect((await read(11)).settings).toMatchObject({ standby_mode: "on", primary_slot_name: "s1" });
    expect((await read(12)).settings).not.toHaveProperty("standby_mode");
    expect(await asksForStandby(dir)).toBe(true);
    put("data/recovery.conf", "standby_mode = 'off'\n");
    expect(await asksForStandby(dir)).toBe(false);
    rmSync(join(dir, "recovery.conf"));
    expect(await asksForStandby(dir)).toBe(false);
  });

  test("a configuration file elsewhere is found by the command line (Debian)", async () => {
    const etc = put("etc/postgresql.conf", "a = 'etc'\ninclude_dir 'conf.d'\n");
    mkdirSync(join(root, "etc/conf.d"));
    put("data/postmaster.opts", `/p "-D" "${dir}" "-c" "config_file=${etc}"\n`);
    expect(await read()).toMatchObject({ settings: { a: "etc" }, skipped: [] });
    rmSync(etc);
    expect(await read()).toMatchObject({ skipped: ["/etc/postgresql.conf"] });
  });

  test("-D may be a folder of configuration whose data_directory leads here, and no other one", async () => {
    symlinkSync(dir, join(root, "link"));
    put("etc/postgresql.conf", `data_directory = '${join(root, "link")}'\na = 'etc'\n`);
    put("data/postmaster.opts", `/p "-D" "${join(root, "etc")}"\n`);
    expect((await read()).settings).toMatchObject({ a: "etc" });
    put("etc/postgresql.conf", `data_directory = '${root}'\na = 'etc'\n`);
    expect((await read()).settings).toEqual({ wal_level: "logical" });
  });

  test("a directory that is mounted elsewhere is read where it is mounted", async () => {
    put("data/postgresql.conf", "include '/var/lib/pg/data/extra.conf'\n");
    put("data/extra.conf", "a = 1\n");
    put(
      "data/postmaster.opts",
      '/p "-D" "/var/lib/pg/data" "-c" "config_file=/var/lib/pg/data/postgresql.conf"\n',
    );
    expect(await read()).toEqual({
      settings: { a: "1", config_file: "/var/lib/pg/data/postgresql.conf" },
      skipped: [],
    });
  });

  test("without any file nothing is known", async () => {
    rmSync(join(dir, "postgresql.conf"));
    expect(await read()).toEqual({ settings: {}, skipped: ["/data/postgresql.conf"] });
  });

  test("a standby that is not to be read is told, and one that may not be (I11)", async () => {
    const hotStandby = async (main: string) => {
      put("data/postgresql.conf", main);
      return (await nextStart(dir, 16, null)).hotStandby;
    };
    expect(await hotStandby("")).toBe(true);
    expect(await hotStandby("hot_standby = yes")).toBe(true);
    expect(await hotStandby("hot_standby = off")).toBe(false);
    expect(await hotStandby("hot_standby = on\ninclude 'none'")).toBeNull();
  });

  describe("what the next start has", () => {
    const running = { maxReplicationSlots: 15, walLevel: "logical" };
    test.each([
      ["nothing said: PostgreSQL's defaults", "", "", "", null, 10, "replica"],
      [
        "a lower value waits in the files",
        "max_replication_slots = 5\nwal_level = logical",
        "",
        "",
        running,
        5,
        "logical",
      ],
      [
        "a higher one may be taken back",
        "max_replication_slots = 50\nwal_level = logical",
        "",
        "",
        running,
        15,
        "logical",
      ],
      [
        "a level that is lowered",
        "max_replication_slots = 50",
        "wal_level = 'minimal'",
        "",
        running,
        15,
        "minimal",
      ],
      [
        "the running server's is lower",
        "wal_level = logical",
        "",
        "",
        { ...running, walLevel: "replica" },
        10,
        "replica",
      ],
      ["old names of levels", "wal_level = hot_standby", "", "", null, 10, "replica"],
      [
        "the command line wins",
        "max_replication_slots = 50",
        "max_replication_slots = 40",
        "max_replication_slots=7",
        null,
        7,
        "replica",
      ],
      ["an include that cannot be read", "wal_level = logical\ninclude 'none'", "", "", running, null, null],
      [
        "an include that cannot be read, under ALTER SYSTEM",
        "include 'none'",
        "wal_level = 'logical'\nmax_replication_slots = '12'",
        "",
        running,
        12,
        "logical",
      ],
      ["a value that is none", "max_replication_slots = many\nwal_level = most", "", "", running, null, null],
    ])("%s (I11)", async (_, main, auto, option, server, maxReplicationSlots, walLevel) => {
      put("data/postgresql.conf", main);
      put("data/postgresql.auto.conf", auto);
      put("data/postmaster.opts", `/p "-D" "${dir}"${option === "" ? "" : ` "-c" "${option}"`}\n`);
      expect(await nextStart(dir, 15, server)).toMatchObject({ maxReplicationSlots, walLevel });
    });
  });
});
