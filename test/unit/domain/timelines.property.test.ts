/**
 * Three nodes that are promoted, follow each other and die at random, and one subscriber that may be ahead of any of them (I14, K3). The model
 * knows of each byte of WAL who wrote it: what two histories have in common is no number there. SLOTSYNC_PROPERTY_RUNS sets how many.
 */
import fc from "fast-check";
import { expect, test } from "vitest";
import type { Action } from "../../../src/domain/action.ts";
import { type FinishStep, finishedSlot, planFinish } from "../../../src/domain/finish.ts";
import type { JournalState } from "../../../src/domain/journal.ts";
import { emptyJournal } from "../../../src/domain/journal.ts";
import {
  noteDone,
  noteIntents,
  noteObservation,
  noteStandby,
  startOver,
} from "../../../src/domain/journal-update.ts";
import type { Lsn } from "../../../src/domain/lsn.ts";
import { plan } from "../../../src/domain/plan.ts";
import { anyStop, primaryProblems, trustworthy } from "../../../src/domain/prerequisites.ts";
import type { LogicalSlot } from "../../../src/domain/slot.ts";
import type { OwnHistory } from "../../../src/domain/timeline.ts";
import { memory, primaryView, slot, standbyView } from "./build.ts";
import { count, must, tally } from "./claims.ts";

const RUNS = Number(process.env.SLOTSYNC_PROPERTY_RUNS ?? 1_000);
const SEED = process.env.SLOTSYNC_SEED
  ? { seed: Number(process.env.SLOTSYNC_SEED) }
  : process.env.SLOTSYNC_PROPERTY_RUNS
    ? {}
    : { seed: 20261130 };

/** WAL by who wrote it: each life as a primary is another writer. */
type Wal = readonly { writer: number; until: bigint }[];

const endOf = (wal: Wal): bigint => wal.at(-1)?.until ?? 0n;

function prefix(wal: Wal, end: bigint): Wal {
  const whole = wal.filter(({ until }) => until <= end);
  const cut = wal[whole.length];
  return cut && endOf(whole) < end ? [...whole, { ...cut, until: end }] : whole;
}

/** Up to where both are the same, byte for byte. */
function commonEnd(a: Wal, b: Wal): bigint {
  let end = 0n;
  for (const [index, { writer, until }] of a.entries()) {
    const other = b[index];
    if (other?.writer !== writer) break;
    end = until < other.until ? until : other.until;
    if (until !== other.until) break;
  }
  return end;
}

interface Node {
  wal: Wal;
  timeline: number;
  /** The timelines of its history with their ends, and the writer of each. */
  forks: { timeline: number; until: Lsn; writer: number }[];
  alive: boolean;
  primary: boolean;
  streaming: boolean;
  follows: number | null;
  slots: Map<string, LogicalSlot>;
  journal: JournalState;
  /** What the subscriber of the primary's slot has, as the sidecar here has seen it last. */
  recorded: Wal | null;
  /** The subscriber itself, where that is how it stood. */
  seen: object | null;
}

class Nodes {
  now = 1_700_000_000_000;
  nodes: Node[];
  writers = 1;
  subscriber: { wal: Wal } = { wal: [{ writer: 0, until: 80n }] };

  /** Whom the sidecars ask, whatever happens; null for the one that their standby follows. */
  readonly fixed: number | null;

  constructor(fixed: number | null) {
    this.fixed = fixed;
    const wal: Wal = [{ writer: 0, until: 80n }];
    this.nodes = [0, 1, 2].map((index) => ({
      wal,
      timeline: 1,
      forks: [],
      alive: true,
      primary: index === 0,
      streaming: index > 0,
      follows: index > 0 ? 0 : null,
      slots: new Map(),
      journal: { ...emptyJournal(`0000000${index}`), systemIdentifier: "1" },
      recorded: null,
      seen: null,
    }));
    this.node(0).slots.set("x", slot("x", 80));
  }

  node(index: number): Node {
    return this.nodes[index] as Node;
  }

  #primaryOf(node: Node): Node | null {
    const upstream = node.follows === null ? null : this.node(node.follows);
    return upstream?.alive && upstream.primary ? upstream : null;
  }

  write(index: number, records: number): void {
    const node = this.node(index);
    if (!node.alive || !node.primary) return;
    const last = node.wal.at(-1) as Wal[number];
    node.wal = [...node.wal.slice(0, -1), { ...last, until: last.until + 8n * BigInt(records) }];
  }

  receive(index: number, quarters: number): void {
    const node = this.node(index);
    const primary = this.#primaryOf(node);
    if (!node.alive || node.primary || !primary) return;
    // it has WAL that the primary lacks, and is refused
    if (commonEnd(node.wal, primary.wal) < endOf(node.wal)) return;
    const [from, to] = [endOf(node.wal), endOf(primary.wal)];
    node.wal = prefix(primary.wal, from + ((((to - from) / 8n) * BigInt(quarters)) / 4n) * 8n);
    const left = primary.forks.filter(({ until }) => until < endOf(node.wal) || endOf(node.wal) === to);
    node.forks = left;
    node.timeline = primary.forks[left.length]?.timeline ?? primary.timeline;
    node.streaming = true;
  }

  /** The subscriber reads on; where its WAL is not this primary's, its operator has put it back to the slot first. */
  confirm(index: number, quarters: number): void {
    const node = this.node(index);
    const there = node.slots.get("x");
    if (!node.alive || !node.primary || !there) return;
    const from = there.confirmedFlushLsn as bigint;
    const same = commonEnd(node.wal, this.subscriber.wal);
    const start = same < endOf(this.subscriber.wal) || same < from ? from : same;
    const to = start + ((((endOf(node.wal) - start) / 8n) * BigInt(quarters)) / 4n) * 8n;
    node.slots.set("x", { ...there, confirmedFlushLsn: to as Lsn, restartLsn: from as Lsn });
    this.subscriber = { wal: prefix(node.wal, to) };
  }

  kill(index: number): void {
    const node = this.node(index);
    node.alive = false;
    node.streaming = false;
    for (const each of this.nodes) if (each.follows === index) each.streaming = false;
  }

  follow(index: number, other: number): void {
    const [node, primary] = [this.node(index), this.node(other)];
    if (!node.alive || node.primary || index === other || !primary.primary || !primary.alive) return;
    if (node.follows !== other) node.streaming = false;
    node.follows = other;
  }

  /** A node that comes back behind a primary, made anew or rewound: without its slots, with its sidecar's journal. */
  rejoin(index: number, other: number): void {
    const [node, primary] = [this.node(index), this.node(other)];
    if (index === other || !primary.primary || !primary.alive || (node.alive && !node.primary)) return;
    const { wal, timeline } = primary;
    const journal = node.journal.phase === "standby" ? node.journal : startOver(node.journal);
    Object.assign(node, { wal, timeline, forks: primary.forks, journal, recorded: null, seen: null });
    Object.assign(node, { alive: true, primary: false, streaming: true, follows: other, slots: new Map() });
  }

  /** One cycle of the sidecar of a standby, asking the primary that it was told, or that its standby follows; killed before it does `undone`. */
  look(index: number, undone: readonly Action["kind"][] = []): void {
    this.now += 1_000;
    const node = this.node(index);
    if (!node.alive || node.primary) return;
    const asked = this.fixed === null ? node.follows : this.fixed;
    const there = asked === null ? null : this.node(asked);
    const streaming = node.streaming && this.#primaryOf(node) !== null;
    const end = endOf(node.wal) as Lsn;
    const standby = standbyView([...node.slots.values()], {
      replayLsn: end,
      flushedLsn: end,
      streaming,
      receivedTimeline: streaming ? node.timeline : null,
      // guards count from their birth on: what they decode is another model's matter
      snapshots: new Set([...node.slots.values()].flatMap(({ restartLsn }) => restartLsn ?? [])),
    });
    node.journal = noteStandby(node.journal, standby, 0);
    if (!there?.alive || !there.primary) return;
    const chosen = [...there.slots.values()].filter(({ name }) => name === "x");
    const follows = streaming && node.follows === asked;
    const primary = primaryView(chosen, {
      timeline: there.timeline,
      walLsn: endOf(there.wal) as Lsn,
      ...(follows ? {} : { physicalSlot: null }),
    });
    const { journal } = node;
    const problems = primaryProblems(primary, standby, journal);
    if (!trustworthy(problems)) {
      count("not trusted");
      return;
    }
    const planned = plan({
      ...{ primary, standby, chosen, journal, memory: memory({ now: this.now }) },
      policy: {
        ...{ guardDatabases: "auto", duty: 0.1, provision: "auto", restarts: false, onConflict: "adopt" },
        releaseAfterMs: null,
      },
    });
    const busy = new Set<number>();
    const seen = { primary, standby, chosen, plan: planned, busy, filesBusy: false, problems: [] };
    node.journal = noteObservation(journal, { ...seen, now: this.now });
    const shown = there.slots.get("x")?.confirmedFlushLsn;
    if (shown) node.recorded = prefix(there.wal, shown);
    const exact = shown === endOf(this.subscriber.wal) && commonEnd(there.wal, this.subscriber.wal) === shown;
    if (exact) node.seen = this.subscriber;
    if (anyStop(problems)) return;
    node.journal = noteIntents(node.journal, planned.actions);
    for (const action of planned.actions.filter(({ kind }) => !undone.includes(kind)))
      if (act(node, action)) node.journal = noteDone(node.journal, action);
  }

  /** Promotes a standby, which writes before it is finished, crashes perhaps, and may not be able to read its history. */
  promote(index: number, more: { records: number; history: boolean }): void {
    const node = this.node(index);
    if (!node.alive || node.primary) return;
    const writer = this.writers++;
    const end = endOf(node.wal) as Lsn;
    node.forks = [...node.forks, { timeline: node.timeline, until: end, writer }];
    // as with a shared archive: a number is given once
    node.timeline = Math.max(...this.nodes.map(({ timeline }) => timeline)) + 1;
    node.wal = [...node.wal, { writer, until: end }];
    Object.assign(node, { primary: true, streaming: false, follows: null });
    this.write(index, more.records);
    const own: OwnHistory = { timeline: node.timeline, forks: node.forks, whole: true };
    const promoted = { journal: node.journal, own: more.history ? own : null };
    const steps = planFinish({ ...promoted, slots: [...node.slots.values()], serverVersionNum: 160_014 });
    for (const step of steps) this.#finish(node, step, () => finishedSlot(step, promoted, null));
    node.journal = { ...node.journal, phase: "primary" };
    for (const name of node.slots.keys()) if (name !== "x") node.slots.delete(name);
  }

  /** The latest primary that lives, and the standbys that do. */
  get #roles(): { primary: number | undefined; standbys: number[] } {
    const alive = [0, 1, 2].filter((each) => this.node(each).alive);
    const [primary] = alive
      .filter((each) => this.node(each).primary)
      .toSorted((a, b) => this.node(b).timeline - this.node(a).timeline);
    return { primary, standbys: alive.filter((each) => !this.node(each).primary) };
  }

  /** The subscriber comes to have what no standby has, and the sidecars see it. */
  getAhead(records: number, undone: readonly Action["kind"][]): void {
    const { primary, standbys } = this.#roles;
    if (primary === undefined) return;
    this.write(primary, records);
    this.confirm(primary, 4);
    for (const each of standbys) this.look(each, undone);
  }

  /** All standbys come up to the primary, or a part of the way. */
  catchUp(quarters: number, looks: boolean): void {
    for (const each of this.#roles.standbys) {
      this.receive(each, quarters);
      if (looks) this.look(each);
    }
  }

  /** The primary dies, a standby takes its place, and the other follows that. */
  failOver(which: number, more: Parameters<Nodes["promote"]>[1], rejoins: boolean): void {
    const { primary, standbys } = this.#roles;
    const next = standbys[which % standbys.length];
    if (next === undefined) return;
    if (primary !== undefined) this.kill(primary);
    this.promote(next, more);
    for (const each of standbys) this.follow(each, next);
    if (primary !== undefined && rejoins) this.rejoin(primary, next);
  }

  #finish(node: Node, step: FinishStep, told: () => ReturnType<typeof finishedSlot>): void {
    if (step.record.obsolete) return;
    const at = apply(node, step);
    const same = commonEnd(node.wal, this.subscriber.wal);
    const detail = () => ({ step, told: told(), node, subscriber: this.subscriber, nodes: this.nodes });
    must(
      at === null || at <= commonEnd(node.wal, node.recorded ?? []),
      "I14: no slot stands past what its subscriber, as it was seen, and this node have in common",
      detail,
    );
    const { confirmedBeyondEndBytes: beyond, certain } = told();
    count(`${step.kind}${beyond > 0 ? ", named" : ""}${certain ? "" : ", not certain"}`);
    // put back and not read on from there, it cannot be told from one that never came back
    const last = endOf(this.subscriber.wal);
    const leftAt = (timeline: number) => node.forks.find((fork) => fork.timeline === timeline)?.until ?? last;
    const wentOn = step.record.formerly.every(({ timeline }) => leftAt(timeline) < last);
    if (node.seen === this.subscriber && same === last && wentOn)
      must(beyond === 0 || !certain, "I14: who went on along this node's history is not named", detail);
    if (node.seen !== this.subscriber || same === endOf(this.subscriber.wal)) return;
    must(
      beyond > 0 || !certain,
      "I14: the report names a subscriber that was seen past what is common",
      detail,
    );
    if (certain)
      must(
        BigInt(beyond) === endOf(this.subscriber.wal) - same,
        "I14: it says from where on the subscriber has other WAL",
        detail,
      );
  }
}

function act(node: Node, action: Action): boolean {
  switch (action.kind) {
    case "create_guard":
      node.slots.set(action.guard, slot(action.guard, Number(endOf(node.wal))));
      return true;
    case "advance_guard":
      return move(node, action.guard, action.to);
    case "advance":
      return move(node, action.slot, action.to);
    case "create":
      node.slots.set(action.slot, slot(action.slot, Number(action.to)));
      return true;
    case "drop":
    case "drop_leftover":
      return node.slots.delete(action.slot);
    default:
      return false;
  }
}

function move(node: Node, name: string, to: Lsn): boolean {
  const found = node.slots.get(name);
  const end = endOf(node.wal) as Lsn;
  if (found) node.slots.set(name, { ...found, confirmedFlushLsn: to < end ? to : end });
  return found !== undefined;
}

/** Where the slot stands afterwards, or null when there is none that the subscriber could go on from. */
function apply(node: Node, step: FinishStep): bigint | null {
  switch (step.kind) {
    case "keep":
      return step.position;
    case "advance":
      move(node, step.record.name, step.to);
      return step.to;
    case "materialise":
      node.slots.set(step.record.name, slot(step.record.name, Number(step.to)));
      return step.to;
    case "drop":
      node.slots.delete(step.record.name);
      return null;
    default:
      return null;
  }
}

const index = fc.nat({ max: 2 });
const undone = fc.constantFrom<readonly Action["kind"][]>(
  [],
  [],
  ["advance"],
  ["create"],
  ["create", "advance"],
);
const share = fc.constantFrom(0, 1, 2, 4, 4);
const one = <T extends unknown[]>(
  what: string,
  args: fc.Arbitrary<T>,
  run: (nodes: Nodes, ...args: T) => void,
) =>
  args.map((values) => ({
    toString: () => `${what}(${JSON.stringify(values)})`,
    [fc.toStringMethod]: () => `${what}(${JSON.stringify(values)})`,
    run: (nodes: Nodes) => run(nodes, ...values),
  }));

const promotion = fc.record({
  records: fc.nat({ max: 30 }),
  history: fc.constantFrom(true, true, true, true, false),
});
const records = fc.integer({ min: 1, max: 9 });

const steps = [
  one("write", fc.tuple(index, records), (n, i, r) => n.write(i, r)),
  one("receive", fc.tuple(index, share), (n, i, q) => n.receive(i, q)),
  one("confirm", fc.tuple(index, share), (n, i, q) => n.confirm(i, q)),
  one("look", fc.tuple(index, undone), (n, i, u) => n.look(i, u)),
  one("kill", fc.tuple(index), (n, i) => n.kill(i)),
  one("follow", fc.tuple(index, index), (n, i, j) => n.follow(i, j)),
  one("rejoin", fc.tuple(index, index), (n, i, j) => n.rejoin(i, j)),
  one("promote", fc.tuple(index, promotion), (n, i, more) => n.promote(i, more)),
].map((arbitrary) => ({ arbitrary, weight: 1 }));
// what happens in a life, lest most histories end in nothing
const deeds = [
  one("getAhead", fc.tuple(records, undone), (n, r, u) => n.getAhead(r, u)),
  one("catchUp", fc.tuple(share, fc.boolean()), (n, q, looks) => n.catchUp(q, looks)),
  one("failOver", fc.tuple(index, promotion, fc.boolean()), (n, i, more, r) => n.failOver(i, more, r)),
].map((arbitrary) => ({ arbitrary, weight: 5 }));
const step = fc.oneof(...steps, ...deeds);

test("however three nodes are promoted and follow each other, no slot stands past what its subscriber and the new primary have in common, and the report names each subscriber that was seen past that (I14, K3)", () => {
  fc.assert(
    fc.property(
      fc.constantFrom(null, 0),
      fc.array(step, { minLength: 3, maxLength: 24, size: "max" }),
      (fixed, steps) => {
        const nodes = new Nodes(fixed);
        for (const index of [1, 2]) nodes.look(index, ["create"]);
        for (const each of steps) each.run(nodes);
      },
    ),
    { numRuns: RUNS, ...SEED },
  );
  const met = RUNS < 1_000 ? [] : ["keep", "materialise", "keep, named", "materialise, named", "not trusted"];
  for (const what of met) expect(tally.get(what), `histories with: ${what}`).toBeGreaterThan(3);
  if (process.env.SLOTSYNC_TALLY) console.log(Object.fromEntries([...tally].toSorted()));
}, 600_000);
