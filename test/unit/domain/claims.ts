/** What the models of the property tests claim, and how they count what a run has been through. */

/** A claim that does not hold: never taken for an error of the modelled servers. */
export class Broken extends Error {}

export function must(holds: boolean, claim: string, detail: () => unknown): asserts holds {
  if (holds) return;
  const text = JSON.stringify(detail(), (_key, value) => {
    if (typeof value === "bigint") return `${Number(value) / 1024 / 1024}M`;
    if (value instanceof Set) return [...value];
    return value instanceof Map ? [...value.values()] : value;
  });
  throw new Broken(`${claim}: ${text}`);
}

/** What the run has been through, so that a test can tell that it was worth running. */
export const tally = new Map<string, number>();

export function count(what: string): void {
  tally.set(what, (tally.get(what) ?? 0) + 1);
}
