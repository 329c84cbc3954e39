/** From the configuration to what the sidecar's parts take. */
import { hostname } from "node:os";
import type { Config } from "../config/load.ts";
import type { Selection } from "../domain/choice.ts";
import type { Policy } from "../domain/plan.ts";
import { RestartWindow } from "../restart/window.ts";
import type { LinkOptions } from "./links.ts";
import type { RestartOptions } from "./restart.ts";

/** The selectors. */
export function selectionOf(config: Config): Selection {
  return { include: config.slots.include, exclude: config.slots.exclude };
}

/** What the planner may do. */
export function policyOf(config: Config): Policy {
  return {
    guardDatabases: config.guards.databases,
    duty: config.advance.duty,
    provision: config.slots.provision,
    restarts: config.restart.mode !== "never",
    onConflict: config.slots.onConflict,
    keepUnproven: config.slots.unproven === "keep",
    releaseAfterMs:
      config.slots.releaseAfterMinutes === undefined ? null : config.slots.releaseAfterMinutes * 60_000,
  };
}

/** A healthy sidecar records at least once per longest nap, and a hanging primary costs it one answer timeout. */
export function quietMs({ nap, timeouts }: Pick<Config, "nap" | "timeouts">): number {
  return nap.maxMs + timeouts.answerMs + timeouts.connectMs;
}

/** A sidecar asks the primary for new WAL about twice a second; one that hangs costs it an answer timeout. */
export function blindMs({ timeouts }: Pick<Config, "timeouts">): number {
  return timeouts.answerMs + timeouts.connectMs + 2_000;
}

/** How another sidecar's operator finds this process in pg_stat_activity. */
export function applicationNameOf(command: string): string {
  return `pg-slotsync ${command} ${process.pid}@${hostname()}`.slice(0, 50);
}

/** Options for the connections of one command. */
export function linkOptionsOf(
  config: Config,
  command: string,
  signal: AbortSignal,
  onWarning: (warning: string) => void,
): LinkOptions {
  return { applicationName: applicationNameOf(command), timeouts: config.timeouts, signal, onWarning };
}

/** How the standby may be restarted; null for never. Only a sidecar that stays does it. */
export function restartOptionsOf({ restart }: Config): RestartOptions | null {
  const { mode, schedule, windowMinutes, command, timeoutMs } = restart;
  if (mode === "never" || command === undefined) return null;
  const window =
    mode === "window" && schedule !== undefined ? new RestartWindow(schedule, windowMinutes, Date.now) : null;
  return { policy: { mode }, window, command, timeoutMs };
}
