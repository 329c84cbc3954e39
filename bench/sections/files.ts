/**
 * 12 to 15, where guards come by their files in one restart: how soon a new slot is guarded, how often the standby is restarted for it,
 * and how long a promotion takes that makes every slot out of a guard. Beside it, on the same major, what is done without guards: each
 * new slot's state file is copied to the standby, which is restarted for it.
 */
import { cpSync, readdirSync } from "node:fs";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { formatLsn, type Lsn, maxLsn } from "../../src/domain/lsn.ts";
import { giveTo } from "../../src/sandbox/account.ts";
import { eventually } from "../../src/sandbox/poll.ts";
import { calm } from "../cpu.ts";
import type { Scope } from "../scope.ts";
import { type Spread, showMs, showSpread, spreadOf } from "../stats.ts";
import { type System, withSystem } from "../system.ts";
import type { SectionResult } from "../table.ts";
import { startTrickle, walPosition, writeWal } from "../writers.ts";

const SLOTS = 100;
const MB = 1024 * 1024;
const WAL_BYTES = 10 * MB;
/** No checkpoint, hence no running-xacts record, but those that are asked for. */
const QUIET = { checkpoint_timeout: "1h", max_wal_size: "8GB" };
const POSITIONS = ["different", "equal"] as const;

interface NewSlots {
  spread: Spread | null;
  count: number;
  /** Starts of the standby's server after the first of these slots was made. */
  restarts: number;
  /** Cycles of the sidecar that were seen meanwhile; 0 for the copies. */
  cycles: number;
}

interface Materialised {
  /** From pg_is_in_recovery() turning false to every slot at its position; null: not within a minute. */
  exactAfterMs: number | null;
  finishMs: number | null;
  /** Looks at the slots meanwhile, and slots seen in them under a real name at another than their final position. */
  looks: number;
  wrong: number;
  /** slots that were there at the end */
  slots: number;
}

interface OneMajor {
  guarded: NewSlots;
  copied: NewSlots;
  materialised: Record<(typeof POSITIONS)[number], Materialised>;
}

export async function files(scope: Scope, majors: readonly number[]): Promise<SectionResult[]> {
  const results: SectionResult[] = [];
  for (const major of majors) results.push(await measureMajor(scope, major));
  return results;
}

async function measureMajor(scope: Scope, major: number): Promise<SectionResult> {
  const count = scope.quick ? 10 : SLOTS;
  const copies = scope.quick ? 3 : 20;
  const told = async <T>(what: string, work: () => Promise<T>): Promise<T> => {
    await calm();
    scope.say(`files, ${major}: ${what}`);
    const result = await work();
    scope.say(JSON.stringify(result));
    return result;
  };
  const guarded = await told(`${count} new slots, guarded`, () =>
    withSystem("ours", { major }, (system) => newSlotsGuarded(system, count)),
  );
  const copied = await told(`${copies} new slots, their state files copied`, () =>
    withSystem("ours", { major }, (system) => newSlotsCopied(system, copies)),
  );
  const materialised = {} as OneMajor["materialised"];
  for (const positions of POSITIONS)
    materialised[positions] = await told(`materialising ${SLOTS} slots at ${positions} positions`, () =>
      withSystem("ours", { major, settings: QUIET }, (system) => materialise(system, positions)),
    );
  return section(major, { guarded, copied, materialised });
}

function section(major: number, measured: OneMajor): SectionResult {
  const { guarded, copied, materialised } = measured;
  const [ours, theirs] = [guarded.spread?.p50 ?? Number.NaN, copied.spread?.p50 ?? Number.NaN];
  const promotions = POSITIONS.map((positions) => {
    const { exactAfterMs } = materialised[positions];
    return {
      figure: `promotion, ${SLOTS} slots that only a guard holds, ${NAMES[positions]}, ${WAL_BYTES / MB} MB of WAL since the last running-xacts record: all made and exact after`,
      ours: exactAfterMs === null ? "> 60 s" : showMs(exactAfterMs),
      builtIn: "",
      target: "≤ 1 s",
      reached: exactAfterMs !== null && exactAfterMs <= 1_000,
    };
  });
  const wrong = POSITIONS.reduce((sum, positions) => sum + materialised[positions].wrong, 0);
  const looks = POSITIONS.reduce((sum, positions) => sum + materialised[positions].looks, 0);
  return {
    title: `PostgreSQL ${major}: slots made one after another under load`,
    columns: { ours: `**pg-slotsync, ${major}**`, builtIn: `**state file copied, restart, ${major}**` },
    rows: [
      {
        figure: "new slot → guarded (there: on the standby), p50 / p99 / max",
        ours: showSpread(guarded.spread),
        builtIn: `${showSpread(copied.spread)} (${(theirs / ours).toFixed(1)} ×)`,
        target: "p99 < 1 s",
        reached:
          guarded.spread !== null && guarded.count === guarded.spread.count && guarded.spread.p99 < 1_000,
      },
      {
        figure: `restarts of the standby for ${guarded.count} slots`,
        ours: `${guarded.restarts} (in ${guarded.cycles} cycles)`,
        builtIn: `${copied.restarts} for ${copied.count}`,
        target: "0",
        reached: guarded.restarts === 0,
      },
      ...promotions,
      {
        figure: `slots seen under their names at a wrong position meanwhile (${looks} looks)`,
        ours: String(wrong),
        builtIn: "",
        target: "0",
        reached: wrong === 0,
      },
    ],
    notes: [
      `beside one busy slot and 200 rows/s; counted from the answer of the creating statement, slots made at random moments; state files: until the restarted standby shows the slot, whether it is safe there or not; the one restart for the guards comes before; promotion: counted from pg_is_in_recovery() turning false to pg_replication_slots showing every slot at the position in the journal, asked every 2 ms`,
    ],
    raw: { major, ...measured },
  };
}

const NAMES: Record<(typeof POSITIONS)[number], string> = {
  different: "all at different positions",
  equal: "one far behind, the others at one position",
};

async function startedAt({ standby }: System): Promise<string> {
  const [row] = await standby.query<{ at: string }>(
    "select pg_catalog.pg_postmaster_start_time()::text as at",
  );
  return row?.at ?? "";
}

async function newSlotsGuarded(system: System, count: number): Promise<NewSlots> {
  const trickle = await startTrickle(system.primary, 200);
  system.onClose(() => trickle.stop());
  await system.startSyncWithGuards();
  const before = await startedAt(system);
  const [base] = await system.createSlots(1);
  if (!base) throw new Error("no slot");
  const consumers = await system.consume([base]);
  await consumers.start(100);
  await system.untilTold([base.name]);
  // naps are short from here on

  const cycles = new Set<number>();
  const times: number[] = [];
  for (let index = 0; index < count; index++) {
    await sleep(Math.random() * 1_000);
    const name = `bench_new_${index}`;
    await system.createSlot({ name, database: "postgres" });
    const created = performance.now();
    await eventually(
      () => {
        const journal = system.sidecar?.journal();
        cycles.add(journal?.observedAt ?? 0);
        return ["synced", "guarded"].includes(journal?.slots.get(name)?.protection ?? "");
      },
      { what: `slot ${name} to be guarded`, timeoutMs: 40_000, intervalMs: 5 },
    );
    times.push(performance.now() - created);
  }
  const restarts = (await startedAt(system)) === before ? 0 : 1;
  return { spread: spreadOf(times), count, restarts, cycles: cycles.size };
}

/** Without guards, and without asking whether the slot is safe there. */
async function newSlotsCopied(system: System, count: number): Promise<NewSlots> {
  const { primary, standby } = system;
  const trickle = await startTrickle(primary, 200);
  system.onClose(() => trickle.stop());
  const times: number[] = [];
  let restarts = 0;
  for (let index = 0; index < count; index++) {
    await sleep(Math.random() * 1_000);
    const name = `bench_new_${index}`;
    await system.createSlot({ name, database: "postgres" });
    const created = performance.now();
    const before = await startedAt(system);
    const folder = path.join("pg_replslot", name);
    cpSync(path.join(primary.dataDir, folder), path.join(standby.dataDir, folder), { recursive: true });
    giveTo(standby.workspace.account, path.join(standby.dataDir, folder));
    for (const file of readdirSync(path.join(standby.dataDir, folder)))
      giveTo(standby.workspace.account, path.join(standby.dataDir, folder, file));
    await standby.restart();
    const [there] = await standby.query("select from pg_catalog.pg_replication_slots where slot_name = $1", [
      name,
    ]);
    if (!there) throw new Error(`slot ${name} was not loaded`);
    times.push(performance.now() - created);
    if ((await startedAt(system)) !== before) restarts += 1;
  }
  return { spread: spreadOf(times), count, restarts, cycles: 0 };
}

async function materialise(system: System, positions: (typeof POSITIONS)[number]): Promise<Materialised> {
  const { primary } = system;
  await system.startSyncWithGuards();
  const slots = await system.createSlots(SLOTS);
  const names = slots.map((slot) => slot.name);
  const consumers = await system.consume(slots);
  const trickle = await startTrickle(primary, 200);
  let from = null as Lsn | null;
  const shareOf = (index: number) => {
    if (positions === "equal") return index === 0 ? 200n : 800n;
    return 200n + BigInt(Math.round((index * 800) / SLOTS));
  };
  const shares = new Map(names.map((name, index) => [name, shareOf(index)]));
  await consumers.start(100, (name, flushed) =>
    from === null
      ? flushed
      : maxLsn(from, (from + (((flushed - from) as bigint) * (shares.get(name) ?? 0n)) / 1000n) as Lsn),
  );
  await system.untilTold(names);
  from = await lastRunningXacts(system);
  await trickle.stop();
  await writeWal(primary, WAL_BYTES, 2 * MB);
  // everybody confirms the end once, and the sidecar sees it
  await sleep(700);
  await consumers.pause();

  const read = await system.slotReader();
  const standby = await system.standby.connect();
  system.onClose(() => standby.end());
  await primary.kill();
  system.standby.promote();
  for (;;) {
    const { rows } = await standby.query<{ f: boolean }>("select pg_catalog.pg_is_in_recovery() as f");
    if (rows[0]?.f === false) break;
    await sleep(2);
  }
  const promotedAt = performance.now();
  const journal = system.sidecar?.journal();
  const goal = new Map(names.map((name) => [name, journal?.slots.get(name)?.position]));
  const wrong = new Set<string>();
  let exactAfterMs: number | null = null;
  let [looks, present] = [0, 0];
  while (performance.now() - promotedAt < 60_000) {
    const there = (await read()).filter(({ persistent }) => persistent);
    looks += 1;
    present = there.length;
    for (const { name, position } of there) if (position !== goal.get(name)) wrong.add(name);
    if (present === names.length && there.every(({ name, position }) => position === goal.get(name))) {
      exactAfterMs = performance.now() - promotedAt;
      break;
    }
    // the finishing step needs the cores
    await sleep(2);
  }
  await eventually(() => system.sidecar?.journal()?.finish != null, { what: "the gap report" });
  const finishMs = system.sidecar?.journal()?.finish?.durationMs ?? null;
  return { exactAfterMs, finishMs, looks, wrong: wrong.size, slots: present };
}

/** Has the primary write one running-xacts record, and none after it; resolves when a guard starts there. */
async function lastRunningXacts(system: System): Promise<Lsn> {
  const release = system.holdSnapshots();
  system.onClose(async () => release());
  const before = await walPosition(system.primary);
  // before 16 nothing else writes one on request
  await system.primary.query("checkpoint");
  await eventually(
    async () => {
      const [row] = await system.standby.query<{ there: boolean }>(
        `select coalesce(pg_catalog.bool_or(restart_lsn >= $1::pg_lsn), false) as there
           from pg_catalog.pg_replication_slots where slot_type = 'logical'`,
        [formatLsn(before)],
      );
      return row?.there;
    },
    { what: "a guard to start at the last running-xacts record", timeoutMs: 60_000 },
  );
  return walPosition(system.primary);
}
