import { once } from "node:events";
import { request } from "node:http";
import { connect } from "node:net";
import pino from "pino";
import { afterEach, describe, expect, it } from "vitest";
import { type HttpServer, ListenError, startHttp } from "../../../src/http/server.ts";
import { StatusBoard } from "../../../src/http/status-board.ts";
import { aFinish, aSlot, aStatus, NOW } from "./samples.ts";

const QUIET_MS = 50_000;
let open: HttpServer[] = [];
afterEach(async () => {
  await Promise.all(open.map((server) => server.close()));
  open = [];
});

async function start(board: StatusBoard, host = "127.0.0.1"): Promise<HttpServer> {
  const server = await startHttp({
    listen: { host, port: 0 },
    board,
    standby: 'db"2',
    version: "1.2.3",
    log: pino({ level: "silent" }),
  });
  open.push(server);
  return server;
}

interface Answer {
  status: number;
  body: string;
  headers: Record<string, unknown>;
}

function ask({ address }: HttpServer, path: string, method = "GET", headers = {}): Promise<Answer> {
  return new Promise((resolve, reject) => {
    const asking = request(`http://${address}`, { path, method, headers }, (response) => {
      let body = "";
      response.setEncoding("utf8").on("data", (chunk: string) => {
        body += chunk;
      });
      response.on("end", () =>
        resolve({ status: response.statusCode ?? 0, body, headers: response.headers }),
      );
    });
    asking.on("error", reject);
    asking.end();
  });
}

describe("the HTTP endpoints", () => {
  it("answer on this machine's own address only who asks for that: a page whose name leads here learns nothing", async () => {
    const server = await start(new StatusBoard(QUIET_MS, () => NOW));
    const by = async (host: string) => (await ask(server, "/health", "GET", { host })).status;
    for (const host of ["localhost:9287", "127.0.0.1", "[::1]:9287", "127.1.2.3:1"])
      expect(await by(host), host).toBe(200);
    for (const host of ["evil.example", "localhost.evil.example:9287", "127.0.0.1.evil.example"])
      expect(await by(host), host).toBe(421);
  });

  it("end a connection that asks nothing, and a request that does not come to its end", async () => {
    const server = await start(new StatusBoard(QUIET_MS, () => NOW));
    const [host, port] = server.address.split(":");
    const idle = connect(Number(port), host);
    const slow = connect(Number(port), host);
    for (const socket of [idle, slow]) socket.resume();
    slow.write("GET /health HTTP/1.1\r\nHost: localhost\r\n");
    await Promise.all([once(idle, "close"), once(slow, "close")]);
  });

  it("print no control character of a name in the metrics (I13)", async () => {
    const board = new StatusBoard(QUIET_MS, () => NOW);
    board.post(aStatus({ slots: [aSlot({ name: "a\u001b[2Jb", database: "c\nd\u0085" })] }), 1);
    const { body } = await ask(await start(board), "/metrics");
    expect(body).toContain('slot="a\ufffd[2Jb"');
    expect(body.replaceAll("\n", "")).not.toMatch(/\p{Cc}/u);
  });

  it("are alive, and cannot tell before the first cycle", async () => {
    const server = await start(new StatusBoard(QUIET_MS, () => NOW));
    expect(await ask(server, "/health")).toMatchObject({ status: 200, body: "alive\n" });
    const line = "cannot tell: the sidecar has not looked at the servers yet\n";
    expect(await ask(server, "/ready")).toMatchObject({ status: 503, body: line });
    expect(await ask(server, "/status")).toMatchObject({ status: 503, body: line });
    const metrics = await ask(server, "/metrics");
    expect(metrics.status).toBe(200);
    expect(metrics.body).toContain('slotsync_ready{standby="db\\"2"} 0');
  });

  it("answer readiness as check does, and never from a status that has grown old", async () => {
    let now = NOW;
    const board = new StatusBoard(QUIET_MS, () => now);
    const server = await start(board);
    board.post(aStatus({ slots: [aSlot()] }), 1);
    expect(await ask(server, "/ready")).toMatchObject({
      status: 200,
      body: "ready: 1 failover slot is safe on this standby\n",
    });
    now += QUIET_MS + 1_000;
    expect(await ask(server, "/ready")).toMatchObject({
      status: 503,
      body: "cannot tell: stale, the sidecar has reported nothing for 51 s\n",
    });
    expect((await ask(server, "/metrics")).body).toMatch(/^slotsync_ready\{.*\} 0$/m);
    expect(await ask(server, "/health")).toMatchObject({ status: 200 });
    board.post(
      aStatus({ slots: [aSlot({ protection: "blocked", reason: "name_conflict", detail: "no" })] }),
      2,
    );
    expect(await ask(server, "/ready")).toMatchObject({
      status: 503,
      body: expect.stringMatching(/^not ready: 1 of 1/),
    });
    board.post(
      aStatus({ problems: [{ code: "standby_unreachable", severity: "stop", message: "gone" }] }),
      2,
    );
    expect(await ask(server, "/ready")).toMatchObject({ status: 503, body: "cannot tell: gone\n" });
    // a primary reports once and is not ready for a failover, however long ago that was
    board.post(aStatus({ role: "primary", ready: false }), 2);
    now += 10 * QUIET_MS;
    expect(await ask(server, "/ready")).toMatchObject({
      status: 503,
      body: "not ready: this node is a primary, not a standby\n",
    });
  });

  it("give the status as `status --json` does", async () => {
    const board = new StatusBoard(QUIET_MS, () => NOW);
    const server = await start(board);
    const status = aStatus({ slots: [aSlot()] });
    board.post(status, 1);
    const answer = await ask(server, "/status/?pretty");
    expect(answer.headers["content-type"]).toBe("application/json; charset=utf-8");
    expect(JSON.parse(answer.body)).toEqual({ standby: 'db"2', ...status });
  });

  it("give metrics of what there is, and none of slots that are gone", async () => {
    const board = new StatusBoard(QUIET_MS, () => NOW);
    const server = await start(board);
    board.post(
      aStatus({
        slots: [
          aSlot(),
          aSlot({ name: "late", protection: "waiting", reason: "wal_not_flushed", lagBytes: null }),
        ],
        problems: [
          { code: "too_many_slots", severity: "warning", message: "a" },
          { code: "last_seen", severity: "stop", message: "b" },
          { code: "last_seen", severity: "stop", message: "c" },
        ],
      }),
      7,
    );
    const lines = (await ask(server, "/metrics")).body
      .replaceAll(',standby="db\\"2"', "")
      .replaceAll('{standby="db\\"2"}', "")
      .split("\n");
    for (const line of [
      'slotsync_build_info{version="1.2.3"} 1',
      "slotsync_ready 0",
      "# TYPE slotsync_cycles_total counter",
      "slotsync_cycles_total 7",
      `slotsync_last_cycle_timestamp_seconds ${NOW / 1_000}`,
      "slotsync_primary_lost_timestamp_seconds 0",
      'slotsync_role{role="standby"} 1',
      'slotsync_role{role="primary"} 0',
      'slotsync_slots{protection="synced"} 1',
      'slotsync_slots{protection="guarded"} 0',
      'slotsync_slots{protection="waiting"} 1',
      'slotsync_slots{protection="blocked"} 0',
      'slotsync_slot_ready{slot="app",database="shop"} 1',
      'slotsync_slot_ready{slot="late",database="shop"} 0',
      'slotsync_slot_lag_bytes{slot="app",database="shop"} 1024',
      'slotsync_slot_not_ready_cycles_total{slot="late",database="shop",reason="wal_not_flushed"} 1',
      'slotsync_problems{code="too_many_slots",severity="warning"} 1',
      'slotsync_problems{code="last_seen",severity="stop"} 2',
    ])
      expect(lines).toContain(line);
    expect(lines.join("\n")).not.toContain('slotsync_slot_lag_bytes{slot="late"');
    expect(lines.join("\n")).not.toContain("slotsync_promotion");

    board.post(aStatus({ role: "primary", ready: false, finish: aFinish() }), 8);
    const after = (await ask(server, "/metrics")).body;
    expect(after).not.toContain("slotsync_slot_");
    expect(after).toMatch(/^slotsync_promotion_gap_bytes\{slot="ours",database="shop",.*\} 4096$/m);
    expect(after).toMatch(/^slotsync_promotion_slots\{outcome="not_protected",.*\} 1$/m);
    expect(after).toMatch(/^slotsync_promotion_complete\{.*\} 1$/m);
  });

  it("cannot tell of a former primary that does not answer: it is no primary for certain any more", async () => {
    const board = new StatusBoard(QUIET_MS, () => NOW);
    const server = await start(board);
    const gone = { code: "standby_unreachable", severity: "stop", message: "gone" } as const;
    board.post(aStatus({ role: "primary", ready: false, problems: [gone] }), 1);
    expect(await ask(server, "/ready")).toMatchObject({ status: 503, body: "cannot tell: gone\n" });
  });

  it("give no sample of what there is none of: a zero without its labels would be one that nobody measured", async () => {
    const board = new StatusBoard(QUIET_MS, () => NOW);
    const server = await start(board);
    board.post(aStatus({ finish: aFinish({ slots: [] }) }), 1);
    const { body } = await ask(server, "/metrics");
    for (const name of ["problems", "slot_ready", "slot_lag_bytes", "promotion_slots", "promotion_gap_bytes"])
      expect(body).not.toContain(`slotsync_${name}`);
    expect(body).toMatch(/^slotsync_guards\{.*\} 0$/m);
  });

  it("refuse other paths with 404 and other methods with 405; HEAD is GET without a body", async () => {
    const server = await start(new StatusBoard(QUIET_MS, () => NOW));
    expect(await ask(server, "/")).toMatchObject({ status: 404 });
    expect(await ask(server, "//etc/passwd")).toMatchObject({ status: 404 });
    expect(await ask(server, "/__proto__")).toMatchObject({ status: 404 });
    expect(await ask(server, "/ready", "POST")).toMatchObject({
      status: 405,
      headers: { allow: "GET, HEAD" },
    });
    expect(await ask(server, "/health", "HEAD")).toMatchObject({
      status: 200,
      body: "",
      headers: { "content-length": "6" },
    });
  });

  it("say what is wrong with an address that cannot be had, and listen nowhere else", async () => {
    const board = new StatusBoard(QUIET_MS, () => NOW);
    const { address } = await start(board);
    expect(address).toMatch(/^127\.0\.0\.1:\d+$/);
    const taken = { host: "127.0.0.1", port: Number(address.split(":")[1]) };
    const options = { board, standby: "db2", version: "1", log: pino({ level: "silent" }) };
    await expect(startHttp({ ...options, listen: taken })).rejects.toThrow(
      new ListenError(
        `http.listen = ${address}: the port is in use by another process; give http.listen a free one`,
      ),
    );
    await expect(startHttp({ ...options, listen: { host: "192.0.2.1", port: 1234 } })).rejects.toThrow(
      "http.listen = 192.0.2.1:1234: this machine has no such address",
    );
  });
});
