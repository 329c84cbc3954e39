/** The demo's output: lines that stay, and on a terminal a block below them that is drawn again in place. */
import { stripVTControlCharacters } from "node:util";
import { type Paint, paintFor } from "../cli/terminal.ts";

export class Screen {
  /** Whether a block can be drawn again in place. */
  readonly live: boolean;
  readonly paint: Paint;
  readonly #out: NodeJS.WriteStream;
  #block: string[] = [];

  constructor(out: NodeJS.WriteStream, env: Readonly<Record<string, string | undefined>>) {
    this.#out = out;
    this.live = out.isTTY === true && env.TERM !== "dumb";
    this.paint = paintFor(out, env);
  }

  /** Prints lines that stay, above the block. */
  say(...lines: string[]): void {
    this.#write(lines, this.#block);
  }

  /** A line of the story. */
  step(text: string): void {
    this.say(`  ${this.paint("dim", "·")} ${text}`);
  }

  /** Draws the block in the place of the last one; nothing where that cannot be done. */
  show(lines: string[]): void {
    if (!this.live) return;
    // a line that wraps would be two to erase
    this.#write(
      [],
      lines.map((line) => this.#fit(line)),
    );
  }

  /** Leaves the block as it stands, and goes on below it. */
  settle(): void {
    this.#block = [];
  }

  #fit(line: string): string {
    const width = (this.#out.columns || 80) - 1;
    const text = stripVTControlCharacters(line);
    return text.length <= width ? line : text.slice(0, width);
  }

  /** In one write, so that nothing flickers. */
  #write(lines: readonly string[], block: string[]): void {
    if (lines.length === 0 && block.join("\n") === this.#block.join("\n")) return;
    const erase = this.#block.length > 0 ? `\x1b[${this.#block.length}A\x1b[0J` : "";
    this.#out.write(erase + [...lines, ...block].map((line) => `${line}\n`).join(""));
    this.#block = block;
  }
}

/** A name and a text each, the texts below one another. */
export function facts(pairs: readonly (readonly [string, string])[]): string[] {
  const width = Math.max(...pairs.map(([name]) => name.length));
  return pairs.map(([name, text]) => `${name.padEnd(width)}  ${text}`);
}

/** Sets lines off from the margin. */
export function indent(lines: readonly string[]): string[] {
  return lines.map((line) => (line === "" ? "" : `  ${line}`));
}

/** `12,345` */
export function number(count: number): string {
  return count.toLocaleString("en-US");
}

/** `1 row`, `2 rows` */
export function rows(count: number): string {
  return `${number(count)} ${count === 1 ? "row" : "rows"}`;
}
