/** Restarts of the standby by the operator's command. */
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { describe, expect, onTestFinished, test } from "vitest";
import { RestartWindow } from "../../src/restart/window.ts";
import type { PgServer } from "../../src/sandbox/server.ts";
import type { RestartOptions } from "../../src/sync/restart.ts";
import { startCluster } from "../support/cluster-fixture.ts";
import { createLogicalSlot } from "../support/consumer.ts";
import { cyclesLater } from "../support/file-way.ts";
import { SetClock } from "../support/set-clock.ts";
import { startSidecar } from "../support/sidecar.ts";
import { eventually } from "../support/wait.ts";

/** What restarts a standby, as a call over HTTP: the argument list, and how often it was called. */
async function restarter(work: () => Promise<void>): Promise<{ command: string[]; calls: number }> {
  const state = { command: [] as string[], calls: 0 };
  const server = createServer((_request, response) => {
    state.calls += 1;
    work().then(
      () => response.end("restarted"),
      () => response.writeHead(500).end("failed"),
    );
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  onTestFinished(() => void server.close());
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/restart`;
  const script = `fetch(${JSON.stringify(url)}).then((r) => { console.log("answer", r.status); process.exitCode = r.ok ? 0 : 1; })`;
  state.command = [process.execPath, "-e", script];
  return state;
}

function options(command: readonly string[], more: Partial<RestartOptions> = {}): RestartOptions {
  return { policy: { mode: "immediate" }, window: null, command, timeoutMs: 20_000, ...more };
}

/** In a window of six hours that opens now, or this many hours from now. */
function inWindow(command: readonly string[], now: Date, hours: number): RestartOptions {
  const opens = new Date(now.getTime() + hours * 3_600_000);
  const window = new RestartWindow(`${opens.getMinutes()} ${opens.getHours()} * * *`, 360, Date.now);
  return options(command, { policy: { mode: "window" }, window });
}

const nap = { minMs: 100, maxMs: 500 };
const file = {
  guardDatabases: "auto",
  duty: 0.05,
  provision: "auto",
  restarts: true,
  onConflict: "adopt",
  releaseAfterMs: null,
} as const;

async function startedAt(server: PgServer): Promise<string> {
  const [row] = await server.query<{ at: string }>(
    "select pg_catalog.pg_postmaster_start_time()::text as at",
  );
  return row?.at ?? "";
}

describe("restart.mode immediate", () => {
  test("one restart serves all slots that are staged, and none is needed for later ones (12 to 15)", async () => {
    const { primary, standby } = await startCluster({ major: 13 });
    for (const name of ["one", "two", "three"]) await createLogicalSlot(primary, name);
    const restart = await restarter(() => standby.restart());
    const sidecar = await startSidecar(standby, { nap, policy: file, restart: options(restart.command) });
    await sidecar.until(
      "all three to be synced",
      ({ slots }) => slots.length === 3 && slots.every(({ protection }) => protection === "synced"),
    );
    expect(restart.calls).toBe(1);
    await sidecar.until("the restart to be done", (status) => status.restart?.last?.outcome === "done");
    expect(sidecar.log.join("\n")).toContain("restart: answer 200");

    const since = await startedAt(standby);
    await createLogicalSlot(primary, "late");
    await sidecar.untilSlot("late", "guarded");
    await sidecar.until("the late one's file to be staged", ({ restart: status }) => status?.slots === 1);
    const cycles = sidecar.history.length;
    await eventually(() => sidecar.history.length > cycles + 3, { what: "a few more cycles" });
    expect(restart.calls).toBe(1);
    expect(await startedAt(standby)).toBe(since);
  });

  test("a restart command that failed is not run again at once, the status says when, and then it is; a success ends that (K7)", async () => {
    const { primary, standby } = await startCluster({ major: 15 });
    await createLogicalSlot(primary, "app");
    let mended = false;
    const restart = await restarter(() => (mended ? standby.restart() : Promise.reject(new Error("no"))));
    const clock = new SetClock();
    const sidecar = await startSidecar(standby, {
      nap,
      policy: file,
      restart: options(restart.command),
      clock,
    });
    const failed = async (failures: number) =>
      sidecar.until(`failure ${failures}`, ({ restart: status }) => status?.last?.failures === failures);
    const first = await failed(1);
    const cycles = sidecar.history.length;
    await eventually(() => sidecar.history.length > cycles + 3, { what: "a few more cycles" });
    expect(restart.calls).toBe(1);
    const { last } = first.restart ?? {};
    expect(last).toMatchObject({ outcome: "failed", detail: "it ended with exit code 1" });
    expect((last?.retryAt ?? 0) - (last?.at ?? 0)).toBeGreaterThanOrEqual(60_000);
    expect(sidecar.status?.slots[0]).toMatchObject({ reason: "restart_pending" });
    clock.sleep(61_000);
    await failed(2);
    mended = true;
    clock.sleep(121_000);
    await sidecar.untilSlot("app", "synced");
    expect(restart.calls).toBe(3);
    await sidecar.until("it to be done", ({ restart: status }) => status?.last?.outcome === "done");
    expect(sidecar.status?.restart?.last).toMatchObject({ failures: 0, retryAt: null });
  });

  test("a restart command that cannot be started is told with the reason, and tried again when the status says", async () => {
    const { primary, standby } = await startCluster({ major: 15 });
    await createLogicalSlot(primary, "app");
    const command = ["/nonexistent/restart-it"];
    const sidecar = await startSidecar(standby, { nap, policy: file, restart: options(command) });
    const { restart } = await sidecar.until(
      "the failure",
      ({ restart: status }) => status?.last?.outcome === "not_started",
    );
    expect(restart?.last).toMatchObject({ failures: 1, detail: expect.stringContaining("ENOENT") });
    expect(restart?.last?.retryAt).toBeGreaterThan(restart?.last?.at ?? 0);
  });

  test("two sidecars of one primary do not restart their standbys at the same time", async () => {
    const cluster = await startCluster({ major: 14, standbys: 2 });
    const { primary, standbys } = cluster;
    await createLogicalSlot(primary, "app");
    let under = 0;
    let most = 0;
    const sidecars = await Promise.all(
      standbys.map(async (standby) => {
        const restart = await restarter(async () => {
          under += 1;
          most = Math.max(most, under);
          await standby.restart();
          under -= 1;
        });
        return startSidecar(standby, { nap, policy: file, restart: options(restart.command) });
      }),
    );
    for (const sidecar of sidecars)
      await sidecar.until("the slot to be synced", ({ slots }) => slots[0]?.protection === "synced", 60_000);
    expect(most).toBe(1);
  });
});

describe("restart.mode window", () => {
  test("nothing is restarted outside a window, all that is staged once inside it, and nothing more in the same", async () => {
    const { primary, standby } = await startCluster({ major: 14 });
    for (const name of ["one", "two"]) await createLogicalSlot(primary, name);
    const restart = await restarter(() => standby.restart());
    const since = await startedAt(standby);
    const now = new Date();
    const closed = await startSidecar(standby, {
      nap,
      policy: file,
      restart: inWindow(restart.command, now, 12),
    });
    await closed.until(
      "both to be staged",
      ({ restart: status }) => status?.slots === 2 && status.guards === 2,
    );
    await cyclesLater(closed, 3);
    expect(closed.status?.slots).toMatchObject([
      { reason: "restart_pending" },
      { reason: "restart_pending" },
    ]);
    expect(restart.calls).toBe(0);
    expect(await startedAt(standby)).toBe(since);
    await closed.stop();

    const { stateDirectory } = closed;
    const open = await startSidecar(standby, {
      ...{ nap, policy: file, restart: inWindow(restart.command, now, 0), stateDirectory },
    });
    await open.until(
      "both to be synced",
      ({ slots }) => slots.length === 2 && slots.every(({ protection }) => protection === "synced"),
    );
    const restarted = await startedAt(standby);
    expect(restarted).not.toBe(since);
    // what comes later waits for the next window
    await primary.query("create database shop");
    await createLogicalSlot(primary, "three", { database: "shop" });
    await open.until(
      "the third to be staged",
      ({ restart: status }) => status?.slots === 1 && status.guards === 2,
    );
    await cyclesLater(open, 3);
    expect(restart.calls).toBe(1);
    expect(await startedAt(standby)).toBe(restarted);
  });
});

describe("restart.mode never", () => {
  test("nothing is restarted, and the status says what one restart would add", async () => {
    const { primary, standby } = await startCluster({ major: 12 });
    await createLogicalSlot(primary, "app");
    const since = await startedAt(standby);
    const sidecar = await startSidecar(standby, { nap });
    await sidecar.until(
      "the slot to be staged",
      ({ restart }) => restart?.slots === 1 && restart.guards === 2,
    );
    expect(sidecar.status?.slots[0]).toMatchObject({ protection: "waiting", reason: "restart_pending" });
    expect(sidecar.status?.ready).toBe(false);
    expect(await startedAt(standby)).toBe(since);
  });
});
