// The configuration, read once at the door: flags over environment over file, every problem found at once, and each
// told with its key, where it was set, its value (never a password) and what to put there instead.
import { readFileSync, statSync } from "node:fs";
import path from "node:path";
import { LineCounter, parseDocument } from "yaml";
import type { z } from "zod";
import type { Selector } from "../domain/selector.ts";
import {
  type ConnInfo,
  ConnInfoError,
  type ConnTargets,
  type Environment,
  parseConnInfo,
  parseConnTargets,
  redactConnInfo,
} from "../pg/conninfo.ts";
import {
  CONFIG_KEYS,
  type ConfigKey,
  configSchema,
  parseListen,
  SECTION_NAMES,
  SELECTOR_KEYS,
  selectorExpects,
  type selectorSchema,
  type TextForm,
} from "./schema.ts";
import { misspelt, suggest } from "./suggest.ts";

export interface Config {
  readonly standby: { readonly conn: ConnInfo; readonly dataDirectory?: string; readonly name?: string };
  /** Without a connection of its own, the standby's primary_conninfo is used. */
  readonly primary: { readonly dsn: ConnTargets | null; readonly patroniUrl: string | null };
  readonly slots: {
    readonly include: readonly Selector[];
    readonly exclude: readonly Selector[];
    readonly provision: "sql" | "file" | "auto";
    readonly onConflict: "adopt" | "recreate" | "refuse";
    readonly unproven: "drop" | "keep";
    readonly releaseAfterMinutes?: number;
  };
  readonly stateDirectory: string;
  readonly nap: { readonly minMs: number; readonly maxMs: number };
  readonly log: {
    readonly level: "trace" | "debug" | "info" | "warn" | "error" | "fatal" | "silent";
    readonly format: "json" | "pretty";
  };
  readonly http: { readonly listen?: { readonly host: string; readonly port: number } };
  readonly timeouts: { readonly connectMs: number; readonly statementMs: number; readonly answerMs: number };
  readonly guards: { readonly databases: "auto" | readonly string[] };
  readonly advance: { readonly duty: number };
  readonly finish: { readonly connections: number };
  /** With the mode "window" there is a schedule, with any but "never" a command. */
  readonly restart: {
    readonly mode: "never" | "window" | "immediate";
    readonly schedule?: string;
    readonly windowMinutes: number;
    readonly command?: readonly string[];
    readonly timeoutMs: number;
  };
  readonly audit: { readonly schedule?: string };
}

export interface ConfigProblem {
  /** `nap.min_ms`, `slots.include[0].name`; empty when it is about a whole file. */
  readonly key: string;
  /** `slotsync.yaml line 12`, `SLOTSYNC_NAP_MIN_MS`, `command line` */
  readonly source?: string;
  /** As it may be shown. */
  readonly value?: string;
  readonly problem: string;
  readonly fix?: string;
}

export function describeProblem({ key, source, value, problem, fix }: ConfigProblem): string {
  const where = [key, source && (key === "" ? source : `(${source})`)].filter(Boolean).join(" ");
  return `${where}${value === undefined ? "" : ` = ${value}`}: ${problem}${fix === undefined ? "" : `; ${fix}`}`;
}

/** The message lists every problem, one a line. */
export class ConfigError extends Error {
  override readonly name = "ConfigError";
  readonly problems: readonly ConfigProblem[];

  constructor(problems: readonly ConfigProblem[]) {
    const one = problems.length === 1;
    super(
      [`the configuration has ${one ? "a problem" : `${problems.length} problems`}:`]
        .concat(problems.map((problem) => `  - ${describeProblem(problem)}`))
        .join("\n"),
    );
    this.problems = problems;
  }
}

export interface ConfigSources {
  /** The YAML file; without it SLOTSYNC_CONFIG names it, and without that there is none. */
  readonly file?: string | undefined;
  readonly env: Environment;
  /** From the command line, by key: `{ "log.level": "debug" }`. Text is read as in the environment. */
  readonly flags?: Readonly<Record<string, unknown>> | undefined;
}

export interface LoadedConfig {
  readonly config: Config;
  /** What is allowed, and yet deserves a word. */
  readonly warnings: readonly string[];
  /** Variables of the environment that begin like ours and are none, in the order of the alphabet. */
  readonly ignored: readonly string[];
}

const ENV_PREFIX = "SLOTSYNC_";
const ENV_FILE = "SLOTSYNC_CONFIG";
const KEY_OF_PATH = new Map(CONFIG_KEYS.map((key) => [key.path, key]));
const KEY_OF_ENV = new Map(CONFIG_KEYS.map((key) => [key.env, key]));

type Path = readonly PropertyKey[];

interface Given {
  readonly value: unknown;
  /** Where the value, or this part of it, was written. */
  readonly source: (part: Path) => string;
}

const dotted = (path: Path): string =>
  path.reduce<string>(
    (text, part) =>
      typeof part === "number" ? `${text}[${part}]` : text === "" ? String(part) : `${text}.${String(part)}`,
    "",
  );

const isRecord = (value: unknown): value is Record<string, unknown> =>
  typeof value === "object" && value !== null && !Array.isArray(value);

const LONGEST_SHOWN = 80;

/** A value as it may be shown: whatever could be a connection string goes without what could be a password. */
function show(key: string, value: unknown): string {
  if (isRecord(value) || Array.isArray(value)) return Array.isArray(value) ? "a list" : "a section";
  const mayBeDsn = typeof value === "string" && (key.endsWith("dsn") || /:\/\/|pass|=/i.test(value));
  const text = JSON.stringify(mayBeDsn ? redactConnInfo(value) : value) ?? "nothing";
  return text.length > LONGEST_SHOWN ? `${text.slice(0, LONGEST_SHOWN)}…` : text;
}

const didYouMean = (word: string | undefined, otherwise: string): string =>
  word === undefined ? otherwise : `did you mean ${word}?`;

function suggestKey(unknown: string, within: string): string | undefined {
  const last = unknown.split(".").at(-1);
  // the right name in the wrong place
  const elsewhere = CONFIG_KEYS.find((key) => key.path.includes(".") && key.path.split(".").at(-1) === last);
  if (elsewhere) return elsewhere.path;
  const siblings =
    within === ""
      ? [...SECTION_NAMES, ...KEY_OF_PATH.keys()]
      : CONFIG_KEYS.filter((key) => key.path.startsWith(within)).map((key) => key.path.slice(within.length));
  const name = suggest(unknown, siblings);
  return name === undefined ? suggest(unknown, KEY_OF_PATH.keys()) : `${within}${name}`;
}

/** Reads YAML; undefined after a problem. What the parser quotes from the text is left out: it may be a password. */
function parseYaml(text: string, source: string, problems: ConfigProblem[], key = "") {
  const lines = new LineCounter();
  const document = parseDocument(text, { lineCounter: lines, prettyErrors: false });
  const report = (problem: string, at?: number) => {
    const place = at === undefined ? undefined : lines.linePos(at);
    problems.push({
      key,
      source: place ? `${source} line ${place.line} column ${place.col}` : source,
      problem: `not valid YAML: ${problem}`,
    });
  };
  for (const error of document.errors) {
    report(/^[^:"(]*/.exec(error.message)?.[0].trim() || "unexpected text", error.pos[0]);
  }
  if (document.errors.length > 0) return undefined;
  const lineOf = (path: Path): number | undefined => {
    // as near as there is a line for: the value's, or that of what it stands in
    for (let length = path.length; length > 0; length--) {
      const node: unknown = document.getIn(path.slice(0, length), true);
      const range = isRecord(node) && Array.isArray(node.range) ? (node.range as number[]) : undefined;
      if (range?.[0] !== undefined) return lines.linePos(range[0]).line;
    }
    return undefined;
  };
  try {
    return { value: document.toJS() as unknown, lineOf };
  } catch {
    report("its aliases cannot be resolved");
    return undefined;
  }
}

function readFile(file: string, given: Map<string, Given>, problems: ConfigProblem[]): void {
  let text: string;
  try {
    text = readFileSync(file, "utf8");
  } catch (error) {
    problems.push({
      key: "",
      source: file,
      problem: `the file cannot be read (${(error as NodeJS.ErrnoException).code})`,
      fix: `give the path of a YAML file with --config or ${ENV_FILE}`,
    });
    return;
  }
  const yaml = parseYaml(text, file, problems);
  if (!yaml || yaml.value === null || yaml.value === undefined) return;
  const sourceOf = (path: Path): string => {
    const line = yaml.lineOf(path);
    return line === undefined ? file : `${file} line ${line}`;
  };
  if (!isRecord(yaml.value)) {
    problems.push({
      key: "",
      source: file,
      problem: "the file has no keys",
      fix: "write standby: and below it dsn: …",
    });
    return;
  }
  const take = (path: readonly string[], value: unknown) => {
    // a key without a value is one that is not set
    if (value !== null) given.set(dotted(path), { value, source: (part) => sourceOf([...path, ...part]) });
  };
  const unknown = (path: readonly string[]) => {
    const within = path.length > 1 ? `${path[0]}.` : "";
    // its value is not shown: a misspelt key may hold a password
    problems.push({
      key: dotted(path),
      source: sourceOf(path),
      problem: "there is no such key",
      fix: didYouMean(suggestKey(path.at(-1) ?? "", within), "take it out"),
    });
  };
  for (const [name, value] of Object.entries(yaml.value)) {
    if (KEY_OF_PATH.has(name)) take([name], value);
    else if (!SECTION_NAMES.includes(name)) unknown([name]);
    else if (isRecord(value)) {
      for (const [key, inner] of Object.entries(value)) {
        if (KEY_OF_PATH.has(`${name}.${key}`)) take([name, key], inner);
        else unknown([name, key]);
      }
    } else if (value !== null) {
      const keys = CONFIG_KEYS.filter((key) => key.path.startsWith(`${name}.`)).map(
        (key) => key.path.split(".")[1],
      );
      problems.push({
        key: name,
        source: sourceOf([name]),
        value: show("dsn", value),
        problem: "not a section",
        fix: `put the keys ${keys.join(", ")} below it, indented`,
      });
    }
  }
}

/** Text of the environment or the command line as the value it stands for; undefined after a problem. */
function readText(key: ConfigKey, text: string, source: string, problems: ConfigProblem[]): unknown {
  const readers: Record<TextForm, () => unknown> = {
    text: () => text,
    number: () => (/^\s*[+-]?(\d+\.?\d*|\.\d+)\s*$/.test(text) ? Number(text) : text),
    listen: () => (/^\d+$/.test(text.trim()) ? Number(text) : text.trim()),
    databases: () => {
      if (/^\s*\[/.test(text)) return parseYaml(text, source, problems, key.path)?.value;
      return text.trim() === "auto" ? "auto" : text.split(",").map((name) => name.trim());
    },
    selectors: () => {
      if (!/^\s*[[{-]/.test(text)) return readShortSelectors(key, text, source, problems);
      const value = parseYaml(text, source, problems, key.path)?.value;
      return isRecord(value) ? [value] : value;
    },
    // text that is no list stays text, and is refused for it
    arguments: () => (/^\s*(\[|-\s)/.test(text) ? parseYaml(text, source, problems, key.path)?.value : text),
  };
  return readers[key.form]();
}

/** `name_like=app_%;plugin=pgoutput,name=other`: conditions with ";" between them, rules with ",". */
function readShortSelectors(
  key: ConfigKey,
  text: string,
  source: string,
  problems: ConfigProblem[],
): unknown {
  const rules: Record<string, string>[] = [];
  for (const rule of text.split(",")) {
    const conditions: [string, string][] = [];
    for (const condition of rule.split(";")) {
      const equals = condition.indexOf("=");
      if (equals === -1) {
        problems.push({
          key: key.path,
          source,
          value: show(key.path, condition.trim()),
          problem: 'a condition has no "="',
          fix: 'write name=… or name_like=…, with ";" between conditions and "," between rules, or a YAML list',
        });
        return undefined;
      }
      conditions.push([condition.slice(0, equals).trim(), condition.slice(equals + 1).trim()]);
    }
    rules.push(Object.fromEntries(conditions));
  }
  return rules;
}

/**
 * Kubernetes puts the address of each Service of the namespace into every pod: a Service called `slotsync`, or `slotsync-…`, makes
 * variables that begin like ours (`makeLinkVariables` and `FromServices` in pkg/kubelet/envvars). `…_PORT` alone only with such a value.
 */
const OF_A_SERVICE = /_SERVICE_(HOST|PORT(_[A-Z0-9_]+)?)$|_PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?$/;
const ADDRESS_OF_A_SERVICE = /^(tcp|udp|sctp):\/\//i;

function isOfAService(name: string, text: string): boolean {
  return OF_A_SERVICE.test(name) || (name.endsWith("_PORT") && ADDRESS_OF_A_SERVICE.test(text));
}

/** The variable of ours that was meant, or undefined. Compared without the prefix, which would hide how much of the rest differs. */
function meantVariable(name: string): string | undefined {
  const rest = (variable: string) => variable.slice(ENV_PREFIX.length);
  const meant = misspelt(rest(name), [...KEY_OF_ENV.keys(), ENV_FILE].map(rest));
  return meant === undefined ? undefined : `${ENV_PREFIX}${meant}`;
}

/** Returns the names that begin like ours and are none: others may have put them there, so only what is misspelt is refused. */
function readEnvironment(env: Environment, given: Map<string, Given>, problems: ConfigProblem[]): string[] {
  const ignored: string[] = [];
  for (const [name, text] of Object.entries(env)) {
    if (!name.startsWith(ENV_PREFIX) || name === ENV_FILE || text === undefined) continue;
    const key = KEY_OF_ENV.get(name);
    if (!key) {
      const meant = isOfAService(name, text) ? undefined : meantVariable(name);
      if (meant === undefined) ignored.push(name);
      else
        problems.push({
          key: name,
          source: "environment",
          problem: "there is no such variable",
          fix: didYouMean(meant, "unset it"),
        });
    } else if (text !== "") {
      // set but empty is how compose files and charts say "not set"
      const value = readText(key, text, name, problems);
      if (value !== undefined) given.set(key.path, { value, source: () => name });
    }
  }
  return ignored.toSorted();
}

function readFlags(
  flags: Readonly<Record<string, unknown>>,
  given: Map<string, Given>,
  problems: ConfigProblem[],
): void {
  const source = "command line";
  for (const [path, flag] of Object.entries(flags)) {
    const key = KEY_OF_PATH.get(path);
    if (!key) {
      const fix = didYouMean(suggestKey(path, ""), "take it out");
      problems.push({ key: path, source, problem: "there is no such key", fix });
    } else if (flag !== undefined) {
      const value = typeof flag === "string" ? readText(key, flag, source, problems) : flag;
      if (value !== undefined) given.set(path, { value, source: () => source });
    }
  }
}

const WHAT_IS_WRONG: Partial<Record<z.core.$ZodIssue["code"], string>> = {
  invalid_type: "not the right kind of value",
  too_small: "too small",
  too_big: "too big",
};

function problemsOfIssue(issue: z.core.$ZodIssue, given: ReadonlyMap<string, Given>): ConfigProblem[] {
  const key = CONFIG_KEYS.find(({ path }) => {
    const parts = path.split(".");
    return parts.every((part, index) => part === issue.path[index]);
  });
  if (!key) return [{ key: dotted(issue.path), problem: issue.message }];
  const written = given.get(key.path);
  if (!written) {
    return [
      { key: key.path, problem: "it is required", fix: `give ${key.expects} in the file or as ${key.env}` },
    ];
  }
  const part = issue.path.slice(key.path.split(".").length);
  const value = part.reduce<unknown>(
    (inner, step) => (inner as Record<PropertyKey, unknown> | undefined)?.[step],
    written.value,
  );
  const common = { key: dotted(issue.path), source: written.source(part) };
  if (issue.code === "unrecognized_keys") {
    return issue.keys.map((name) => ({
      ...common,
      key: `${common.key}.${name}`,
      problem: "there is no such condition",
      fix: didYouMean(suggest(name, SELECTOR_KEYS), `there are ${SELECTOR_KEYS.join(", ")}`),
    }));
  }
  if (key.form === "arguments") {
    // its value is not shown: an argument may be a token or a password
    const asList = 'write it as a list, such as ["pg_ctl", "restart", "-D", "/data"]';
    const fix =
      part.length > 0 ? "give a text, in quotes" : typeof value === "string" ? asList : `give ${key.expects}`;
    const problem =
      part.length > 0 && typeof value === "string" ? "empty, or not valid" : WHAT_IS_WRONG[issue.code];
    return [{ ...common, problem: problem ?? "not valid", fix }];
  }
  const empty = isRecord(value) && Object.keys(value).length === 0;
  // said already: its conditions are all unknown ones
  if (issue.code === "custom" && isRecord(value) && !empty) return [];
  const inSelector = key.form === "selectors" && part.length > 0;
  const expects = inSelector
    ? selectorExpects(part[1] === undefined ? undefined : String(part[1]))
    : key.expects;
  return [
    {
      ...common,
      ...(!empty && { value: show(key.path, value) }),
      problem: empty ? "it is empty and would match every slot" : (WHAT_IS_WRONG[issue.code] ?? "not valid"),
      fix: `give ${expects}`,
    },
  ];
}

/** What one key alone cannot tell. Looks only at values that are right by themselves. */
function crossCheck(given: ReadonlyMap<string, Given>, wrong: ReadonlySet<string>): ConfigProblem[] {
  const numberAt = (path: string): number | undefined => {
    const value = given.has(path) ? given.get(path)?.value : KEY_OF_PATH.get(path)?.default;
    return wrong.has(path) || typeof value !== "number" ? undefined : value;
  };
  const problems: ConfigProblem[] = [];
  const textAt = (path: string): unknown =>
    wrong.has(path) ? undefined : (given.get(path)?.value ?? KEY_OF_PATH.get(path)?.default);
  /** The choice that was written at `path` needs a value at another key. */
  const needs = (path: string, required: string) => {
    const written = given.get(path);
    const other = KEY_OF_PATH.get(required);
    if (!written || !other || given.has(required) || wrong.has(required)) return;
    problems.push({
      key: path,
      source: written.source([]),
      value: show(path, written.value),
      problem: `it needs ${required}, which is not set`,
      fix: `give ${other.expects} as ${required} or ${other.env}`,
    });
  };
  const mode = textAt("restart.mode");
  if (mode === "window") needs("restart.mode", "restart.schedule");
  if (mode === "window" || mode === "immediate") needs("restart.mode", "restart.command");
  if (textAt("slots.provision") === "file") needs("slots.provision", "standby.data_directory");
  const atLeast = (upper: string, lower: string, strictly: boolean) => {
    const [high, low] = [numberAt(upper), numberAt(lower)];
    if (high === undefined || low === undefined || (strictly ? high > low : high >= low)) return;
    // name the one that was written; the other may be a default
    const blamed = given.has(upper) || !given.has(lower) ? upper : lower;
    const source = given.get(blamed)?.source([]);
    const more = strictly ? "more than" : "at least";
    problems.push({
      key: blamed,
      ...(source !== undefined && { source }),
      value: String(blamed === upper ? high : low),
      problem: `${upper} (${high}) must be ${more} ${lower} (${low})`,
      fix: blamed === upper ? `raise it, or lower ${lower}` : `lower it, or raise ${upper}`,
    });
  };
  atLeast("nap.max_ms", "nap.min_ms", false);
  atLeast("timeouts.answer_ms", "timeouts.statement_ms", true);
  return problems;
}

function readDsn<T>(
  key: string,
  given: ReadonlyMap<string, Given>,
  parse: (text: string) => T,
  problems: ConfigProblem[],
): T | undefined {
  const written = given.get(key);
  if (typeof written?.value !== "string" || written.value === "") return undefined;
  try {
    return parse(written.value);
  } catch (error) {
    if (!(error instanceof ConnInfoError)) throw error;
    problems.push({
      key,
      source: written.source([]),
      value: show(key, written.value),
      problem: error.message,
      fix: "give a libpq connection string",
    });
    return undefined;
  }
}

function toSelector({ name, name_like, plugin, database }: z.output<typeof selectorSchema>): Selector {
  return {
    ...(name !== undefined && { name }),
    ...(name_like !== undefined && { nameLike: name_like }),
    ...(plugin !== undefined && { plugin }),
    ...(database !== undefined && { database }),
  };
}

/** Throws ConfigError, which lists all there is to mend. */
export function loadConfig({ file, env, flags = {} }: ConfigSources): LoadedConfig {
  const problems: ConfigProblem[] = [];
  const given = new Map<string, Given>();
  const configFile = file ?? (env[ENV_FILE] || undefined);
  if (configFile !== undefined) readFile(configFile, given, problems);
  const ignored = readEnvironment(env, given, problems);
  readFlags(flags, given, problems);

  const merged: Record<string, unknown> = Object.fromEntries(SECTION_NAMES.map((name) => [name, {}]));
  for (const [path, { value }] of given) {
    const [first = "", second] = path.split(".");
    if (second === undefined) merged[first] = value;
    else (merged[first] as Record<string, unknown>)[second] = value;
  }
  // not "required" on top of the reason why it could not be read
  const blamed = new Set(problems.map(({ key }) => key));
  const parsed = configSchema.safeParse(merged);
  const wrong = new Set<string>();
  for (const issue of parsed.error?.issues ?? []) {
    for (const problem of problemsOfIssue(issue, given)) {
      wrong.add(problem.key);
      if (!blamed.has(problem.key) && !(blamed.has("standby") && problem.key === "standby.dsn"))
        problems.push(problem);
    }
  }
  problems.push(...crossCheck(given, new Set([...wrong, ...blamed])));
  // I13: it would run as us
  if (configFile !== undefined && given.has("restart.command") && isOpenToAll(configFile))
    problems.push({
      key: "restart.command",
      source: configFile,
      problem: "the file can be written by everybody, and it names a command that this process runs",
      fix: `chmod go-w ${configFile}`,
    });
  const standbyConn = readDsn("standby.dsn", given, (text) => parseConnInfo(text, env), problems);
  const primaryDsn = readDsn("primary.dsn", given, (text) => parseConnTargets(text, env), problems);
  if (problems.length > 0 || !parsed.success || standbyConn === undefined) throw new ConfigError(problems);

  const raw = parsed.data;
  const listen = raw.http.listen === undefined ? undefined : parseListen(raw.http.listen);
  const { data_directory: dataDirectory, name } = raw.standby;
  const { schedule, command } = raw.restart;
  const config: Config = {
    standby: {
      conn: standbyConn,
      ...(dataDirectory !== undefined && { dataDirectory: path.resolve(dataDirectory) }),
      ...(name !== undefined && { name }),
    },
    primary: { dsn: primaryDsn ?? null, patroniUrl: raw.primary.patroni_url ?? null },
    slots: {
      include: raw.slots.include.map(toSelector),
      exclude: raw.slots.exclude.map(toSelector),
      provision: raw.slots.provision,
      onConflict: raw.slots.on_conflict,
      unproven: raw.slots.unproven,
      ...(raw.slots.release_after_minutes !== undefined && {
        releaseAfterMinutes: raw.slots.release_after_minutes,
      }),
    },
    stateDirectory: path.resolve(raw.state_directory),
    nap: { minMs: raw.nap.min_ms, maxMs: raw.nap.max_ms },
    log: raw.log,
    http: listen === undefined ? {} : { listen },
    timeouts: {
      connectMs: raw.timeouts.connect_ms,
      statementMs: raw.timeouts.statement_ms,
      answerMs: raw.timeouts.answer_ms,
    },
    guards: raw.guards,
    advance: raw.advance,
    finish: raw.finish,
    restart: {
      mode: raw.restart.mode,
      ...(schedule !== undefined && { schedule }),
      windowMinutes: raw.restart.window_minutes,
      ...(command !== undefined && { command }),
      timeoutMs: raw.restart.timeout_ms,
    },
    audit: raw.audit.schedule === undefined ? {} : { schedule: raw.audit.schedule },
  };
  const warnings = configFile === undefined ? [] : writersOf(configFile, "the configuration");
  return { config, warnings, ignored };
}

const ANYBODY_WRITES = 0o002;
const GROUP_WRITES = 0o020;

/** A warning where others than the owner may write to it. None on a system without such modes, and none for what is not there. */
export function writersOf(file: string, what: string): string[] {
  const mode = modeOf(file);
  if ((mode & (ANYBODY_WRITES | GROUP_WRITES)) === 0) return [];
  const who = mode & ANYBODY_WRITES ? "everybody" : "its group";
  return [
    `${what} ${file} can be written by ${who} (mode ${(mode & 0o777).toString(8)}): whoever does that decides what this process does; chmod go-w ${file}`,
  ];
}

/** True where everybody may write to it. */
export function isOpenToAll(file: string): boolean {
  return (modeOf(file) & ANYBODY_WRITES) !== 0;
}

function modeOf(file: string): number {
  return process.platform === "win32" ? 0 : (statSync(file, { throwIfNoEntry: false })?.mode ?? 0);
}
