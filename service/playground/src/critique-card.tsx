/** One response's score, its critiques as they are written, and its probes. */

import { useState } from "preact/hooks";
import { SCORE } from "./bars";
import { label } from "./draft";
import { formatChange, formatScore } from "./format";
import { FailureNotice } from "./notices";
import { Probes } from "./probe-panel";
import type { Rank } from "./ranking";
import { Letter } from "./responses";
import { currentScore, directScore, type LiveResponse, rankRun, resultFault, type Run } from "./run";
import { runScale } from "./scale";
import { Strip } from "./strip";
import { Trace } from "./trace";

interface Props {
  index: number;
  response: LiveResponse;
  run: Run;
  rank: Rank | undefined;
  onToken: (critique: number, token: number) => void;
}

const WARNINGS: Record<string, string> = {
  empty_response: "The response is empty.",
  critique_cut: "A critique reached its token limit, so its reward is that of an unfinished one.",
  control_tokens: "A text contains what looks like control tokens of a chat template; it was read as text.",
  criteria_untrained: "This model was not trained with criteria: they may change the score little, or mislead it.",
  reference_untrained:
    "This model was not trained with reference answers: this one may change the score little, or mislead it.",
};

export function CritiqueCard({ index, response, run, rank, onToken }: Props) {
  const [chosen, choose] = useState(0);
  const { critiques, result } = response;
  const critique = critiques[chosen] ?? critiques[0];
  const fault = resultFault(result);
  const writing = run.state === "running" && !result;
  return (
    <article class="panel critique" aria-label={`Response ${label(index)}`}>
      <div class="turn-head">
        <Letter index={index} />
        <span class="big" title={SCORE}>
          {formatScore(currentScore(response))}
        </span>
        <span class="hint">{run.draft.critique && describeMove(response)}</span>
        <span class="badge-place">{rank && run.state === "finished" && <Badge rank={rank} run={run} />}</span>
      </div>
      {fault && <FailureNotice failure={fault} />}
      {result?.status === "truncated" && <p class="hint">The text was too long and was shortened.</p>}
      {result?.warnings.map((warning) => (
        <p class="hint" key={warning}>
          {WARNINGS[warning] ?? warning}
        </p>
      ))}
      {critiques.length > 1 && result && <Strip index={index} response={response} scale={runScale(run)} />}
      {critiques.length > 1 && (
        <div class="segments" role="group" aria-label={`Critiques of response ${label(index)}`}>
          {critiques.map((one, k) => (
            <button key={k} type="button" class="chip" aria-pressed={critique === one} onClick={() => choose(k)}>
              {k + 1}
            </button>
          ))}
        </div>
      )}
      {critique ? (
        <Trace
          key={chosen}
          name={`Critique of response ${label(index)}`}
          tokens={critique.tokens}
          writing={writing}
          cut={critique.cut}
          onToken={(token) => onToken(critiques.indexOf(critique), token)}
        />
      ) : (
        <p class="muted critique-text">{describeAbsence(run, writing, fault !== null)}</p>
      )}
      {result && !fault && run.state !== "running" && (
        <Probes draft={run.draft} response={response.text} original={result.score ?? 0} index={index} />
      )}
    </article>
  );
}

function describeMove(response: LiveResponse): string {
  const [direct, current] = [directScore(response), currentScore(response)];
  return direct === null || current === null ? "" : `${formatChange(current - direct)} by ${response.critiques.length > 1 ? "critiques" : "the critique"}`;
}

function describeAbsence(run: Run, writing: boolean, failed: boolean): string {
  if (writing) return "Waiting for the first token.";
  if (failed || run.state !== "finished") return "No critique.";
  return "No critique was requested: the score is the direct score.";
}

function Badge({ rank, run }: { rank: Rank; run: Run }) {
  if (rankRun(run).length < 2) return null;
  if (rank.tied) return <span class="badge">Tied for first</span>;
  return rank.rank === 1 ? <span class="badge best">Highest</span> : null;
}
