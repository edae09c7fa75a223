/** The rewards after each sampled critique as points on the run's axis, with their mean and deviation. */

import { label } from "./draft";
import { formatScore } from "./format";
import { describeSamples } from "./ranking";
import type { LiveResponse } from "./run";
import { extent, position, type Scale, ticks } from "./scale";

interface Props {
  index: number;
  response: LiveResponse;
  scale: Scale;
}

export function Strip({ index, response, scale }: Props) {
  const scores = response.critiques.map((critique) => critique.score).filter((score) => score !== null);
  if (scores.length < 2) return null;
  const { mean, std } = describeSamples(scores);
  const text = `${scores.length} critiques: mean ${formatScore(mean)}, standard deviation ${formatScore(std)}`;
  return (
    <figure class="strip">
      <div
        class="track"
        data-index={index}
        role="img"
        aria-label={`Rewards of response ${label(index)} after each critique: ${scores.map(formatScore).join(", ")}`}
      >
        {ticks(scale).map((tick) => (
          <span key={tick} class={tick === 0 ? "zero" : "grid"} style={{ left: position(scale, tick) }} />
        ))}
        {std !== null && <span class="band" style={extent(scale, mean - std, mean + std)} />}
        <span class="mean" style={{ left: position(scale, mean) }} />
        {scores.map((score, k) => (
          <span key={k} class="dot" style={{ left: position(scale, score) }} />
        ))}
      </div>
      <figcaption class="hint">{text}</figcaption>
    </figure>
  );
}
