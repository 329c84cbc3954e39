/** What scenarios of slots that come by their files share. */
import { readdirSync, rmSync } from "node:fs";
import path from "node:path";
import type { SlotStatus, Status } from "../../src/domain/status.ts";
import type { PgServer } from "../../src/sandbox/server.ts";
import type { TestCluster } from "./cluster-fixture.ts";
import { describeEach, fileMajors } from "./majors.ts";
import type { TestSidecar } from "./sidecar.ts";
import { slotsOf } from "./slots.ts";
import { waitForReplay } from "./wal.ts";

/** Cycles come soon, so that what is to happen within one does. */
export const QUICK = { minMs: 100, maxMs: 500 };

/** A block of tests on this major; on all of `PG_MAJORS` from `from` on, when that is set. */
export function onMajor(major: number, tests: (major: number) => void, from = 11): void {
  const used = process.env.PG_MAJORS === undefined ? [major] : fileMajors().filter((each) => each >= from);
  describeEach(used.length > 0 ? used : [major], used, tests);
}

/** The folders of slots that lie in a server's data directory, temporary ones included. */
export function slotFolders(server: PgServer): string[] {
  return readdirSync(path.join(server.dataDir, "pg_replslot")).toSorted();
}

export function stateFile(server: PgServer, slot: string): string {
  return path.join(server.dataDir, "pg_replslot", slot, "state");
}

export function slotIn({ slots }: Status, name: string): SlotStatus | undefined {
  return slots.find((slot) => slot.name === name);
}

export function isReady(status: Status, name: string): boolean {
  return ["synced", "guarded"].includes(slotIn(status, name)?.protection ?? "");
}

/** Waits until the slot is not ready for that reason, with that in its sentence. */
export async function untilTold(
  sidecar: Pick<TestSidecar, "until">,
  name: string,
  reason: string,
  says: string,
  timeoutMs?: number,
): Promise<Status> {
  return sidecar.until(
    `slot "${name}" to be ${reason}: … ${says} …`,
    (status) => {
      const slot = slotIn(status, name);
      return slot?.reason === reason && (slot.detail ?? "").includes(says);
    },
    timeoutMs,
  );
}

/** Resolves after this many more whole cycles. */
export async function cyclesLater({ sidecar, until }: TestSidecar, count = 2): Promise<Status> {
  const { cycles } = sidecar;
  return until("more cycles", () => sidecar.cycles > cycles + count);
}

/** Waits until the sidecar has seen where these slots stand on the primary now. */
export async function untilRecorded(
  sidecar: Pick<TestSidecar, "until">,
  primary: PgServer,
  ...names: string[]
): Promise<Status> {
  const there = await slotsOf(primary);
  return sidecar.until("the positions to be recorded", (status) =>
    names.every((name) => slotIn(status, name)?.primaryConfirmedFlushLsn === there.get(name)?.confirmed),
  );
}

/** The names of the WAL segments that lie in a server's data directory. */
export function segmentsOf(server: PgServer): string[] {
  return readdirSync(path.join(server.dataDir, "pg_wal"))
    .filter((name) => /^[0-9A-F]{24}$/.test(name))
    .toSorted();
}

/**
 * Restarts the standby, and meanwhile removes the WAL there that its own start does not need; the primary has all of it, unless it is
 * to lose it too. Returns the names of the segments.
 */
export async function loseWal(
  { primary, standby }: Pick<TestCluster, "primary" | "standby">,
  everywhere = false,
): Promise<string[]> {
  await primary.query("checkpoint");
  await waitForReplay(primary, standby);
  await standby.query("checkpoint");
  await standby.stop();
  const there = segmentsOf(primary);
  const lost = segmentsOf(standby).filter((name) => name < (there.at(-2) ?? ""));
  if (lost.length === 0 || lost.some((name) => !there.includes(name)))
    throw new Error(`there is no WAL to lose: ${lost.join()} of ${there.join()}`);
  for (const server of everywhere ? [standby, primary] : [standby])
    for (const name of lost) rmSync(path.join(server.dataDir, "pg_wal", name));
  await standby.start();
  return lost;
}
