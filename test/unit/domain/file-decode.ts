/**
 * Logical decoding as far as slots need it: where it becomes consistent, and what it lets a slot give up. After snapbuild.c
 * (`SnapBuildFindSnapshot`, `SnapBuildProcessRunningXacts`) and logical.c (`LogicalIncreaseXminForSlot`,
 * `LogicalIncreaseRestartDecodingForSlot`) of 12.
 */

/** A running-xacts record. Transaction ids are counted without end here; views show them modulo 2^32. */
export interface RunningXacts {
  lsn: bigint;
  oldest: number;
  next: number;
  running: readonly number[];
}

export interface Transaction {
  xid: number;
  begin: bigint;
  end: bigint | null;
}

export interface Wal {
  records: readonly RunningXacts[];
  transactions: readonly Transaction[];
}

export interface Position {
  restart: bigint;
  confirmed: bigint;
  xmin: number;
}

export interface Decoded {
  /** Null when there was no consistent point up to the end. */
  consistentAt: bigint | null;
  /** Where the slot stands once it has confirmed the end. */
  restart: bigint;
  xmin: number;
  /** Records for which a snapshot was serialized. */
  serialized: bigint[];
  /** It would wait for a transaction that is still running. */
  blocked: boolean;
}

/**
 * Decodes from the slot's `restart` to `to`. `eager`: it is confirmed at every record, as by a subscriber that reads on; else only at
 * the end, where the server has kept no more than one candidate of each kind.
 */
export function decode(
  { records, transactions }: Wal,
  from: Position,
  to: bigint,
  { snapshots, replay, eager }: { snapshots: ReadonlySet<bigint>; replay: bigint; eager: boolean },
): Decoded {
  let phase = "start" as "start" | "building" | "full" | "consistent";
  let nextPhase = 0;
  let fullAt: bigint | null = null;
  const result: Decoded = {
    consistentAt: null,
    restart: from.restart,
    xmin: from.xmin,
    serialized: [],
    blocked: false,
  };
  const points: bigint[] = [];
  const passed: RunningXacts[] = [];
  let xminWaits = false;
  let restartWaits = false;
  const consistent = (lsn: bigint) => {
    phase = "consistent";
    result.consistentAt = lsn;
    fullAt ??= lsn;
  };
  const waits = ({ running }: RunningXacts) =>
    running.some((xid) => {
      const end = transactions.find((each) => each.xid === xid)?.end ?? null;
      return end === null || end > replay;
    });

  for (const record of records) {
    if (record.lsn < from.restart) continue;
    if (record.lsn > to) break;
    if (phase !== "consistent") {
      if (record.running.length === 0 || snapshots.has(record.lsn)) {
        if (record.running.length > 0) points.push(record.lsn);
        consistent(record.lsn);
        passed.push(record);
        continue;
      }
      if (phase === "start") {
        phase = "building";
        nextPhase = record.next;
        if (waits(record)) return { ...result, blocked: true };
      } else if (phase === "building" && nextPhase <= record.oldest) {
        phase = "full";
        fullAt = record.lsn;
        nextPhase = record.next;
        if (waits(record)) return { ...result, blocked: true };
      } else if (phase === "full" && nextPhase <= record.oldest) consistent(record.lsn);
    } else {
      result.serialized.push(record.lsn);
      points.push(record.lsn);
    }
    passed.push(record);
    const open = transactions
      .filter(({ begin, end }) => begin < record.lsn && (end === null || end > record.lsn))
      .map(({ begin }) => (begin > from.restart ? begin : from.restart));
    const based = open.filter((begin) => fullAt !== null && begin >= fullAt);
    const xmin = Math.min(
      ...(based.length > 0
        ? based.map((begin) => passed.findLast(({ lsn }) => lsn <= begin)?.oldest ?? record.oldest)
        : [record.oldest]),
    );
    const here = eager || record.lsn <= from.confirmed;
    if (xmin > result.xmin && (here || !xminWaits)) {
      result.xmin = xmin;
      xminWaits ||= !here;
    }
    if (result.consistentAt === null || points.length === 0) continue;
    const first = open.reduce<bigint | null>((a, b) => (a === null || b < a ? b : a), null);
    const restart = first === null ? points.at(-1) : points.findLast((point) => point <= first);
    if (restart !== undefined && restart > result.restart && (here || !restartWaits)) {
      result.restart = restart;
      restartWaits ||= !here;
    }
  }
  return result;
}
