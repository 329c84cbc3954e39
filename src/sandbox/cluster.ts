import { backupInto } from "./backup.ts";
import { type BinariesOptions, ensureServerBinaries } from "./binaries.ts";
import { eventually } from "./poll.ts";
import { PgServer, type Settings } from "./server.ts";
import { Workspace } from "./workspace.ts";

export interface NewServerOptions extends BinariesOptions {
  major: number;
  name?: string;
  settings?: Settings;
  /** false: faster, and as safe as long as only processes are killed and not the machine */
  fsync?: boolean;
  /** where its files go; a new one when left out */
  workspace?: Workspace;
}

export interface FollowOptions {
  /** the physical slot on the upstream, made when it is not there */
  slotName: string;
  /** its application_name; the standby's name when left out */
  applicationName?: string;
  /** reach the upstream through this address: a proxy */
  via?: { host: string; port: number };
}

export interface StandbyOptions extends FollowOptions {
  /** the standby's name; the slot's when left out */
  name?: string;
  settings?: Settings;
}

/** The settings that all sandbox servers start from: logical decoding, small, quick to reconnect. */
export function baseSettings(major: number, fsync = true): Settings {
  return {
    listen_addresses: "127.0.0.1",
    unix_socket_directories: "",
    // in the data folder, which we remove, and not in /dev/shm, where a killed server would leave it
    dynamic_shared_memory_type: "mmap",
    shared_buffers: "16MB",
    max_connections: 200,
    fsync,
    wal_level: "logical",
    max_wal_senders: 40,
    max_replication_slots: 64,
    max_worker_processes: 16,
    ...(major >= 13 ? { wal_keep_size: "64MB" } : { wal_keep_segments: 4 }),
    hot_standby: true,
    hot_standby_feedback: true,
    wal_receiver_status_interval: "1s",
    wal_retrieve_retry_interval: "100ms",
    log_line_prefix: "%m [%p] %q%a ",
    log_replication_commands: true,
    ...(major >= 18 ? { io_method: "sync" } : {}),
  };
}

/** A running primary, ready for physical and logical standbys. */
export async function createPrimary(options: NewServerOptions): Promise<PgServer> {
  const server = await newServer({ name: "primary", ...options });
  await server.initialize();
  await server.start();
  return server;
}

/** A running server of its own, to subscribe to publications of a cluster. */
export async function createSubscriber(options: NewServerOptions): Promise<PgServer> {
  return createPrimary({ name: "subscriber", ...options });
}

/** A server of a cluster with its settings, without data. */
export async function newServer(options: NewServerOptions & { name: string }): Promise<PgServer> {
  const { major, name, fsync = true, settings, onProgress, workspace = new Workspace() } = options;
  const binaries = await ensureServerBinaries(major, onProgress ? { onProgress } : {});
  return PgServer.create({
    workspace,
    binaries,
    name,
    settings: { ...baseSettings(major, fsync), ...settings },
  });
}

/** A new standby of a running server, made from a backup of it; resolves when it streams. */
export async function addStandby(upstream: PgServer, options: StandbyOptions): Promise<PgServer> {
  const { slotName, name = slotName, settings } = options;
  const { workspace, binaries } = upstream;
  const standby = await PgServer.create({
    workspace,
    binaries,
    name,
    settings: { ...upstream.settings, ...settings },
  });
  // before the backup, so that the slot keeps the WAL which the copy needs
  await ensurePhysicalSlot(upstream, slotName);
  await backupInto(upstream, standby);
  await startStandby(standby, upstream, options);
  return standby;
}

/**
 * Makes a stopped server a standby of another and starts it: a former primary after a clean shutdown, whose last
 * WAL the new primary had received before its promotion.
 */
export async function rejoin(stopped: PgServer, upstream: PgServer, options: FollowOptions): Promise<void> {
  await ensurePhysicalSlot(upstream, options.slotName);
  await startStandby(stopped, upstream, options);
}

async function startStandby(standby: PgServer, upstream: PgServer, options: FollowOptions): Promise<void> {
  const { slotName, applicationName = standby.name, via = upstream } = options;
  standby.follow({ host: via.host, port: via.port, slotName, applicationName });
  await standby.start();
  await waitStreaming(upstream, applicationName);
}

/** Makes a physical slot that keeps WAL from now on, unless it is there. */
export async function ensurePhysicalSlot(server: PgServer, slotName: string): Promise<void> {
  await server.query(
    `select pg_catalog.pg_create_physical_replication_slot($1, true)
      where not exists (select from pg_catalog.pg_replication_slots where slot_name = $1)`,
    [slotName],
  );
}

/** Resolves when the standby of that application name streams from the server. */
export async function waitStreaming(upstream: PgServer, applicationName: string): Promise<void> {
  const sql =
    "select from pg_catalog.pg_stat_replication where application_name = $1 and state = 'streaming'";
  await eventually(async () => (await upstream.query(sql, [applicationName])).length > 0, {
    what: `standby "${applicationName}" to stream from "${upstream.name}"`,
  });
}
