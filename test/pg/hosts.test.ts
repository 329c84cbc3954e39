/** One of several hosts, as libpq chooses it. */

import type { AddressInfo } from "node:net";
import { createServer } from "node:net";
import { beforeAll, describe, expect, onTestFinished, test } from "vitest";
import type { ConnInfo, ConnTargets } from "../../src/pg/conninfo.ts";
import { openFirst } from "../../src/pg/hosts.ts";
import { openSession } from "../../src/pg/session.ts";
import { startCluster, type TestCluster } from "../support/cluster-fixture.ts";
import { testedMajors } from "../support/majors.ts";
import { hostsOf } from "../support/steps.ts";

const [major = 16] = testedMajors();

const openAt = (conn: ConnInfo) =>
  openSession(conn, {
    applicationName: "pg-slotsync test",
    statementTimeoutMs: 10_000,
    queryTimeoutMs: 12_000,
    connectTimeoutMs: 10_000,
  });

/** The port that was chosen. */
async function chosen(targets: ConnTargets): Promise<number> {
  const { session, conn } = await openFirst(targets, openAt);
  await session.close();
  return conn.port;
}

/** A port on which connections are taken and nothing is ever said. */
async function mutePort(): Promise<number> {
  const server = createServer((socket) => void socket.on("error", () => {}));
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  onTestFinished(() => void server.close());
  return (server.address() as AddressInfo).port;
}

describe(`PostgreSQL ${major}`, () => {
  let cluster: TestCluster;

  beforeAll(async () => {
    cluster = await startCluster({ major, lifetime: "manual" });
    return () => cluster.dispose();
  });

  test("target_session_attrs chooses among a standby and a primary, in this order", async () => {
    const { primary, standby } = cluster;
    const { hosts } = hostsOf(standby, primary);
    const ports = async (...attrs: ConnTargets["attrs"][]) =>
      Promise.all(attrs.map((each) => chosen({ hosts, attrs: each })));
    expect(await ports("any", "standby", "read-only", "prefer-standby")).toEqual(Array(4).fill(standby.port));
    expect(await ports(null, "primary", "read-write")).toEqual(Array(3).fill(primary.port));
    // no standby among them: any will do
    expect(await chosen({ ...hostsOf(primary, primary), attrs: "prefer-standby" })).toBe(primary.port);
    // a single host is taken as it is
    expect(await chosen(hostsOf(standby))).toBe(standby.port);
  });

  test("a host that is down, and one that says nothing, cost their time and no more; when none will do each is named with its reason", async () => {
    const { primary, standby } = cluster;
    const [there] = hostsOf(primary).hosts;
    const mute: ConnInfo = { ...there, port: await mutePort(), connectTimeoutS: 1 };
    const down: ConnInfo = { ...there, port: 1 };
    expect(await chosen({ hosts: [down, mute, there], attrs: null })).toBe(primary.port);
    const none = chosen({ hosts: [down, mute, ...hostsOf(standby).hosts], attrs: null });
    await expect(none).rejects.toThrow(
      new RegExp(
        `none of 3 hosts will do: 127.0.0.1:1: .*ECONNREFUSED.*; 127.0.0.1:${mute.port}: .*no answer within 1000 ms; 127.0.0.1:${standby.port}: it is a standby, and primary is asked for`,
      ),
    );
  });
});
