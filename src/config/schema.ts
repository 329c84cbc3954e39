// Every key of the configuration, defined once: the checks, the defaults, the words that explain a key and those
// that say what to put there. The JSON Schema, the environment variables and the messages all come from here.
import { validate as validateCron } from "node-cron";
import * as z from "zod";

/** How a key's value is written where only text can be: in the environment and on the command line. */
export type TextForm = "text" | "number" | "listen" | "databases" | "selectors" | "arguments";

interface KeyWords {
  readonly description: string;
  /** Completes "give …". */
  readonly expects: string;
  readonly form?: TextForm;
}

const key = <T extends z.ZodType>(schema: T, words: KeyWords): T => schema.meta({ ...words });

const wholeMs = (min: number, max: number) => z.int().min(min).max(max);

export const selectorSchema = z
  .strictObject({
    name: key(
      z
        .string()
        .regex(/^[a-z0-9_]{1,63}$/)
        .optional(),
      {
        description: "The slot of exactly this name.",
        expects: "a slot's name (lower-case letters, digits and _); for a pattern use name_like",
      },
    ),
    name_like: key(
      z
        .string()
        .min(1)
        .max(200)
        .regex(/^(?:[^\\]|\\[\s\S])*$/)
        .optional(),
      {
        description:
          "Slots whose name matches this SQL LIKE pattern: % is any text, _ any one character, a backslash takes the next character as it is.",
        expects: 'an SQL LIKE pattern, such as "app_%", in which no backslash stands last',
      },
    ),
    plugin: key(z.string().min(1).max(63).optional(), {
      description: "Slots with this output plugin, such as pgoutput, wal2json or test_decoding.",
      expects: "the name of an output plugin, such as pgoutput",
    }),
    database: key(z.string().min(1).max(63).optional(), {
      description: "Slots of this database.",
      expects: "the name of a database",
    }),
  })
  .refine((selector) => Object.values(selector).some((value) => value !== undefined))
  .meta({
    description: "A rule: all the conditions that are given must hold. At least one must be given.",
    expects: "at least one of name, name_like, plugin, database",
    minProperties: 1,
  });

const selectors = z.array(selectorSchema).max(1000).default([]);
const SELECTOR_LIST = 'a list of rules such as [{name_like: "app_%", plugin: pgoutput}]';

const standby = z.strictObject({
  dsn: key(z.string().min(1), {
    description:
      "How to reach the standby beside which this sidecar runs: a libpq connection string, key=value or a URI. The database in it is only where the first look is taken. A password is better kept in PGPASSWORD or a password file.",
    expects: 'a libpq connection string such as "host=/var/run/postgresql user=slotsync dbname=postgres"',
  }),
  data_directory: key(z.string().min(1).optional(), {
    description:
      "The standby's data directory, where the sidecar can see it. With it a promotion is noticed within 100 ms, without it within a second; 11 to 15 cannot be given new slots without it.",
    expects: "the path of the standby's data directory",
  }),
  name: key(z.string().min(1).max(100).optional(), {
    description:
      "What to call this standby in logs, metrics and status. Default: the host and port of its dsn.",
    expects: "a short name",
  }),
});

const primary = z.strictObject({
  dsn: key(z.string().min(1).optional(), {
    description:
      "How to reach the primary. With several hosts, the first that is the primary is taken, or what target_session_attrs says. Default: the standby's own primary_conninfo, which follows every failover by itself.",
    expects: 'a libpq connection string such as "host=db1,db2 user=slotsync dbname=postgres"',
  }),
  patroni_url: key(
    z
      .string()
      .regex(/^https?:\/\/[^\s/?#@]+(?:\/[^\s?#]*)?$/)
      .optional(),
    {
      description:
        "The address of a Patroni REST API. Its GET /cluster says at which host and port the primary is; user, database and all else come from primary.dsn, or else from the standby's primary_conninfo.",
      expects: "a URL without a password in it, such as http://127.0.0.1:8008",
    },
  ),
});

const PROVISIONS = ["sql", "file", "auto"] as const;

const CONFLICTS = ["adopt", "recreate", "refuse"] as const;
const UNPROVEN = ["drop", "keep"] as const;

const slots = z.strictObject({
  include: key(selectors, {
    description:
      "Which logical slots of the primary are failover slots, besides those that are flagged: those that one of these rules matches. Temporary slots never are.",
    expects: SELECTOR_LIST,
    form: "selectors",
  }),
  exclude: key(selectors, {
    description: "Slots that are none although flagged, or matched by a rule of slots.include.",
    expects: SELECTOR_LIST,
    form: "selectors",
  }),
  provision: key(z.enum(PROVISIONS).default("auto"), {
    description:
      "How failover slots come to the standby on 16. sql: they are copied from the guard. file: the primary's state file is staged, and takes effect at the standby's next start. auto: sql, and the file for a slot that sql cannot protect, when standby.data_directory is set and restart.mode is not never. 11 to 15 always use the file.",
    expects: `one of ${PROVISIONS.join(", ")}`,
  }),
  on_conflict: key(z.enum(CONFLICTS).default("adopt"), {
    description:
      "What is done with a slot on the standby that has a failover slot's name and that the sidecar did not make, such as those of a former primary that follows again. adopt: one that is proven to be of this node's own past, at or behind the primary's slot, becomes the sidecar's. recreate: such a one, or one that this server has invalidated, is dropped once a guard protects the name, and made anew. refuse: it is left alone. What is not proven is left alone and reported in any case.",
    expects: `one of ${CONFLICTS.join(", ")}`,
  }),
  unproven: key(z.enum(UNPROVEN).default("drop"), {
    description:
      "What a promotion does with a slot of the sidecar's on 11 to 15 (on 16, one that came by its file) whose evidence is incomplete, and that no guard can make. drop: its subscriber gets an error instead of changes that may be incomplete. keep: it stays, and the gap report names it (kept_unproven). Either way it is never called ready.",
    expects: `one of ${UNPROVEN.join(", ")}`,
  }),
  release_after_minutes: key(z.int().min(1).max(525_600).optional(), {
    description:
      "After how many minutes a slot of the standby is dropped that nobody uses and that holds WAL there: the physical slots of a former primary's standbys, and logical slots that the primary does not have. Default: never; status reports them, and slotsync release drops them.",
    expects: "a whole number of minutes from 1 to 525600",
    form: "number",
  }),
});

const nap = z.strictObject({
  min_ms: key(wholeMs(10, 60_000).default(200), {
    description: "The pause between two cycles while things change, in milliseconds.",
    expects: "a whole number of milliseconds from 10 to 60000",
    form: "number",
  }),
  max_ms: key(wholeMs(10, 3_600_000).default(30_000), {
    description:
      "The longest pause between two cycles, in milliseconds. It is reached by doubling while nothing changes.",
    expects: "a whole number of milliseconds from nap.min_ms to 3600000",
    form: "number",
  }),
});

const LOG_LEVELS = ["trace", "debug", "info", "warn", "error", "fatal", "silent"] as const;
const LOG_FORMATS = ["json", "pretty"] as const;

const log = z.strictObject({
  level: key(z.enum(LOG_LEVELS).default("info"), {
    description: "The least severe messages to log.",
    expects: `one of ${LOG_LEVELS.join(", ")}`,
  }),
  format: key(z.enum(LOG_FORMATS).default("json"), {
    description: "json: one object a line, for machines. pretty: for people.",
    expects: `one of ${LOG_FORMATS.join(", ")}`,
  }),
});

/** host:port, [IPv6]:port, or a port alone, which is on loopback. */
export function parseListen(value: string | number): { host: string; port: number } | undefined {
  const match = /^(?:(?:\[([0-9a-fA-F:.]+)\]|([^\s:[\]]+)):)?(\d{1,5})$/.exec(String(value));
  const port = Number(match?.[3] ?? Number.NaN);
  if (!match || !(port <= 65535)) return undefined;
  return { host: match[1] ?? match[2] ?? "127.0.0.1", port };
}

const http = z.strictObject({
  listen: key(
    z
      .union([
        z.int().min(0).max(65535),
        z.string().refine((text) => parseListen(text) !== undefined, { abort: true }),
      ])
      .optional(),
    {
      description:
        "Where to serve health, readiness, status and metrics over HTTP: host:port, or a port alone, which is then on 127.0.0.1. Port 0 takes a free one. Default: nowhere.",
      expects: 'host:port such as "0.0.0.0:9287", "[::]:9287", or a port alone (on 127.0.0.1)',
      form: "listen",
    },
  ),
});

const timeouts = z.strictObject({
  connect_ms: key(wholeMs(100, 600_000).default(5_000), {
    description: "How long it may take until a new connection is usable, in milliseconds.",
    expects: "a whole number of milliseconds from 100 to 600000",
    form: "number",
  }),
  statement_ms: key(wholeMs(100, 3_600_000).default(10_000), {
    description: "The server cancels a statement of ours after this many milliseconds (statement_timeout).",
    expects: "a whole number of milliseconds from 100 to 3600000",
    form: "number",
  }),
  answer_ms: key(wholeMs(100, 3_600_000).default(15_000), {
    description:
      "A connection on which an answer takes longer than this many milliseconds is given up: there may be nobody at the other end. Must be more than timeouts.statement_ms.",
    expects: "a whole number of milliseconds above timeouts.statement_ms, up to 3600000",
    form: "number",
  }),
});

const guards = z.strictObject({
  databases: key(
    z.union([z.literal("auto"), z.array(z.string().min(1).max(63)).min(1).max(1000)]).default("auto"),
    {
      description:
        'The databases that get a guard slot before they have a failover slot, so that a new one is protected at once. "auto": every database that takes connections and is no template, while there are no more than 10 of them. Databases with failover slots always get one.',
      expects: '"auto" or a list of databases',
      form: "databases",
    },
  ),
});

const advance = z.strictObject({
  duty: key(z.number().min(0.001).max(1).default(0.05), {
    description: "The share of one processor core that advancing slots may use on the standby.",
    expects: "a number from 0.001 to 1",
    form: "number",
  }),
});

const finish = z.strictObject({
  connections: key(z.int().min(1).max(32).default(4), {
    description: "How many connections per database bring slots to their position at a promotion.",
    expects: "a whole number from 1 to 32",
    form: "number",
  }),
});

const RESTART_MODES = ["never", "window", "immediate"] as const;

const cronExpression = z.string().refine((text) => validateCron(text), { abort: true });

const restart = z.strictObject({
  mode: key(z.enum(RESTART_MODES).default("never"), {
    description:
      "Who restarts the standby when slots were staged that only its next start takes in. never: the operator; the status says restart_pending. window: the sidecar, at most once per window of restart.schedule. immediate: the sidecar, as soon as all that is pending is staged.",
    expects: `one of ${RESTART_MODES.join(", ")}`,
  }),
  schedule: key(cronExpression.optional(), {
    description:
      "When a window opens in which the standby may be restarted, as a cron expression in local time. Required when restart.mode is window.",
    expects:
      'a cron expression of five or six fields, such as "30 3 * * 0" for half past three in the morning of every Sunday',
  }),
  window_minutes: key(z.int().min(1).max(1440).default(60), {
    description: "How long the window stays open, in minutes.",
    expects: "a whole number of minutes from 1 to 1440",
    form: "number",
  }),
  command: key(
    z
      .array(z.string().regex(/^[^\0]+$/))
      .min(1)
      .max(100)
      .optional(),
    {
      description:
        "What restarts the standby: a program and its arguments, as a list. No shell reads it. It inherits the environment, without PGPASSWORD and our own variables. Required when restart.mode is not never.",
      expects:
        'a list of 1 to 100 texts, the program and its arguments, such as ["pg_ctl", "restart", "-D", "/data"]',
      form: "arguments",
    },
  ),
  timeout_ms: key(wholeMs(1_000, 3_600_000).default(300_000), {
    description: "After this many milliseconds restart.command is ended and counts as failed.",
    expects: "a whole number of milliseconds from 1000 to 3600000",
    form: "number",
  }),
});

const audit = z.strictObject({
  schedule: key(cronExpression.optional(), {
    description:
      "When to log one line that says whether this standby is ready, as a cron expression in local time. At the level error when it is not. Default: never.",
    expects: 'a cron expression of five or six fields, such as "0 6 * * *" for six in the morning',
  }),
});

const SECTIONS = {
  standby,
  primary,
  slots,
  nap,
  log,
  http,
  timeouts,
  guards,
  advance,
  finish,
  restart,
  audit,
};

const TOP_LEVEL = {
  state_directory: key(z.string().min(1).default("/var/lib/pg-slotsync"), {
    description:
      "Where the sidecar keeps its journal. It must outlive a restart, and belongs to this one standby alone.",
    expects: "the path of a directory that the sidecar may write to",
  }),
};

const SECTION_DESCRIPTIONS: Readonly<Record<keyof typeof SECTIONS, string>> = {
  standby: "The standby beside which this sidecar runs.",
  primary: "The primary that the standby follows.",
  slots: "Which slots are failover slots.",
  nap: "The pause between two cycles.",
  log: "What is logged, and how.",
  http: "The HTTP endpoint.",
  timeouts: "How long to wait for a server.",
  guards: "The guard slots.",
  advance: "The cost of keeping slots current.",
  finish: "The work at a promotion.",
  restart: "Restarts of the standby, for slots that only its next start takes in.",
  audit: "The readiness line at set times.",
};

export const configSchema = z.strictObject({
  standby: standby.meta({ description: SECTION_DESCRIPTIONS.standby }),
  primary: primary.prefault({}).meta({ description: SECTION_DESCRIPTIONS.primary }),
  slots: slots.prefault({}).meta({ description: SECTION_DESCRIPTIONS.slots }),
  ...TOP_LEVEL,
  nap: nap.prefault({}).meta({ description: SECTION_DESCRIPTIONS.nap }),
  log: log.prefault({}).meta({ description: SECTION_DESCRIPTIONS.log }),
  http: http.prefault({}).meta({ description: SECTION_DESCRIPTIONS.http }),
  timeouts: timeouts.prefault({}).meta({ description: SECTION_DESCRIPTIONS.timeouts }),
  guards: guards.prefault({}).meta({ description: SECTION_DESCRIPTIONS.guards }),
  advance: advance.prefault({}).meta({ description: SECTION_DESCRIPTIONS.advance }),
  finish: finish.prefault({}).meta({ description: SECTION_DESCRIPTIONS.finish }),
  restart: restart.prefault({}).meta({ description: SECTION_DESCRIPTIONS.restart }),
  audit: audit.prefault({}).meta({ description: SECTION_DESCRIPTIONS.audit }),
});

export interface ConfigKey {
  /** `nap.min_ms` */
  readonly path: string;
  /** `SLOTSYNC_NAP_MIN_MS` */
  readonly env: string;
  readonly description: string;
  readonly expects: string;
  readonly form: TextForm;
  readonly required: boolean;
  readonly default: unknown;
}

function configKey(path: string, schema: z.ZodType): ConfigKey {
  const words = schema.meta() as unknown as KeyWords;
  const unsaid = schema.safeParse(undefined);
  return {
    path,
    env: `SLOTSYNC_${path.toUpperCase().replaceAll(".", "_")}`,
    description: words.description,
    expects: words.expects,
    form: words.form ?? "text",
    required: !unsaid.success,
    default: unsaid.success ? unsaid.data : undefined,
  };
}

/** Every key that takes a value, in the order of the documentation. */
export const CONFIG_KEYS: readonly ConfigKey[] = [
  ...Object.entries(SECTIONS).flatMap(([section, object]) =>
    Object.entries(object.shape).map(([name, schema]) =>
      configKey(`${section}.${name}`, schema as z.ZodType),
    ),
  ),
  ...Object.entries(TOP_LEVEL).map(([name, schema]) => configKey(name, schema)),
];

export const SECTION_NAMES: readonly string[] = Object.keys(SECTIONS);

export const SELECTOR_KEYS: readonly string[] = Object.keys(selectorSchema.shape);

/** What to put under a selector's key, completing "give …". */
export function selectorExpects(name: string | undefined): string {
  const field = Object.entries(selectorSchema.shape).find(([key]) => key === name)?.[1];
  return ((field ?? selectorSchema).meta() as unknown as KeyWords).expects;
}

/** The JSON Schema of the configuration file, for editors. */
export function configSchemaJson(): Record<string, unknown> {
  const schema = z.toJSONSchema(configSchema, {
    io: "input", // what may be written: keys that have a default are not required
    override: ({ jsonSchema }) => {
      delete jsonSchema.expects;
      delete jsonSchema.form;
    },
  });
  return { ...schema, title: "pg-slotsync configuration" };
}
