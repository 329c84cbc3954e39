/** 100 busy slots: how old are the positions on the standby, and what does keeping them cost? */
import { setTimeout as sleep } from "node:timers/promises";
import { calm, coresDuring } from "../cpu.ts";
import type { Scope } from "../scope.ts";
import { type Staleness, sampleStaleness } from "../staleness.ts";
import { showCores, showMs, showSpread } from "../stats.ts";
import { type System, type SystemKind, withSystem } from "../system.ts";
import type { SectionResult } from "../table.ts";
import { startTrickle } from "../writers.ts";

const SLOTS = 100;
const ROWS_PER_SECOND = 200;
const CONFIRM_EVERY_MS = 100;

interface Cost {
  /** the standby's servers, cores */
  standby: number;
  /** the same before syncing was switched on: replaying alone */
  standbyBefore: number;
  sidecar: number | null;
  peakRssMiB: number | null;
  machine: number;
}

interface Idle {
  sidecar: number | null;
  standby: number;
  machine: number;
}

interface Measured {
  protectedAfterMs: number;
  staleness: Staleness | null;
  cost: Cost | null;
  idle: Idle | null;
}

export type BusyPart = "staleness" | "cost";

export async function busy(scope: Scope, parts: readonly BusyPart[]): Promise<SectionResult[]> {
  const results = {} as Record<SystemKind, Measured>;
  for (const kind of ["ours", "builtIn"] as const) {
    await calm();
    results[kind] = await withSystem(kind, {}, (system) => measure(system, scope, parts));
  }
  return [
    ...(parts.includes("staleness") ? [stalenessRows(results)] : []),
    ...(parts.includes("cost") ? [costRows(results)] : []),
  ];
}

async function measure(system: System, scope: Scope, parts: readonly BusyPart[]): Promise<Measured> {
  const windowMs = scope.quick ? 15_000 : 60_000;
  const say = (text: string) => scope.say(`busy, ${system.kind}: ${text}`);
  say(`${SLOTS} slots, ${ROWS_PER_SECOND} rows/s`);
  const slots = await system.createSlots(SLOTS);
  const names = slots.map((slot) => slot.name);
  const consumers = await system.consume(slots);
  const trickle = await startTrickle(system.primary, ROWS_PER_SECOND);
  system.onClose(() => trickle.stop());
  await consumers.start(CONFIRM_EVERY_MS);
  const standbyCpu = () => system.standbyCpuMs();

  let standbyBefore = 0;
  if (parts.includes("cost")) {
    await sleep(5_000);
    say("what replaying alone costs");
    standbyBefore = (await coresDuring({ standbyCpu }, () => sleep(windowMs / 2))).standbyCpu;
  }
  system.startSync();
  const protectedAfterMs = await system.untilProtected(names);
  say(`protected after ${showMs(protectedAfterMs)}`);
  await sleep(10_000);

  let staleness: Staleness | null = null;
  if (parts.includes("staleness")) {
    say("staleness");
    staleness = await sampleStaleness(system, consumers, sleep(windowMs));
  }
  if (!parts.includes("cost")) return { protectedAfterMs, staleness, cost: null, idle: null };

  say("cost");
  const sidecarCpu = () => system.sidecar?.cpuMs() ?? 0;
  const used = await coresDuring({ standbyCpu, sidecarCpu }, () => sleep(windowMs));
  const cost: Cost = {
    standby: used.standbyCpu,
    standbyBefore,
    sidecar: system.sidecar && used.sidecarCpu,
    peakRssMiB: system.sidecar?.peakRssMiB() ?? null,
    machine: used.machine,
  };
  say(JSON.stringify(cost));

  await consumers.stop();
  await trickle.stop();
  say("idle: naps grow");
  await sleep(75_000);
  const atRest = await coresDuring({ standbyCpu, sidecarCpu }, () => sleep(windowMs));
  const idle: Idle = {
    sidecar: system.sidecar && atRest.sidecarCpu,
    standby: atRest.standbyCpu,
    machine: atRest.machine,
  };
  say(JSON.stringify(idle));
  return { protectedAfterMs, staleness, cost, idle };
}

function stalenessRows(results: Record<SystemKind, Measured>): SectionResult {
  const { ours, builtIn } = results;
  const recorded = ours.staleness?.recorded ?? null;
  return {
    title: `Staleness of ${SLOTS} busy slots at ${ROWS_PER_SECOND} rows/s, p50 / p99 / max`,
    rows: [
      {
        figure: "the position that a promotion now would restore",
        ours: showSpread(recorded),
        builtIn: showSpread(builtIn.staleness?.shown ?? null),
        target: "p50 ≤ 100 ms, p99 ≤ 300 ms",
        reached: recorded !== null && recorded.p50 <= 100 && recorded.p99 <= 300,
      },
      {
        figure: "the position that the standby's own slot shows",
        ours: showSpread(ours.staleness?.shown ?? null),
        builtIn: showSpread(builtIn.staleness?.shown ?? null),
        target: "",
        reached: null,
      },
      {
        figure: `all ${SLOTS} on the standby for good after`,
        ours: showMs(ours.protectedAfterMs),
        builtIn: showMs(builtIn.protectedAfterMs),
        target: "",
        reached: null,
      },
    ],
    notes: [
      "each slot is read by a replication stream of its own that confirms every 0.1 s; the age of a position is the time since which the primary's slot has stood past it, 0 when it has not; for the sidecar's the journal on disk is read every 25 ms, for the slots pg_replication_slots every 50 ms",
    ],
    raw: Object.fromEntries(
      Object.entries(results).map(([kind, { staleness, protectedAfterMs }]) => [
        kind,
        { staleness, protectedAfterMs },
      ]),
    ),
  };
}

function costRows(results: Record<SystemKind, Measured>): SectionResult {
  const [ours, builtIn] = [results.ours.cost, results.builtIn.cost];
  const [idle, idleBuiltIn] = [results.ours.idle, results.builtIn.idle];
  if (!ours || !builtIn || !idle || !idleBuiltIn) throw new Error("the cost has not been measured");
  const ratio = ours.standby / builtIn.standby;
  const sidecar = ours.sidecar ?? 0;
  const rss = ours.peakRssMiB ?? 0;
  return {
    title: `Cost with those ${SLOTS} slots, cores`,
    rows: [
      {
        figure: "the sidecar",
        ours: showCores(sidecar),
        builtIn: "(in the servers)",
        target: "≤ 0.05",
        reached: sidecar <= 0.05,
      },
      {
        figure: "the sidecar's memory, at most",
        ours: `${Math.round(rss)} MiB`,
        builtIn: "(in the servers)",
        target: "≤ 120 MiB",
        reached: rss <= 120,
      },
      {
        figure: "the standby's servers",
        ours: `${showCores(ours.standby)} (${ratio.toFixed(1)} ×)`,
        builtIn: showCores(builtIn.standby),
        target: "≤ 2 × the built-in worker's",
        reached: ratio <= 2,
      },
      {
        figure: "the same without any syncing: replay alone",
        ours: showCores(ours.standbyBefore),
        builtIn: showCores(builtIn.standbyBefore),
        target: "",
        reached: null,
      },
      {
        figure: "idle: the sidecar",
        ours: showCores(idle.sidecar ?? 0),
        builtIn: "(in the servers)",
        target: "≤ 0.002",
        reached: (idle.sidecar ?? 0) <= 0.002,
      },
      {
        figure: "idle: the standby's servers",
        ours: showCores(idle.standby),
        builtIn: showCores(idleBuiltIn.standby),
        target: "",
        reached: null,
      },
    ],
    notes: [
      `nothing else was asked of the standby meanwhile; the whole machine was using ${ours.machine.toFixed(2)} and ${builtIn.machine.toFixed(2)} cores (of 2 or whatever it has), idle ${idle.machine.toFixed(2)} and ${idleBuiltIn.machine.toFixed(2)}`,
    ],
    raw: Object.fromEntries(
      Object.entries(results).map(([kind, { cost, idle: atRest }]) => [kind, { cost, idle: atRest }]),
    ),
  };
}
