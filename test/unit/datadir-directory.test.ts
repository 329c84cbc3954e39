import {
  chmodSync,
  chownSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import { DataDirectoryError } from "../../src/datadir/errors.ts";
import { readIdentity, verifyDirectory } from "../../src/datadir/identity.ts";
import { hasPlugin, libraryFolders } from "../../src/datadir/plugins.ts";
import { listSlotFolders, removeLeftovers, removeSlotFolder } from "../../src/datadir/slot-folders.ts";

let root: string;
let dir: string;

/** As much of a data directory as is looked at. */
beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), "slotsync-datadir-"));
  dir = join(root, "data");
  for (const folder of ["", "global", "pg_replslot"]) mkdirSync(join(dir, folder), { mode: 0o700 });
  writeFileSync(join(dir, "PG_VERSION"), "15\n");
  control(1);
});
afterEach(() => rmSync(root, { recursive: true, force: true }));

function control(state: number, version = 1300): void {
  const bytes = Buffer.alloc(8192);
  bytes.writeBigUInt64LE(7_654_321_098_765_432_109n, 0);
  bytes.writeUInt32LE(version, 8);
  bytes.writeUInt32LE(state, 16);
  writeFileSync(join(dir, "global", "pg_control"), bytes);
}

const expected = { systemIdentifier: "7654321098765432109", major: 15, server: null };

describe("whose directory it is", () => {
  test.each([
    [0, "other"],
    [1, "shut_down"],
    [2, "shut_down_in_recovery"],
    [3, "other"],
    [4, "other"],
    [5, "in_recovery"],
    [6, "in_production"],
    [7, "other"],
  ])("state %i of pg_control is %s", async (state, primaryState) => {
    control(state);
    expect(await readIdentity(dir)).toEqual({
      major: 15,
      systemIdentifier: "7654321098765432109",
      standby: false,
      primaryState,
      running: null,
    });
  });

  test("a directory of an older PostgreSQL, and one that asks to be a standby", async () => {
    writeFileSync(join(dir, "PG_VERSION"), "9.6\n");
    expect(await readIdentity(dir)).toMatchObject({ major: 9 });
    writeFileSync(join(dir, "PG_VERSION"), "15\n");
    writeFileSync(join(dir, "recovery.conf"), "standby_mode = on\n");
    expect(await readIdentity(dir)).toMatchObject({ standby: false });
    writeFileSync(join(dir, "standby.signal"), "");
    expect(await readIdentity(dir)).toMatchObject({ standby: true });
    rmSync(join(dir, "standby.signal"));
    writeFileSync(join(dir, "PG_VERSION"), "11\n");
    expect(await readIdentity(dir)).toMatchObject({ standby: true });
  });

  test("the server that runs in it", async () => {
    const pidFile = join(dir, "postmaster.pid");
    writeFileSync(pidFile, "4711\n/data\n1790000000\n5433\n/tmp\nlocalhost\n  1 2\nready   \n");
    expect(await readIdentity(dir)).toMatchObject({
      running: { pid: 4711, startEpochS: 1_790_000_000, port: 5433 },
    });
    const asked = (startEpochS: number, port = 5433) =>
      verifyDirectory(dir, { ...expected, server: { startEpochS, port } });
    await expect(asked(1_790_000_001.9)).resolves.toBeUndefined();
    await expect(asked(1_789_999_998)).resolves.toBeUndefined();
    for (const [startEpochS, port] of [
      [1_790_000_002.1],
      [1_789_999_997.9],
      [1_790_000_000, 5432],
    ] as const) {
      const refused = expect(asked(startEpochS, port)).rejects;
      await refused.toMatchObject({
        name: "DataDirectoryError",
        reason: "another_server",
        message: expect.stringMatching(
          /port 5433 and started at 2026-09-21T14:13:20.000Z \(postmaster.pid\)/,
        ),
      });
    }
    rmSync(pidFile);
    await expect(asked(1_790_000_000)).rejects.toMatchObject({ reason: "another_server" });
    for (const half of ["", "4711\n", "4711\n/data\n"]) {
      writeFileSync(pidFile, half);
      await expect(readIdentity(dir)).rejects.toMatchObject({ reason: "unreadable", path: pidFile });
    }
  });

  test("what is no data directory is told from one that is missing", async () => {
    const reasonOf = async (path: string) => {
      const error = await verifyDirectory(path, expected).catch((thrown: unknown) => thrown);
      expect(error).toBeInstanceOf(DataDirectoryError);
      expect((error as Error).message).toMatch(/standby\.data_directory/);
      return (error as DataDirectoryError).reason;
    };
    expect(await reasonOf(join(root, "none"))).toBe("missing");
    expect(await reasonOf(root)).toBe("not_a_data_directory");
    expect(await reasonOf(join(dir, "PG_VERSION"))).toBe("not_a_data_directory");
    control(1, 1);
    expect(await reasonOf(dir)).toBe("not_a_data_directory");
    writeFileSync(join(dir, "global", "pg_control"), "short");
    expect(await reasonOf(dir)).toBe("not_a_data_directory");
    rmSync(join(dir, "global"), { recursive: true });
    expect(await reasonOf(dir)).toBe("not_a_data_directory");
    writeFileSync(join(dir, "PG_VERSION"), "new\n");
    expect(await reasonOf(dir)).toBe("not_a_data_directory");
  });

  test("another cluster's and another version's are refused", async () => {
    await expect(verifyDirectory(dir, expected)).resolves.toBeUndefined();
    await expect(verifyDirectory(dir, { ...expected, systemIdentifier: "1" })).rejects.toThrow(
      `${dir} has system identifier 7654321098765432109, the standby's is 1`,
    );
    await expect(verifyDirectory(dir, { ...expected, major: 16 })).rejects.toMatchObject({
      reason: "another_major",
    });
  });

  test("only root and the account it belongs to may write it (I11)", async () => {
    if (process.getuid?.() !== 0) {
      chmodSync(join(dir, "pg_replslot"), 0o500);
      await expect(verifyDirectory(dir, expected)).rejects.toMatchObject({ reason: "not_writable" });
      return;
    }
    for (const folder of ["", "global", "pg_replslot"]) {
      chownSync(join(dir, folder), 65534, 65534);
      chmodSync(join(dir, folder), 0o777);
    }
    chmodSync(root, 0o755);
    await expect(verifyDirectory(dir, expected)).resolves.toBeUndefined();
    try {
      process.seteuid?.(12345);
      await expect(verifyDirectory(dir, expected)).rejects.toThrow(
        "belongs to the account with id 65534, this runs as 12345",
      );
    } finally {
      process.seteuid?.(0);
    }
  });
});

describe("pg_replslot, as hostile hands may have left it (I13)", () => {
  let slots: string;
  let outside: string;
  beforeEach(() => {
    slots = join(dir, "pg_replslot");
    outside = join(root, "outside");
    mkdirSync(outside);
    writeFileSync(join(outside, "state"), "precious");
  });
  const isIntact = () => expect(readdirSync(outside)).toEqual(["state"]);

  test("links are no slots, and are not followed", async () => {
    symlinkSync(outside, join(slots, "a"));
    symlinkSync(outside, join(slots, "b.tmp"));
    writeFileSync(join(slots, "c"), "");
    mkdirSync(join(slots, "d"));
    symlinkSync(join(outside, "state"), join(slots, "d", "state"));
    mkdirSync(join(slots, "e.tmp"));
    expect(await listSlotFolders(dir, 15)).toEqual([
      { name: "d", state: null, problem: "its state file cannot be read (ELOOP)" },
    ]);
    await expect(removeSlotFolder(dir, "a")).rejects.toMatchObject({ reason: "not_writable" });
    await expect(removeSlotFolder(dir, "c")).rejects.toMatchObject({ reason: "not_writable" });
    await removeSlotFolder(dir, "d");
    await removeLeftovers(dir, ["b", "e"]);
    expect(readdirSync(slots)).toEqual(["a", "c"]);
    isIntact();
  });

  test("folders that PostgreSQL would not start with are named", async () => {
    mkdirSync(join(slots, "empty"));
    mkdirSync(join(slots, "damaged"));
    writeFileSync(join(slots, "damaged", "state"), "nonsense");
    mkdirSync(join(slots, "Strange Name"));
    expect(await listSlotFolders(dir, 15, { known: new Set(["Strange Name"]) })).toEqual([
      { name: "Strange Name", state: null, problem: null },
      { name: "damaged", state: null, problem: expect.stringMatching(/^its state file is damaged: /) },
      { name: "empty", state: null, problem: "it has no state file" },
    ]);
  });

  test("a name that no slot has touches no path", async () => {
    for (const name of ["", ".", "..", "../outside", "a/b", "A", "a.tmp", "x".repeat(64)]) {
      await expect(removeSlotFolder(dir, name)).rejects.toBeInstanceOf(RangeError);
      await expect(removeLeftovers(dir, [name])).rejects.toBeInstanceOf(RangeError);
    }
    isIntact();
  });

  test("removing what is not there, or left half removed, is no error", async () => {
    await removeSlotFolder(dir, "a");
    mkdirSync(join(slots, "a.tmp"));
    writeFileSync(join(slots, "a.tmp", "state"), "");
    await removeSlotFolder(dir, "a");
    mkdirSync(join(slots, "a"));
    mkdirSync(join(slots, "a.tmp"));
    await removeSlotFolder(dir, "a");
    expect(readdirSync(slots)).toEqual([]);
  });

  test("a directory without slots is not one that cannot be read", async () => {
    expect(await listSlotFolders(dir, 15)).toEqual([]);
    rmSync(slots, { recursive: true });
    await expect(listSlotFolders(dir, 15)).rejects.toMatchObject({ reason: "missing" });
  });
});

describe("where a server's libraries are", () => {
  test.each([
    ["/usr/lib/postgresql/15/bin", "/usr/lib/postgresql/15/lib"], // Debian, Ubuntu
    ["/usr/pgsql-15/bin", "/usr/pgsql-15/lib"], // postgresql.org's RPMs
    ["/usr/bin", "/usr/lib64/pgsql"], // Fedora, RHEL
    ["/usr/bin", "/usr/lib/postgresql"], // Arch
    ["/usr/lib/postgresql15/bin", "/usr/lib/postgresql15/lib64"], // SUSE
    ["/usr/libexec/postgresql15", "/usr/lib/postgresql15"], // Alpine
    ["/usr/local/bin", "/usr/local/lib/postgresql"], // the Docker image, FreeBSD
    ["/usr/local/pgsql/bin", "/usr/local/pgsql/lib"], // from source
    ["/opt/homebrew/Cellar/postgresql@15/15.4/bin", "/opt/homebrew/Cellar/postgresql@15/15.4/lib/postgresql"],
  ])("programs in %s, libraries in %s", (programs, libraries) => {
    expect(libraryFolders(programs)).toContain(libraries);
  });

  test("a plugin is there, is not there, or cannot be told", async () => {
    const put = (path: string, text = "") => {
      mkdirSync(join(root, path, ".."), { recursive: true });
      writeFileSync(join(root, path), text);
    };
    expect(await hasPlugin(dir, "wal2json")).toBeNull();
    put("data/postmaster.opts", `${root}/usr/bin/postgres "-D" "${dir}"\n`);
    expect(await hasPlugin(dir, "wal2json")).toBeNull();
    put("usr/bin/postgres");
    put("usr/lib/postgresql/libpqwalreceiver.so");
    expect(await hasPlugin(dir, "wal2json")).toBe(false);
    put("usr/lib/postgresql/wal2json.so");
    expect(await hasPlugin(dir, "wal2json")).toBe(true);
    put("usr/lib/other/decoderbufs.so");
    expect(await hasPlugin(dir, "../other/decoderbufs")).toBe(false);
    put("data/postgresql.conf", `dynamic_library_path = '$libdir:${root}/usr/lib/other'\n`);
    expect(await hasPlugin(dir, "decoderbufs")).toBe(true);
    expect(await hasPlugin(dir, "wal2json")).toBe(true);
    expect(existsSync(join(root, "usr/lib/other/decoderbufs.so"))).toBe(true);
  });
});
