/** Steps that the scenarios share. */
import type { Status } from "../../src/domain/status.ts";
import { type ConnTargets, parseConnTargets } from "../../src/pg/conninfo.ts";
import { ensurePhysicalSlot } from "../../src/sandbox/cluster.ts";
import type { PgServer } from "../../src/sandbox/server.ts";
import type { TestCluster } from "./cluster-fixture.ts";
import { createLogicalSlot } from "./consumer.ts";
import type { TestSidecar } from "./sidecar.ts";
import { comparable, peek, slotsOf } from "./slots.ts";
import { waitForReceipt } from "./wal.ts";

/** True once every guard is there. */
export function hasGuard({ guards }: Status): boolean {
  return guards.length > 0 && guards.every((guard) => guard.confirmedFlushLsn !== null);
}

/** Makes slots on the primary once there is a guard, and waits until they are on the standby. */
export async function syncSlots(sidecar: TestSidecar, primary: PgServer, ...names: string[]): Promise<void> {
  await sidecar.until("the guard", hasGuard);
  for (const name of names) await createLogicalSlot(primary, name);
  for (const name of names) await sidecar.untilSlot(name, "synced");
}

/** Waits until the files of the slots lie where the standby's next start loads them; those of the guards come before them. */
export async function untilStaged(sidecar: TestSidecar, ...names: string[]): Promise<Status> {
  return sidecar.until(`${names.join(", ")} to be staged`, ({ slots }) =>
    names.every((name) =>
      slots.some(
        (slot) =>
          slot.name === name &&
          slot.reason === "restart_pending" &&
          slot.detail?.startsWith("its file is staged"),
      ),
    ),
  );
}

/** Waits until the slot stands so, for that reason. */
export async function untilReason(sidecar: TestSidecar, name: string, reason: string): Promise<void> {
  await sidecar.until(`slot "${name}" to be ${reason}`, ({ slots }) =>
    slots.some((slot) => slot.name === name && slot.reason === reason),
  );
}

/** Waits until the problem is told. */
export async function untilProblem(sidecar: TestSidecar, code: string): Promise<Status> {
  return sidecar.until(`the problem ${code}`, ({ problems }) =>
    problems.some((problem) => problem.code === code),
  );
}

/** Waits until all is well, and every slot is where the primary's was when this was called. */
export async function untilAllSynced(sidecar: TestSidecar, primary: PgServer): Promise<Status> {
  const goal = await slotsOf(primary);
  return sidecar.until(
    "everything to be synced",
    ({ ready, slots }) =>
      ready &&
      slots.length === goal.size &&
      slots.every(
        (slot) =>
          slot.protection === "synced" &&
          slot.lagBytes === 0 &&
          slot.primaryConfirmedFlushLsn === goal.get(slot.name)?.confirmed,
      ),
  );
}

/** Kills the primary, promotes the standby, and waits for the finishing step. */
export async function failOver({ primary, standby }: TestCluster, sidecar: TestSidecar): Promise<Status> {
  await primary.kill();
  standby.promote();
  return untilFinished(sidecar);
}

/** Lets a standby follow another server: by a reload, before 13 by a restart. */
export async function followInstead(standby: PgServer, to: PgServer): Promise<void> {
  await ensurePhysicalSlot(to, standby.name);
  const upstream = { host: to.host, port: to.port, slotName: standby.name, applicationName: standby.name };
  if (standby.major >= 13) {
    standby.follow(upstream);
    standby.reload();
  } else {
    await standby.stop();
    standby.follow(upstream);
    await standby.start();
  }
}

/** A connection string with these servers as its hosts. */
export function hostsOf(...servers: PgServer[]): ConnTargets {
  const list = (of: (server: PgServer) => string | number) => servers.map(of).join();
  return parseConnTargets(
    `host=${list(({ host }) => host)} port=${list(({ port }) => port)} user=postgres dbname=postgres`,
  );
}

/** Waits for the finishing step. */
export async function untilFinished(sidecar: TestSidecar): Promise<Status> {
  return sidecar.until("the finishing step", ({ role, finish }) => role === "primary" && finish !== null);
}

/** What the primary's test_decoding slots would send, once the standby has all of it. */
export async function promisedStreams(
  { primary, standby }: Pick<TestCluster, "primary" | "standby">,
  ...names: string[]
): Promise<Map<string, string[]>> {
  await waitForReceipt(primary, standby);
  const streams = new Map<string, string[]>();
  for (const name of names) streams.set(name, comparable(await peek(primary, name)));
  return streams;
}

/** The same of the promoted standby. */
export async function keptStreams(
  standby: PgServer,
  names: Iterable<string>,
): Promise<Map<string, string[]>> {
  const streams = new Map<string, string[]>();
  for (const name of names) streams.set(name, comparable(await peek(standby, name)));
  return streams;
}
