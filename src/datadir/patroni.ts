/** What Patroni does with slots on a node that it manages: it keeps its dynamic configuration in a file of the data directory. */
import { readFile, stat } from "node:fs/promises";
import path from "node:path";
import * as z from "zod";
import type { PatroniSlots } from "../domain/patroni.ts";

const CACHE_FILE = "patroni.dynamic.json";
/** Its configuration is a few kB; more is not it. */
const MOST_BYTES = 1024 * 1024;

const matcher = z.object({
  name: z.string().optional(),
  type: z.string().optional(),
  database: z.string().optional(),
  plugin: z.string().optional(),
});

const dynamic = z.object({
  slots: z.record(z.string(), z.object({ type: z.string().optional() }).nullable()).nullish(),
  ignore_slots: z.array(matcher).nullish(),
});

/** Null where no Patroni is at work, or its file cannot be read or understood. Never throws. */
export async function readPatroniSlots(directory: string): Promise<PatroniSlots | null> {
  const file = path.join(directory, CACHE_FILE);
  try {
    if ((await stat(file)).size > MOST_BYTES) return null;
    const { slots, ignore_slots: ignored } = dynamic.parse(JSON.parse(await readFile(file, "utf8")));
    return {
      permanentLogical: Object.entries(slots ?? {})
        .filter(([, slot]) => slot?.type === "logical")
        .map(([name]) => name)
        .toSorted(),
      ignored: (ignored ?? []).map(({ name, type, database, plugin }) => ({
        name: name || null,
        type: type || null,
        database: database || null,
        plugin: plugin || null,
      })),
    };
  } catch {
    return null;
  }
}
