/** One axis for all scores of a run: bars and strips are compared by eye. */

import { currentScore, directScore, type Run } from "./run";

export interface Scale {
  min: number;
  max: number;
}

/** Always holds 0 and at least -1 to 1, so that noise does not look large. */
export function runScale(run: Run): Scale {
  const values = [-1, 1];
  for (const response of run.responses) {
    for (const value of [currentScore(response), directScore(response)]) if (value !== null) values.push(value);
    for (const critique of response.critiques) if (critique.score !== null) values.push(critique.score);
    const { score, score_std: std } = response.result ?? { score: null, score_std: null };
    if (score !== null && std !== null) values.push(score - std, score + std);
  }
  return { min: Math.floor(Math.min(...values)), max: Math.ceil(Math.max(...values)) };
}

/** Where a value lies on the axis, as CSS has it. */
export function position(scale: Scale, value: number): string {
  return `${(100 * (value - scale.min)) / (scale.max - scale.min)}%`;
}

export function extent(scale: Scale, from: number, to: number): { left: string; width: string } {
  const [low, high] = from < to ? [from, to] : [to, from];
  return { left: position(scale, low), width: `${(100 * (high - low)) / (scale.max - scale.min)}%` };
}

/** Whole numbers to label, some five of them; 0 is one. */
export function ticks(scale: Scale): number[] {
  const step = Math.max(1, Math.ceil((scale.max - scale.min) / 4));
  const marks: number[] = [];
  for (let tick = Math.ceil(scale.min / step) * step; tick <= scale.max; tick += step) marks.push(tick);
  return marks;
}
