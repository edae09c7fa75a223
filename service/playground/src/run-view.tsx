/** What a run returned, or has returned so far. */

import { useState } from "preact/hooks";
import { Bars } from "./bars";
import { CritiqueCard } from "./critique-card";
import { Curve, type Mark } from "./curve";
import { label } from "./draft";
import { formatDuration, formatScore, plural } from "./format";
import { FailureNotice } from "./notices";
import { type Rank, tieMargin } from "./ranking";
import { rankRun, type Run } from "./run";
import type { ModelInfo } from "./shapes";
import type { Theme } from "./theme";

interface Props {
  run: Run;
  model: ModelInfo | null;
  theme: Theme;
}

export function RunView({ run, model, theme }: Props) {
  const ranks = rankRun(run);
  const [mark, setMark] = useState<(Mark & { run: number }) | null>(null);
  const written = run.responses.some((response) => response.critiques.length > 0);
  return (
    <section aria-labelledby="scores-title">
      <div class="section-head">
        <h2 id="scores-title">Scores</h2>
        {run.state === "finished" && <span class="hint">Scored in {formatDuration(run.seconds)}</span>}
      </div>
      {run.failure && <FailureNotice failure={run.failure} />}
      <div>
        <p class="verdict" role="status">
          {describeState(run, ranks)}
        </p>
        {run.state === "finished" && ranks.length > 1 && <p class="hint">{describeCertainty(run, ranks)}</p>}
      </div>
      <div class={written ? "overview" : ""}>
        <Bars run={run} ranks={ranks} model={model} />
        {written && <Curve run={run} mark={mark?.run === run.id ? mark : null} theme={theme} />}
      </div>
      <div class="columns">
        {run.responses.map((response, index) => (
          <CritiqueCard
            key={`${run.id}-${index}`}
            index={index}
            response={response}
            run={run}
            rank={ranks.find((one) => one.index === index)}
            onToken={(critique, token) => setMark({ run: run.id, index, critique, token })}
          />
        ))}
      </div>
    </section>
  );
}

function describeState(run: Run, ranks: Rank[]): string {
  const done = run.responses.filter((response) => response.result).length;
  if (run.state === "running") {
    const wait = run.live ? "" : " More than 64 critiques are shown when they are finished.";
    return `Scoring: ${done} of ${plural(run.responses.length, "response")} finished.${wait}`;
  }
  if (run.state === "cancelled") return `Cancelled after ${done} of ${plural(run.responses.length, "response")}.`;
  return describeWinner(ranks);
}

function describeWinner(ranks: Rank[]): string {
  const [first, second] = ranks;
  if (!first) return "Nothing was scored.";
  if (!second) return `Response ${label(first.index)} scores ${formatScore(first.score)}.`;
  const tied = ranks.filter((rank) => rank.tied).map((rank) => label(rank.index));
  const best = `${label(first.index)} has the highest score, ${formatScore(first.score)}`;
  if (tied.length > 0) return `No clear winner: ${best}, tied with ${tied.join(", ")}.`;
  return `${label(first.index)} wins with ${formatScore(first.score)}, ahead of ${label(second.index)} with ${formatScore(second.score)}.`;
}

function describeCertainty(run: Run, ranks: Rank[]): string {
  const [first, second] = ranks;
  if (!first || !second) return "";
  const margin = tieMargin(first, second);
  if (margin > 0) {
    return (
      `The sampling error of the difference between ${label(first.index)} and ${label(second.index)} is ` +
      `${formatScore(margin)} (two standard errors). Smaller differences are ties.`
    );
  }
  if (!run.draft.critique) return "Direct scores have no sampling error. In bfloat16, differences below 0.13 can be numeric.";
  return (
    "One critique each: its sampling error is not known; set Samples to 2 or more to measure it. " +
    "In bfloat16, differences below 0.13 can be numeric."
  );
}
