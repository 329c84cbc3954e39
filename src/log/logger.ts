/** The log: one JSON object a line for machines, or lines for people. */
import pino, { type DestinationStream, type Logger } from "pino";
import type { Config } from "../config/load.ts";
import { prettyLine } from "./pretty.ts";

export interface LogOptions {
  level: Config["log"]["level"];
  format: Config["log"]["format"];
  /** 1 for stdout, 2 for stderr. */
  fd: 1 | 2;
  /** What this standby is called. */
  standby: string;
}

/** Written at once, line by line: nothing is lost when the process ends. */
export function createLogger({ level, format, fd, standby }: LogOptions): Logger {
  const destination = pino.destination({ fd, sync: true });
  const stream: DestinationStream =
    format === "json" ? destination : { write: (line) => void destination.write(prettyLine(line)) };
  return pino(
    {
      level,
      base: { standby },
      timestamp: pino.stdTimeFunctions.isoTime,
      formatters: { level: (label) => ({ level: label }) },
    },
    stream,
  );
}
