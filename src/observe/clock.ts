/** The clock of the machine that the sidecar runs on. */
import { readFileSync } from "node:fs";
import { hostname, uptime } from "node:os";
import type { Clock } from "../domain/clock.ts";

/**
 * Linux: `/proc/uptime` is CLOCK_BOOTTIME, which goes on in sleep, and the kernel names each boot. Elsewhere the system's own uptime, and
 * the host's name in place of the boot's id: there a reboot shows only by an uptime that is less than it was.
 */
export function systemClock(): Clock {
  return { wall: Date.now, boot: () => uptime() * 1_000, bootId: bootId() };
}

function bootId(): string {
  try {
    return readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim();
  } catch {
    return `host ${hostname()}`;
  }
}
