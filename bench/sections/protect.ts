/** From the creation of a slot on the primary to its protection, while other things keep the naps short. */
import { setTimeout as sleep } from "node:timers/promises";
import { calm } from "../cpu.ts";
import type { Scope } from "../scope.ts";
import { type Spread, showSpread, spreadOf } from "../stats.ts";
import { type System, type SystemKind, withSystem } from "../system.ts";
import type { SectionResult } from "../table.ts";
import { startTrickle } from "../writers.ts";

const GIVE_UP_MS = 40_000;
const POLL_MS = 10;
/** Slots made at once, half of them idle; then a pause. */
const ROUND = 16;
/** A round ends when its busy slots are on the standby, or after this. */
const ROUND_MS = 25_000;

interface Made {
  name: string;
  busy: boolean;
  at: number;
}

interface Latencies {
  spread: Spread | null;
  reached: number;
  of: number;
}

interface Measured {
  /** the sidecar's word (built-in: as `persistent`) */
  told: Record<"busy" | "idle", Latencies>;
  /** the slot is on the standby, not temporary */
  persistent: Record<"busy" | "idle", Latencies>;
}

export async function protect(scope: Scope): Promise<SectionResult> {
  const count = scope.quick ? ROUND : 8 * ROUND;
  const results = {} as Record<SystemKind, Measured>;
  for (const kind of ["ours", "builtIn"] as const) {
    await calm();
    scope.say(`protect: ${count} slots, ${kind}`);
    results[kind] = await withSystem(kind, {}, (system) => measure(system, count));
  }
  const { ours, builtIn } = results;
  const row = (figure: string, key: keyof Measured, kind: "busy" | "idle", targeted: boolean) => {
    const { spread, reached, of } = ours[key][kind];
    return {
      figure,
      ours: show(ours[key][kind]),
      builtIn: show(builtIn[key][kind]),
      target: targeted ? "p99 < 1 s" : "",
      reached: targeted ? spread !== null && reached === of && spread.p99 < 1000 : null,
    };
  };
  return {
    title: "Slot created → protected, p50 / p99 / max",
    rows: [
      row("busy slot, protected", "told", "busy", true),
      row("idle slot, protected", "told", "idle", true),
      row("busy slot, on the standby for good", "persistent", "busy", false),
      row("idle slot, on the standby for good", "persistent", "idle", false),
    ],
    notes: [
      `${count} slots, ${ROUND} at once, half of them idle, beside one busy slot and 200 rows/s; the next ${ROUND} when the busy ones of the last are there; given up after ${GIVE_UP_MS / 1000} s; 0 where it was protected before the creating statement returned`,
    ],
    raw: results,
  };
}

function show({ spread, reached, of }: Latencies): string {
  if (reached === 0) return `never (> ${GIVE_UP_MS / 1000} s)`;
  return showSpread(spread) + (reached < of ? `, ${of - reached} of ${of} never` : "");
}

async function measure(system: System, count: number): Promise<Measured> {
  const [base] = await system.createSlots(1);
  if (!base) throw new Error("no slot");
  const consumers = await system.consume([base]);
  const trickle = await startTrickle(system.primary, 200);
  system.onClose(() => trickle.stop());
  await consumers.start(100);
  system.startSync();
  await system.untilProtected([base.name]);
  // naps are short from here on

  const made: Made[] = [];
  const told = new Map<string, number>();
  const persistent = new Map<string, number>();
  const watching = new AbortController();
  const watcher = watch(system, told, persistent, watching.signal);
  while (made.length < count) {
    // at any moment of a nap, and not in step with the running-xacts records that a creation itself brings
    await sleep(500 + Math.random() * 1_000);
    const round = Array.from({ length: ROUND }, (_, index) => ({
      name: `bench_new_${made.length + index}`,
      busy: index % 2 === 0,
    }));
    // at once: a creation brings a running-xacts record, and that would help along the slot made before it
    await Promise.all(
      round.map(async ({ name, busy }) => {
        await system.createSlot({ name, database: "postgres" });
        made.push({ name, busy, at: performance.now() });
        if (busy) await consumers.add({ name, database: "postgres" });
      }),
    );
    const over = performance.now() + ROUND_MS;
    const waiting = () => round.some(({ name, busy }) => busy && !persistent.has(name));
    while (performance.now() < over && waiting()) await sleep(POLL_MS);
  }
  const deadline = performance.now() + GIVE_UP_MS;
  while (performance.now() < deadline && made.some(({ name }) => !persistent.has(name))) await sleep(POLL_MS);
  watching.abort();
  await watcher;

  const split = (seen: Map<string, number>) => ({
    busy: latencies(
      made.filter((slot) => slot.busy),
      seen,
    ),
    idle: latencies(
      made.filter((slot) => !slot.busy),
      seen,
    ),
  });
  return { told: split(system.sidecar ? told : persistent), persistent: split(persistent) };
}

/** When each slot was first seen protected, and first seen on the standby for good. */
async function watch(
  system: System,
  told: Map<string, number>,
  persistent: Map<string, number>,
  signal: AbortSignal,
): Promise<void> {
  const read = await system.slotReader();
  const note = (seen: Map<string, number>, name: string) => {
    if (!seen.has(name)) seen.set(name, performance.now());
  };
  while (!signal.aborted) {
    for (const [name, slot] of system.sidecar?.journal()?.slots ?? [])
      if (["synced", "guarded"].includes(slot.protection)) note(told, name);
    for (const slot of await read()) if (slot.persistent) note(persistent, slot.name);
    await sleep(POLL_MS);
  }
}

function latencies(made: readonly Made[], seen: ReadonlyMap<string, number>): Latencies {
  const found = made.flatMap(({ name, at }) => {
    const when = seen.get(name);
    return when === undefined ? [] : [Math.max(0, when - at)];
  });
  return { spread: spreadOf(found), reached: found.length, of: made.length };
}
