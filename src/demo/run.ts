/**
 * The main job on real servers, from nothing to a verdict: a primary dies under load, its standby is promoted, and every subscriber
 * goes on from there. Everything lies in one temporary folder and on loopback, and is gone afterwards.
 */
import { type Column, formatBytes, table } from "../cli/terminal.ts";
import { copiesSlots, createsOnStandby } from "../domain/capability.ts";
import { describeFinish, type FinishReport } from "../domain/finish.ts";
import { parseLsn } from "../domain/lsn.ts";
import { isFailoverReady } from "../domain/protection.ts";
import { describeError } from "../pg/errors.ts";
import { sleep } from "../pg/sleep.ts";
import { availableMajors, ensureServerBinaries } from "../sandbox/binaries.ts";
import { addStandby, createPrimary, createSubscriber } from "../sandbox/cluster.ts";
import { childrenOf, signal as sendSignal } from "../sandbox/processes.ts";
import type { PgServer } from "../sandbox/server.ts";
import { removeAbandoned, Workspace } from "../sandbox/workspace.ts";
import { facts, indent, number, rows, Screen } from "./screen.ts";
import { type CheckAnswer, SidecarProcess } from "./sidecar-process.ts";
import { type ReadingPace, SqlReader } from "./sql-reader.ts";
import { rowsOf, Subscription } from "./subscription.ts";
import { judgeDemo, type SlotEvidence, type Verdict } from "./verdict.ts";
import { waitFor } from "./wait.ts";
import { type View, Watch } from "./watch.ts";
import { TABLE, Writers } from "./writers.ts";

export interface DemoOptions {
  major: number;
  /** leave the cluster up until the signal, and say how to reach it */
  keep: boolean;
  signal: AbortSignal;
}

const MAJORS = [11, 12, 13, 14, 15, 16, 17, 18];

/**
 * How slots come to a standby. `sql`: guards and slots are made by SQL alone, without a restart. `guards`: the guards come by their
 * files in one restart, and protect every slot that is made later. `slots`: each slot comes by its own file, in one restart for all
 * that are staged.
 */
type Way = "sql" | "guards" | "slots";

function wayOf(major: number): Way {
  if (!copiesSlots(major * 10_000)) return "slots";
  return createsOnStandby(major * 10_000) ? "sql" : "guards";
}

const PREFIX = "demo_";
const SUBSCRIPTION = `${PREFIX}subscription`;
/** The slots that are read through SQL, and how. */
const READERS: Readonly<Record<string, ReadingPace & { who: string }>> = {
  [`${PREFIX}reader`]: { who: "a program, through SQL, all the time", everyMs: 100 },
  [`${PREFIX}lagging`]: { who: "a program that cannot keep up", everyMs: 400, changes: 40 },
  [`${PREFIX}idle`]: { who: "nobody until after the failover" },
};
const LOAD_MS = 4_000;
const AFTER_MS = 1_500;

/** Runs the demo, and returns its exit code: 0 when nothing was lost, 1 when something was, 2 when it cannot run here. */
export async function runDemo({ major, keep, signal }: DemoOptions): Promise<number> {
  const screen = new Screen(process.stdout, process.env);
  const majors = MAJORS.filter((each) => availableMajors().includes(each));
  if (!majors.includes(major)) {
    process.stderr.write(
      majors.length === 0
        ? `slotsync demo: there are no server programs for ${process.platform} on ${process.arch}\n`
        : `slotsync demo: PostgreSQL ${major} is not in the demo; choose --pg ${majors.join(", ")}\n`,
    );
    return 2;
  }
  forgetConnectionDefaults();
  const stops: (() => Promise<void>)[] = [];
  const children = new Set(childrenOf(process.pid));
  let workspace: Workspace | null = null;
  try {
    await killingOnAbort(signal, () => children, fetchServers(major));
    removeAbandoned();
    workspace = new Workspace();
    const ok = await tellTheStory({ major, keep, signal, screen, workspace, stops, children });
    return ok ? 0 : 1;
  } catch (error) {
    screen.settle();
    if (signal.aborted) {
      process.stderr.write("slotsync demo: interrupted, cleaning up …\n");
      return 130;
    }
    process.stderr.write(`slotsync demo: ${describeError(error)}\n`);
    return 1;
  } finally {
    await Promise.allSettled(stops.map((stop) => stop()));
    await workspace?.dispose();
  }
}

interface Stage extends DemoOptions {
  screen: Screen;
  workspace: Workspace;
  /** the processes that we had before */
  children: ReadonlySet<number>;
  /** run at the end, whatever happened; then the servers go */
  stops: (() => Promise<void>)[];
}

interface Cluster {
  primary: PgServer;
  standby: PgServer;
  subscriber: PgServer;
  sidecar: SidecarProcess;
}

interface Subscribers {
  subscription: Subscription;
  readers: SqlReader[];
}

async function tellTheStory(stage: Stage): Promise<boolean> {
  const { screen, signal } = stage;
  const cluster = await startCluster(stage);
  const { primary, standby, sidecar } = cluster;
  const writers = new Writers(primary);
  stage.stops.push(() => writers.stop());

  const way = wayOf(stage.major);
  const created = new Map<string, number>();
  const onView = viewer(screen, created, writers);
  const startWatch = () => {
    const started = new Watch({ primary, standby, sidecar, onView });
    stage.stops.push(() => started.stop());
    return started;
  };
  let watch = startWatch();
  screen.step(`${writers.connections} writers at work on the primary, their transactions overlap`);
  let restart: Restart | null = null;
  if (way === "guards") {
    await waitFor(() => watch.view?.status.restart?.guards === 2, { what: "the guards' files", signal });
    screen.step(
      "the sidecar has staged the files of its two guard slots in the standby's data directory, for its next start",
    );
    restart = await restartStandby(stage, cluster, watch, "the only one it ever needs");
    watch = startWatch();
  }
  if (way !== "slots") {
    // it counts once it has come past two of the primary's own records, which come every 15 s
    await waitFor(() => watch.view?.guarding, {
      what: "the sidecar's guard slot to count",
      signal,
      timeoutMs: 90_000,
    });
    if (restart)
      screen.step(
        `the guards are loaded, completed and proven: from now on they protect every slot that is made, without a restart`,
      );
  }
  screen.step("now slots are made under this load");
  const subscribers = await makeSlots(cluster, created, signal);
  stage.stops.push(async () => void (await Promise.all(subscribers.readers.map((reader) => reader.stop()))));
  if (way === "slots") {
    const all = created.size;
    await waitFor(() => watch.view?.slots.filter(({ staged }) => staged).length === all, {
      what: "the slots' files",
      signal,
    });
    screen.settle();
    screen.step(
      `the sidecar has staged the files of all ${all} slots in the standby's data directory: PostgreSQL ${stage.major} loads slots at a start only`,
    );
    restart = await restartStandby(
      stage,
      cluster,
      watch,
      `one for all ${all} slots; slots made later wait for the next`,
    );
    watch = startWatch();
  }
  await waitFor(() => watch.view && [...created.keys()].every((name) => watch.protectedAt.has(name)), {
    what: () => `every slot to be protected (${watch.view?.slots.map(standing).join("; ")})`,
    signal,
    // one that was read on between its staging and the restart is proven once its reader is past two of the primary's 15 s records (I4)
    timeoutMs: 90_000,
  });
  await loadFor(LOAD_MS, signal, sidecar);
  const check = await askUntilReady(sidecar, signal);
  await watch.stop();
  screen.settle();
  screen.step(`slotsync check (exit code ${check.code}): ${check.line}`);

  const failover = await failOver(stage, cluster, writers, subscribers);
  await loadFor(AFTER_MS, signal, sidecar);
  await writers.stop();
  await Promise.all(subscribers.readers.map((reader) => reader.stop()));
  await subscribers.subscription.waitCaughtUp(standby, signal);
  for (const reader of subscribers.readers) await reader.drain(standby);
  screen.step(`written on for ${AFTER_MS / 1_000} s, then every slot read to its end`);

  const verdict = judgeDemo({
    slots: await gather(subscribers, protectableAt(created, way, restart), watch, failover.report),
    newPrimary: await rowsOf(standby),
    acknowledged: failover.acknowledged,
    unanswered: failover.unanswered,
  });
  const ok =
    check.code === 0 && failover.report.complete && verdict.slots.every(({ fault }) => fault === null);
  tellVerdict(screen, verdict, { ...failover, way, restart, check, written: writers.committed.size, ok });
  if (!ok) screen.say("", "The sidecar's last words:", sidecar.lastWords());
  if (stage.keep) await keepUp(screen, cluster, signal);
  return ok;
}

/** Like the servers' programs, ours are not to be led astray by PGHOST, PGSSLMODE and their kin. */
function forgetConnectionDefaults(): void {
  for (const name of Object.keys(process.env)) if (/^PG[A-Z]/.test(name)) delete process.env[name];
}

/** Waits for work that processes of ours do; ends these on an abort, except for the spared, rather than wait for them. */
async function killingOnAbort<T>(
  signal: AbortSignal,
  spared: () => ReadonlySet<number | undefined>,
  work: Promise<T>,
): Promise<T> {
  const kill = () => {
    for (const pid of childrenOf(process.pid)) if (!spared().has(pid)) sendSignal(pid, "SIGTERM");
  };
  signal.addEventListener("abort", kill, { once: true });
  try {
    return await work;
  } finally {
    signal.removeEventListener("abort", kill);
    signal.throwIfAborted();
  }
}

async function fetchServers(major: number): Promise<void> {
  const started = performance.now();
  const elapsed = () => seconds(performance.now() - started);
  const tell = (text: string) => process.stderr.write(`${text}\n`);
  let progress: NodeJS.Timeout | undefined;
  try {
    await ensureServerBinaries(major, {
      onProgress: (message) => {
        tell(message);
        progress = setInterval(() => tell(`still fetching, for ${elapsed()} …`), 10_000);
      },
    });
    if (progress) tell(`fetched in ${elapsed()}; it is kept for the next time`);
  } finally {
    clearInterval(progress);
  }
}

async function startServers(
  major: number,
  workspace: Workspace,
): Promise<Pick<Cluster, "primary" | "standby" | "subscriber">> {
  // only processes are killed here, never the machine
  const options = { major, workspace, fsync: false };
  const pair = createPrimary(options).then(async (primary) => {
    await primary.query(`create table ${TABLE} (id bigint primary key, writer integer)`);
    return { primary, standby: await addStandby(primary, { slotName: "standby" }) };
  });
  const single = createSubscriber(options);
  // both to their end, so that nothing is being made while it is removed
  await Promise.allSettled([pair, single]);
  return { ...(await pair), subscriber: await single };
}

async function startCluster({ major, screen, signal, workspace, stops, children }: Stage): Promise<Cluster> {
  const started = performance.now();
  screen.say(screen.paint("bold", `Failover of PostgreSQL ${major} under load, with pg-slotsync`));
  const servers = () => new Set([...children, ...[...workspace.servers].map(({ pid }) => pid)]);
  const { primary, standby, subscriber } = await killingOnAbort(
    signal,
    servers,
    startServers(major, workspace),
  );
  const at = ({ port }: PgServer) => screen.paint("dim", `127.0.0.1:${port}`);
  screen.step(
    `primary ${at(primary)}, streaming standby ${at(standby)}, subscriber ${at(subscriber)} up in ${seconds(performance.now() - started)}`,
  );
  const sidecar = new SidecarProcess(standby, PREFIX);
  stops.push(() => sidecar.stop());
  screen.step(
    `the sidecar beside the standby: slotsync run ${screen.paint("dim", `(process ${sidecar.pid})`)}`,
  );
  return { primary, standby, subscriber, sidecar };
}

async function makeSlots(
  { primary, subscriber }: Cluster,
  created: Map<string, number>,
  signal: AbortSignal,
): Promise<Subscribers> {
  const subscription = await Subscription.create(subscriber, primary, SUBSCRIPTION);
  created.set(SUBSCRIPTION, subscription.createdAt);
  const readers: SqlReader[] = [];
  for (const [slot, pace] of Object.entries(READERS)) {
    signal.throwIfAborted();
    const reader = await SqlReader.create(primary, slot);
    created.set(slot, reader.createdAt);
    readers.push(reader);
    reader.start(pace);
  }
  await subscription.waitCopied(signal);
  return { subscription, readers };
}

interface Restart {
  /** ms since the epoch: when it was begun */
  at: number;
  /** From then until the standby accepted connections again. */
  tookMs: number;
  /** which of the restarts that it needs */
  which: string;
}

/** As the operator would, whenever it suits: the sidecar waits for it, and finds out by itself. */
async function restartStandby(
  { screen, signal }: Stage,
  { standby }: Cluster,
  watch: Watch,
  which: string,
): Promise<Restart> {
  // it would find its connection broken
  await watch.stop();
  screen.settle();
  signal.throwIfAborted();
  const at = Date.now();
  await standby.restart();
  const tookMs = Date.now() - at;
  screen.step(
    `${screen.paint("yellow", "the standby is restarted")}, as its operator would (${which}): up again after ${tookMs} ms; the primary and its writers go on`,
  );
  return { at, tookMs, which };
}

/** From when each slot's protection is counted: its creation, or where nothing but a restart can bring it here, the beginning of that. */
function protectableAt(
  created: ReadonlyMap<string, number>,
  way: Way,
  restart: Restart | null,
): ReadonlyMap<string, number> {
  if (way !== "slots" || restart === null) return created;
  return new Map([...created].map(([name, at]) => [name, Math.max(at, restart.at)]));
}

/** As an operator would before a switchover: a slot may be on its way for a moment, and then the answer is no. */
async function askUntilReady(sidecar: SidecarProcess, signal: AbortSignal): Promise<CheckAnswer> {
  for (let asked = 1; ; asked += 1) {
    const answer = await sidecar.check();
    signal.throwIfAborted();
    if (answer.code === 0 || asked === 5) return answer;
  }
}

interface Failover {
  report: FinishReport;
  /** From the kill until the new primary accepted writes. */
  promotedMs: number;
  /** From then until the sidecar had every slot in place. */
  usableMs: number;
  /** Rows that the old primary had acknowledged. */
  acknowledged: ReadonlySet<number>;
  unanswered: ReadonlySet<number>;
}

async function failOver(
  { screen, signal }: Stage,
  { primary, standby, sidecar }: Cluster,
  writers: Writers,
  { subscription, readers }: Subscribers,
): Promise<Failover> {
  const killedAt = Date.now();
  await primary.kill();
  screen.step(screen.paint("red", "the primary is killed (SIGKILL), in the middle of its transactions"));
  standby.promote();
  await standby.waitPromoted();
  const writableAt = Date.now();
  // its connections are broken: nothing more is acknowledged in its name
  const [acknowledged, unanswered] = [new Set(writers.committed), new Set(writers.unknown)];
  screen.step(`the standby is promoted: it accepts writes ${writableAt - killedAt} ms after the kill`);
  writers.retarget(standby);

  const report = await waitFor(
    async () => {
      const status = await sidecar.status(null);
      return status?.role === "primary" && status.finish?.complete ? status.finish : null;
    },
    { what: () => `the sidecar to finish the promotion (${sidecar.lastWords()})`, signal, intervalMs: 5 },
  );
  const usableMs = Math.max(0, report.finishedAt - writableAt);
  screen.step(`the sidecar: ${describeFinish(report)}`);
  const endOfWal = parseLsn(report.endOfWalLsn ?? "");
  const ahead = await subscription.repoint(standby, endOfWal, signal);
  for (const reader of readers) reader.retarget(standby);
  screen.step("writers, readers and the subscription now use the new primary");
  if (ahead)
    screen.step(
      screen.paint(
        "yellow",
        "the subscriber had received transactions that the standby had not: its position is put back to where the new primary begins",
      ),
    );
  return { report, promotedMs: writableAt - killedAt, usableMs, acknowledged, unanswered };
}

async function loadFor(ms: number, signal: AbortSignal, sidecar: SidecarProcess): Promise<void> {
  const until = performance.now() + ms;
  while (performance.now() < until) {
    await sleep(100, signal);
    signal.throwIfAborted();
    sidecar.mustRun();
  }
}

async function gather(
  { subscription, readers }: Subscribers,
  since: ReadonlyMap<string, number>,
  watch: Watch,
  report: FinishReport,
): Promise<SlotEvidence[]> {
  const evidence = (name: string) => {
    const protectedAt = watch.protectedAt.get(name);
    return {
      name,
      // its creation is known from its answer, which the sidecar may be ahead of
      protectedMs: protectedAt === undefined ? null : Math.max(0, protectedAt - (since.get(name) ?? 0)),
      outcome: report.slots.find((slot) => slot.name === name)?.outcome ?? null,
    };
  };
  return [
    {
      ...evidence(subscription.slot),
      received: await subscription.rows(),
      rowsBefore: new Set(),
      mayRepeat: false,
    },
    ...readers.map((reader) => ({
      ...evidence(reader.slot),
      received: reader.received,
      rowsBefore: reader.rowsBefore,
      mayRepeat: true,
    })),
  ];
}

/** Shows the slots: as a table in place on a terminal, elsewhere as a line when one changes. */
function viewer(
  screen: Screen,
  created: ReadonlyMap<string, number>,
  writers: Writers,
): (view: View) => void {
  const last = new Map<string, string>();
  return ({ slots }) => {
    if (screen.live) return screen.show(liveTable(screen, slots, writers));
    for (const slot of slots) {
      const now = standing(slot);
      if (last.get(slot.name) === now) continue;
      const createdAt = created.get(slot.name);
      const after = createdAt === undefined ? null : Math.max(0, Date.parse(slot.since) - createdAt);
      screen.step(`${now}${last.has(slot.name) || after === null ? "" : `, ${after} ms after its creation`}`);
      last.set(slot.name, now);
    }
  };
}

const LIVE_COLUMNS: readonly Column[] = [
  { title: "SLOT" },
  { title: "READ BY" },
  { title: "PROTECTION" },
  { title: "UNREAD", align: "right" },
  { title: "STANDBY BEHIND", align: "right" },
];

function liveTable(screen: Screen, slots: View["slots"], writers: Writers): string[] {
  const size = (count: number | null) => ({ text: count === null ? "-" : formatBytes(Math.max(0, count)) });
  const lines = slots.map((slot) => [
    { text: slot.name },
    { text: READERS[slot.name]?.who ?? "a subscription on another server" },
    { text: protectionOf(slot), style: isFailoverReady(slot.protection) ? "green" : "yellow" } as const,
    size(slot.unreadBytes),
    size(slot.lagBytes),
  ]);
  const count = screen.paint("dim", `${rows(writers.committed.size)} written`);
  return ["", ...indent([...table(LIVE_COLUMNS, lines, screen.paint).trimEnd().split("\n"), count])];
}

function standing(slot: View["slots"][number]): string {
  return `${slot.name}: ${protectionOf(slot)}`;
}

function protectionOf({ protection, reason, staged }: View["slots"][number]): string {
  if (reason === null) return protection;
  return `${protection} (${reason})${staged ? ", its file is staged" : ""}`;
}

const SINCE: Record<Way, string> = {
  sql: "of their creation",
  guards: "of their creation, without a restart",
  slots: "of the beginning of the restart that loads them",
};

interface Told extends Failover {
  way: Way;
  restart: Restart | null;
  check: CheckAnswer;
  written: number;
  ok: boolean;
}

const VERDICT_COLUMNS: readonly Column[] = [
  { title: "SLOT" },
  { title: "PROTECTED", align: "right" },
  { title: "AT PROMOTION" },
  { title: "ROWS BEFORE IT", align: "right" },
  { title: "RECEIVED", align: "right" },
  { title: "LOST", align: "right" },
  { title: "REPEATED", align: "right" },
  { title: "" },
];

function tellVerdict(screen: Screen, verdict: Verdict, told: Told): void {
  const headline = told.ok
    ? screen.paint("green", "nothing was lost; every slot lives on, and every subscriber has every row")
    : screen.paint("red", "not as it should be, see below");
  const lines = verdict.slots.map((slot) => [
    { text: slot.name },
    { text: slot.protectedMs === null ? "never" : `${slot.protectedMs} ms` },
    { text: slot.outcome ?? "gone" },
    { text: number(slot.rowsBefore.size) },
    { text: number(slot.received.length) },
    { text: number(slot.missing) },
    { text: number(slot.repeated) },
    ...(slot.fault === null ? [] : [{ text: slot.fault, style: "red" } as const]),
  ]);
  const worst = Math.max(...verdict.slots.map(({ protectedMs }) => protectedMs ?? Number.POSITIVE_INFINITY));
  screen.say(
    "",
    screen.paint("bold", "Verdict: ") + headline,
    "",
    ...indent([
      ...facts([
        [
          "slots protected",
          Number.isFinite(worst) ? `within ${worst} ms ${SINCE[told.way]}` : "not all of them",
        ],
        ...(told.restart
          ? ([["standby restarted", `for ${told.restart.tookMs} ms: ${told.restart.which}`]] as const)
          : []),
        ["check before", `exit code ${told.check.code}, ${told.check.line}`],
        ["promoted", `${told.promotedMs} ms after the kill the new primary accepted writes`],
        ["slots usable", `${told.usableMs} ms after that`],
        [
          "rows",
          `${number(told.written)} written, ${number(verdict.missing)} lost, ${number(verdict.repeated)} repeated`,
        ],
      ]),
      "",
      ...table(VERDICT_COLUMNS, lines, screen.paint).trimEnd().split("\n"),
      "",
      ...asides(verdict),
    ]),
  );
}

/** What is nobody's fault here, said plainly. */
function asides({ neverReplicated, slots, repeated }: Verdict): string[] {
  const lines: string[] = [];
  if (neverReplicated > 0)
    lines.push(
      `${rows(neverReplicated)} that the old primary had acknowledged died with it: replication is asynchronous, and the standby never had them.`,
    );
  else lines.push("No acknowledged row died with the old primary; with asynchronous replication some may.");
  const onlyOld = Math.max(...slots.map((slot) => slot.onlyOld));
  if (onlyOld > 0)
    lines.push(
      `Of these and of those never acknowledged, up to ${rows(onlyOld)} had reached a subscriber before.`,
    );
  if (repeated > 0)
    lines.push(
      "Repeated rows were read between the sidecar's last look and the kill; none is ever skipped instead.",
    );
  return lines;
}

async function keepUp(screen: Screen, cluster: Cluster, signal: AbortSignal): Promise<void> {
  const { primary, standby, subscriber, sidecar } = cluster;
  screen.say(
    "",
    screen.paint("bold", "The cluster stays up until Ctrl-C, which removes it."),
    ...indent(
      facts([
        ["new primary", `psql ${standby.dsn()}`],
        ["subscriber", `psql ${subscriber.dsn()}`],
        ["old primary", `dead; its data: ${primary.dataDir}`],
        ["sidecar", `process ${sidecar.pid}, log ${sidecar.logFile}`],
        ["its status", `slotsync status --config ${sidecar.configFile}`],
      ]),
    ),
    `  Look at the slots: select slot_name, active, confirmed_flush_lsn from pg_replication_slots; rows are in ${TABLE}.`,
  );
  await new Promise<void>((resolve) => {
    if (signal.aborted) return resolve();
    // an AbortSignal alone does not keep the process from ending
    const timer = setInterval(() => {}, 2 ** 30);
    signal.addEventListener(
      "abort",
      () => {
        clearInterval(timer);
        resolve();
      },
      { once: true },
    );
  });
  screen.say("removing the cluster …");
}

function seconds(ms: number): string {
  return `${(ms / 1_000).toFixed(1)} s`;
}
