/** 100 slots, then 500, over five databases: does a slot cost more when there are many? */
import { setTimeout as sleep } from "node:timers/promises";
import { calm, coresDuring } from "../cpu.ts";
import type { Scope } from "../scope.ts";
import { showCores, showMs, spreadOf } from "../stats.ts";
import { type System, type SystemKind, withSystem } from "../system.ts";
import type { SectionResult } from "../table.ts";
import { startTrickle } from "../writers.ts";

const DATABASES = ["bench0", "bench1", "bench2", "bench3", "bench4"];
const CONFIRM_EVERY_MS = 500;

interface Stage {
  slots: number;
  protectedAfterMs: number;
  /** cores */
  sidecar: number | null;
  standby: number;
  /** a cycle without its nap, median */
  cycleMs: number | null;
  peakRssMiB: number | null;
}

interface Measured {
  standbyBefore: number;
  few: Stage;
  many: Stage;
}

export async function many(scope: Scope): Promise<SectionResult> {
  const [few, all] = scope.quick ? [20, 100] : [100, 500];
  const results = {} as Record<SystemKind, Measured>;
  for (const kind of ["ours", "builtIn"] as const) {
    await calm();
    scope.say(`many, ${kind}: ${few}, then ${all} slots over ${DATABASES.length} databases`);
    results[kind] = await withSystem(kind, { databases: DATABASES }, (system) =>
      measure(system, few, all, scope.quick ? 15_000 : 45_000),
    );
    scope.say(JSON.stringify(results[kind]));
  }
  const { ours, builtIn } = results;
  const perSlot = (stage: Stage, cores: number | null) => ((cores ?? 0) / stage.slots) * 1e6;
  const both = (of: (stage: Stage) => string) => (measured: Measured) =>
    `${of(measured.few)} → ${of(measured.many)}`;
  const sidecar = both((stage) => `${perSlot(stage, stage.sidecar).toFixed(0)} µs/s`)(ours);
  const extra = (measured: Measured) =>
    both((stage) => `${perSlot(stage, stage.standby - measured.standbyBefore).toFixed(0)} µs/s`)(measured);
  const growth =
    (perSlot(ours.many, ours.many.sidecar) + perSlot(ours.many, ours.many.standby - ours.standbyBefore)) /
    (perSlot(ours.few, ours.few.sidecar) + perSlot(ours.few, ours.few.standby - ours.standbyBefore));
  return {
    title: `${few} → ${all} slots over ${DATABASES.length} databases`,
    rows: [
      {
        figure: "all on the standby for good, after the start → after the last was made",
        ours: both((stage) => showMs(stage.protectedAfterMs))(ours),
        builtIn: both((stage) => showMs(stage.protectedAfterMs))(builtIn),
        target: "",
        reached: null,
      },
      {
        figure: "CPU per slot: the sidecar",
        ours: sidecar,
        builtIn: "(in the servers)",
        target: "",
        reached: null,
      },
      {
        figure: "CPU per slot: the standby's servers beyond replay",
        ours: extra(ours),
        builtIn: extra(builtIn),
        target: "",
        reached: null,
      },
      {
        figure: "cost per slot, both together",
        ours: `× ${growth.toFixed(2)}`,
        builtIn: "",
        target: "does not grow",
        reached: growth <= 1.1,
      },
      {
        figure: "a cycle without its nap, median",
        ours: both((stage) => showMs(stage.cycleMs ?? 0))(ours),
        builtIn: "",
        target: "",
        reached: null,
      },
      {
        figure: "the sidecar, cores",
        ours: both((stage) => showCores(stage.sidecar ?? 0))(ours),
        builtIn: "(in the servers)",
        target: "",
        reached: null,
      },
      {
        figure: "the standby's servers, cores",
        ours: both((stage) => showCores(stage.standby))(ours),
        builtIn: both((stage) => showCores(stage.standby))(builtIn),
        target: "",
        reached: null,
      },
      {
        figure: "the sidecar's memory, at most",
        ours: both((stage) => `${Math.round(stage.peakRssMiB ?? 0)} MiB`)(ours),
        builtIn: "(in the servers)",
        target: "",
        reached: null,
      },
    ],
    notes: [`200 rows/s over all databases, every slot confirmed each ${CONFIRM_EVERY_MS / 1000} s`],
    raw: results,
  };
}

async function measure(system: System, few: number, all: number, windowMs: number): Promise<Measured> {
  const first = await system.createSlots(few, DATABASES);
  const consumers = await system.consume(first);
  const trickle = await startTrickle(system.primary, 200, DATABASES);
  system.onClose(() => trickle.stop());
  await consumers.start(CONFIRM_EVERY_MS);
  const standbyCpu = () => system.standbyCpuMs();
  const { standbyCpu: standbyBefore } = await coresDuring({ standbyCpu }, () => sleep(windowMs / 2));
  system.startSync();
  const firstAfterMs = await system.untilProtected(consumers.names, 300_000);
  const stage = async (protectedAfterMs: number): Promise<Stage> => {
    await sleep(5_000);
    const sidecarCpu = () => system.sidecar?.cpuMs() ?? 0;
    const looks = new Set<number>();
    const used = await coresDuring({ standbyCpu, sidecarCpu }, async () => {
      for (const until = performance.now() + windowMs; performance.now() < until; await sleep(20))
        looks.add(system.sidecar?.journal()?.observedAt ?? 0);
    });
    const times = [...looks];
    const cycles = spreadOf(times.slice(1).map((time, index) => time - (times[index] ?? 0) - NAP_MS));
    return {
      slots: consumers.names.length,
      protectedAfterMs,
      sidecar: system.sidecar && used.sidecarCpu,
      standby: used.standbyCpu,
      cycleMs: system.sidecar && cycles ? cycles.p50 : null,
      peakRssMiB: system.sidecar?.peakRssMiB() ?? null,
    };
  };
  const fewStage = await stage(firstAfterMs);
  const more = await system.createSlots(all - few, DATABASES, few);
  const names = more.map((slot) => slot.name);
  // since the last of them was made, and while their subscribers come
  const [moreAfterMs] = await Promise.all([system.untilProtected(names, 300_000), consumers.addAll(more)]);
  return { standbyBefore, few: fewStage, many: await stage(moreAfterMs) };
}

/** The shortest nap at default settings. */
const NAP_MS = 200;
