/** Time that nobody saw: what was seen last holds only for as long as it can be shown that the primary did nothing since (I15, K2). */
import { readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { beforeAll, describe, expect, test } from "vitest";
import { loadConfig } from "../../src/config/load.ts";
import { answer } from "../../src/domain/assess.ts";
import { formatLsn } from "../../src/domain/lsn.ts";
import type { Status } from "../../src/domain/status.ts";
import { SEEN_WITHIN_MS } from "../../src/domain/vouch.ts";
import { readJournal } from "../../src/journal/store.ts";
import { giveTo } from "../../src/sandbox/account.ts";
import type { PgServer } from "../../src/sandbox/server.ts";
import { assess } from "../../src/sync/assess.ts";
import {
  CA_CERTIFICATE,
  CLIENT_CERTIFICATE,
  CLIENT_KEY,
  OTHER_CA_CERTIFICATE,
  SERVER_CERTIFICATE,
  SERVER_KEY,
} from "../support/certificates.ts";
import { buildCli, cli, startCli, writeConfig } from "../support/cli.ts";
import { startCluster } from "../support/cluster-fixture.ts";
import { createLogicalSlot } from "../support/consumer.ts";
import { testedMajors, usedOf } from "../support/majors.ts";
import { SetClock } from "../support/set-clock.ts";
import { startSidecar, type TestSidecar, temporaryDirectory } from "../support/sidecar.ts";
import { confirm, positionOf } from "../support/slots.ts";
import { failOver, syncSlots, untilFinished, untilProblem } from "../support/steps.ts";
import { eventually } from "../support/wait.ts";
import { waitForReceipt, writeWal } from "../support/wal.ts";

const HOUR = 3_600_000;
/** Longer than any life after the last look that is not counted. */
const LONG = 20_000;
const PASSWORD = "right";

const NO_GUESS = ["journal_stale"];

function lineOf({ problems, ...status }: Status): { code: number; line: string } {
  const certain = !problems.some(({ code }) => NO_GUESS.includes(code));
  return answer({ status: { ...status, problems }, certain });
}

async function untilUntold(sidecar: TestSidecar): Promise<string> {
  const status = await untilProblem(sidecar, "journal_stale");
  const { code, line } = lineOf(status);
  expect(code).toBe(2);
  return line;
}

describe.each(testedMajors().filter((major) => major >= 16))("PostgreSQL %i", (major) => {
  describe("a primary that lives and does not let the sidecar in", () => {
    beforeAll(buildCli);

    /** Each locks the role out, so that no session of it is let in any more, and lets it in again. */
    const locks: [string, string, (p: PgServer, away: boolean) => Promise<unknown>, RegExp][] = [
      [
        "its line in pg_hba.conf is removed",
        "sync",
        async (primary, away) => hba(primary, away ? "host all sync all reject" : ""),
        /pg_hba.conf rejects connection/,
      ],
      [
        "its password is changed",
        "sync",
        (primary, away) => primary.query(`alter role sync password '${away ? "changed" : PASSWORD}'`),
        /password authentication failed/,
      ],
      [
        "its connections are used up",
        "sync",
        (primary, away) => primary.query(`alter role sync connection limit ${away ? 0 : -1}`),
        /too many connections for role/,
      ],
      [
        "its certificate is refused",
        "certified",
        async (primary, away) => authority(primary, away ? OTHER_CA_CERTIFICATE : CA_CERTIFICATE),
        /alert|certificate/i,
      ],
    ];

    test.each(locks)(
      "%s: what was seen last is not vouched for any longer, and check and /ready say why (I15, K2)",
      async (_, role, lock, why) => {
        const { primary, standby } = await startCluster({ major });
        await prepare(primary);
        const files = temporaryDirectory();
        const file = (name: string, content: string) => {
          writeFileSync(path.join(files, name), content, { mode: 0o600 });
          return path.join(files, name);
        };
        const tls = `sslmode=require sslcert=${file("c.crt", CLIENT_CERTIFICATE)} sslkey=${file("c.key", CLIENT_KEY)}`;
        const own = role === "sync" ? `password=${PASSWORD} sslmode=disable` : tls;
        const config = writeConfig(standby, {
          http: { listen: "127.0.0.1:0" },
          primary: { dsn: `host=127.0.0.1 port=${primary.port} user=${role} dbname=postgres ${own}` },
        });
        const running = startCli(["run", "-c", config.file]);
        const { http } = await running.logged(/HTTP on 127\.0\.0\.1:\d+$/);
        const ready = async () => (await fetch(`http://${http}/ready`)).status;
        const check = () => cli(["check", "-c", config.file]);
        const guards = async () =>
          (JSON.parse(await (await fetch(`http://${http}/status`)).text()) as Status).guards;
        await eventually(async () => (await guards())?.[0]?.confirmedFlushLsn, { what: "the guard" });
        await createLogicalSlot(primary, "kept");
        await eventually(async () => (await ready()) === 200, {
          what: "the slot to be ready",
          timeoutMs: 60_000,
        });
        expect(await check()).toMatchObject({ code: 0 });

        await lock(primary, true);
        await endSessions(primary, role);
        await createLogicalSlot(primary, "unknown");
        await writeWal(primary, 100_000);
        await eventually(async () => (await ready()) === 503, {
          what: "/ready to take it back",
          timeoutMs: 60_000,
        });
        const { code, stdout } = await check();
        expect({ code, stdout }).toEqual({
          code: 2,
          stdout: expect.stringMatching(/^cannot tell: .*no look at both since/),
        });
        expect(stdout).toMatch(why);

        // the others come back in the same way
        if (role !== "certified") return;
        await lock(primary, false);
        await eventually(async () => (await ready()) === 200, {
          what: "all to be well again",
          timeoutMs: 60_000,
        });
        expect(await check()).toMatchObject({
          code: 0,
          stdout: expect.stringContaining("2 failover slots are safe"),
        });
      },
    );
  });

  test("a primary that went on and died while the standby was down: check cannot tell, names who is past its WAL, and so does the gap report (I15, K2)", async () => {
    const { primary, standby } = await startCluster({ major });
    const clock = new SetClock();
    const sidecar = await startSidecar(standby, { clock });
    await syncSlots(sidecar, primary, "kept");
    await standby.stop();
    await writeWal(primary, 100_000);
    // a commit, which has all of it flushed: a subscriber confirms no more than that
    await primary.query("create table unseen (id int)");
    await confirm(primary, "kept");
    await createLogicalSlot(primary, "young");
    clock.sleep(LONG);
    const past = await positionOf(primary, "kept");
    await eventually(
      async () => {
        const slots = (await readJournal(sidecar.stateDirectory))?.slots;
        return slots?.has("young") && slots.get("kept")?.primaryConfirmedFlushLsn === past;
      },
      { what: "the primary to be looked at without the standby" },
    );
    await primary.kill();
    await standby.start();
    expect(await untilUntold(sidecar)).toMatch(
      /no look at both since; confirmed past this standby's WAL: "kept"/,
    );

    standby.promote();
    const { finish } = await untilFinished(sidecar);
    expect(finish?.unseen).toEqual({ from: expect.any(Number), to: expect.any(Number) });
    expect((finish?.unseen?.to ?? 0) - (finish?.unseen?.from ?? 0)).toBeGreaterThan(LONG - 1_000);
    const { slots = [] } = finish ?? {};
    expect(slots.find(({ name }) => name === "kept")).toMatchObject({ lastSeenLsn: formatLsn(past) });
    expect(slots.find(({ name }) => name === "kept")?.confirmedBeyondEndBytes).toBeGreaterThan(0);
    expect(slots.find(({ name }) => name === "young")).toMatchObject({
      outcome: "materialised",
      confirmedBeyondEndBytes: expect.any(Number),
    });
  });

  test("a standby that was down while the primary did nothing is as ready as before, though the primary has died (I15)", async () => {
    const { primary, standby } = await startCluster({ major, primarySettings: { autovacuum: false } });
    const clock = new SetClock();
    const sidecar = await startSidecar(standby, { clock });
    await syncSlots(sidecar, primary, "kept");
    // it writes its records of running transactions, and nobody else writes anything
    const [writer] = await primary.query<{ pid: number }>(
      "select pid from pg_catalog.pg_stat_activity where backend_type = 'background writer'",
    );
    process.kill(writer?.pid ?? 0, "SIGSTOP");
    await sidecar.until("all to be quiet", () => sidecar.sidecar.vouched);
    await standby.stop();
    const before = sidecar.sidecar.quietUntil;
    clock.sleep(LONG);
    await eventually(async () => sidecar.sidecar.quietUntil >= before + LONG, {
      what: "the primary to be asked",
    });
    await primary.kill();
    await standby.start();
    const status = await untilProblem(sidecar, "primary_unreachable");
    expect(lineOf(status)).toMatchObject({ code: 0, line: expect.stringContaining("as last seen at") });
    expect((await promoteNow(standby, sidecar)).finish?.unseen).toBeNull();
  });

  test("a sidecar that was down while the subscriber went on and the primary died cannot tell, and the gap report says from when until when (I15, K2)", async () => {
    const { primary, standby } = await startCluster({ major });
    const clock = new SetClock();
    const before = await startSidecar(standby, { clock });
    await syncSlots(before, primary, "kept");
    await before.stop();
    await writeWal(primary, 100_000);
    // a commit, which has all of it flushed: a subscriber confirms no more than that
    await primary.query("create table unseen (id int)");
    await confirm(primary, "kept");
    await waitForReceipt(primary, standby);
    await primary.kill();
    clock.sleep(LONG);
    const sidecar = await startSidecar(standby, { clock, stateDirectory: before.stateDirectory });
    await untilUntold(sidecar);
    const { finish } = await promoteNow(standby, sidecar);
    expect(finish?.unseen?.to).toBeGreaterThan((finish?.unseen?.from ?? 0) + LONG - 1_000);
    expect(sidecar.log.join("\n")).toContain("NOBODY LOOKED at the old primary from");
  });

  test("a sidecar that was down together with its standby does not vouch for the primary that went on and died, however short that was (I15, K2)", async () => {
    const { primary, standby } = await startCluster({ major });
    const clock = new SetClock();
    const before = await startSidecar(standby, { clock });
    await syncSlots(before, primary, "kept");
    await before.stop();
    await standby.stop();
    await writeWal(primary, 100_000);
    // a commit, which has all of it flushed: a subscriber confirms no more than that
    await primary.query("create table unseen (id int)");
    await confirm(primary, "kept");
    await primary.kill();
    // less than it may take a sidecar that is there to note the loss
    clock.sleep(SEEN_WITHIN_MS + 1_000);
    await standby.start();
    const sidecar = await startSidecar(standby, { clock, stateDirectory: before.stateDirectory });
    expect(await untilUntold(sidecar)).toContain("neither the sidecar nor this standby was there");
    expect((await promoteNow(standby, sidecar)).finish?.unseen).not.toBeNull();
  });
});

describe.each(usedOf([13, 16]))("PostgreSQL %i", (major) => {
  test("whoever sets the clock, and a machine that sleeps, stops nothing: cycles go on, check says the truth, a promotion is finished at once (I15, K2)", async () => {
    const cluster = await startCluster({ major });
    const { primary, standby } = cluster;
    const clock = new SetClock();
    const config = writeConfig(standby);
    const { stateDirectory } = config;
    // naps too short for the pulse: nothing but the clock ends them
    const nap = { minMs: 200, maxMs: 300 };
    const sidecar = await startSidecar(standby, { clock, stateDirectory, nap });
    const asked = () =>
      assess(
        loadConfig({ file: config.file, env: {} }).config,
        "test",
        AbortSignal.timeout(60_000),
        () => {},
        clock,
      );
    const names = ["back", "forward", "asleep"];
    for (const [index, change] of [
      () => clock.set(-HOUR),
      () => clock.set(2 * HOUR),
      () => clock.sleep(HOUR),
    ].entries()) {
      change();
      const name = names[index] ?? "";
      await createLogicalSlot(primary, name);
      await sidecar.until(`slot "${name}" to be seen`, ({ slots }) =>
        slots.some((slot) => slot.name === name),
      );
      const { status } = await asked();
      expect(status.slots.map((slot) => slot.name)).toContain(name);
      expect(Math.abs(Date.parse(status.observedAt ?? "") - clock.wall())).toBeLessThan(60_000);
      expect(status.problems.filter(({ severity }) => severity === "stop")).toEqual([]);
    }
    clock.set(-HOUR);
    const { finish } = await failOver(cluster, sidecar);
    expect(finish).toMatchObject({ complete: true, unseen: null });
    expect(Math.abs((finish?.finishedAt ?? 0) - clock.wall())).toBeLessThan(60_000);
  });
});

async function promoteNow(standby: PgServer, sidecar: TestSidecar): Promise<Status> {
  standby.promote();
  return untilFinished(sidecar);
}

function write(server: PgServer, name: string, content: string): void {
  const file = path.join(server.dataDir, name);
  writeFileSync(file, content, { mode: 0o600 });
  giveTo(server.workspace.account, file);
}

const originals = new Map<PgServer, string>();

/** Puts a line before all others. */
function hba(server: PgServer, line: string): void {
  const rules = originals.get(server) ?? readFileSync(path.join(server.dataDir, "pg_hba.conf"), "utf8");
  originals.set(server, rules);
  write(server, "pg_hba.conf", `${line}\n${rules}`);
  server.reload();
}

function authority(server: PgServer, certificate: string): void {
  write(server, "ca.crt", certificate);
  server.reload();
}

/** Two roles with no more rights than a sidecar needs: one with a password, one with a certificate. */
async function prepare(primary: PgServer): Promise<void> {
  for (const [role, login] of [
    ["sync", `password '${PASSWORD}'`],
    ["certified", ""],
  ])
    await primary.query(`create role ${role} login replication ${login} in role pg_monitor`);
  if (primary.major >= 16)
    await primary.query("grant execute on function pg_catalog.pg_log_standby_snapshot() to sync, certified");
  write(primary, "ca.crt", CA_CERTIFICATE);
  write(primary, "server.crt", SERVER_CERTIFICATE);
  write(primary, "server.key", SERVER_KEY);
  const rules = ["host all sync 127.0.0.1/32 scram-sha-256", "hostssl all certified 127.0.0.1/32 cert"];
  const file = path.join(primary.dataDir, "pg_hba.conf");
  write(primary, "pg_hba.conf", `${rules.join("\n")}\n${readFileSync(file, "utf8")}`);
  primary.configure({ ssl: true, ssl_ca_file: "ca.crt" });
  await eventually(
    async () =>
      (await primary.query("select from pg_catalog.pg_hba_file_rules where 'sync' = any (user_name)"))
        .length === 1,
    { what: "the rules to be read" },
  );
}

async function endSessions(primary: PgServer, role: string): Promise<void> {
  await eventually(
    async () =>
      (
        await primary.query(
          "select pg_catalog.pg_terminate_backend(pid) from pg_catalog.pg_stat_activity where usename = $1",
          [role],
        )
      ).length === 0,
    { what: "its sessions to end" },
  );
}
