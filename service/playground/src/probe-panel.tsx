/** Buttons that score changed copies of a response, and what the reward did. */

import { useEffect, useRef, useState } from "preact/hooks";
import { score } from "./api";
import { buildRequest, type Draft, label } from "./draft";
import { type Description, describeFailure, isAbort } from "./failures";
import { formatChange, formatScore } from "./format";
import { FailureNotice } from "./notices";
import { type Probe, PROBES } from "./probes";

/** Smaller changes can come from bfloat16 alone (docs/reproducibility.md). */
const NUMERIC_CHANGE = 0.13;

interface Props {
  draft: Draft;
  response: string;
  original: number;
  index: number;
}

export function Probes({ draft, response, original, index }: Props) {
  const [scores, setScores] = useState<Record<string, number | null>>({});
  const [busy, setBusy] = useState(false);
  const [failure, setFailure] = useState<Description | null>(null);
  const abort = useRef<AbortController | null>(null);
  useEffect(() => () => abort.current?.abort(), []);

  const run = async (probes: Probe[]) => {
    abort.current = new AbortController();
    setBusy(true);
    setFailure(null);
    try {
      const request = buildRequest(draft, probes.map((probe) => probe.change(response)), false);
      const results = await score(request, abort.current.signal);
      const found = probes.map((probe, i) => [probe.name, results[i]?.score ?? null] as const);
      setScores((before) => ({ ...before, ...Object.fromEntries(found) }));
    } catch (error) {
      if (!isAbort(error)) setFailure(describeFailure(error));
    }
    setBusy(false);
  };
  const done = PROBES.filter((probe) => probe.name in scores);
  return (
    <details class="probes" open>
      <summary>Probes: changes that should not raise the reward</summary>
      <div class="segments" role="group" aria-label={`Probes of response ${label(index)}`}>
        <button type="button" class="chip" disabled={busy} title="Score all changed responses." onClick={() => run(PROBES)}>
          All
        </button>
        {PROBES.map((probe) => (
          <button key={probe.name} type="button" class="chip" disabled={busy} title={probe.expectation} onClick={() => run([probe])}>
            {probe.name}
          </button>
        ))}
      </div>
      <p role="status" class="hint">
        {busy ? "Scoring the changed response." : ""}
      </p>
      {failure && <FailureNotice failure={failure} />}
      {done.length > 0 && (
        <table class="probe-results">
          <caption class="hidden-label">Probes of response {label(index)}</caption>
          <thead>
            <tr>
              <th scope="col">Response</th>
              <th scope="col">Score</th>
              <th scope="col">Change</th>
            </tr>
          </thead>
          <tbody>
            {done.map((probe) => (
              <ProbeRow key={probe.name} probe={probe} score={scores[probe.name] ?? null} original={original} />
            ))}
          </tbody>
        </table>
      )}
    </details>
  );
}

function ProbeRow({ probe, score: found, original }: { probe: Probe; score: number | null; original: number }) {
  const change = found === null ? null : found - original;
  return (
    <tr title={probe.expectation}>
      <th scope="row">{probe.name}</th>
      <td class="figure">{found === null ? "error" : formatScore(found)}</td>
      <td class="figure">
        {change === null ? "–" : formatChange(change)}
        {change !== null && change > NUMERIC_CHANGE && <span class="rose"> rose</span>}
      </td>
    </tr>
  );
}
