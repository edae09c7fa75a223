/** The reward over each critique's tokens, for all responses. */

import type { Plugin } from "chart.js";
import { useMemo } from "preact/hooks";
import { axesOptions, ChartView, type Configuration, type Point } from "./chart-view";
import { label } from "./draft";
import { formatScore } from "./format";
import { currentScore, directScore, type LiveCritique, type Run } from "./run";
import { runScale } from "./scale";
import { responseColour, type Theme, themeColour } from "./theme";

/** A token that another part of the page points at. */
export interface Mark {
  index: number;
  critique: number;
  token: number;
}

interface Props {
  run: Run;
  mark: Mark | null;
  theme: Theme;
}

export function Curve({ run, mark, theme }: Props) {
  const build = useMemo(() => () => configure(run, mark), [run, mark]);
  const moves = run.responses.map(
    (response, index) =>
      `${label(index)} from ${formatScore(directScore(response))} to ${formatScore(currentScore(response))}`,
  );
  return (
    <div class="panel">
      <h3 title="The reward that the model would return if the critique ended at this token.">
        Reward while the critique is written
      </h3>
      <ChartView description={`Reward by token of the critique. ${moves.join("; ")}.`} build={build} theme={theme} />
    </div>
  );
}

function configure(run: Run, mark: Mark | null): Configuration {
  const lines = run.responses.flatMap(({ critiques }, index) => {
    const most = Math.max(...critiques.map(({ tokens }) => tokens.length));
    const longestLine = critiques.findIndex(({ tokens }) => tokens.length === most);
    return critiques.map((critique, k) => {
      const name = critiques.length > 1 ? `${label(index)}, critique ${k + 1}` : label(index);
      const colour = responseColour(index);
      const style = { borderColor: colour, backgroundColor: colour, borderWidth: critiques.length > 1 ? 1 : 2 };
      // The letter is written at the end of the response's longest line alone.
      return { ...style, label: k === longestLine ? label(index) : "", data: points(critique, name), pointRadius: 0 };
    });
  });
  const options = axesOptions("Tokens of the critique", "Reward");
  const { min, max } = runScale(run);
  const longest = Math.max(...lines.map(({ data }) => data.at(-1)?.x ?? 0), 20);
  Object.assign(options.scales?.x ?? {}, { min: 0, max: longest });
  Object.assign(options.scales?.y ?? {}, { suggestedMin: min, suggestedMax: max });
  options.layout = { padding: { right: 18 } };
  const datasets = mark ? [markedPoint(run, mark), ...lines] : lines;
  return { type: "line", data: { datasets }, options, plugins: [lineEnds] };
}

function markedPoint(run: Run, { index, critique, token }: Mark) {
  const data = points(run.responses[index]?.critiques[critique], label(index)).filter(({ x }) => x === token);
  const style = { borderColor: themeColour("--panel"), backgroundColor: responseColour(index), borderWidth: 2 };
  return { ...style, label: "", data, pointRadius: 5.5, clip: false as const };
}

function points(critique: LiveCritique | undefined, name: string): Point[] {
  return (critique?.tokens ?? []).flatMap(({ text, score }, i) => {
    if (score === null) return [];
    const token = text.trim() ? `, “${text.trim()}”` : "";
    return [{ x: i, y: score, note: `${name}: ${formatScore(score)} before token ${i + 1}${token}` }];
  });
}

/** Writes the letter of each response at the end of its line: not everyone can tell the colours from each other. */
const lineEnds: Plugin = {
  id: "lineEnds",
  afterDatasetsDraw(chart) {
    const taken: { x: number; y: number }[] = [];
    for (const [i, dataset] of chart.data.datasets.entries()) {
      const end = chart.getDatasetMeta(i).data.at(-1);
      if (!end || !dataset.label) continue;
      let { x, y } = end;
      while (taken.some((other) => Math.abs(other.x - x) < 12 && Math.abs(other.y - y) < 12)) y += 12;
      taken.push({ x, y });
      chart.ctx.font = "600 12px system-ui, sans-serif";
      chart.ctx.fillStyle = String(dataset.borderColor);
      chart.ctx.textBaseline = "middle";
      chart.ctx.fillText(dataset.label, x + 5, y);
    }
  },
};
