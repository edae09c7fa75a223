/** Which response is best, and which can't be separated. */

export interface Scored {
  index: number;
  score: number;
  /** Standard error of the mean over the critiques; null with fewer than two. */
  error: number | null;
}

/** Best first. `tied`: it can't be separated from the first within the sampling error. */
export interface Rank extends Scored {
  rank: number;
  tied: boolean;
}

/** Two standard errors of the difference; 0 where there is one greedy critique each. */
export function tieMargin(a: Scored, b: Scored): number {
  if (a.error === null || b.error === null) return 0;
  return 2 * Math.sqrt(a.error ** 2 + b.error ** 2);
}

export function areTied(a: Scored, b: Scored): boolean {
  const difference = Math.abs(a.score - b.score);
  return difference === 0 || difference < tieMargin(a, b);
}

/** Ranks as in sports: responses that are tied with the best one that is not ranked yet share its rank. */
export function rankResponses(scored: Scored[]): Rank[] {
  const sorted = [...scored].sort((a, b) => b.score - a.score || a.index - b.index);
  const first = sorted[0];
  let leader = first;
  let rank = 1;
  return sorted.map((one, place) => {
    if (leader && !areTied(leader, one)) {
      leader = one;
      rank = place + 1;
    }
    return { ...one, rank, tied: first !== undefined && one !== first && areTied(first, one) };
  });
}

/** Mean and sample deviation; the deviation is null for one value. */
export function describeSamples(values: number[]): { mean: number; std: number | null } {
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  if (values.length < 2) return { mean, std: null };
  const squares = values.reduce((sum, value) => sum + (value - mean) ** 2, 0);
  return { mean, std: Math.sqrt(squares / (values.length - 1)) };
}
