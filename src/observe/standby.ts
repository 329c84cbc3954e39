/** What the standby looks like now. */

import type { Idleness } from "../domain/idle.ts";
import { type Lsn, maxLsn, parseLsnOrNull } from "../domain/lsn.ts";
import type { FilesView, StandbyView } from "../domain/observation.ts";
import type { PluginRules } from "../domain/plugins.ts";
import type { StandbySlot } from "../domain/slot.ts";
import { parseConnInfo } from "../pg/conninfo.ts";
import { type SlotRow, toLogicalSlots, toPluginRules } from "../pg/rows.ts";
import type { PgSession } from "../pg/session.ts";
import { lookAtPromoted, lookAtStandby, STANDBY_PULSE } from "../pg/sql.ts";
import type { DataDirectory } from "./files.ts";

interface ServerRow {
  in_recovery: boolean;
  system_identifier: string;
  wal_level: string;
  hot_standby_feedback: string;
  primary_slot_name: string | null;
  primary_conninfo: string | null;
  /** NULL before 17. */
  sync_replication_slots: string | null;
  max_replication_slots: number;
  max_slot_wal_keep_mb: string | null;
  wal_keep_mb: string | null;
  wal_segment_bytes: string;
  /** NULL before 18. */
  idle_timeout_s: string | null;
  library_path: string | null;
  /** NULL where the server has no such setting. */
  plugin_rules: string | null;
  replay_lsn: string | null;
  receive_lsn: string | null;
  streaming: boolean;
  received_timeline: number | null;
  sender_host: string | null;
  sender_port: number | null;
  message_age_ms: string | null;
  least_timeline: number;
  feedback_session: string;
  started_epoch_s: string;
  port: number;
  may_replicate: boolean | null;
}

/** The view, and beside it what must never reach a log: where the standby streams from. */
export interface StandbyLook {
  view: StandbyView;
  /** Null when the role may not see it. */
  primaryConninfo: string | null;
  /** Where its walreceiver is connected to, and which one that is; null without one, or when the role may not see it. */
  sender: { host: string; port: number; session: string } | null;
  /** `pg_postmaster_start_time()`, seconds since the epoch. */
  startedEpochS: number;
  /** ms since the walreceiver heard from its sender; 0 when one is at work and the role may not see more, null without one. */
  messageAgeMs: number | null;
}

const ZERO = 0n as Lsn;

/** As `KeepLogSeg` in xlog.c counts them; 13 and later. */
function keptSegments(server: ServerRow): number | null {
  const slotMb = Number(server.max_slot_wal_keep_mb ?? -1);
  if (slotMb < 0) return null;
  const megabytes = Math.max(slotMb, Number(server.wal_keep_mb ?? 0));
  return Math.floor((megabytes * 1024 * 1024) / Number(server.wal_segment_bytes));
}

/** Looks at the standby, and at its data directory where there is one to look at. Throws what the session throws. */
export async function observeStandby(
  session: PgSession,
  directory: DataDirectory | null = null,
): Promise<StandbyLook> {
  const [servers, slots, databases] = (await session.script<object>(lookAtStandby(session.serverVersionNum), {
    what: "looking at the standby",
  })) as [ServerRow[], SlotRow[], { oid: string; name: string }[]];
  const server = servers[0];
  if (!server) throw new Error("the standby's answer is incomplete");
  const replayLsn = parseLsnOrNull(server.replay_lsn) ?? ZERO;
  const files = directory && server.in_recovery ? await lookAtFiles(directory, server, slots, session) : null;
  const recovery =
    session.serverVersionNum < 120_000 && files !== null && directory?.belongs
      ? await directory.recoverySettings()
      : null;
  const primarySlotName = recovery ? recovery.primarySlotName : server.primary_slot_name;
  return {
    startedEpochS: Number(server.started_epoch_s),
    messageAgeMs: numberOrNull(server.message_age_ms),
    sender:
      server.sender_host === null || server.sender_port === null
        ? null
        : { host: server.sender_host, port: server.sender_port, session: server.feedback_session },
    primaryConninfo: recovery ? recovery.primaryConninfo : server.primary_conninfo,
    view: {
      systemIdentifier: server.system_identifier,
      inRecovery: server.in_recovery,
      serverVersionNum: session.serverVersionNum,
      walLevel: server.wal_level,
      hotStandbyFeedback: server.hot_standby_feedback === "on",
      primarySlotName,
      maxReplicationSlots: server.max_replication_slots,
      keptSegments: keptSegments(server),
      walSegmentBytes: Number(server.wal_segment_bytes),
      usedSlots: slots.length,
      replayLsn,
      // right after a start, the receive position is the beginning of a segment and may lie behind what is replayed
      flushedLsn: maxLsn(replayLsn, parseLsnOrNull(server.receive_lsn) ?? ZERO),
      streaming: server.streaming,
      receivedTimeline: server.received_timeline,
      leastTimeline: server.least_timeline,
      slots: toLogicalSlots(slots),
      physicalSlots: slots.flatMap(({ name, slot_type, temporary, active, restart_lsn }) =>
        slot_type === "physical" && !temporary
          ? [{ name, active, restartLsn: parseLsnOrNull(restart_lsn) }]
          : [],
      ),
      databases: databases.map(({ oid, name }) => ({ oid: Number(oid), name })),
      conninfoHasDatabase: namesDatabase(recovery ? recovery.primaryConninfo : server.primary_conninfo),
      syncsSlots: server.sync_replication_slots === "on",
      mayReplicate: server.may_replicate ?? false,
      feedbackSession: `${primarySlotName ?? ""} ${server.feedback_session}`,
      files,
      idleness: idlenessIn(server, slots),
      plugins: {
        rules: toPluginRules(server.plugin_rules),
        libraries: directory?.belongs ? await directory.libraries(server.library_path) : null,
      },
    },
  };
}

function idlenessIn(
  { idle_timeout_s: timeout }: Pick<ServerRow, "idle_timeout_s">,
  slots: readonly SlotRow[],
): Idleness | null {
  const timeoutMs = Number(timeout ?? 0) * 1_000;
  if (timeoutMs === 0) return null;
  const idleMs = slots.flatMap(({ name, idle_s: idle }): [string, number][] =>
    idle == null ? [] : [[name, Number(idle) * 1_000]],
  );
  return { timeoutMs, idleMs: new Map(idleMs) };
}

/** Null when it cannot be seen or read. */
function namesDatabase(conninfo: string | null): boolean | null {
  if (conninfo === null) return null;
  try {
    return parseConnInfo(conninfo, {}).database !== undefined;
  } catch {
    return null;
  }
}

function lookAtFiles(
  directory: DataDirectory,
  server: ServerRow,
  slots: readonly SlotRow[],
  { serverVersionNum }: PgSession,
): Promise<FilesView> {
  return directory.look({
    systemIdentifier: server.system_identifier,
    major: Math.floor(serverVersionNum / 10_000),
    startedEpochS: Number(server.started_epoch_s),
    port: server.port,
    maxReplicationSlots: server.max_replication_slots,
    walLevel: server.wal_level,
    loaded: new Set(slots.map(({ name }) => name)),
  });
}

interface PulseRow {
  in_recovery: boolean;
  replay_lsn: string | null;
  receive_lsn: string | null;
  message_age_ms: string | null;
}

/** What the short question shows: whether the server is still a standby, and what it has heard from the primary. */
export interface StandbyPulse {
  inRecovery: boolean;
  flushedLsn: Lsn;
  /** As in {@link StandbyLook}. */
  messageAgeMs: number | null;
}

/** The short question that is asked during a nap. Throws what the session throws. */
export async function pulseOfStandby(session: PgSession): Promise<StandbyPulse> {
  const [[row] = []] = await session.script<PulseRow>(STANDBY_PULSE, {
    what: "asking the standby whether it still is one",
  });
  if (!row) throw new Error("the standby's answer is incomplete");
  return {
    inRecovery: row.in_recovery,
    flushedLsn: maxLsn(parseLsnOrNull(row.replay_lsn) ?? ZERO, parseLsnOrNull(row.receive_lsn) ?? ZERO),
    messageAgeMs: numberOrNull(row.message_age_ms),
  };
}

/** Whether the server is still a standby. */
export async function isStandby(session: PgSession): Promise<boolean> {
  return (await pulseOfStandby(session)).inRecovery;
}

function numberOrNull(text: string | null): number | null {
  return text === null ? null : Number(text);
}

interface PromotedRow {
  in_recovery: boolean;
  system_identifier: string;
  timeline: string | null;
  /** NULL before 17. */
  stalled_standby_slots: string | null;
  /** NULL before 18. */
  idle_timeout_s: string | null;
  /** NULL where the server has no such setting. */
  plugin_rules: string | null;
}

/** What one look at a promoted server saw. */
export interface PromotedView {
  systemIdentifier: string;
  inRecovery: boolean;
  timeline: number | null;
  /** 17+: names in `synchronized_standby_slots` that no standby streams by: a flagged slot cannot be advanced until they are served. */
  stalledStandbySlots: readonly string[];
  /** 18+: whether checkpoints give up slots that nobody uses. */
  givesUpIdle: boolean;
  pluginRules: PluginRules | null;
  slots: StandbySlot[];
  /** Of slots of every kind. */
  slotNames: string[];
}

/** A promoted server's slots, and the timeline that it writes. */
export async function observePromoted(session: PgSession): Promise<PromotedView> {
  const [servers, slots] = (await session.script<object>(lookAtPromoted(session.serverVersionNum), {
    what: "looking at the promoted server",
  })) as [PromotedRow[], SlotRow[]];
  const server = servers[0];
  if (!server) throw new Error("the promoted server's answer is incomplete");
  return {
    systemIdentifier: server.system_identifier,
    inRecovery: server.in_recovery,
    timeline: server.timeline === null ? null : Number.parseInt(server.timeline, 16),
    stalledStandbySlots: server.stalled_standby_slots?.split(",") ?? [],
    givesUpIdle: Number(server.idle_timeout_s ?? 0) > 0,
    pluginRules: toPluginRules(server.plugin_rules),
    slots: toLogicalSlots(slots),
    slotNames: slots.map(({ name }) => name),
  };
}
