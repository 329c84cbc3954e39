/** What is compared: a primary with one standby, kept in step by the sidecar (16) or by the built-in worker (17). */
import { existsSync, readFileSync } from "node:fs";
import path from "node:path";
import { type Lsn, parseLsn, parseLsnOrNull } from "../src/domain/lsn.ts";
import { addStandby, createPrimary } from "../src/sandbox/cluster.ts";
import { eventually } from "../src/sandbox/poll.ts";
import { childrenOf, signal } from "../src/sandbox/processes.ts";
import type { PgServer, Settings } from "../src/sandbox/server.ts";
import { Workspace } from "../src/sandbox/workspace.ts";
import { Consumers, PUBLICATION, type SlotName } from "./consumers.ts";
import { serverCpuMs } from "./cpu.ts";
import { SidecarProcess } from "./sidecar.ts";

export type SystemKind = "ours" | "builtIn";

export const MAJORS: Record<SystemKind, number> = { ours: 16, builtIn: 17 };

/** The servers' own defaults, but for what logical decoding and hundreds of slots need. */
const SETTINGS: Settings = {
  shared_buffers: "128MB",
  max_connections: 700,
  max_wal_senders: 600,
  max_replication_slots: 620,
  wal_receiver_status_interval: null,
  log_replication_commands: null,
};

export interface SystemOptions {
  /** over the common ones */
  settings?: Settings;
  databases?: readonly string[];
  /** another than the kind's own */
  major?: number;
}

export interface LocalSlot {
  name: string;
  position: Lsn;
  restart: Lsn;
  persistent: boolean;
}

export class System {
  readonly kind: SystemKind;
  readonly primary: PgServer;
  readonly standby: PgServer;
  sidecar: SidecarProcess | null = null;
  readonly #workspace: Workspace;
  readonly #closers: (() => Promise<unknown>)[] = [];

  private constructor(kind: SystemKind, workspace: Workspace, primary: PgServer, standby: PgServer) {
    this.kind = kind;
    this.#workspace = workspace;
    this.primary = primary;
    this.standby = standby;
  }

  static async start(kind: SystemKind, options: SystemOptions = {}): Promise<System> {
    const workspace = new Workspace();
    try {
      const settings = { ...SETTINGS, ...options.settings };
      const { major = MAJORS[kind] } = options;
      const primary = await createPrimary({ major, workspace, fsync: true, settings });
      for (const database of options.databases ?? []) await primary.query(`create database ${database}`);
      for (const database of options.databases ?? ["postgres"]) {
        await primary.query(
          "create table bench_rows (id bigint generated always as identity primary key, filler text)",
          [],
          database,
        );
        await primary.query(`create publication ${PUBLICATION}`, [], database);
      }
      const standby = await addStandby(primary, { slotName: "standby1" });
      return new System(kind, workspace, primary, standby);
    } catch (error) {
      await workspace.dispose();
      throw error;
    }
  }

  /** Starts what keeps the slots in step. */
  startSync(): void {
    if (this.kind === "builtIn") this.standby.configure({ sync_replication_slots: true });
    else this.sidecar = SidecarProcess.start(this.standby);
  }

  /** Has `close` called before the servers go. */
  onClose(close: () => Promise<unknown>): void {
    this.#closers.push(close);
  }

  async createSlot({ name, database }: SlotName): Promise<void> {
    const flags = this.kind === "builtIn" ? ", false, false, true" : "";
    await this.primary.query(
      `select pg_catalog.pg_create_logical_replication_slot($1, 'pgoutput'${flags})`,
      [name],
      database,
    );
  }

  /** Makes slots with the numbers from `first` on, spread over the databases. */
  async createSlots(
    count: number,
    databases: readonly string[] = ["postgres"],
    first = 0,
  ): Promise<SlotName[]> {
    const slots = Array.from({ length: count }, (_, index) => ({
      name: `bench_${String(first + index).padStart(3, "0")}`,
      database: databases[index % databases.length] as string,
    }));
    for (const slot of slots) await this.createSlot(slot);
    return slots;
  }

  async consume(slots: readonly SlotName[]): Promise<Consumers> {
    const consumers = new Consumers(this.primary);
    this.onClose(() => consumers.stop());
    await consumers.addAll(slots);
    return consumers;
  }

  /** A function that reads the standby's logical slots (all but our own), on a connection of its own. */
  async slotReader(): Promise<() => Promise<LocalSlot[]>> {
    const client = await this.standby.connect();
    this.onClose(() => client.end().catch(() => {}));
    return async () => {
      const { rows } = await client.query<
        Record<"name" | "position" | "restart", string> & { temp: boolean }
      >(
        `select slot_name as name, confirmed_flush_lsn::text as position, restart_lsn::text as restart, temporary as temp
           from pg_catalog.pg_replication_slots
          where slot_type = 'logical' and slot_name like 'bench\\_%' and confirmed_flush_lsn is not null`,
      );
      return rows.map(({ name, position, restart, temp }) => ({
        name,
        position: parseLsn(position),
        restart: parseLsnOrNull(restart) ?? (0n as Lsn),
        persistent: !temp,
      }));
    };
  }

  /** On 12 to 15: starts the sidecar, waits for its guards' files, restarts the standby for them, and waits until they are proven. */
  async startSyncWithGuards(): Promise<void> {
    this.startSync();
    const guards = () => this.sidecar?.journal()?.guards ?? [];
    const staged = (name: string) =>
      existsSync(path.join(this.standby.dataDir, "pg_replslot", name, "state"));
    await eventually(() => guards().length === 2 && guards().every(({ name }) => staged(name)), {
      what: "the guards' files",
      timeoutMs: 60_000,
    });
    await this.standby.restart();
    await eventually(() => guards().every(({ proven }) => proven), {
      what: "the guards to be proven",
      timeoutMs: 60_000,
    });
  }

  /** Waits until the sidecar calls all of them ready. */
  async untilTold(names: readonly string[], timeoutMs = 60_000): Promise<void> {
    await eventually(
      () => {
        const slots = this.sidecar?.journal()?.slots;
        return names.every((name) => ["synced", "guarded"].includes(slots?.get(name)?.protection ?? ""));
      },
      { what: `${names.length} slots to be protected`, timeoutMs, intervalMs: 5 },
    );
  }

  /** Waits until all of them are on the standby for good (and in the sidecar's eyes). Returns how long it took. */
  async untilProtected(names: readonly string[], timeoutMs = 120_000): Promise<number> {
    const started = performance.now();
    const read = await this.slotReader();
    await eventually(
      async () => {
        if (this.sidecar) {
          const slots = this.sidecar.journal()?.slots;
          if (!names.every((name) => ["synced", "guarded"].includes(slots?.get(name)?.protection ?? "")))
            return false;
        }
        const local = new Set((await read()).filter((slot) => slot.persistent).map((slot) => slot.name));
        return names.every((name) => local.has(name));
      },
      { what: `${names.length} slots to be on the standby`, timeoutMs, intervalMs: 20 },
    );
    return performance.now() - started;
  }

  standbyCpuMs(): number {
    return serverCpuMs(this.standby.pid ?? 0);
  }

  /** Keeps the primary from writing running-xacts records (every 15 s otherwise). Returns what undoes it. */
  holdSnapshots(): () => void {
    const writer = childrenOf(this.primary.pid ?? 0).find((pid) =>
      readFileSync(`/proc/${pid}/cmdline`, "utf8").includes("background writer"),
    );
    if (writer === undefined) throw new Error("the primary has no background writer");
    signal(writer, "SIGSTOP");
    return () => signal(writer, "SIGCONT");
  }

  /**
   * Has the primary write one running-xacts record, and none after it. Resolves when every slot on both servers starts there: from
   * now on, whatever is decoded is decoded from this position. Returns it, and what ends it.
   */
  async lastSnapshot(names: readonly string[]): Promise<{ at: Lsn; release: () => void }> {
    const release = this.holdSnapshots();
    this.onClose(async () => release());
    const [row] = await this.primary.query<{ lsn: string }>(
      "select pg_catalog.pg_log_standby_snapshot()::text as lsn",
    );
    const end = parseLsn(row?.lsn ?? "0/0");
    const read = await this.slotReader();
    // the record is some dozens of bytes long, and the slots start at its beginning
    const at = (end - 1024n) as Lsn;
    await eventually(
      async () => {
        const there = new Map((await read()).map((slot) => [slot.name, slot.restart]));
        return names.every((name) => (there.get(name) ?? 0n) >= at);
      },
      { what: "the slots to start at the last running-xacts record", timeoutMs: 60_000 },
    );
    return { at, release };
  }

  async close(): Promise<void> {
    for (const close of this.#closers.toReversed()) await close();
    await this.sidecar?.stop();
    await this.#workspace.dispose();
  }
}

/** Runs `work` with a system that is gone afterwards. */
export async function withSystem<T>(
  kind: SystemKind,
  options: SystemOptions,
  work: (system: System) => Promise<T>,
): Promise<T> {
  const system = await System.start(kind, options);
  try {
    return await work(system);
  } finally {
    await system.close();
  }
}
