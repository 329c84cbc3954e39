/** The scheduled audit: one readiness line at set times, so that a log that is watched says it even when nothing changes. */
import { schedule } from "node-cron";
import type { Logger } from "pino";
import type { StatusBoard } from "../http/status-board.ts";

export interface Audit {
  stop(): void;
}

/** Logs `check`'s line at the times of the cron expression (local time): at info when ready, else at error. */
export function startAudit(expression: string, board: Pick<StatusBoard, "answer">, log: Logger): Audit {
  const task = schedule(expression, () => logAudit(board, log), { name: "audit" });
  return { stop: () => void task.destroy() };
}

/** One line, now. A node that is no standby has nothing to be ready for. */
export function logAudit(board: Pick<StatusBoard, "answer">, log: Logger): void {
  const { code, line } = board.answer();
  log[code === 0 ? "info" : "error"]({ code }, `audit: ${line}`);
}
