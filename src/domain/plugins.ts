/**
 * Which output plugins can be used on this server. Settings, files and people change that at any time, so it is asked in every look (I18):
 * a slot whose plugin may not be loaded, or is gone, is there after a promotion and can be read by nobody.
 */
import { createsOnStandby } from "./capability.ts";
import type { JournalState } from "./journal.ts";
import type { StandbyView } from "./observation.ts";
import type { Backoff } from "./plan.ts";
import { type Verdict, waiting } from "./protection.ts";

/**
 * `output_plugin_libraries` (15.19 and its siblings of other majors): who may load what. Only a superuser can set it for a role or a
 * database, and a session takes it when it begins.
 */
export interface PluginRules {
  /** As it is in a session of ours. */
  value: string;
  /** It is our own role's, and hides what the server has for others. */
  ofOurRole: boolean;
  /** Our role. */
  roleOid: number;
  /** What is set for a role (0: all) in a database (0: all). */
  overrides: readonly { databaseOid: number; roleOid: number; value: string }[];
}

/** What a look at the server showed. */
export interface PluginsView {
  /** Null where the setting does not exist: every plugin may be loaded. */
  rules: PluginRules | null;
  /** The libraries that lie where the server looks for them; null when that cannot be seen. */
  libraries: ReadonlySet<string> | null;
}

/** What guards are made with. */
export const GUARD_PLUGIN = "pgoutput";

interface PluginOf {
  plugin: string;
  databaseOid: number;
}

/** Names in a list as PostgreSQL splits it: by commas, blanks around names left out, names in double quotes as they are; null: unreadable. */
export function listedPlugins(list: string): readonly string[] | null {
  if (list.trim() === "") return [];
  const names: string[] = [];
  const item = /\s*(?:"((?:[^"]|"")*)"|([^",]*?))\s*(,|$)/y;
  for (let more = true; more; ) {
    const [, quoted, plain, end] = item.exec(list) ?? [];
    const name = quoted?.replaceAll('""', '"') ?? plain;
    if (name === undefined || name === "") return null;
    names.push(name);
    more = end === ",";
  }
  return names;
}

function lists(value: string, plugin: string): boolean {
  return listedPlugins(value)?.includes(plugin) ?? false;
}

/** What a session of ours in that database has; what is set for it is ranked as `process_settings` in postinit.c does. */
function ourValue({ value, roleOid, overrides }: PluginRules, databaseOid: number): string {
  const find = (database: number, role: number) =>
    overrides.find((each) => each.databaseOid === database && each.roleOid === role)?.value;
  return find(databaseOid, roleOid) ?? find(0, roleOid) ?? find(databaseOid, 0) ?? find(0, 0) ?? value;
}

/** Whether somebody else's session in that database can load it. */
function othersMay(
  { value, ofOurRole, roleOid, overrides }: PluginRules,
  { plugin, databaseOid }: PluginOf,
): boolean {
  const forOthers = overrides.filter(
    (each) => each.roleOid !== roleOid && (each.databaseOid === 0 || each.databaseOid === databaseOid),
  );
  const forAll = forOthers.filter((each) => each.roleOid === 0);
  const usual =
    (forAll.find((each) => each.databaseOid !== 0) ?? forAll[0])?.value ?? (ofOurRole ? "" : value);
  return lists(usual, plugin) || forOthers.some((each) => each.roleOid !== 0 && lists(each.value, plugin));
}

/** Why a slot with this plugin could not be made, or could not be read, in that database by what the settings say; or null. */
export function whyRefused(of: PluginOf, rules: PluginRules | null | undefined): string | null {
  if (!rules) return null;
  const { plugin, databaseOid } = of;
  const ours = ourValue(rules, databaseOid);
  if (!lists(ours, plugin))
    return `output_plugin_libraries on this server (for our sessions: ${shown(ours)}) does not list "${plugin}", so no slot with it can be made or read: add it there and reload`;
  if (othersMay(rules, of)) return null;
  return rules.ofOurRole
    ? `output_plugin_libraries is set for our role, which hides what it is for the role that reads the slot: ALTER ROLE … RESET output_plugin_libraries for ours, and list "${plugin}" in the server's own`
    : `output_plugin_libraries lists "${plugin}" for our role only, so nobody else can read a slot with it: add it to the server's own and reload`;
}

function shown(list: string): string {
  return list.trim() === "" ? "empty" : `'${list}'`;
}

/** Guards need a plugin too, once, when they are made: why they cannot be, or null. */
export function whyNoGuard(
  { plugins }: StandbyView,
  databaseOid: number,
): Pick<Backoff, "reason" | "detail"> | null {
  const detail = whyRefused({ plugin: GUARD_PLUGIN, databaseOid }, plugins?.rules);
  return detail === null ? null : { reason: "plugin_refused", detail };
}

/** True for a plugin that was seen to load, or, where that cannot be tried, to lie where libraries do. pgoutput is part of the server. */
function isPluginProven(
  plugin: string,
  { plugins, serverVersionNum }: StandbyView,
  journal: JournalState,
): boolean {
  if (plugin === GUARD_PLUGIN || journal.plugins.includes(plugin)) return true;
  return !createsOnStandby(serverVersionNum) && (plugins?.libraries?.has(plugin) ?? false);
}

/** Where a look at the library folder decides: before 16, for there nothing can be tried out. Elsewhere it may be another container's. */
function isLibraryGone(plugin: string, { plugins, serverVersionNum }: StandbyView): boolean {
  return !createsOnStandby(serverVersionNum) && plugins?.libraries != null && !plugins.libraries.has(plugin);
}

/** Why nobody could read a slot with this plugin after a promotion, or null. `failure`: why the last try to load it failed. */
export function pluginDoubt(
  of: PluginOf,
  standby: StandbyView,
  journal: JournalState,
  failure: Pick<Backoff, "reason" | "detail"> | undefined,
): Verdict | null {
  const refused = whyRefused(of, standby.plugins?.rules);
  if (refused !== null) return waiting("plugin_refused", refused);
  if (isLibraryGone(of.plugin, standby))
    return waiting("plugin_missing", `output plugin "${of.plugin}" is not installed on this server`);
  if (isPluginProven(of.plugin, standby, journal)) return null;
  if (failure) return waiting(failure.reason, failure.detail);
  return waiting(
    "plugin_unproven",
    `whether output plugin "${of.plugin}" loads on this standby is being tried`,
  );
}

/** What was seen to load is tried again after this time, … */
const PROBE_EVERY_MS = 30_000;
/** … and sooner when its library does not lie where the server seems to look. */
const PROBE_DOUBTED_EVERY_MS = 5_000;

/** Whether to see once more that it loads; `probedAt` is when it did last in this process, 0 for never, null where nothing is tried. */
export function isProbeDue(
  plugin: string,
  standby: StandbyView,
  journal: JournalState,
  probedAt: number | null,
  now: number,
): boolean {
  const { libraries = null } = standby.plugins ?? {};
  const seen = libraries?.has(plugin) ?? null;
  // before 16 the look at the folder is as good
  if (!createsOnStandby(standby.serverVersionNum) && seen !== null) return false;
  if (plugin === GUARD_PLUGIN) return false;
  if (!isPluginProven(plugin, standby, journal)) return true;
  if (probedAt === null) return false;
  return now - probedAt >= (seen === false ? PROBE_DOUBTED_EVERY_MS : PROBE_EVERY_MS);
}
