/** How the scores of a file are distributed, and whether they follow the responses' lengths. */

import { useMemo } from "preact/hooks";
import type { RowOutcome } from "./batch-run";
import { axesOptions, ChartView, type Configuration, type Point } from "./chart-view";
import { formatScore, plural } from "./format";
import { describeSamples } from "./ranking";
import { correlation, extremes, histogram } from "./statistics";
import { responseColour, type Theme } from "./theme";

const BINS = 24;

interface Props {
  outcomes: RowOutcome[];
  version: number;
  theme: Theme;
}

export function BatchCharts({ outcomes, version, theme }: Props) {
  // `version` stands for the outcomes' content, which is changed in place.
  const points = useMemo(() => scoredPoints(outcomes), [outcomes, version]);
  const buildHistogram = useMemo(() => () => histogramChart(points.map((point) => point.y)), [points]);
  const buildScatter = useMemo(() => () => scatterChart(points), [points]);
  if (points.length < 2) return null;
  const scores = points.map((point) => point.y);
  const { mean, std } = describeSamples(scores);
  const [min, max] = extremes(scores);
  const range = `${points.length} scores from ${formatScore(min)} to ${formatScore(max)}`;
  const relation = correlation(points);
  return (
    <div class="overview even">
      <div class="panel">
        <h3>Distribution of scores</h3>
        <ChartView description={`Histogram of ${range}.`} build={buildHistogram} theme={theme} />
        <p class="hint">
          {range}; mean {formatScore(mean)}, standard deviation {formatScore(std)}.
        </p>
      </div>
      <div class="panel">
        <h3>Score against length</h3>
        <ChartView description={`Score against length. Correlation ${formatScore(relation)}.`} build={buildScatter} theme={theme} />
        <p class="hint">
          Correlation {formatScore(relation)}. Far from 0, the reward follows the length, or better responses are longer.
        </p>
      </div>
    </div>
  );
}

function scoredPoints(outcomes: RowOutcome[]): Point[] {
  return outcomes.flatMap(({ row, index, entry, score }) => {
    if (score === null) return [];
    const length = entry.responses[index]?.length ?? 0;
    return [{ x: length, y: score, note: `Row ${row}: ${formatScore(score)}, ${plural(length, "character")}` }];
  });
}

function histogramChart(scores: number[]): Configuration {
  const colour = responseColour(0);
  const bins = histogram(scores, BINS);
  const width = (bins[1]?.x ?? 1) - (bins[0]?.x ?? 0);
  const data = bins.map(({ x, y }) => {
    return { x, y, note: `${formatScore(x - width / 2)} to ${formatScore(x + width / 2)}: ${plural(y, "response")}` };
  });
  const dataset = { data, backgroundColor: colour, barPercentage: 1, categoryPercentage: 0.92 };
  const options = axesOptions("Score", "Responses");
  const [first, last] = [bins[0]?.x ?? 0, bins.at(-1)?.x ?? 0];
  Object.assign(options.scales?.x ?? {}, { min: first - width / 2, max: last + width / 2, offset: false });
  return { type: "bar", data: { datasets: [{ ...dataset, type: "bar", grouped: true }] }, options };
}

function scatterChart(points: Point[]): Configuration {
  const dataset = { type: "scatter" as const, data: points, backgroundColor: responseColour(0), pointRadius: 2 };
  const options = axesOptions("Characters of the response", "Score");
  Object.assign(options.scales?.x ?? {}, { grace: 1 });
  return { type: "scatter", data: { datasets: [dataset] }, options };
}
