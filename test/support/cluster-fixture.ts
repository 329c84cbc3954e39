import { onTestFinished } from "vitest";
import {
  addStandby,
  baseSettings,
  createPrimary,
  createSubscriber,
  ensurePhysicalSlot,
  newServer,
  waitStreaming,
} from "../../src/sandbox/cluster.ts";
import type { PgServer, Settings } from "../../src/sandbox/server.ts";
import { Workspace } from "../../src/sandbox/workspace.ts";
import { testedMajors } from "./majors.ts";
import { startProxy, type TcpProxy } from "./proxy.ts";
import { copyFromTemplate, ensureTemplate, TEMPLATE_STANDBY } from "./template.ts";

export interface ClusterOptions {
  /** the first of the majors under test when left out */
  major?: number;
  /** how many standbys, named (as their physical slots) `standby1`, `standby2` …; 1 when left out */
  standbys?: number;
  /** also a server of its own to subscribe with */
  subscriber?: boolean;
  /** settings of all servers of the cluster, over the sandbox's; null leaves one at the server's default */
  settings?: Settings;
  primarySettings?: Settings;
  standbySettings?: Settings;
  /** the standbys reach the primary through a proxy, `cluster.replicationProxy` */
  proxied?: boolean;
  /** not from the template: slower, but a system identifier that no other cluster has */
  fresh?: boolean;
  fsync?: boolean;
  /** "manual": the caller disposes of it, for a cluster that several tests share (made in beforeAll) */
  lifetime?: "test" | "manual";
}

/** A running cluster of a test. */
export interface TestCluster {
  major: number;
  workspace: Workspace;
  primary: PgServer;
  standbys: PgServer[];
  /** the first standby; throws when there is none */
  readonly standby: PgServer;
  /** throws when none was asked for */
  readonly subscriber: PgServer;
  /** throws when not `proxied` */
  readonly replicationProxy: TcpProxy;
  dispose(): Promise<void>;
}

/** Starts a primary with streaming standbys. They are gone when the test is. */
export async function startCluster(options: ClusterOptions = {}): Promise<TestCluster> {
  const { major = testedMajors()[0] ?? 16, lifetime = "test" } = options;
  const workspace = new Workspace();
  let proxy: TcpProxy | undefined;
  const dispose = async () => {
    await workspace.dispose();
    await proxy?.close();
  };
  if (lifetime === "test") onTestFinished(dispose);
  try {
    const start = options.fresh ? startFresh : startCopies;
    const openProxy = async (targetPort: number) => {
      if (options.proxied) proxy = await startProxy({ targetPort });
      return proxy;
    };
    const { primary, standbys, subscriber } = await start({ ...options, major }, workspace, openProxy);
    return {
      major,
      workspace,
      primary,
      standbys,
      get standby() {
        return present(standbys[0], "standbys: 1");
      },
      get subscriber() {
        return present(subscriber, "subscriber: true");
      },
      get replicationProxy() {
        return present(proxy, "proxied: true");
      },
      dispose,
    };
  } catch (error) {
    await dispose();
    throw error;
  }
}

interface Servers {
  primary: PgServer;
  standbys: PgServer[];
  subscriber: PgServer | undefined;
}

type OpenProxy = (targetPort: number) => Promise<TcpProxy | undefined>;
type StartOptions = ClusterOptions & { major: number };

function standbyNames({ standbys = 1 }: ClusterOptions): string[] {
  return Array.from({ length: standbys }, (_, index) => `standby${index + 1}`);
}

async function startFresh(
  options: StartOptions,
  workspace: Workspace,
  openProxy: OpenProxy,
): Promise<Servers> {
  const { major, fsync = false, settings = {}, primarySettings, standbySettings } = options;
  const common = { major, workspace, fsync };
  const primary = await createPrimary({ ...common, settings: { ...settings, ...primarySettings } });
  const via = await openProxy(primary.port);
  const standbys: PgServer[] = [];
  for (const slotName of standbyNames(options)) {
    const standbyOwn = { ...baseSettings(major, fsync), ...settings, ...standbySettings };
    standbys.push(await addStandby(primary, { slotName, settings: standbyOwn, ...(via ? { via } : {}) }));
  }
  const subscriber = options.subscriber ? await createSubscriber({ ...common, settings }) : undefined;
  return { primary, standbys, subscriber };
}

async function startCopies(
  options: StartOptions,
  workspace: Workspace,
  openProxy: OpenProxy,
): Promise<Servers> {
  const { major, fsync = false, settings = {}, primarySettings, standbySettings } = options;
  const template = await ensureTemplate(major);
  const make = async (name: string, own?: Settings) =>
    newServer({ major, workspace, fsync, name, settings: { ...settings, ...own } });

  const primary = await make("primary", primarySettings);
  const standbys = await Promise.all(standbyNames(options).map((name) => make(name, standbySettings)));
  const subscriber = options.subscriber ? await make("subscriber") : undefined;
  await Promise.all([
    copyFromTemplate(template, "primary", primary),
    ...standbys.map((standby) => copyFromTemplate(template, TEMPLATE_STANDBY, standby)),
    ...(subscriber ? [copyFromTemplate(template, "subscriber", subscriber)] : []),
  ]);

  await Promise.all([primary.start(), subscriber?.start()]);
  const via = (await openProxy(primary.port)) ?? primary;
  if (standbys.length === 0) {
    await primary.query("select pg_catalog.pg_drop_replication_slot($1)", [TEMPLATE_STANDBY]);
  }
  await Promise.all(
    standbys.map(async (standby) => {
      await ensurePhysicalSlot(primary, standby.name);
      const { host, port } = via;
      standby.follow({ host, port, slotName: standby.name, applicationName: standby.name });
      await standby.start();
      await waitStreaming(primary, standby.name);
    }),
  );
  return { primary, standbys, subscriber };
}

function present<T>(value: T | undefined, option: string): T {
  if (value === undefined) throw new Error(`this cluster was started without "${option}"`);
  return value;
}
