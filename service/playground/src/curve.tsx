/** The reward over each critique's tokens, for all responses. */

import { useMemo } from "preact/hooks";
import { axesOptions, ChartView, type Configuration } from "./chart-view";
import { label } from "./draft";
import { formatScore } from "./format";
import { currentScore, directScore, type Run } from "./run";
import { responseColour, type Theme } from "./theme";

export function Curve({ run, theme }: { run: Run; theme: Theme }) {
  const build = useMemo(() => () => configure(run), [run]);
  const moves = run.responses.map(
    (response, index) =>
      `${label(index)} from ${formatScore(directScore(response))} to ${formatScore(currentScore(response))}`,
  );
  return (
    <div class="panel">
      <h3>Reward while the critique is written</h3>
      <ChartView description={`Reward by token of the critique. ${moves.join("; ")}.`} build={build} theme={theme} />
    </div>
  );
}

function configure(run: Run): Configuration {
  const datasets = run.responses.flatMap(({ critiques }, index) =>
    critiques.map((critique, k) => ({
      label: critiques.length > 1 ? `${label(index)}, critique ${k + 1}` : label(index),
      data: critique.tokens.flatMap(({ score }, i) => (score === null ? [] : [{ x: i, y: score }])),
      borderColor: responseColour(index),
      backgroundColor: responseColour(index),
      borderWidth: critiques.length > 1 ? 1 : 2,
      pointRadius: 0,
      pointHitRadius: 6,
    })),
  );
  const options = axesOptions("Tokens of the critique", "Reward");
  return { type: "line", data: { datasets }, options };
}
