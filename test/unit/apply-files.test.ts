/** The lane of slot files, against a primary made of answers: what is written, and what is not. */
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { expect, onTestFinished, test } from "vitest";
import type { Outcome } from "../../src/apply/errors.ts";
import { type FilesContext, runFiles } from "../../src/apply/files.ts";
import type { PinKeeper } from "../../src/apply/pin.ts";
import { SnapshotStore } from "../../src/apply/snapshot-store.ts";
import { writeSlotFolder } from "../../src/datadir/slot-folders.ts";
import type { FileAction } from "../../src/domain/action.ts";
import type { Staged } from "../../src/domain/journal.ts";
import { crc32c } from "../../src/pg/crc32c.ts";
import type { PgSession } from "../../src/pg/session.ts";
import { parseSlotState } from "../../src/pg/slot-state-file.ts";
import { READ_SERVER_FILE } from "../../src/pg/sql.ts";

const stage = (slot: string): FileAction => ({
  ...{ kind: "stage", slot, database: "db1", databaseOid: 5, source: slot, guard: null, again: false },
});
const unstage = (slot: string): FileAction => ({
  ...{ kind: "unstage", slot, database: "db1", databaseOid: 5, why: "" },
});

/** As a server of 15 writes it, at 0/64. */
function stateFile(name: string): Buffer {
  const bytes = Buffer.alloc(200);
  bytes.writeUInt32LE(0x1051ca1, 0);
  bytes.writeUInt32LE(2, 8);
  bytes.writeUInt32LE(184, 12);
  bytes.write(name, 16);
  bytes.writeUInt32LE(5, 80);
  bytes.writeUInt32LE(700, 92);
  bytes.writeBigUInt64LE(0x64n, 96);
  bytes.writeBigUInt64LE(0x65n, 112);
  bytes.write("pgoutput", 129);
  bytes.writeUInt32LE(crc32c(bytes.subarray(8)), 4);
  return bytes;
}

/** As a server of 17 writes it for a slot that it synced when it was a standby itself. */
function syncedFile(name: string): Buffer {
  const bytes = stateFile(name);
  bytes.writeUInt32LE(5, 8);
  bytes.writeUInt8(1, 193);
  bytes.writeUInt32LE(crc32c(bytes.subarray(8)), 4);
  return bytes;
}

interface Setup {
  /** 15 unless told. */
  major?: number;
  /** What the primary's files hold. */
  file?: (name: string) => Buffer;
  folders?: string[];
  /** Where the slot stands in the primary's memory; the last one stays. */
  restarts?: string[];
  sameRun?: FilesContext["sameRun"];
  noteStaged?: FilesContext["noteStaged"];
}

async function run(actions: FileAction[], setup: Setup, signal = new AbortController().signal) {
  const directory = mkdtempSync(path.join(os.tmpdir(), "slotsync-files-"));
  onTestFinished(() => rmSync(directory, { recursive: true }));
  for (const name of ["pg_replslot", ...(setup.folders ?? []).map((folder) => `pg_replslot/${folder}`)])
    mkdirSync(path.join(directory, name));
  const restarts = [...(setup.restarts ?? ["0/64"])];
  const query = async (sql: string, [first]: [string]) => {
    if (sql === READ_SERVER_FILE) {
      const name = /^pg_replslot\/(.*)\/state$/.exec(first)?.[1];
      return [{ content: name ? `\\x${(setup.file ?? stateFile)(name).toString("hex")}` : null }];
    }
    return [
      {
        ...{ name: first, slot_type: "logical", plugin: "pgoutput", database_oid: "5", database: "db1" },
        ...{ temporary: false, active: false, active_pid: null, catalog_xmin: "700", two_phase: false },
        ...{ restart_lsn: restarts.length > 1 ? restarts.shift() : restarts[0], confirmed_flush_lsn: "0/65" },
        invalidation: null,
      },
    ];
  };
  const { major = 15 } = setup;
  const session = { usable: true, serverVersionNum: major * 10_000 + 18, query, close: async () => {} };
  const outcomes: Outcome[] = [];
  const noted: Staged[] = [];
  await runFiles(
    actions,
    {
      directory,
      openPrimary: async () => session as unknown as PgSession,
      pins: { hold: async () => "pin" } as unknown as PinKeeper,
      snapshots: new SnapshotStore(directory),
      server: () => ({ major, systemIdentifier: "1", walSegmentBytes: 16 * 1024 * 1024 }),
      sameRun: setup.sameRun ?? (() => async () => {}),
      noteStaged: async (name, staged) => {
        noted.push(staged);
        await setup.noteStaged?.(name, staged);
      },
      noteSnapshotLost: async () => {},
      now: () => 0,
    },
    signal,
    (outcome) => outcomes.push(outcome),
  );
  const folders = readdirSync(path.join(directory, "pg_replslot"));
  const states = folders.flatMap((name) => {
    const file = path.join(directory, "pg_replslot", name, "state");
    return existsSync(file) ? [parseSlotState(readFileSync(file), major)] : [];
  });
  return { folders, states, outcomes, noted };
}

test("what the primary synced when it was a standby is staged as an ordinary slot: ours, and to be proven (I2, I7)", async () => {
  const { states, outcomes } = await run([stage("x")], { major: 17, file: syncedFile });
  expect(outcomes.map(({ error }) => error)).toEqual([null]);
  expect(states).toMatchObject([{ name: "x", synced: false }]);
});

test("a slot is staged, another taken back", async () => {
  const { folders, outcomes } = await run([unstage("y"), stage("x")], { folders: ["y"] });
  expect(outcomes.map(({ error }) => error)).toEqual([null, null]);
  expect(folders).toEqual(["x"]);
});

test("nothing is written or removed in another run of the server than the one it was planned for, whatever has been looked at since (I11)", async () => {
  let looked = 1;
  const { folders, outcomes } = await run([unstage("y"), stage("x")], {
    folders: ["y"],
    sameRun: () => {
      const planned = looked;
      return async () => {
        // by the time that it comes to a file, the standby has been restarted and looked at again
        looked = 2;
        if (planned !== looked) throw new Error("another run");
      };
    },
  });
  expect(outcomes.map(({ error }) => String(error))).toEqual(["Error: another run", "Error: another run"]);
  expect(folders).toEqual(["y"]);
});

test("a promotion in the middle: what has not been written yet never is (I6, I8)", async () => {
  const halt = new AbortController();
  const { folders } = await run(
    [stage("x"), stage("y")],
    {
      noteStaged: async () => {
        halt.abort();
      },
    },
    halt.signal,
  );
  expect(folders).toEqual([]);
});

test("that there is no snapshot counts only where the slot stands in memory, not in its file (I2 e)", async () => {
  const settled = await run([stage("x")], {});
  expect(settled.noted.map(({ snapshot }) => snapshot)).toEqual(["absent"]);
  const moving = await run([stage("x")], { restarts: ["0/64", "0/64", "0/70"] });
  expect(moving.noted).toEqual([]);
  expect(String(moving.outcomes[0]?.error)).toMatch(/moves on faster/);
});

test("a server that starts and clears temporary folders meanwhile: no folder without a state file is left (I11)", async () => {
  const directory = mkdtempSync(path.join(os.tmpdir(), "slotsync-files-"));
  onTestFinished(() => rmSync(directory, { recursive: true }));
  mkdirSync(path.join(directory, "pg_replslot"));
  const beforeStep = (step: string) => {
    if (step.startsWith("rename")) rmSync(path.join(directory, "pg_replslot/x.tmp/state"));
  };
  await expect(writeSlotFolder(directory, "x", stateFile("x"), 15, { beforeStep })).rejects.toThrow(
    /not_writable|was left/,
  );
  expect(readdirSync(path.join(directory, "pg_replslot"))).toEqual([]);
});
