/** One scoring of all responses, as it goes on. */

import { score, scoreLive } from "./api";
import { buildRequest, type Draft, MAX_LIVE_CRITIQUES } from "./draft";
import { type Description, describeFailure, describeInfo, isAbort } from "./failures";
import type { Rank, Scored } from "./ranking";
import { rankResponses } from "./ranking";
import type { Result } from "./shapes";
import { type TracedToken, tracedTokens } from "./words";

export interface LiveCritique {
  tokens: TracedToken[];
  /** The final text has its padding taken off; null while it is written. */
  score: number | null;
  cut: boolean;
}

export interface LiveResponse {
  text: string;
  critiques: LiveCritique[];
  result: Result | null;
}

const REDRAW_MS = 50; // tokens come faster than eyes read and charts draw
let runs = 0;

/** `seconds` since it began, until it ended. `id` differs from those of other runs. */
export interface Run {
  id: number;
  draft: Draft;
  live: boolean;
  state: "running" | "finished" | "cancelled" | "failed";
  responses: LiveResponse[];
  failure: Description | null;
  seconds: number;
}

/** Starts a run; `onChange` is called with the run, which is changed in place, at most once in REDRAW_MS. */
export function startRun(draft: Draft, onChange: (run: Run) => void): { cancel: () => void } {
  const abort = new AbortController();
  const live = !draft.critique || draft.responses.length * draft.samples <= MAX_LIVE_CRITIQUES;
  const responses = draft.responses.map((text) => ({ text, critiques: [], result: null }));
  const run: Run = { id: ++runs, draft, live, state: "running", responses, failure: null, seconds: 0 };
  const began = performance.now();
  let scheduled = false;
  const show = () => {
    if (scheduled) return;
    scheduled = true;
    setTimeout(() => {
      scheduled = false;
      run.seconds = (performance.now() - began) / 1000;
      onChange({ ...run });
    }, REDRAW_MS);
  };
  onChange({ ...run });
  void execute(run, abort.signal, show).finally(show);
  return { cancel: () => abort.abort() };
}

async function execute(run: Run, signal: AbortSignal, show: () => void): Promise<void> {
  const request = buildRequest(run.draft, run.draft.responses, true);
  const onResult = (result: Result) => {
    finish(run, result);
    show();
  };
  try {
    if (run.live) {
      const onToken = (token: { index: number; critique: number; text: string; score: number | null }) => {
        critiqueOf(run, token.index, token.critique)?.tokens.push({ text: token.text, score: token.score });
        show();
      };
      await scoreLive(request, { onToken, onResult }, signal);
    } else {
      (await score(request, signal)).forEach(onResult);
    }
    run.state = "finished";
  } catch (error) {
    run.state = isAbort(error) ? "cancelled" : "failed";
    run.failure = isAbort(error) ? null : describeFailure(error);
  }
}

function critiqueOf(run: Run, index: number, k: number): LiveCritique | undefined {
  const critiques = run.responses[index]?.critiques;
  if (!critiques) return undefined;
  while (critiques.length <= k) critiques.push({ tokens: [], score: null, cut: false });
  return critiques[k];
}

function finish(run: Run, result: Result): void {
  const response = run.responses[result.index];
  if (!response) return;
  response.result = result;
  response.critiques = result.critiques.map((critique) => {
    const tokens = critique.trace ? tracedTokens(critique) : [{ text: critique.text, score: null }];
    return { tokens, score: critique.score, cut: critique.finish_reason === "length" };
  });
}

/** The reward that is shown for a response: the final one, or the mean of the last ones while critiques are written. */
export function currentScore(response: LiveResponse): number | null {
  if (response.result) return response.result.score;
  const last = response.critiques.map((one) => one.tokens.at(-1)?.score ?? null).filter((one) => one !== null);
  return last.length > 0 ? last.reduce((sum, one) => sum + one, 0) / last.length : null;
}

export function directScore(response: LiveResponse): number | null {
  return response.result ? response.result.direct_score : (response.critiques[0]?.tokens[0]?.score ?? null);
}

export function resultFault(result: Result | null): Description | null {
  return result?.error ? describeInfo(result.error) : null;
}

/** The ranking of what is finished. */
export function rankRun(run: Run): Rank[] {
  const scored: Scored[] = [];
  for (const [index, { result }] of run.responses.entries()) {
    if (!result || result.score === null) continue;
    const count = result.critiques.length;
    const error = result.score_std === null || count < 2 ? null : result.score_std / Math.sqrt(count);
    scored.push({ index, score: result.score, error });
  }
  return rankResponses(scored);
}
