/** The order in which the finishing step is done, against a server that counts its replication slots. */
import { mkdirSync, mkdtempSync, renameSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { pino } from "pino";
import { expect, onTestFinished, test } from "vitest";
import type { JournalState, SlotRecord } from "../../src/domain/journal.ts";
import { formatLsn, type Lsn, parseLsn } from "../../src/domain/lsn.ts";
import type { LogicalSlot } from "../../src/domain/slot.ts";
import type { PgSession } from "../../src/pg/session.ts";
import {
  advanceSeenSlot,
  advanceSlot,
  copySlot,
  dropSeenSlot,
  dropSlot,
  LIST_DATABASES,
  lookAtPromoted,
  MOVED,
  timelineHistory,
} from "../../src/pg/sql.ts";
import { finishOnce } from "../../src/sync/finish.ts";
import { GUARD, guard, journalOf, lsn, NOW, OURS, record, slot } from "./domain/build.ts";

const VERSION = 160_014;
const END_OF_WAL = lsn(4 * 1024 ** 3);

/** A promoted server with one database and so many replication slots. */
class Server {
  readonly done: string[] = [];
  readonly slots: Map<string, LogicalSlot>;
  readonly #max: number;
  /** 18 gives up slots that nobody uses. */
  readonly version: number;
  /** What happens by itself before the server is looked at for the so-manieth time, from 1 on. */
  before: (look: number, slots: Map<string, LogicalSlot>) => void = () => {};
  #looks = 0;
  /** Why it does not give the history of its timeline, or null. */
  historyError: Error | null = null;
  /** What output_plugin_libraries lists; null where there is no such setting. */
  plugins: string | null = null;
  /** A plugin whose library is not there. */
  lacks: string | null = null;

  constructor(slots: LogicalSlot[], max: number, version = VERSION) {
    this.slots = new Map(slots.map((one) => [one.name, one]));
    this.#max = max;
    this.version = version;
  }

  #look(): object[][] {
    this.#looks += 1;
    this.before(this.#looks, this.slots);
    const idle_timeout_s = this.version >= 180_000 ? "60" : null;
    return [
      [
        {
          ...LOOK,
          idle_timeout_s,
          plugin_rules:
            this.plugins &&
            JSON.stringify({ value: this.plugins, source: "default", role: 10, overrides: null }),
        },
      ],
      [...this.slots.values()].map(row),
    ];
  }

  /** What is done by a command of the replication protocol. */
  #command(sql: string): object[][] {
    const [, name, flag] = /^ALTER_REPLICATION_SLOT "(\w+)" \(FAILOVER (\w+)\)$/.exec(sql) ?? [];
    const found = this.slots.get(name ?? "");
    if (!found) throw new Error(`not expected: ${sql}`);
    expect(String(found.failover)).toBe(flag);
    this.done.push(`use ${name}`);
    return [[]];
  }

  async open(database: string): Promise<PgSession> {
    if (database !== "db1") throw failure("3D000", `no database ${database}`);
    const temporary = new Set<string>();
    const run = (sql: string, params: unknown[]) => {
      const [first, second, third] = params.map(String) as [string, string, string];
      if (sql === dropSlot("primary")) return this.#drop(first, temporary);
      if (sql === advanceSlot("primary")) return this.#advance(first, second);
      if (sql === dropSeenSlot("primary"))
        return this.#isAt(first, second) ? this.#drop(first, temporary) : MOVED;
      if (sql === advanceSeenSlot("primary"))
        return this.#isAt(first, second) ? this.#advance(first, third) : MOVED;
      if (sql === copySlot("primary") && params[3] === this.lacks) throw failure("58P01", "no such file");
      if (sql === copySlot("primary")) return this.#copy(first, second, third === "true", temporary);
      throw new Error(`not expected: ${sql}`);
    };
    return {
      serverVersionNum: this.version,
      usable: true,
      query: async (sql: string, params: unknown[] = []) => {
        if (sql === LIST_DATABASES) return [{ oid: "1", name: "db1" }];
        try {
          return [{ done: run(sql, params) }];
        } catch (error) {
          for (const name of temporary) this.slots.delete(name);
          throw error;
        }
      },
      script: async (sql: string) => {
        if (sql === timelineHistory(2) && this.historyError) throw this.historyError;
        if (sql === timelineHistory(2)) return [[{ content: `1\t${formatLsn(END_OF_WAL)}\tnone\n` }]];
        return sql === lookAtPromoted(this.version) ? this.#look() : this.#command(sql);
      },
      close: async () => {},
    } as unknown as PgSession;
  }

  /** Where the plan has seen it; `null` for no position. */
  #isAt(name: string, at: string): boolean {
    const position = this.slots.get(name)?.confirmedFlushLsn;
    return position !== undefined && String(position === null ? null : formatLsn(position)) === at;
  }

  #drop(name: string, temporary: Set<string>): string {
    if (!temporary.delete(name)) this.done.push(`drop ${name}`);
    if (!this.slots.delete(name)) throw failure("42704", `no slot ${name}`);
    return "";
  }

  #advance(name: string, to: string): string {
    const found = this.slots.get(name);
    if (!found) throw failure("42704", `no slot ${name}`);
    found.confirmedFlushLsn = parseLsn(to);
    if (!found.temporary) this.done.push(`advance ${name}`);
    return to;
  }

  #copy(from: string, name: string, isTemporary: boolean, temporary: Set<string>): string {
    const source = this.slots.get(from);
    if (!source) throw failure("42704", `no slot ${from}`);
    if (this.slots.size >= this.#max) throw failure("53400", "all replication slots are in use");
    this.slots.set(name, { ...source, name, temporary: isTemporary });
    if (isTemporary) temporary.add(name);
    else this.done.push(`make ${name}`);
    return formatLsn(source.confirmedFlushLsn as Lsn);
  }
}

const LOOK = {
  in_recovery: false,
  system_identifier: "1",
  timeline: "00000002",
};

function failure(code: string, message: string): Error {
  return Object.assign(new Error(message), { severity: "ERROR", code });
}

function row(one: LogicalSlot) {
  const { name, plugin, database, temporary, restartLsn, confirmedFlushLsn } = one;
  return {
    name,
    slot_type: "logical",
    plugin,
    database_oid: String(one.databaseOid),
    database,
    temporary,
    active: false,
    active_pid: null,
    catalog_xmin: "700",
    restart_lsn: restartLsn && formatLsn(restartLsn),
    confirmed_flush_lsn: confirmedFlushLsn && formatLsn(confirmedFlushLsn),
    two_phase: false,
    invalidation: one.invalidation,
    failover: one.failover,
    synced: one.synced,
  };
}

async function finish(server: Server, journal: JournalState, directory: string | null = null) {
  const report = await finishOnce({
    control: await server.open("db1"),
    open: (database) => server.open(database),
    openReplication: () => server.open("db1"),
    connections: 2,
    directory,
    keepUnproven: false,
    journal,
    record: async () => {},
    log: pino({ level: "silent" }),
    now: () => NOW,
    toWallTime: 0,
    blindMs: 10_000,
  });
  if (!report) throw new Error("nothing was finished");
  const outcomes = Object.fromEntries(report.slots.map(({ name, outcome }) => [name, outcome]));
  return { complete: report.complete, outcomes, historyError: report.historyError };
}

const at = (position: number, more: Partial<SlotRecord> = {}): Partial<SlotRecord> => ({
  primaryConfirmedFlushLsn: lsn(position),
  ...more,
});

test("a slot made anew in a database that never came here is dropped all the same (I6)", async () => {
  const server = new Server([guard(300), slot("x", 400)], 10);
  const elsewhere = { database: "db9", databaseOid: 9 };
  const journal = journalOf([record("x", "owned", 400, at(500, elsewhere))]);
  expect(await finish(server, journal)).toEqual({
    complete: true,
    historyError: null,
    outcomes: { x: "dropped" },
  });
  expect([...server.slots.keys()]).toEqual([]);
});

test("what may not wear its name goes before anything else is done (I6)", async () => {
  const server = new Server([guard(100), slot("far", 200), slot("ahead", 500), slot("gone", 500)], 10);
  const journal = journalOf([
    record("far", "owned", 200, at(800)),
    record("ahead", "owned", 500, at(450)),
    record("gone", "owned", 500, at(500, { obsolete: true })),
  ]);
  expect(await finish(server, journal)).toEqual({
    complete: true,
    historyError: null,
    outcomes: { far: "advanced", ahead: "materialised", gone: "dropped" },
  });
  expect(server.done.slice(0, 2)).toEqual(["drop ahead", "drop gone"]);
  expect(server.slots.get("ahead")?.confirmedFlushLsn).toBe(lsn(450));
});

test("with every replication slot in use, slots that were synced decode each for itself (I1)", async () => {
  const far = 3 * 1024 ** 3;
  const server = new Server([guard(100), slot("a", 100), slot("b", 100)], 3);
  const journal = journalOf([record("a", "owned", 100, at(far)), record("b", "owned", 100, at(far))]);
  expect(await finish(server, journal)).toEqual({
    complete: true,
    historyError: null,
    outcomes: { a: "advanced", b: "advanced" },
  });
  expect(server.done).toEqual(["advance a", "advance b", `drop ${GUARD}`]);
});

test("a slot that was not promised takes no replication slot from one that was (I1)", async () => {
  // room for one of the two, and the working copy
  const server = new Server([guard(100)], 3);
  const full = { protection: "waiting", reason: "too_many_slots" } as const;
  const journal = journalOf([
    record("spare", "seen", null, at(400, full)),
    record("promised", "seen", null, at(500, { protection: "guarded" })),
  ]);
  expect((await finish(server, journal)).outcomes).toEqual({ promised: "materialised", spare: "failed" });
});

test.each([
  ["with room for one working copy", 42],
  ["with room for all", 60],
])("%s, many copies to positions of their own are all made, each exact (G2b)", async (_, max) => {
  const server = new Server([guard(100)], max);
  const names = Array.from({ length: 40 }, (__, index) => `s${index}`);
  const position = (index: number) => 200 + 10 * Math.floor(index / 2);
  const journal = journalOf(
    names.map((name, index) => record(name, "seen", null, at(position(index), { protection: "guarded" }))),
  );
  const { complete, outcomes } = await finish(server, journal);
  expect(complete).toBe(true);
  expect(new Set(Object.values(outcomes))).toEqual(new Set(["materialised"]));
  expect([...server.slots.keys()].toSorted()).toEqual(names.toSorted());
  for (const [index, name] of names.entries())
    expect(server.slots.get(name)?.confirmedFlushLsn, name).toBe(lsn(position(index)));
});

test("while what was staged cannot be taken back, nothing is complete: it would be loaded at the next start (I6)", async () => {
  const staged = {
    ...{
      databaseOid: 1,
      plugin: "pgoutput",
      twoPhase: false,
      restartLsn: lsn(90),
      confirmedFlushLsn: lsn(100),
    },
    ...{ snapshot: "kept" as const, pin: null, at: NOW, loadedBy: null },
  };
  const known = (more: Partial<SlotRecord>) =>
    journalOf([record("x", "seen", null, at(100, more))], { guards: {} });
  const missing = "/nonexistent/data";
  expect(await finish(new Server([], 10), known({ staged: [staged] }), missing)).toMatchObject({
    complete: false,
  });
  expect(await finish(new Server([], 10), known({ staged: [] }), missing)).toMatchObject({ complete: true });
});

test("where idle slots are given up, all that the journal knows is used before anything else, once (I18, K6)", async () => {
  const synced = { failover: true, synced: true, plugin: "pgoutput" };
  const server = new Server(
    [guard(300), slot("x", 400), slot("flagged", 400, synced), slot("theirs", 400)],
    10,
    180_004,
  );
  const journal = journalOf([
    record("x", "owned", 400, at(500)),
    record("flagged", "owned", 400, at(400, { served: true, failover: true })),
    record("new", "seen", null, at(500, { protection: "guarded" })),
  ]);
  expect(await finish(server, journal)).toEqual({
    complete: true,
    historyError: null,
    outcomes: { x: "advanced", flagged: "kept", new: "materialised" },
  });
  expect(server.done).toEqual([
    `use ${GUARD}`,
    "use x",
    "use flagged",
    ...["make new", "advance x", `drop ${GUARD}`],
  ]);
});

test("a slot that the server gives up while the others are worked on is not told as kept: it is made anew, or goes (I6, I18)", async () => {
  const journal = journalOf([record("x", "owned", 400, at(400))]);
  const giveUp = (names: string[]) => (look: number, slots: Map<string, LogicalSlot>) => {
    for (const name of names) {
      const found = slots.get(name);
      if (found && look === 2) found.invalidation = "idle_timeout";
    }
  };
  const mended = new Server([guard(300), slot("x", 400)], 10);
  mended.before = giveUp(["x"]);
  expect((await finish(mended, journal)).outcomes.x).toBe("materialised");
  expect(mended.slots.get("x")).toMatchObject({ confirmedFlushLsn: lsn(400), invalidation: null });

  const lost = new Server([guard(300), slot("x", 400)], 10);
  lost.before = giveUp(["x", GUARD]);
  expect((await finish(lost, journal)).outcomes.x).toBe("dropped");
  expect(lost.slots.has("x")).toBe(false);

  const again = new Server([guard(300), slot("x", 400)], 10);
  again.before = (_, slots) => {
    const found = slots.get("x");
    if (found) found.invalidation = "idle_timeout";
  };
  expect(await finish(again, journal)).toMatchObject({ complete: false, outcomes: { x: "failed" } });
});

/** A subscriber that was seen ahead of this node, which had replayed 384 then. */
const ahead = (more: Partial<JournalState> = {}, maxTarget = 300) =>
  journalOf([record("x", "owned", maxTarget, at(800, { commonLsn: lsn(384) }))], more);

test("where the history of its timeline cannot be read, a slot comes only to what this node was seen to have, the report says why, and another attempt may mend it (I14)", async () => {
  const server = new Server([slot("x", 300)], 10);
  server.historyError = failure("53300", "sorry, too many clients already");
  const first = await finish(server, ahead());
  expect(first).toMatchObject({ complete: false, outcomes: { x: "advanced" } });
  expect(first.historyError).toContain("too many clients");
  expect(server.slots.get("x")?.confirmedFlushLsn).toBe(lsn(384));
  server.historyError = null;
  expect(await finish(server, ahead({}, 384))).toMatchObject({ complete: true, historyError: null });
  expect(server.slots.get("x")?.confirmedFlushLsn).toBe(lsn(800));
});

test("the data directory tells it as well (I14)", async () => {
  const directory = mkdtempSync(path.join(tmpdir(), "pg-slotsync-history-"));
  onTestFinished(() => rmSync(directory, { recursive: true }));
  mkdirSync(path.join(directory, "pg_wal"));
  const file = path.join(directory, "pg_wal", "00000002.history");
  const served = async () => {
    const server = new Server([slot("x", 300)], 10);
    server.historyError = failure("53300", "sorry, too many clients already");
    const { historyError } = await finish(server, ahead({ systemIdentifier: null }), directory);
    return { historyError, at: server.slots.get("x")?.confirmedFlushLsn };
  };
  writeFileSync(file, "1\t0/190\tno recovery target specified\n");
  expect(await served()).toEqual({ historyError: null, at: lsn(400) });
  renameSync(file, `${file}.elsewhere`);
  symlinkSync(`${file}.elsewhere`, file);
  expect((await served()).historyError, "a link is not followed").toContain("00000002.history");
  writeFileSync(`${file}.elsewhere`, "nonsense\n");
  rmSync(file);
  renameSync(`${file}.elsewhere`, file);
  expect((await served()).historyError).toContain("a line that is none");
});

test.each([
  ["may not be loaded", "test_decoding", ["advance a", "advance b"]],
  ["may be loaded", "pgoutput", ["drop a", "make a", "drop b", "make b"]],
])(
  "where their plugin %s, slots are not dropped for a shared copy that could not be made (I18)",
  async (_, listed, done) => {
    const far = 3 * 1024 ** 3;
    const server = new Server([guard(100), slot("a", 100), slot("b", 100)], 10);
    server.plugins = listed;
    const journal = journalOf([record("a", "owned", 100, at(far)), record("b", "owned", 100, at(far))]);
    expect(await finish(server, journal)).toMatchObject({ outcomes: { a: "advanced", b: "advanced" } });
    expect(server.done).toEqual([...done, `drop ${GUARD}`]);
  },
);

test("a slot whose plugin's library is gone is not dropped for a shared copy, whatever plugins the others have (I18)", async () => {
  const far = 3 * 1024 ** 3;
  const wal2json = { plugin: "wal2json" };
  const server = new Server([guard(100), slot("a", 100), slot("b", 100, wal2json)], 10);
  server.lacks = "wal2json";
  const journal = journalOf([
    record("a", "owned", 100, at(far)),
    record("b", "owned", 100, at(far, { ...wal2json, ours: { ...OURS, ...wal2json } })),
  ]);
  expect((await finish(server, journal)).outcomes).toEqual({ a: "advanced", b: "failed" });
  expect([...server.slots.keys()]).toContain("b");
});
