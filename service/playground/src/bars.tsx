/** Direct score and score of each response as bars on one axis, with the numbers beside. */

import { label } from "./draft";
import { formatScore } from "./format";
import type { Rank } from "./ranking";
import { Letter } from "./responses";
import { currentScore, directScore, type LiveResponse, type Run } from "./run";
import { extent, position, runScale, type Scale, ticks } from "./scale";
import type { ModelInfo } from "./shapes";

interface Props {
  run: Run;
  ranks: Rank[];
  model: ModelInfo | null;
}

const DIRECT = "The reward before any critique.";
export const SCORE = "The mean of the rewards after the critiques; without critiques, the direct score.";

export function Bars({ run, ranks, model }: Props) {
  const scale = runScale(run);
  const calibration = model?.manifest.calibration ?? null;
  const spread = run.responses.some((response) => response.result?.score_std != null);
  return (
    <div class="panel bars" role="region" aria-label="Scores as bars" tabIndex={0}>
      <h3>Reward before and after the critique</h3>
      <table class="scores" style={{ "--numbers": 2 + Number(spread) + Number(calibration !== null) }}>
        <caption class="hidden-label">Scores of each response</caption>
        <thead>
          <tr>
            <th scope="col">
              <span class="hidden-label">Response</span>
            </th>
            <th scope="col" class="axis-cell">
              <span class="hidden-label">Bars</span>
              <Axis scale={scale} />
            </th>
            <th scope="col" title={DIRECT}>
              Direct
            </th>
            <th scope="col" title={SCORE}>
              Score
            </th>
            {spread && (
              <th scope="col" title="The standard deviation of the rewards over the critiques.">
                ±
              </th>
            )}
            {calibration && (
              <th
                scope="col"
                title={`The score in standard deviations from the mean of the model's reference set (${calibration.n} responses).`}
              >
                Standardised
              </th>
            )}
            <th scope="col">Rank</th>
          </tr>
        </thead>
        <tbody>
          {run.responses.map((response, index) => {
            const rank = ranks.find((one) => one.index === index);
            const current = currentScore(response);
            // Without critiques the score is the direct score, and so is its calibration.
            const moments = calibration && (run.draft.critique ? calibration.score : calibration.direct_score);
            return (
              <tr key={index}>
                <th scope="row">
                  <span class="hidden-label">Response </span>
                  <Letter index={index} />
                </th>
                <td class="axis-cell">
                  <Track response={response} index={index} scale={scale} />
                </td>
                <td class="figure muted">{formatScore(directScore(response))}</td>
                <td class="figure strong" data-testid={`score-${label(index)}`}>
                  {response.result?.error ? "error" : formatScore(current)}
                </td>
                {spread && <td class="figure muted">{formatScore(response.result?.score_std)}</td>}
                {moments && (
                  <td class="figure">{current === null ? "–" : formatScore((current - moments.mean) / moments.std)}</td>
                )}
                <td class="figure">{rank && run.state !== "running" ? rankText(rank) : "–"}</td>
              </tr>
            );
          })}
        </tbody>
      </table>
      <ul class="hint key-lines">
        <li>
          <span class="swatch direct" /> Direct: the reward before any critique
        </li>
        <li>
          <span class="swatch after" /> Score: the mean of the rewards after the critiques
        </li>
        {spread && (
          <li>
            <span class="swatch deviation" /> ±: the standard deviation over the critiques
          </li>
        )}
        {calibration && <li>Standardised: standard deviations from the mean of the reference set</li>}
      </ul>
      <NamedRewards run={run} />
    </div>
  );
}

function rankText(rank: Rank): string {
  return rank.tied ? `${rank.rank} (tied)` : String(rank.rank);
}

function Axis({ scale }: { scale: Scale }) {
  return (
    <div class="axis" aria-hidden="true">
      {ticks(scale).map((tick) => (
        <span key={tick} style={{ left: position(scale, tick) }}>
          {String(tick).replace("-", "\u2212")}
        </span>
      ))}
    </div>
  );
}

function Track({ response, index, scale }: { response: LiveResponse; index: number; scale: Scale }) {
  const direct = directScore(response);
  const score = currentScore(response);
  const std = response.result?.score_std ?? null;
  return (
    <div class="track" data-index={index} aria-hidden="true">
      {ticks(scale).map((tick) => (
        <span key={tick} class={tick === 0 ? "zero" : "grid"} style={{ left: position(scale, tick) }} />
      ))}
      {direct !== null && <span class="bar direct" style={extent(scale, 0, direct)} />}
      {score !== null && <span class="bar after" style={extent(scale, 0, score)} />}
      {score !== null && std !== null && <span class="whisker" style={extent(scale, score - std, score + std)} />}
    </div>
  );
}

/** Of a model with several rewards. */
function NamedRewards({ run }: { run: Run }) {
  const names = Object.keys(run.responses.find((response) => response.result?.rewards)?.result?.rewards ?? {});
  if (names.length === 0) return null;
  return (
    <table class="named">
      <caption>Rewards by name. The score is their weighted sum.</caption>
      <thead>
        <tr>
          <th scope="col">Reward</th>
          {run.responses.map((_, index) => (
            <th scope="col" key={index}>
              <Letter index={index} />
            </th>
          ))}
        </tr>
      </thead>
      <tbody>
        {names.map((name) => (
          <tr key={name}>
            <th scope="row">{name}</th>
            {run.responses.map(({ result }, index) => (
              <td class="figure" key={index}>
                {formatScore(result?.rewards?.[name]?.score)}
              </td>
            ))}
          </tr>
        ))}
      </tbody>
    </table>
  );
}
