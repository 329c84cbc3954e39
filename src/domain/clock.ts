/**
 * How time is counted (I15). A person, or a time server, may set the wall clock, and the usual monotonic clock stands still while the
 * machine sleeps. Boot time does neither: it goes on, and begins anew only with another boot, which has another id.
 */
import type { JournalState } from "./journal.ts";

/** Injected, so that tests can set it, let it sleep, and reboot it. */
export interface Clock {
  /** ms since the epoch, for people to read and for calendars. */
  wall(): number;
  /** ms since the machine started, its sleep included. Durations are counted by it. */
  boot(): number;
  /** Differs after each start of the machine. */
  readonly bootId: string;
}

/**
 * What the times in a journal are counted by: ms since the epoch as the wall clock stood when the axis was begun, counted on by boot time.
 * Every process of the same boot that reads the journal takes over its axis, so all of them agree however the wall clock is set meanwhile.
 */
export interface TimeAxis {
  bootId: string;
  /** ms since the epoch at boot time 0. */
  bootedAt: number;
}

/** Between the latest time of the boot before and the first one of this: longer than anything that is believed without a look. */
const BOOT_TAKES_MS = 10_000;

/** Now, in the times of that journal. */
export function nowOn(axis: TimeAxis, clock: Clock): number {
  return axis.bootedAt + clock.boot();
}

/** What to add to a time of that journal for the wall clock's as it stands now. */
export function toWallTime(axis: TimeAxis, clock: Clock): number {
  return clock.wall() - nowOn(axis, clock);
}

/**
 * The journal with its axis. One of this boot is as it was. After another boot nobody knows how long anything has lasted: then all that
 * waits begins to wait anew, and the primary may have lived on unseen unless it was lost before.
 */
export function onThisBoot(
  journal: JournalState,
  clock: Clock,
): { journal: JournalState & { clock: TimeAxis }; axis: TimeAxis } {
  const latest = latestIn(journal);
  const known = journal.clock;
  if (known?.bootId === clock.bootId && nowOn(known, clock) >= latest)
    return { journal: { ...journal, clock: known }, axis: known };
  const boot = clock.boot();
  const axis = {
    bootId: clock.bootId,
    bootedAt: Math.max(clock.wall(), latest === 0 ? 0 : latest + BOOT_TAKES_MS) - boot,
  };
  const now = axis.bootedAt + boot;
  const unwatched = journal.observedAt > 0 && journal.primaryLostAt === null;
  return {
    axis,
    journal: {
      ...journal,
      clock: axis,
      timelineSince: journal.timelineSince === 0 ? 0 : now,
      alive: unwatched ? { at: now, lsn: journal.alive?.lsn ?? null, how: "unwatched" } : journal.alive,
      leftovers: journal.leftovers.map((leftover) => ({ ...leftover, since: now })),
      slots: new Map(
        [...journal.slots].map(([name, record]) => [
          name,
          { ...record, births: record.births.map((birth) => ({ ...birth, since: now })) },
        ]),
      ),
    },
  };
}

function latestIn({ observedAt, quietUntil, primaryLostAt, haltedAt, alive }: JournalState): number {
  return Math.max(observedAt, quietUntil, primaryLostAt ?? 0, haltedAt ?? 0, alive?.at ?? 0);
}
