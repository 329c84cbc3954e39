/** What a server tells of its own past: the serialized snapshots that it still has, and the history of a timeline. */
import { type Lsn, parseLsn } from "../domain/lsn.ts";
import type { TimelineHistory } from "../domain/timeline.ts";
import { isPgError, SQLSTATE } from "./errors.ts";
import type { PgSession } from "./session.ts";
import { listSnapshots, timelineHistory } from "./sql.ts";

/** Where there are serialized snapshots; null where the role may not list them. */
export async function snapshotPositions(session: PgSession): Promise<Lsn[] | null> {
  try {
    const [row] = await session.query<{ names?: string }>(listSnapshots(session.serverVersionNum), [], {
      what: "listing the snapshots",
    });
    return row?.names === undefined ? null : positionsIn(row.names.split(" "));
  } catch (error) {
    // asked for beforehand, in the same statement, it would fail all the same: rights are checked before anything is run
    if (isPgError(error, SQLSTATE.insufficientPrivilege)) return null;
    throw error;
  }
}

/** The positions that the names of snapshot files stand for; other names are passed over. */
export function positionsIn(names: readonly string[]): Lsn[] {
  return names.flatMap((name) => {
    const match = /^([0-9A-F]{1,8})-([0-9A-F]{1,8})\.snap$/.exec(name);
    return match ? [parseLsn(`${match[1]}/${match[2]}`)] : [];
  });
}

/**
 * The history of a timeline, as the server that is on it has it. `open` opens a session for replication: the protocol gives the file to
 * every role that may replicate. The first timeline has none.
 */
export async function readTimelineHistory(
  open: () => Promise<PgSession>,
  timeline: number,
): Promise<TimelineHistory> {
  if (timeline <= 1) return [];
  const session = await open();
  try {
    const [[row] = []] = await session.script<{ content: string }>(timelineHistory(timeline), {
      what: `reading the history of timeline ${timeline}`,
    });
    return parseTimelineHistory(row?.content ?? "");
  } finally {
    await session.close();
  }
}

/** A history file: timeline, position and a reason on each line, with comments, as `readTimeLineHistory` in timeline.c takes it. */
export function parseTimelineHistory(text: string): TimelineHistory {
  const forks: { timeline: number; until: Lsn }[] = [];
  for (const line of text.split("\n")) {
    if (/^\s*(#|$)/.test(line)) continue;
    const match = /^\s*(\d+)\s+([0-9A-Fa-f]{1,8}\/[0-9A-Fa-f]{1,8})(\s|$)/.exec(line);
    const timeline = Number(match?.[1]);
    if (!match?.[2] || timeline <= (forks.at(-1)?.timeline ?? 0))
      throw new Error(`a timeline's history has a line that is none: ${JSON.stringify(line.slice(0, 80))}`);
    forks.push({ timeline, until: parseLsn(match[2]) });
  }
  return forks;
}
