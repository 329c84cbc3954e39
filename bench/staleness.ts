/** How old positions are, sampled while something goes on. */
import { setTimeout as sleep } from "node:timers/promises";
import type { Consumers } from "./consumers.ts";
import { type Spread, spreadOf } from "./stats.ts";
import type { System } from "./system.ts";

export interface Staleness {
  /** what a promotion would restore */
  recorded: Spread | null;
  /** what the standby's own slots show */
  shown: Spread | null;
}

export async function sampleStaleness(
  system: System,
  consumers: Consumers,
  during: Promise<unknown>,
): Promise<Staleness> {
  const recorded: number[] = [];
  const shown: number[] = [];
  let over = false;
  const end = during.finally(() => {
    over = true;
  });
  const read = await system.slotReader();
  const fromJournal = async () => {
    while (system.sidecar && !over) {
      const slots = system.sidecar.journal()?.slots;
      const now = performance.now();
      for (const name of consumers.names) {
        const position = slots?.get(name)?.position;
        if (position) recorded.push(consumers.moves(name).ageOf(position, now));
      }
      await sleep(15 + Math.random() * 20);
    }
  };
  const fromStandby = async () => {
    while (!over) {
      const slots = await read();
      const now = performance.now();
      for (const { name, position } of slots) shown.push(consumers.moves(name).ageOf(position, now));
      await sleep(30 + Math.random() * 40);
    }
  };
  await Promise.all([end, fromJournal(), fromStandby()]);
  return { recorded: spreadOf(recorded), shown: spreadOf(shown) };
}
