/** Files that the page hands to the browser. */

import type { RowOutcome } from "./batch-run";
import { formatCsv } from "./csv";

const COLUMNS = ["row", "index", "prompt", "response", "score", "direct_score", "score_std", "critique", "error"];

export function outcomesAsCsv(outcomes: RowOutcome[]): string {
  const rows = outcomes.map((outcome) => {
    const { prompt, responses } = outcome.entry;
    const text = typeof prompt === "string" ? prompt : JSON.stringify(prompt);
    return [
      ...[outcome.row, outcome.index, text, responses[outcome.index] ?? ""],
      ...[outcome.score, outcome.direct, outcome.std, outcome.critique, outcome.error],
    ];
  });
  return formatCsv([COLUMNS, ...rows]);
}

export function outcomesAsJsonl(outcomes: RowOutcome[]): string {
  return outcomes
    .map((outcome) =>
      JSON.stringify({
        row: outcome.row,
        index: outcome.index,
        prompt: outcome.entry.prompt,
        response: outcome.entry.responses[outcome.index],
        score: outcome.score,
        direct_score: outcome.direct,
        score_std: outcome.std,
        critique: outcome.critique,
        error: outcome.error || null,
      }),
    )
    .join("\n")
    .concat("\n");
}

export function download(name: string, type: string, text: string): void {
  const url = URL.createObjectURL(new Blob([text], { type }));
  const link = document.createElement("a");
  link.href = url;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000); // the browser reads it after the click
}
