// "did you mean", for configuration keys, environment variables and the command line.

/** Edits that turn one word into another: insert, delete, replace, swap two neighbours. */
function distance(a: string, b: string): number {
  let beforeLast: number[] = [];
  let last = Array.from({ length: b.length + 1 }, (_, index) => index);
  for (let i = 1; i <= a.length; i++) {
    const row = [i];
    for (let j = 1; j <= b.length; j++) {
      const same = a[i - 1] === b[j - 1];
      let cost = Math.min((last[j] ?? 0) + 1, (row[j - 1] ?? 0) + 1, (last[j - 1] ?? 0) + (same ? 0 : 1));
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1]) {
        cost = Math.min(cost, (beforeLast[j - 2] ?? 0) + 1);
      }
      row.push(cost);
    }
    beforeLast = last;
    last = row;
  }
  return last[b.length] ?? 0;
}

/** dataDirectory, data-directory and data_directory are the same word. */
const folded = (word: string): string => word.toLowerCase().replace(/[-_.\s]/g, "");

const LONGEST_WORD = 100;

/** The candidate that was most likely meant, if one is near. */
export function suggest(word: string, candidates: Iterable<string>): string | undefined {
  if (word.length > LONGEST_WORD) return undefined;
  const wanted = folded(word);
  let best: string | undefined;
  let bestDistance = Number.POSITIVE_INFINITY;
  for (const candidate of candidates) {
    const target = folded(candidate);
    const edits = distance(wanted, target);
    // a third of the letters may be wrong; of a short word, one
    const allowed = Math.max(1, Math.floor(Math.max(wanted.length, target.length) / 3));
    if (edits <= allowed && edits < Math.min(bestDistance, target.length)) {
      best = candidate;
      bestDistance = edits;
    }
  }
  return best;
}

/** So many wrong letters are a slip of the hand. */
const SLIPS = 2;

/** The candidate that differs from the word by a slip of the hand at most, in a third of its letters at most. */
export function misspelt(word: string, candidates: Iterable<string>): string | undefined {
  const meant = suggest(word, candidates);
  if (meant === undefined) return undefined;
  const letters = folded(meant);
  return distance(folded(word), letters) <= Math.min(SLIPS, letters.length / 3) ? meant : undefined;
}
