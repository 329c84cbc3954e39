/** A planned switchover, as an operator's runbook has it. */
import { ensurePhysicalSlot, rejoin } from "../../src/sandbox/cluster.ts";
import type { PgServer } from "../../src/sandbox/server.ts";
import type { TestSidecar } from "./sidecar.ts";

/** One server and the sidecar beside it. */
export interface TestNode {
  server: PgServer;
  sidecar: TestSidecar;
}

/** Stops the primary cleanly, promotes the standby, waits until its sidecar has finished; the others then follow it. */
export async function switchOver(
  from: TestNode,
  to: TestNode,
  others: readonly TestNode[] = [],
): Promise<void> {
  const { history } = to.sidecar;
  const before = history.length;
  // a clean shutdown waits until the standbys that stream have all of it
  await from.server.stop();
  to.server.promote();
  await to.server.waitPromoted();
  await to.sidecar.until(
    "the finishing step",
    ({ role, finish }) => role === "primary" && finish !== null && history.length > before,
  );
  for (const { server } of others) {
    await ensurePhysicalSlot(to.server, server.name);
    await server.stop();
    await rejoin(server, to.server, { slotName: server.name });
  }
}

/** Lets the former primary follow the new one, with whatever slots it still has. */
export async function comeBack(former: TestNode, primary: TestNode): Promise<void> {
  await rejoin(former.server, primary.server, { slotName: former.server.name });
}
