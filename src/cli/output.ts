/** Where a command writes. Output goes to stdout, messages to stderr. */
import { type Paint, paintFor } from "./terminal.ts";

export interface Output {
  readonly paint: Paint;
  /** Whether stdout is a terminal. */
  readonly terminal: boolean;
  print(text: string): void;
  /** One line of JSON. */
  json(value: unknown): void;
  /** A message beside the output, prefixed with the command's name. */
  tell(message: string): void;
}

export function standardOutput(): Output {
  const { stdout, stderr } = process;
  return {
    paint: paintFor(stdout, process.env),
    terminal: stdout.isTTY === true,
    print: (text) => void stdout.write(text),
    json: (value) => void stdout.write(`${JSON.stringify(value)}\n`),
    tell: (message) => void stderr.write(`slotsync: ${message}\n`),
  };
}
