/** Steps that are the same on every major for whoever reads the scenarios, and not for the servers. */
import { formatLsn, type Lsn, parseLsn } from "../../src/domain/lsn.ts";
import type { Status } from "../../src/domain/status.ts";
import type { PgServer } from "../../src/sandbox/server.ts";
import type { TestCluster } from "../support/cluster-fixture.ts";
import { readSlot } from "../support/consumer.ts";
import { isReady, QUICK, slotIn } from "../support/file-way.ts";
import { startSidecar, type TestSidecar, type TestSidecarOptions } from "../support/sidecar.ts";
import { positionOf } from "../support/slots.ts";
import { failOver, hasGuard, keptStreams, promisedStreams } from "../support/steps.ts";
import { eventually } from "../support/wait.ts";
import { logRunningTransactions } from "../support/wal.ts";

interface FailoverSlotOptions {
  plugin?: string;
  twoPhase?: boolean;
}

/** Makes a slot that is to survive a failover; on 17 and later with the server's own flag. */
export async function createFailoverSlot(
  primary: PgServer,
  name: string,
  { plugin = "test_decoding", twoPhase = false }: FailoverSlotOptions = {},
): Promise<void> {
  const flags = [false, ...(primary.major >= 14 ? [twoPhase] : []), ...(primary.major >= 17 ? [true] : [])];
  await primary.query(`select pg_catalog.pg_create_logical_replication_slot($1, $2, ${flags.join(", ")})`, [
    name,
    plugin,
  ]);
}

interface QuickOptions extends TestSidecarOptions {
  /** The operator lets it use the file way on 16, too. */
  restarts?: boolean;
  /** Not to wait until the guard is there, which takes 16 and later until running transactions have ended. */
  atOnce?: boolean;
}

/** A sidecar with short naps, and with its guard where that needs no start of the standby. */
export async function quickSidecar(standby: PgServer, options: QuickOptions = {}): Promise<TestSidecar> {
  const { restarts = false, atOnce = false, ...rest } = options;
  const policy = {
    guardDatabases: "auto",
    duty: 0.05,
    provision: "auto",
    restarts,
    onConflict: "adopt",
    releaseAfterMs: null,
  } as const;
  const sidecar = await startSidecar(standby, { nap: QUICK, policy, ...rest });
  if (standby.major >= 16 && !atOnce) await sidecar.until("the guard", hasGuard);
  return sidecar;
}

/** Waits until the slots are ready. Those that only a start of the standby brings get one, all in one. */
export async function protect(sidecar: TestSidecar, standby: PgServer, ...names: string[]): Promise<void> {
  const status = await sidecar.until(`${names.join(", ")} to be ready or staged`, (seen) =>
    names.every((name) => isReady(seen, name) || isStaged(seen, name)),
  );
  if (names.some((name) => !isReady(status, name))) await standby.restart();
  for (const name of names) await sidecar.untilSlot(name);
}

/** The same for one slot whose consumer goes on meanwhile, as is needed when it is older than what the standby has kept. */
export async function protectReading(
  sidecar: TestSidecar,
  { primary, standby }: TestCluster,
  name: string,
): Promise<void> {
  const goesOn = (what: string, fits: (status: Status) => boolean) =>
    eventually(
      async () => {
        // the server itself brings it on 17 and later, once it needs no older catalog rows than the standby has kept
        if (primary.major >= 17) await primary.query("select pg_catalog.txid_current()");
        await consume(primary, name);
        return sidecar.status !== null && fits(sidecar.status);
      },
      { what, timeoutMs: 45_000, intervalMs: 300 },
    );
  await goesOn(`"${name}" to be here or staged`, (status) => isHereOrStaged(status, name));
  if (!isHere(sidecar.status, name)) await standby.restart();
  await goesOn(`"${name}" to be ready`, (status) => isReady(status, name) && isHere(status, name));
}

export function isHereOrStaged(status: Status, name: string): boolean {
  return isHere(status, name) || isStaged(status, name);
}

function isHere(status: Status | null, name: string): boolean {
  return status !== null && (slotIn(status, name)?.standbyConfirmedFlushLsn ?? null) !== null;
}

function isStaged(status: Status, name: string): boolean {
  return status.restart?.staged.includes(name) ?? false;
}

/** What the slots would send on the primary is what they send on the standby after a failover. Returns their streams. */
export async function failOverKeeping(
  cluster: TestCluster,
  sidecar: TestSidecar,
  ...names: string[]
): Promise<{ promised: Map<string, string[]>; kept: Map<string, string[]> }> {
  const promised = await promisedStreams(cluster, ...names);
  await failOver(cluster, sidecar);
  return { promised, kept: await keptStreams(cluster.standby, names) };
}

/** The consumer takes what there is, and its slot moves on; twice, with a running-xacts record before each, so that restart_lsn does. */
export async function consume(primary: PgServer, name: string): Promise<void> {
  for (const _ of [1, 2]) {
    await logRunningTransactions(primary);
    // only what is flushed is decoded
    const [end] = await primary.query<{ lsn: string }>(
      "select pg_catalog.pg_current_wal_insert_lsn()::text as lsn",
    );
    const sql = "select from (select 1) as one where pg_catalog.pg_current_wal_flush_lsn() >= $1::pg_lsn";
    await eventually(async () => (await primary.query(sql, [end && lastRecordEnd(end.lsn)])).length > 0, {
      what: `the primary to flush WAL up to ${end?.lsn}`,
    });
    await readSlot(primary, name);
  }
}

/** Resolves when the standby's slot is where the primary's is. */
export async function untilSamePosition(primary: PgServer, standby: PgServer, name: string): Promise<void> {
  await eventually(async () => (await positionOf(standby, name)) === (await positionOf(primary, name)), {
    what: `the standby's "${name}" to be where the primary's is`,
  });
}

/** The insert position is past the header of a page that has nothing on it yet, and is not written: the last record ended before that. */
function lastRecordEnd(insertLsn: string): string {
  const insert = parseLsn(insertLsn);
  const inPage = insert % 8_192n;
  return formatLsn((inPage <= 40n ? insert - inPage : insert) as Lsn);
}
