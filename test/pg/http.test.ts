/** The endpoints of a running sidecar, as a load balancer, Kubernetes and Prometheus see them. */
import { beforeAll, describe, expect, test } from "vitest";
import { buildCli, cli, startCli, writeConfig } from "../support/cli.ts";
import { startCluster } from "../support/cluster-fixture.ts";
import { createLogicalSlot } from "../support/consumer.ts";
import { testedMajors } from "../support/majors.ts";
import { eventually } from "../support/wait.ts";

beforeAll(buildCli);

describe.each(testedMajors())("PostgreSQL %i", (major) => {
  test("the endpoints follow the standby: ready, ready though the primary is dead, then a primary with its gap report", async () => {
    const { primary, standby } = await startCluster({ major });
    const config = writeConfig(standby, { http: { listen: "127.0.0.1:0" } });
    const running = startCli(["run", "-c", config.file]);
    const { http } = await running.logged(/HTTP on 127\.0\.0\.1:\d+$/);
    const ask = async (path: string) => {
      const response = await fetch(`http://${http}${path}`);
      return { status: response.status, body: await response.text() };
    };
    expect(await ask("/health")).toEqual({ status: 200, body: "alive\n" });
    await eventually(async () => JSON.parse((await ask("/status")).body).guards?.[0]?.confirmedFlushLsn, {
      what: "the guard",
    });
    await createLogicalSlot(primary, "app");
    await eventually(async () => (await ask("/ready")).body.startsWith("ready: 1 failover slot"), {
      what: "the slot to be ready",
    });
    const [status, told] = await Promise.all([ask("/status"), cli(["status", "-c", config.file, "--json"])]);
    const shape = (text: string) => Object.keys(JSON.parse(text));
    expect(shape(status.body)).toEqual(shape(told.stdout));
    expect((await ask("/metrics")).body).toMatch(
      /^slotsync_slot_ready\{slot="app",database="postgres",.*\} 1$/m,
    );

    await primary.kill();
    await running.logged(/the primary does not answer/);
    const dead = await eventually(
      async () => {
        const answer = await ask("/ready");
        return answer.body.includes("the primary does not answer") ? answer : null;
      },
      { what: "the endpoint to know that the primary is gone" },
    );
    expect(dead).toMatchObject({
      status: 200,
      body: expect.stringMatching(/^ready: 1 failover slot is safe .*as last seen/),
    });
    const metrics = (await ask("/metrics")).body;
    expect(metrics).toMatch(/^slotsync_problems\{code="primary_unreachable",severity="warning",.*\} 1$/m);
    expect(metrics).not.toMatch(/^slotsync_primary_lost_timestamp_seconds\{.*\} 0$/m);

    standby.promote();
    await eventually(
      async () => (await ask("/ready")).body === "not ready: this node is a primary, not a standby\n",
      {
        what: "the endpoint to know of the promotion",
      },
    );
    expect((await ask("/ready")).status).toBe(503);
    expect((await ask("/metrics")).body).toMatch(/^slotsync_promotion_gap_bytes\{slot="app",.*\} 0$/m);
    expect(JSON.parse((await ask("/status")).body)).toMatchObject({
      role: "primary",
      finish: { complete: true },
    });

    running.kill("SIGTERM");
    expect(await running.ended).toMatchObject({ code: 0 });
    await expect(ask("/health")).rejects.toThrow();
  });
});
