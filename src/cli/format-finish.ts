/** The gap report for people. */
import { describeFinish, type FinishedSlot, type FinishReport } from "../domain/finish.ts";
import { type Cell, formatBytes, type Paint, printable, type Style, table } from "./terminal.ts";

const COLUMNS = [
  { title: "SLOT" },
  { title: "DATABASE" },
  { title: "OUTCOME" },
  { title: "LAST SEEN" },
  { title: "POSITION" },
  { title: "MISSING HERE", align: "right" },
] as const;

/** How every failover slot came through the promotion: a table, the reasons, one sentence. */
export function formatFinish(report: FinishReport, paint: Paint): string {
  const lines: string[] = [];
  if (report.slots.length > 0) {
    lines.push(table(COLUMNS, report.slots.map(row), paint));
    for (const slot of report.slots)
      if (slot.detail !== null) lines.push(`${printable(`${slot.name}: ${slot.detail}`)}\n`);
    lines.push("\n");
  }
  const style = report.complete
    ? report.unseen !== null || report.slots.some(isBad)
      ? "yellow"
      : "green"
    : "red";
  lines.push(`${paint(style, printable(describeFinish(report)))}\n`);
  for (const { name, repair } of report.slots)
    if (repair !== null)
      lines.push(`\nWhat puts the subscriber of ${printable(name)} right:\n\n`, indented(repair));
  return lines.join("");
}

function indented(text: string): string {
  return text
    .split("\n")
    .map((line) => `  ${printable(line)}\n`)
    .join("");
}

function isBad(slot: FinishedSlot): boolean {
  return slot.confirmedBeyondEndBytes > 0 || !slot.certain || outcomeStyle(slot) === "red";
}

function outcomeStyle({ outcome }: FinishedSlot): Style {
  switch (outcome) {
    case "kept":
    case "advanced":
    case "materialised":
      return "green";
    case "in_use":
    case "moved_on":
      return "yellow";
    default:
      return "red";
  }
}

function row(slot: FinishedSlot): Cell[] {
  const gap = slot.confirmedBeyondEndBytes;
  return [
    { text: slot.name },
    { text: slot.database },
    { text: slot.outcome, style: outcomeStyle(slot) },
    { text: slot.lastSeenLsn ?? "-" },
    { text: slot.positionLsn ?? "-" },
    gap > 0
      ? { text: `${formatBytes(gap)}${slot.certain ? "" : " ?"}`, style: "red" }
      : { text: slot.certain ? "-" : "?" },
  ];
}
