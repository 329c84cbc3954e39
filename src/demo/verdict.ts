/** Compares what every subscriber has received with what the new primary holds. Pure. */
import type { FinishOutcome } from "../domain/finish.ts";

/** What one slot's subscriber got, and how the slot fared. */
export interface SlotEvidence {
  name: string;
  /** From its creation on the primary to its protection on the standby; null: it was never protected. */
  protectedMs: number | null;
  /** What the finishing step did with it; null: it is not on the new primary. */
  outcome: FinishOutcome | null;
  /** Rows that precede the slot. */
  rowsBefore: ReadonlySet<number>;
  /** In the order of arrival, repeated ones repeatedly. */
  received: readonly number[];
  /** False: the subscriber keeps its position with its data, so that no row may come twice. */
  mayRepeat: boolean;
}

export interface Evidence {
  slots: readonly SlotEvidence[];
  /** The rows on the new primary at the end. */
  newPrimary: readonly number[];
  /** Rows whose COMMIT the old primary acknowledged. */
  acknowledged: ReadonlySet<number>;
  /** Rows whose COMMIT it had not answered when it died. */
  unanswered: ReadonlySet<number>;
}

interface SlotVerdict extends SlotEvidence {
  /** Rows of the new primary that did not arrive. */
  missing: number;
  /** Rows that arrived more than once, each further time counted. */
  repeated: number;
  /** Rows that arrived from the old primary and never reached the new one. */
  onlyOld: number;
  /** What is wrong with it, or null. */
  fault: string | null;
}

export interface Verdict {
  slots: SlotVerdict[];
  missing: number;
  repeated: number;
  /** Rows that the old primary acknowledged and that died with it, for the standby had not received them. */
  neverReplicated: number;
}

export function judgeDemo({ slots, newPrimary, acknowledged, unanswered }: Evidence): Verdict {
  const survived = new Set(newPrimary);
  const maybeOnlyOld = (row: number) => acknowledged.has(row) || unanswered.has(row);
  const judged = slots.map((slot): SlotVerdict => {
    const arrived = new Set(slot.received);
    const strangers = [...arrived].filter((row) => !survived.has(row));
    const onlyOld = strangers.filter(maybeOnlyOld).length;
    const counts = {
      missing: newPrimary.filter((row) => !arrived.has(row) && !slot.rowsBefore.has(row)).length,
      repeated: slot.received.length - arrived.size,
      onlyOld,
    };
    return { ...slot, ...counts, fault: faultOf(slot, counts, strangers.length - onlyOld) };
  });
  return {
    slots: judged,
    missing: sum(judged.map((slot) => slot.missing)),
    repeated: sum(judged.map((slot) => slot.repeated)),
    neverReplicated: [...acknowledged].filter((row) => !survived.has(row)).length,
  };
}

const LIVES: readonly (FinishOutcome | null)[] = ["kept", "advanced", "materialised"];

function faultOf(
  { outcome, protectedMs, mayRepeat }: SlotEvidence,
  { missing, repeated }: Pick<SlotVerdict, "missing" | "repeated">,
  rolledBack: number,
): string | null {
  if (protectedMs === null) return "it was never protected";
  if (outcome === null) return "it is not on the new primary";
  if (!LIVES.includes(outcome))
    return `it did not come through the promotion (${outcome.replaceAll("_", " ")})`;
  if (missing > 0) return `${missing} rows of the new primary did not arrive`;
  if (rolledBack > 0) return `${rolledBack} rows arrived that were never committed`;
  if (repeated > 0 && !mayRepeat) return `${repeated} rows arrived twice`;
  return null;
}

function sum(counts: readonly number[]): number {
  return counts.reduce((total, count) => total + count, 0);
}
