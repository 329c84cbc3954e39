/** The options that every command takes, and the configuration that comes of them. */
import type { Command } from "commander";
import { InvalidArgumentError } from "commander";
import { type Config, type LoadedConfig, loadConfig } from "../config/load.ts";
import { describeConnInfo } from "../pg/conninfo.ts";
import type { Output } from "./output.ts";

interface Settings {
  config?: string;
  stateDirectory?: string;
  logLevel?: string;
  set?: Record<string, string>;
}

export function addSettings(program: Command): Command {
  return program
    .option("-c, --config <file>", "the configuration file (YAML); default: $SLOTSYNC_CONFIG, else none")
    .option("--state-directory <path>", "overrides state_directory")
    .option("--log-level <level>", "overrides log.level")
    .option("--set <key=value>", "overrides any key of the configuration; may be repeated", collect);
}

function collect(text: string, former: Record<string, string> | undefined): Record<string, string> {
  const equals = text.indexOf("=");
  if (equals < 1) throw new InvalidArgumentError("Write it as key=value, such as nap.max_ms=5000.");
  return { ...former, [text.slice(0, equals).trim()]: text.slice(equals + 1) };
}

/** Reads file, environment and flags. Throws ConfigError. */
export function settingsOf(command: Command): LoadedConfig {
  const { config: file, stateDirectory, logLevel, set } = command.optsWithGlobals<Settings>();
  return loadConfig({
    file,
    env: process.env,
    flags: { ...set, state_directory: stateDirectory, "log.level": logLevel },
  });
}

/** The same for a command of one shot, which tells the warnings on stderr. */
export function configOf(command: Command, output: Output): Config {
  const { config, warnings } = settingsOf(command);
  for (const warning of warnings) output.tell(`warning: ${warning}`);
  return config;
}

/** What this standby is called in logs, metrics and status. */
export function standbyName(config: Config): string {
  const { name, conn } = config.standby;
  return name ?? `${conn.host}:${conn.port}`;
}

/** `host:port/database as user`; never a password. */
export function standbyTarget(config: Config): string {
  return describeConnInfo(config.standby.conn);
}

/** Seconds of a command-line option. */
export function parseSeconds(text: string): number {
  const seconds = Number(text);
  if (text.trim() === "" || !Number.isFinite(seconds) || seconds <= 0 || seconds > 86_400)
    throw new InvalidArgumentError("Give a number of seconds above 0, up to 86400.");
  return seconds;
}
