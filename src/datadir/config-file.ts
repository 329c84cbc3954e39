/** The language of postgresql.conf, as guc-file.l reads it. Pure. */

/** One line that sets something, or that PostgreSQL would not accept. */
export type ConfigLine =
  | { kind: "setting"; line: number; name: string; value: string }
  | { kind: "include" | "include_if_exists" | "include_dir"; line: number; target: string }
  | { kind: "error"; line: number };

const LETTER = "A-Za-z_\\u0080-\\uffff";
const ID = `[${LETTER}][${LETTER}0-9]*`;
const NAME = new RegExp(`${ID}(?:\\.${ID})?`, "y");
const BLANK = /[ \t\r]*/y;
const EQUALS = /=/y;
const QUOTED = /'((?:[^'\\\n]|\\[^\n]|'')*)'/y;
const BARE = new RegExp(
  [
    `[${LETTER}](?:[${LETTER}0-9]|[-._:/])*`, // unquoted string
    "[-+]?[0-9]*\\.[0-9]*(?:[Ee][-+]?[0-9]+)?[a-zA-Z]*", // real
    "[-+]?(?:0x[0-9a-fA-F]+|[0-9]+)[a-zA-Z]*", // integer with its unit
  ].join("|"),
  "y",
);
const END = /(?:#[^\n]*)?$/y;

/** All that a file says, in order. Names are lower-cased; values are without their quotes. */
export function parseConfigFile(text: string): ConfigLine[] {
  const found: ConfigLine[] = [];
  for (const [index, line] of text.split("\n").entries()) {
    const parsed = parseLine(line, index + 1);
    if (parsed) found.push(parsed);
  }
  return found;
}

function parseLine(text: string, line: number): ConfigLine | null {
  let at = 0;
  const take = (pattern: RegExp): string | null => {
    pattern.lastIndex = at;
    const match = pattern.exec(text);
    if (!match) return null;
    at += match[0].length;
    return match[1] ?? match[0];
  };
  take(BLANK);
  if (take(END) !== null) return null;
  const name = take(NAME)?.toLowerCase();
  if (name === undefined) return { kind: "error", line };
  take(BLANK);
  if (take(EQUALS) !== null) take(BLANK);
  const quoted = take(QUOTED);
  const value = quoted === null ? longestBare(text, at) : unquoted(quoted);
  if (value === null) return { kind: "error", line };
  if (quoted === null) at += value.length;
  take(BLANK);
  if (take(END) === null) return { kind: "error", line };
  if (name === "include" || name === "include_if_exists" || name === "include_dir") {
    return { kind: name, line, target: value };
  }
  return { kind: "setting", line, name, value };
}

function longestBare(text: string, at: number): string | null {
  BARE.lastIndex = at;
  const match = BARE.exec(text)?.[0];
  return match === undefined || match === "" ? null : match;
}

const ESCAPES: Readonly<Record<string, string>> = { b: "\b", f: "\f", n: "\n", r: "\r", t: "\t" };

function unquoted(quoted: string): string {
  return quoted.replaceAll(/''|\\(?:[0-7]{1,3}|[^\n])/gu, (sequence) => {
    if (sequence === "''") return "'";
    const what = sequence.slice(1);
    if (/^[0-7]/.test(what)) return String.fromCharCode(Number.parseInt(what, 8) & 0xff);
    return ESCAPES[what] ?? what;
  });
}

/** What a postmaster.opts says the server was started with. */
export interface StartOptions {
  /** The postgres executable. */
  executable: string;
  /** `-D` */
  dataDirectory: string | null;
  /** `-c name=value`, `--name=value`, and the letters that stand for settings; names are lower-cased, the last one wins. */
  settings: ReadonlyMap<string, string>;
}

const LETTERS_WITH_VALUE = "BcCDdfhkNoprStvW-";
const SETTING_LETTERS: Readonly<Record<string, string>> = {
  B: "shared_buffers",
  h: "listen_addresses",
  k: "unix_socket_directories",
  N: "max_connections",
  p: "port",
  S: "work_mem",
};

/** Reads a postmaster.opts: the executable, then each argument in double quotes that nothing escapes. null: it holds nothing. */
export function parseStartOptions(text: string): StartOptions | null {
  const line = text.replace(/\r?\n[\s\S]*$/, "");
  if (line === "") return null;
  const first = line.indexOf(' "');
  const executable = first === -1 ? line : line.slice(0, first);
  const rest = first === -1 || !line.endsWith('"') ? "" : line.slice(first + 2, -1);
  const given = rest === "" ? [] : rest.split('" "');
  const settings = new Map<string, string>();
  let dataDirectory: string | null = null;
  for (let index = 0; index < given.length; index += 1) {
    const argument = given[index] ?? "";
    if (!argument.startsWith("-") || argument === "--") break;
    // as getopt does: flags may stand together, and the value of a letter follows it at once or as the next argument
    for (let at = 1; at < argument.length; at += 1) {
      const letter = argument.charAt(at);
      if (!LETTERS_WITH_VALUE.includes(letter)) continue;
      let value = argument.slice(at + 1);
      if (value === "") {
        index += 1;
        value = given[index] ?? "";
      }
      if (letter === "D") dataDirectory = value;
      else if (letter === "c" || letter === "-") setLong(settings, value);
      else if (SETTING_LETTERS[letter]) settings.set(SETTING_LETTERS[letter], value);
      break;
    }
  }
  return { executable, dataDirectory, settings };
}

function setLong(settings: Map<string, string>, text: string): void {
  const equals = text.indexOf("=");
  if (equals > 0)
    settings.set(text.slice(0, equals).replaceAll("-", "_").toLowerCase(), text.slice(equals + 1));
}

const ON = /^(?:on|t|tr|tru|true|y|ye|yes|1)$/i;

/** A boolean setting as PostgreSQL reads it: true only for one of its spellings of "on". */
export function isOn(value: string | undefined): boolean {
  return value !== undefined && ON.test(value.trim());
}

/** An integer setting without a unit: decimal, hexadecimal or octal as PostgreSQL reads it; null for anything else. */
export function parseInteger(value: string): number | null {
  const text = value.trim();
  if (/^[-+]?0[xX][0-9a-fA-F]+$/.test(text)) {
    const digits = Number(text.replace(/^[-+]/, ""));
    return text.startsWith("-") ? -digits : digits;
  }
  if (/^[-+]?0[0-7]+$/.test(text)) return Number.parseInt(text, 8);
  if (/^[-+]?[0-9]+$/.test(text) && !/^[-+]?0[0-9]/.test(text)) return Number(text);
  return null;
}
