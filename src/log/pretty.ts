const OWN_KEYS = ["level", "time", "msg", "standby", "cycle", "gapReport"];

/** A line of the JSON log as people read it: `12:34:56.789 info  cycle 3: 2 synced`. */
export function prettyLine(json: string): string {
  let record: Record<string, unknown>;
  try {
    record = JSON.parse(json) as Record<string, unknown>;
  } catch {
    return json;
  }
  const time = String(record.time ?? "").slice(11, 23);
  const level = String(record.level ?? "").padEnd(5);
  const more = Object.entries(record)
    .filter(([key]) => !OWN_KEYS.includes(key))
    .map(([key, value]) => `${key}=${JSON.stringify(value)}`);
  const message = oneLine(String(record.msg ?? ""));
  return `${[time, level, message, ...more].join(" ").trimEnd()}\n`;
}

/** Messages quote other machines: no line breaks, no control characters. */
function oneLine(text: string): string {
  return text.replaceAll(/\s*\n\s*/g, " ").replaceAll(/[\p{Cc}\p{Cf}]/gu, "?");
}
