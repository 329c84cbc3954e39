/** From the end of recovery to every slot at its exact position, with much or little WAL to decode. */
import { setTimeout as sleep } from "node:timers/promises";
import { type Lsn, maxLsn } from "../../src/domain/lsn.ts";
import { calm } from "../cpu.ts";
import type { Scope } from "../scope.ts";
import { showBytes, showMs } from "../stats.ts";
import { type System, type SystemKind, withSystem } from "../system.ts";
import type { SectionResult } from "../table.ts";
import { startTrickle, writeWal } from "../writers.ts";

const SLOTS = 100;
const MB = 1024 * 1024;
const SETTINGS = { checkpoint_timeout: "1h", max_wal_size: "8GB" };

interface Promotion {
  /** null: not within two minutes */
  exactAfterMs: number | null;
  /** slots not at their position at the moment recovery ended */
  behindAtFirst: number;
  /** … and at the end */
  behindAtLast: number;
  /** how far the restored positions are behind what the subscribers had confirmed */
  maxRepeatedBytes: number;
  slots: number;
  /** what the sidecar says its finishing step took */
  finishMs: number | null;
}

interface Case extends Record<SystemKind, Promotion[]> {
  megabytes: number;
  targeted: boolean;
}

export async function promotion(scope: Scope): Promise<SectionResult> {
  const small = { megabytes: 10, runs: scope.quick ? 1 : 3 };
  const large = { megabytes: scope.quick ? 60 : 250, runs: 1 };
  const results: Case[] = [];
  for (const { megabytes, runs } of [small, large]) {
    const measured: Record<SystemKind, Promotion[]> = { ours: [], builtIn: [] };
    for (const kind of ["ours", "builtIn"] as const) {
      for (let run = 0; run < (kind === "ours" ? runs : 1); run++) {
        await calm();
        scope.say(`promotion, ${kind}: ${megabytes} MB since the last running-xacts record`);
        const one = await withSystem(kind, { settings: SETTINGS }, async (system) => {
          const promoted = await promoteOnce(system, megabytes * MB);
          if (promoted.exactAfterMs === null) scope.say(system.sidecar?.logTail() ?? "");
          return promoted;
        });
        scope.say(JSON.stringify(one));
        measured[kind].push(one);
      }
    }
    results.push({ megabytes, targeted: megabytes <= 10, ...measured });
  }
  const row = ({ megabytes, targeted, ours, builtIn }: Case) => {
    const times = ours.map(({ exactAfterMs }) => exactAfterMs ?? Number.POSITIVE_INFINITY);
    const worst = Math.max(...times);
    return [
      {
        figure: `${megabytes} MB of WAL since the last running-xacts record: all exact after${times.length > 1 ? ` (${times.length} runs)` : ""}`,
        ours: times.map(showMs).join(", "),
        builtIn: "at once, at the older positions below",
        target: targeted ? "≤ 500 ms" : "",
        reached: targeted ? worst <= 500 : null,
      },
      {
        figure: `${megabytes} MB: a subscriber gets again at most`,
        ours: showBytes(Math.max(...ours.map(({ maxRepeatedBytes }) => maxRepeatedBytes))),
        builtIn: showBytes(Math.max(...builtIn.map(({ maxRepeatedBytes }) => maxRepeatedBytes))),
        target: "",
        reached: null,
      },
    ];
  };
  return {
    title: `Promotion with ${SLOTS} slots, the primary killed under load`,
    rows: results.flatMap(row),
    notes: [
      `subscribers stand at ${SLOTS} different positions in that WAL, which is written within 5 s (10 MB) or at 25 MB/s; counted from pg_is_in_recovery() turning false, asked every 2 ms, to pg_replication_slots showing every slot at the position in the journal`,
    ],
    raw: results,
  };
}

async function promoteOnce(system: System, bytes: number): Promise<Promotion> {
  const slots = await system.createSlots(SLOTS);
  const names = slots.map((slot) => slot.name);
  const consumers = await system.consume(slots);
  const trickle = await startTrickle(system.primary, 200);
  let from = null as Lsn | null;
  const shares = new Map(
    names.map((name, index) => [name, 200n + BigInt(Math.round((index * 800) / SLOTS))]),
  );
  const confirmed = (name: string, flushed: Lsn) =>
    from === null
      ? flushed
      : maxLsn(from, (from + (((flushed - from) as bigint) * (shares.get(name) ?? 0n)) / 1000n) as Lsn);
  await consumers.start(100, confirmed);
  system.startSync();
  await system.untilProtected(names);
  const { at } = await system.lastSnapshot(names);
  await trickle.stop();
  from = at;

  await writeWal(system.primary, bytes, bytes > 10 * MB ? 25 * MB : 2 * MB);
  const read = await system.slotReader();
  const standby = await system.standby.connect();
  system.onClose(() => standby.end());
  await consumers.pause();
  await system.primary.kill();
  system.standby.promote();
  for (;;) {
    const { rows } = await standby.query<{ f: boolean }>("select pg_catalog.pg_is_in_recovery() as f");
    if (rows[0]?.f === false) break;
    await sleep(2);
  }
  const promotedAt = performance.now();
  const first = new Map((await read()).map(({ name, position }) => [name, position]));
  const goal = new Map(
    names.map((name) => [
      name,
      system.sidecar ? system.sidecar.journal()?.slots.get(name)?.position : first.get(name),
    ]),
  );
  const repeated = names.map((name) => Number(consumers.moves(name).last - (goal.get(name) ?? 0n)));
  const behind = (there: Map<string, Lsn>) =>
    names.filter((name) => there.get(name) !== goal.get(name)).length;
  let exactAfterMs: number | null = null;
  let behindAtLast = 0;
  for (let there = first; ; ) {
    behindAtLast = behind(there);
    if (behindAtLast === 0) {
      exactAfterMs = performance.now() - promotedAt;
      break;
    }
    if (performance.now() - promotedAt > 120_000) break;
    await sleep(10);
    there = new Map((await read()).map(({ name, position }) => [name, position]));
  }
  return {
    exactAfterMs: system.sidecar ? exactAfterMs : 0,
    behindAtFirst: behind(first),
    behindAtLast,
    maxRepeatedBytes: Math.max(...repeated),
    slots: first.size,
    finishMs: await finishDuration(system),
  };
}

/** From the gap report in the journal, which comes a moment after the last slot. */
async function finishDuration({ sidecar }: System): Promise<number | null> {
  for (const until = performance.now() + 5_000; performance.now() < until; await sleep(20)) {
    const report = sidecar?.journal()?.finish;
    if (report) return report.durationMs;
    if (!sidecar) break;
  }
  return null;
}
