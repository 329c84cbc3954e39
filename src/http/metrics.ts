/** What Prometheus is told: made anew from the newest status whenever it asks, so that nothing is said of slots that are gone. */
import { Counter, Gauge, Registry } from "prom-client";
import type { FinishReport } from "../domain/finish.ts";
import { isFailoverReady } from "../domain/protection.ts";
import { type Role, type Status, standsAgainst } from "../domain/status.ts";
import type { StatusBoard } from "./status-board.ts";

const PROTECTIONS = ["synced", "guarded", "waiting", "blocked"] as const;
const ROLES: readonly Role[] = ["standby", "promoting", "primary"];

export const METRICS_TYPE = Registry.PROMETHEUS_CONTENT_TYPE;

type Labels = Record<string, string>;
type Sample = readonly [labels: Labels, value: number];
type AddGauge = (name: string, help: string, samples: readonly Sample[]) => void;

/** The metrics in Prometheus' text format. */
export async function renderMetrics(board: StatusBoard, standby: string, version: string): Promise<string> {
  const registry = new Registry();
  registry.setDefaultLabels({ standby });
  const registers = [registry];
  const add: AddGauge = (name, help, samples) => {
    const [first] = samples;
    // without a label to tell, prom-client would add a zero that nobody has measured
    if (first === undefined) return;
    const labelNames = Object.keys(first[0]);
    const gauge = new Gauge({ name: `slotsync_${name}`, help, labelNames, registers });
    // several samples of equal labels are a count
    for (const [labels, value] of samples) gauge.inc(clean(labels), value);
  };
  const { status, cycles } = board;
  add("build_info", "The version of pg-slotsync that runs, always 1.", [[{ version }, 1]]);
  add("ready", "1 when a failover to this standby now would lose no change for any subscriber.", [
    [{}, board.answer().code === 0 ? 1 : 0],
  ]);
  new Counter({
    name: "slotsync_cycles_total",
    help: "Cycles completed since the sidecar started.",
    registers,
  }).inc(cycles);
  if (status !== null) {
    addNode(status, add);
    if (status.role === "standby") {
      addSlots(status, add);
      addNotReady(board, registers);
    }
    if (status.finish !== null) addPromotion(status.finish, add);
  }
  return registry.metrics();
}

function addNode(status: Status, add: AddGauge): void {
  add(
    "role",
    "1 for the role that the node has now.",
    ROLES.map((role) => [{ role }, status.role === role ? 1 : 0]),
  );
  add("last_cycle_timestamp_seconds", "When both servers were last observed (unix time), 0 never.", [
    [{}, seconds(status.observedAt)],
  ]);
  add(
    "primary_lost_timestamp_seconds",
    "Since when the primary has not answered (unix time), 0 while it does.",
    [[{}, seconds(status.primaryLostAt)]],
  );
  add(
    "problems",
    "What stands against being ready (severity stop or doubt), or deserves attention (warning).",
    status.problems.map(({ code, severity }) => [{ code, severity }, 1]),
  );
}

function addSlots({ slots, guards, restart, undecided }: Status, add: AddGauge): void {
  const of = ({ name, database }: { name: string; database: string }) => ({ slot: name, database });
  add("slots", "Failover slots by how they are protected on this standby.", [
    ...PROTECTIONS.map((protection): Sample => [{ protection }, 0]),
    ...slots.map(({ protection }): Sample => [{ protection }, 1]),
  ]);
  add(
    "slot_ready",
    "1 when a failover now would lose nothing for this slot.",
    // a table that is being copied is none of this metric's business before its slot is needed
    slots
      .filter((slot) => isFailoverReady(slot.protection) || standsAgainst(slot))
      .map((slot) => [of(slot), isFailoverReady(slot.protection) ? 1 : 0]),
  );
  if (undecided !== null)
    add("unchosen_slots", "Logical slots of the primary that nothing chooses and no rule excludes.", [
      [{}, undecided],
    ]);
  add(
    "slot_lag_bytes",
    "WAL between the slot's position on the primary and here; missing while there is no slot here.",
    slots.flatMap((slot): Sample[] => (slot.lagBytes === null ? [] : [[of(slot), slot.lagBytes]])),
  );
  add("restart_pending_slots", "Failover slots that the next restart of this standby would add.", [
    [{}, restart?.slots ?? 0],
  ]);
  add("guards", "Guard slots on this standby.", [[{}, guards.length]]);
}

function addNotReady({ notReady }: StatusBoard, registers: Registry[]): void {
  const counter = new Counter({
    name: "slotsync_slot_not_ready_cycles_total",
    help: "Cycles in which the slot was not ready for this reason, since the sidecar started.",
    labelNames: ["slot", "database", "reason"],
    registers,
  });
  for (const { slot, database, reason, cycles } of notReady)
    counter.inc(clean({ slot, database, reason }), cycles);
}

function addPromotion(finish: FinishReport, add: AddGauge): void {
  add("promotion_complete", "1 when the last promotion left nothing to be finished.", [
    [{}, finish.complete ? 1 : 0],
  ]);
  add("promotion_finished_timestamp_seconds", "When the last promotion was finished (unix time).", [
    [{}, finish.finishedAt / 1_000],
  ]);
  add("promotion_duration_seconds", "How long the finishing step of the last promotion took.", [
    [{}, finish.durationMs / 1_000],
  ]);
  add(
    "promotion_slots",
    "Slots by how they came through the last promotion.",
    finish.slots.map(({ outcome }) => [{ outcome }, 1]),
  );
  add(
    "promotion_gap_bytes",
    "WAL that the slot's subscriber had confirmed and this node never received.",
    finish.slots.map((slot) => [{ slot: slot.name, database: slot.database }, slot.confirmedBeyondEndBytes]),
  );
}

/** Names come from other machines: nothing in them may steer a terminal or break a line (I13). */
function clean(labels: Labels): Labels {
  return Object.fromEntries(
    Object.entries(labels).map(([name, value]) => [
      name,
      value.replaceAll(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu, "\ufffd"),
    ]),
  );
}

function seconds(iso: string | null): number {
  return iso === null ? 0 : Date.parse(iso) / 1_000;
}
