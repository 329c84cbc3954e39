/** What a terminal is given: colours where they are wanted, tables, and nothing that could steer it (I13). */

const CODES = { bold: [1, 22], dim: [2, 22], red: [31, 39], green: [32, 39], yellow: [33, 39] } as const;

export type Style = keyof typeof CODES;

/** Colours a text, or leaves it as it is. */
export type Paint = (style: Style, text: string) => string;

/** Without colours. */
export const plain: Paint = (_style, text) => text;

/** With colours. */
export const coloured: Paint = (style, text) => {
  const [on, off] = CODES[style];
  return `\u001b[${on}m${text}\u001b[${off}m`;
};

/** Colours on a terminal only, and not where NO_COLOR is set (https://no-color.org). */
export function paintFor(
  stream: { isTTY?: boolean },
  env: Readonly<Record<string, string | undefined>>,
): Paint {
  const wanted = stream.isTTY === true && !env.NO_COLOR && env.TERM !== "dumb";
  return wanted ? coloured : plain;
}

/** Names and messages come from other machines: what is not to be printed is shown as an escape, on one line. */
export function printable(text: string): string {
  return text.replaceAll(
    /[\p{Cc}\p{Cf}\p{Zl}\p{Zp}]/gu,
    (char) => `\\u{${(char.codePointAt(0) ?? 0).toString(16)}}`,
  );
}

export interface Cell {
  text: string;
  style?: Style;
}

export interface Column {
  title: string;
  align?: "left" | "right";
}

/** A table with two spaces between the columns; every line ends in a newline. */
export function table(columns: readonly Column[], rows: readonly (readonly Cell[])[], paint: Paint): string {
  const clean = rows.map((row) => row.map((cell) => ({ ...cell, text: printable(cell.text) })));
  const widths = columns.map(({ title }, at) =>
    Math.max(title.length, ...clean.map((row) => row[at]?.text.length ?? 0)),
  );
  const line = (cells: readonly Cell[]) =>
    cells
      .map(({ text, style }, at) => {
        const padding = " ".repeat(Math.max(0, (widths[at] ?? 0) - text.length));
        const shown = style ? paint(style, text) : text;
        if (columns[at]?.align === "right") return padding + shown;
        return at === cells.length - 1 ? shown : shown + padding;
      })
      .join("  ");
  const head = columns.map(({ title }): Cell => ({ text: title, style: "dim" }));
  return [head, ...clean].map((cells) => `${line(cells).trimEnd()}\n`).join("");
}

/** `0 B`, `1.5 MiB`. */
export function formatBytes(bytes: number): string {
  const units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
  let value = Math.abs(bytes);
  let unit = 0;
  for (; value >= 1024 && unit < units.length - 1; unit += 1) value /= 1024;
  const digits = unit === 0 || value >= 100 ? 0 : 1;
  return `${bytes < 0 ? "-" : ""}${value.toFixed(digits)} ${units[unit]}`;
}

/** `12 s`, `3 min`, `5 h`, `2 d`. */
export function formatAge(ms: number): string {
  const seconds = Math.max(0, Math.floor(ms / 1_000));
  if (seconds < 120) return `${seconds} s`;
  if (seconds < 7_200) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 172_800) return `${Math.floor(seconds / 3_600)} h`;
  return `${Math.floor(seconds / 86_400)} d`;
}
