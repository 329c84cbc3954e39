/** Percentiles, and numbers as people read them. */

export interface Spread {
  count: number;
  p50: number;
  p99: number;
  max: number;
}

/** Nearest-rank percentiles; null of nothing. */
export function spreadOf(values: Iterable<number>): Spread | null {
  const sorted = Float64Array.from(values).sort();
  if (sorted.length === 0) return null;
  const at = (share: number) => sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)] ?? 0;
  return { count: sorted.length, p50: at(0.5), p99: at(0.99), max: at(1) };
}

export function showMs(ms: number): string {
  if (ms >= 10_000) return `${(ms / 1000).toFixed(1)} s`;
  return ms >= 10 ? `${Math.round(ms)} ms` : `${ms.toFixed(1)} ms`;
}

export function showSpread(spread: Spread | null): string {
  return spread ? [spread.p50, spread.p99, spread.max].map(showMs).join(" / ") : "–";
}

export function showCores(cores: number): string {
  return cores.toFixed(cores < 0.01 ? 4 : 3);
}

export function showBytes(bytes: number): string {
  return bytes >= 1024 * 1024 ? `${(bytes / 1024 / 1024).toFixed(1)} MB` : `${Math.round(bytes / 1024)} kB`;
}
