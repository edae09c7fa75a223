/** The outcomes as a table that sorts, a page at a time. */

import { useMemo, useState } from "preact/hooks";
import type { RowOutcome } from "./batch-run";
import { type Draft, emptyDraft, isTurn, label, MAX_RESPONSES } from "./draft";
import { formatScore } from "./format";
import { type Entry, promptText } from "./rows";

const PAGE_ROWS = 25;
const EXCERPT = 160;

interface Column {
  name: string;
  title?: string;
  numeric: boolean;
  /** What the column sorts by; null is last in both directions. */
  key: (outcome: RowOutcome) => number | string | null;
}

const COLUMNS: Column[] = [
  { name: "Row", numeric: true, key: (outcome) => outcome.row },
  { name: "Score", numeric: true, title: "The mean of the rewards after the critiques.", key: (outcome) => outcome.score },
  { name: "Direct", numeric: true, title: "The reward before any critique.", key: (outcome) => outcome.direct },
  {
    name: "Length",
    numeric: true,
    title: "Characters of the response.",
    key: (outcome) => responseText(outcome).length,
  },
  { name: "Prompt", numeric: false, key: (outcome) => promptText(outcome.entry.prompt) },
  { name: "Response", numeric: false, key: responseText },
  { name: "Critique", numeric: false, key: (outcome) => outcome.critique || outcome.error },
];

interface Sort {
  column: number;
  descending: boolean;
}

interface Props {
  outcomes: RowOutcome[];
  version: number;
  onOpen: (draft: Draft) => void;
}

export function BatchTable({ outcomes, version, onOpen }: Props) {
  const [sort, setSort] = useState<Sort>({ column: 0, descending: false });
  const [page, setPage] = useState(0);
  // `version` stands for the outcomes' content, which is changed in place.
  const sorted = useMemo(() => sortOutcomes(outcomes, sort), [outcomes, version, sort]);
  const pages = Math.max(Math.ceil(sorted.length / PAGE_ROWS), 1);
  const current = Math.min(page, pages - 1);
  const written = outcomes.some((outcome) => outcome.critique !== "" || outcome.error !== "");
  const columns = written ? COLUMNS : COLUMNS.slice(0, -1); // no column for critiques that were not requested
  const several = outcomes.some((outcome) => outcome.index > 0);
  const sortBy = (column: number) => {
    setPage(0);
    setSort((before) => ({ column, descending: before.column === column && !before.descending }));
  };
  return (
    <>
      <div class="panel table-box" role="region" aria-label="Scored rows" tabIndex={0}>
        <table class="rows">
          <thead>
            <tr>
              {columns.map((column, i) => (
                <th
                  key={column.name}
                  scope="col"
                  class={column.numeric ? "numeric" : ""}
                  aria-sort={sortDirection(sort, i)}
                  title={column.title}
                >
                  <button type="button" class="sort" onClick={() => sortBy(i)}>
                    {column.name}
                    <span aria-hidden="true">{sort.column === i ? (sort.descending ? " ↓" : " ↑") : ""}</span>
                  </button>
                </th>
              ))}
              <th scope="col" class="open-column">
                <span class="hidden-label">Open</span>
              </th>
            </tr>
          </thead>
          <tbody>
            {sorted.slice(current * PAGE_ROWS, (current + 1) * PAGE_ROWS).map((outcome) => (
              <tr key={`${outcome.row}.${outcome.index}`}>
                <td class="figure">
                  {outcome.row}
                  {several && ` ${label(outcome.index)}`}
                </td>
                <td class="figure strong">{formatScore(outcome.score)}</td>
                <td class="figure muted">{formatScore(outcome.direct)}</td>
                <td class="figure muted">{responseText(outcome).length}</td>
                <Excerpt text={promptText(outcome.entry.prompt)} />
                <Excerpt text={responseText(outcome)} />
                {written && (outcome.error ? <td class="error-cell">{outcome.error}</td> : <Excerpt text={outcome.critique} />)}
                <td>
                  <button
                    type="button"
                    class="quiet small"
                    aria-label={`Open row ${outcome.row} in Compare`}
                    onClick={() => onOpen(entryDraft(outcome.entry))}
                  >
                    Open
                  </button>
                </td>
              </tr>
            ))}
          </tbody>
        </table>
      </div>
      <nav class="pages" aria-label="Pages of the table">
        <button type="button" class="quiet small" disabled={current === 0} onClick={() => setPage(current - 1)}>
          Previous
        </button>
        <span>
          Page {current + 1} of {pages}
        </span>
        <button type="button" class="quiet small" disabled={current >= pages - 1} onClick={() => setPage(current + 1)}>
          Next
        </button>
      </nav>
    </>
  );
}

function Excerpt({ text }: { text: string }) {
  return (
    <td class="excerpt" title={text.slice(0, 2000)}>
      {text.slice(0, EXCERPT)}
      {text.length > EXCERPT && "…"}
    </td>
  );
}

function responseText(outcome: RowOutcome): string {
  return outcome.entry.responses[outcome.index] ?? "";
}

function sortDirection(sort: Sort, column: number): "ascending" | "descending" | undefined {
  if (sort.column !== column) return undefined;
  return sort.descending ? "descending" : "ascending";
}

function sortOutcomes(outcomes: RowOutcome[], sort: Sort): RowOutcome[] {
  const key = COLUMNS[sort.column]?.key;
  if (!key) return outcomes;
  const direction = sort.descending ? -1 : 1;
  return [...outcomes].sort((a, b) => {
    const [x, y] = [key(a), key(b)];
    if (x === y) return a.row - b.row || a.index - b.index;
    if (x === null || y === null) return x === null ? 1 : -1;
    return x < y ? -direction : direction;
  });
}

/** The first responses of an entry as a draft for the other tab. */
function entryDraft(entry: Entry): Draft {
  const messages = typeof entry.prompt === "string" ? [{ role: "user" as const, content: entry.prompt }] : entry.prompt;
  const turns = messages.filter(isTurn);
  return {
    ...emptyDraft(),
    system: String(messages.find((message) => message?.role === "system")?.content ?? ""),
    turns,
    responses: entry.responses.slice(0, MAX_RESPONSES),
    criteria: entry.criteria ?? "",
    reference: entry.reference ?? "",
  };
}
