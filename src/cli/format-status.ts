/** The status for people. */
import { answer } from "../domain/assess.ts";
import type { NotChosen } from "../domain/choice.ts";
import type { Protection } from "../domain/protection.ts";
import { isFailoverReady } from "../domain/protection.ts";
import { hasFailed, type RestartRecord } from "../domain/restart.ts";
import type { RestartStatus, SlotStatus, Status } from "../domain/status.ts";
import type { LockHolder } from "../journal/lock.ts";
import { formatFinish } from "./format-finish.ts";
import { type Cell, formatAge, formatBytes, type Paint, printable, type Style, table } from "./terminal.ts";

export interface Shown {
  /** What this standby is called. */
  standby: string;
  status: Status;
  certain: boolean;
  sidecar: LockHolder | null;
}

const COLUMNS = [
  { title: "NAME" },
  { title: "DATABASE" },
  { title: "PROTECTION" },
  { title: "REASON" },
  { title: "LAG", align: "right" },
  { title: "SINCE", align: "right" },
  { title: "CHOSEN BY" },
] as const;

const PROTECTION_STYLES: Record<Protection, Style> = {
  synced: "green",
  guarded: "green",
  waiting: "yellow",
  blocked: "red",
};

const ANSWER_STYLES = { 0: "green", 1: "red", 2: "yellow" } as const;

/** How things stand; `now` in ms since the epoch. */
export function formatStatus(shown: Shown, now: number, paint: Paint): string {
  const { status } = shown;
  const { code, line } = answer(shown);
  const parts = [
    `${paint("bold", printable(shown.standby))}: ${paint(ANSWER_STYLES[code], printable(line))}\n`,
  ];
  if (status.role === "standby" && status.slots.length > 0)
    parts.push(`\n${formatSlots(status.slots, now, paint)}`);
  if (status.role === "standby" && status.notChosen !== null && status.notChosen.length > 0)
    parts.push(`\n${formatNotChosen(status.notChosen, paint)}`);
  if (status.problems.length > 0)
    parts.push("\n", ...status.problems.map((problem) => formatProblem(problem, paint)));
  if (status.role === "standby" && status.restart !== null)
    parts.push(`\n${formatRestart(status.restart, now)}`);
  if (status.guards.length > 0) parts.push(`\n${formatGuards(status, paint)}`);
  parts.push(`\n${formatSidecar(shown.sidecar, now)}\n`);
  if (status.role === "primary" && status.finish !== null)
    parts.push(
      `\nThe last promotion, ${formatAge(now - status.finish.finishedAt)} ago:\n`,
      formatFinish(status.finish, paint),
    );
  return parts.join("");
}

/** The slots, and under them why those are not ready that are not. */
function formatSlots(slots: readonly SlotStatus[], now: number, paint: Paint): string {
  const details = slots
    .filter((slot) => !isFailoverReady(slot.protection) && slot.detail !== null)
    .map((slot) => `${printable(`${slot.name}: ${slot.detail}`)}\n`);
  return [
    table(
      COLUMNS,
      slots.map((slot) => slotRow(slot, now)),
      paint,
    ),
    ...details,
  ].join("");
}

function slotRow(slot: SlotStatus, now: number): Cell[] {
  return [
    { text: slot.tableSync === undefined ? slot.name : `  ${slot.name}` },
    { text: slot.database },
    { text: slot.protection, style: PROTECTION_STYLES[slot.protection] },
    { text: slot.reason ?? "-" },
    { text: slot.lagBytes === null ? "-" : formatBytes(slot.lagBytes) },
    { text: formatAge(now - Date.parse(slot.since)) },
    { text: slot.chosenBy.join(", ") },
  ];
}

/** The other logical slots of the primary, and why they are none. */
function formatNotChosen(slots: readonly NotChosen[], paint: Paint): string {
  const columns = [{ title: "NOT CHOSEN" }, { title: "DATABASE" }, { title: "WHY" }];
  const rows = slots.map(({ name, database, why }) => [{ text: name }, { text: database }, { text: why }]);
  return table(columns, rows, paint);
}

function formatProblem({ severity, code, message }: Status["problems"][number], paint: Paint): string {
  const word = severity === "warning" ? paint("yellow", "warning") : paint("red", "problem");
  return `${word} ${printable(`(${code}): ${message}`)}\n`;
}

/** What a restart would bring, and how the last one went. */
function formatRestart({ slots, guards, last }: RestartStatus, now: number): string {
  const lines: string[] = [];
  if (slots + guards > 0)
    lines.push(
      `restart_pending: one restart of this standby would add ${count(slots, "slot")}${guards > 0 ? ` and ${count(guards, "guard")}` : ""} (see restart.mode)\n`,
    );
  if (last !== null)
    lines.push(
      printable(
        `last restart: ${formatAge(now - last.at)} ago, ${last.outcome.replace("_", " ")}${last.detail ? ` (${last.detail})` : ""}${slots + guards > 0 ? nextTry(last, now) : ""}`,
      ),
      "\n",
    );
  return lines.join("");
}

/** When a command that has failed is run again. */
function nextTry(last: RestartRecord, now: number): string {
  if (!hasFailed(last)) return "";
  if (last.window !== null && last.outcome === "failed") return "; tried again in the next window";
  const left = (last.retryAt ?? 0) - now;
  const when = left > 0 ? `in ${formatAge(left)}` : "now";
  return `; tried again ${when}${last.window === null ? "" : " or in the next window"}`;
}

function count(number: number, what: string): string {
  return `${number} ${what}${number === 1 ? "" : "s"}`;
}

function formatGuards({ guards }: Status, paint: Paint): string {
  const rows = guards.map(({ name, database, confirmedFlushLsn }): Cell[] => [
    { text: database },
    { text: confirmedFlushLsn ?? "being made" },
    { text: name },
  ]);
  return table([{ title: "GUARD OF" }, { title: "AT" }, { title: "SLOT" }], rows, paint);
}

function formatSidecar(sidecar: LockHolder | null, now: number): string {
  if (sidecar === null) return "no sidecar is running for this state_directory";
  const { pid, host, command, since } = sidecar;
  return printable(`sidecar: process ${pid} on ${host} (${command}), for ${formatAge(now - since)}`);
}
