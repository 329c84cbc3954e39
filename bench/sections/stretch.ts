/** 250 MB of WAL without a running-xacts record in it, 100 slots kept current: how often is it decoded? */
import { setTimeout as sleep } from "node:timers/promises";
import { calm, coresDuring } from "../cpu.ts";
import type { Scope } from "../scope.ts";
import { type Staleness, sampleStaleness } from "../staleness.ts";
import { showMs, showSpread } from "../stats.ts";
import { type System, type SystemKind, withSystem } from "../system.ts";
import type { SectionResult } from "../table.ts";
import { startTrickle, walPosition, writeWal } from "../writers.ts";

const SLOTS = 100;
const MB = 1024 * 1024;
const SETTINGS = { checkpoint_timeout: "1h", max_wal_size: "8GB" };
const RATE = 10 * MB;
const SETTLE_MS = 60_000;

interface Measured {
  /** standby CPU, replaying alone */
  replayMs: number;
  /** standby CPU with syncing, until all slots stood at the end (or time was up) */
  syncMs: number;
  sidecarMs: number | null;
  elapsedMs: number;
  /** after the last write; null: not within a minute */
  settledMs: number | null;
  staleness: Staleness;
  /** one advance of one slot over all of it, on the standby */
  oneAdvanceMs: number;
}

export async function stretch(scope: Scope): Promise<SectionResult> {
  const megabytes = scope.quick ? 60 : 250;
  const results = {} as Record<SystemKind, Measured>;
  for (const kind of ["ours", "builtIn"] as const) {
    await calm();
    scope.say(`stretch, ${kind}: ${megabytes} MB between running-xacts records`);
    results[kind] = await withSystem(kind, { settings: SETTINGS }, (system) =>
      measure(system, megabytes * MB),
    );
    scope.say(JSON.stringify(results[kind]));
  }
  const { ours, builtIn } = results;
  const decodes = ({ syncMs, replayMs, oneAdvanceMs }: Measured) =>
    Math.max(0, syncMs - replayMs) / oneAdvanceMs;
  const settled = ({ settledMs }: Measured) =>
    settledMs === null ? `> ${SETTLE_MS / 1000} s` : showMs(settledMs);
  return {
    title: `${megabytes} MB of WAL between running-xacts records, ${SLOTS} slots kept current`,
    rows: [
      {
        figure:
          "CPU of the standby's servers beyond replay, from the first byte until all slots are at the end",
        ours: showMs(ours.syncMs - ours.replayMs),
        builtIn: showMs(builtIn.syncMs - builtIn.replayMs),
        target: "",
        reached: null,
      },
      {
        figure: `that, in decodings of the whole ${megabytes} MB (one slot, once: ${showMs(ours.oneAdvanceMs)})`,
        ours: decodes(ours).toFixed(1),
        builtIn: "(decodes nothing, copies positions)",
        target: `well below ${SLOTS}`,
        reached: decodes(ours) < SLOTS / 2,
      },
      {
        figure: `advancing each of the ${SLOTS} slots by itself, once at the end`,
        ours: showMs(SLOTS * ours.oneAdvanceMs),
        builtIn: "",
        target: "",
        reached: null,
      },
      {
        figure: "all slots at the end, after the last byte",
        ours: settled(ours),
        builtIn: settled(builtIn),
        target: "",
        reached: null,
      },
      {
        figure: "staleness meanwhile of what a promotion would restore, p50 / p99 / max",
        ours: showSpread(ours.staleness.recorded),
        builtIn: showSpread(builtIn.staleness.shown),
        target: "",
        reached: null,
      },
      {
        figure: "staleness meanwhile of the standby's own slots",
        ours: showSpread(ours.staleness.shown),
        builtIn: showSpread(builtIn.staleness.shown),
        target: "",
        reached: null,
      },
    ],
    notes: [
      `written at 10 MB/s, every slot confirmed each 0.1 s; the primary's background writer is stopped so that it writes no running-xacts record`,
    ],
    raw: results,
  };
}

async function measure(system: System, bytes: number): Promise<Measured> {
  const slots = await system.createSlots(SLOTS);
  const names = slots.map((slot) => slot.name);
  const standbyCpu = () => system.standbyCpuMs();
  const replay = await spent({ standbyCpu }, async () => {
    await writeWal(system.primary, bytes, RATE);
    await sleep(2_000);
  });

  const consumers = await system.consume(slots);
  const trickle = await startTrickle(system.primary, 200);
  await consumers.start(100);
  system.startSync();
  await system.untilProtected(names);
  await system.lastSnapshot(names);
  await trickle.stop();
  await sleep(2_000);

  const read = await system.slotReader();
  const sidecarCpu = () => system.sidecar?.cpuMs() ?? 0;
  let settledMs: number | null = null;
  let staleness: Staleness = { recorded: null, shown: null };
  const sync = await spent({ standbyCpu, sidecarCpu }, async () => {
    const writing = writeWal(system.primary, bytes, RATE);
    staleness = await sampleStaleness(system, consumers, writing);
    const wrote = performance.now();
    const end = await walPosition(system.primary);
    while (settledMs === null && performance.now() - wrote < SETTLE_MS) {
      const there = (await read()).filter(({ position }) => position >= end);
      if (there.length >= SLOTS) settledMs = performance.now() - wrote;
      else await sleep(100);
    }
  });
  return {
    replayMs: replay.standbyCpu,
    syncMs: sync.standbyCpu,
    sidecarMs: system.sidecar && sync.sidecarCpu,
    elapsedMs: sync.elapsedMs,
    settledMs,
    staleness,
    oneAdvanceMs: await advanceOnce(system),
  };
}

/** CPU time in ms, not cores. */
async function spent<K extends string>(sources: Record<K, () => number>, work: () => Promise<void>) {
  const started = performance.now();
  const cores = await coresDuring(sources, work);
  const elapsedMs = performance.now() - started;
  const times = Object.entries<number>(cores).map(([key, share]) => [key, share * elapsedMs]);
  return { ...(Object.fromEntries(times) as Record<K, number>), elapsedMs };
}

/** How long one advance from the last running-xacts record to the end of WAL takes on the standby. */
async function advanceOnce(system: System): Promise<number> {
  // a copy starts where its original starts; something new to go to
  await writeWal(system.primary, 100_000, MB);
  await sleep(1_000);
  const client = await system.standby.connect();
  try {
    await client.query(
      "select pg_catalog.pg_copy_logical_replication_slot('bench_000', 'bench_once', true, 'pgoutput')",
    );
    const started = performance.now();
    await client.query(
      "select pg_catalog.pg_replication_slot_advance('bench_once', pg_catalog.pg_last_wal_replay_lsn())",
    );
    return performance.now() - started;
  } finally {
    await client.end();
  }
}
