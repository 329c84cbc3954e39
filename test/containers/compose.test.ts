/** The example in docker-compose.yml, with its own image: needs Docker with Compose 2.23.1 or newer. See CONTRIBUTING.md. */
import path from "node:path";
import { DockerComposeEnvironment, type StartedDockerComposeEnvironment, Wait } from "testcontainers";
import { afterAll, beforeAll, expect, test } from "vitest";
import { eventually } from "../../src/sandbox/poll.ts";

type Service = "primary" | "standby" | "sidecar" | "subscriber";

const ROOT = path.resolve(import.meta.dirname, "..", "..");
const PATIENCE = { timeoutMs: 90_000, intervalMs: 500 };

let environment: StartedDockerComposeEnvironment;

beforeAll(async () => {
  environment = await new DockerComposeEnvironment(ROOT, "docker-compose.yml")
    .withBuild()
    .withWaitStrategy("primary-1", Wait.forHealthCheck())
    .withWaitStrategy("standby-1", Wait.forHealthCheck())
    .withWaitStrategy("sidecar-1", Wait.forHealthCheck())
    .withWaitStrategy("subscriber-1", Wait.forHealthCheck())
    .up();
});

afterAll(async () => {
  await environment?.down({ removeVolumes: true });
});

function container(service: Service) {
  return environment.getContainer(`${service}-1`);
}

async function psql(service: Service, sql: string): Promise<string> {
  const { exitCode, output } = await container(service).exec(["psql", "-U", "postgres", "-XAtqc", sql]);
  if (exitCode !== 0) throw new Error(`${service}: ${sql}: ${output}`);
  return output.trim();
}

async function slotsync(...args: string[]): Promise<{ exitCode: number; output: string }> {
  return container("sidecar").exec(["slotsync", ...args]);
}

async function untilReady(...args: string[]): Promise<string> {
  let last = "";
  await eventually(
    async () => {
      const { exitCode, output } = await slotsync("check", ...args);
      last = output.trim();
      return exitCode === 0;
    },
    { ...PATIENCE, what: "slotsync check to answer 0" },
  ).catch((error: unknown) => {
    throw new Error(`its last answer: ${last}`, { cause: error });
  });
  return last;
}

const COUNT = "select count(*) from orders";
const insert = (rows: number) => `insert into orders (placed) select now() from generate_series(1, ${rows})`;

test("the example keeps its slots over a failover (I1, I2)", async () => {
  await untilReady();
  await psql("primary", "select pg_create_logical_replication_slot('app_reader', 'test_decoding')");
  await untilReady("--slot", "app_reader");
  await psql("primary", insert(100));
  const written = await psql("primary", COUNT);
  await eventually(async () => (await psql("standby", COUNT)) === written, {
    ...PATIENCE,
    what: "the standby to have every row",
  });

  await container("primary").stop({ remove: false, timeout: 30_000 });
  expect(await untilReady()).toContain("the primary does not answer");

  await psql("standby", "select pg_promote()");
  const { exitCode, output } = await slotsync("finish");
  expect(exitCode, output).toBe(0);
  expect(await psql("standby", "select slot_name from pg_replication_slots order by slot_name")).toBe(
    "app_orders\napp_reader",
  );
  const received = await psql(
    "standby",
    "select count(*) from pg_logical_slot_get_changes('app_reader', null, null) where data like '%INSERT%'",
  );
  expect(received).toBe("100");

  await psql(
    "subscriber",
    "alter subscription app_orders connection 'host=standby user=postgres password=example dbname=postgres'",
  );
  await psql("standby", insert(10));
  const total = await psql("standby", COUNT);
  await eventually(async () => (await psql("subscriber", COUNT)) === total, {
    ...PATIENCE,
    what: "the subscriber to have every row",
  });
});
