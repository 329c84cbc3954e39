import { eventually } from "../../src/sandbox/poll.ts";
import { isAlive } from "../../src/sandbox/processes.ts";
import { openWorkspaces, ownServerProcesses, type Workspace } from "../../src/sandbox/workspace.ts";
import { openProxies, type TcpProxy } from "./proxy.ts";

/** What is open at a moment. */
export interface OpenThings {
  workspaces: Workspace[];
  proxies: TcpProxy[];
  serverProcesses: number[];
  listeningSockets: number;
}

/** What this process has open now: servers, proxies, sockets that listen. */
export function openThings(): OpenThings {
  return {
    workspaces: openWorkspaces(),
    proxies: openProxies(),
    serverProcesses: ownServerProcesses().filter(isAlive),
    listeningSockets: process.getActiveResourcesInfo().filter((resource) => resource === "TCPServerWrap")
      .length,
  };
}

/** What is open now and was not before, in words; empty when nothing leaked. */
export function leaksSince(before: OpenThings): string[] {
  const now = openThings();
  const servers = now.serverProcesses.filter((pid) => !before.serverProcesses.includes(pid));
  const proxies = now.proxies.filter((proxy) => !before.proxies.includes(proxy));
  const workspaces = now.workspaces.filter((workspace) => !before.workspaces.includes(workspace));
  const sockets = now.listeningSockets - before.listeningSockets;
  return [
    // servers that a test shares with others may start and stop children of theirs as they like
    ...(before.workspaces.length === 0 ? servers.map((pid) => `server process ${pid} is alive`) : []),
    ...proxies.map((proxy) => `the proxy on port ${proxy.port} is open`),
    ...workspaces.map((workspace) => `the work folder ${workspace.dir} was not disposed of`),
    ...(sockets > 0 ? [`${sockets} sockets listen that did not before`] : []),
  ];
}

/**
 * Throws when something that was opened since is still open, after ending it, so that one leak is reported once.
 * What is just closing gets a second to do so.
 */
export async function failOnLeaks(before: OpenThings): Promise<void> {
  if (leaksSince(before).length === 0) return;
  try {
    await eventually(() => leaksSince(before).length === 0, {
      what: "everything to be closed",
      timeoutMs: 1000,
    });
  } catch {
    const leaks = leaksSince(before);
    await endWhatLeaked(before);
    throw new Error(`left behind:\n${leaks.map((leak) => `- ${leak}`).join("\n")}`);
  }
}

async function endWhatLeaked(before: OpenThings): Promise<void> {
  const now = openThings();
  for (const proxy of now.proxies) if (!before.proxies.includes(proxy)) await proxy.close();
  for (const workspace of now.workspaces)
    if (!before.workspaces.includes(workspace)) await workspace.dispose();
  if (before.workspaces.length > 0) return;
  for (const pid of now.serverProcesses) if (isAlive(pid)) process.kill(pid, "SIGKILL");
}
