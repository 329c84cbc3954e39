/** The history of a timeline, as its file in the data directory has it. */
import { constants } from "node:fs";
import { open } from "node:fs/promises";
import { join } from "node:path";
import type { TimelineHistory } from "../domain/timeline.ts";
import { parseTimelineHistory } from "../pg/server-history.ts";
import { DataDirectoryError, readError } from "./errors.ts";

/** A line for each promotion since the cluster was made: more than this is none. */
const LARGEST = 1024 * 1024;

/** Reads it; the first timeline has none. Throws DataDirectoryError, and Error for a file with a line that is none. */
export async function readHistoryFile(dir: string, timeline: number): Promise<TimelineHistory> {
  if (timeline <= 1) return [];
  const name = `${timeline.toString(16).toUpperCase().padStart(8, "0")}.history`;
  const path = join(dir, "pg_wal", name);
  const { O_NOFOLLOW, O_NONBLOCK, O_RDONLY } = constants;
  try {
    const file = await open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK);
    try {
      const stat = await file.stat();
      if (!stat.isFile() || stat.size > LARGEST)
        throw new DataDirectoryError("unreadable", path, "is no history file");
      return parseTimelineHistory(await file.readFile("utf8"));
    } finally {
      await file.close();
    }
  } catch (error) {
    throw error instanceof DataDirectoryError ? error : readError(path, error);
  }
}
