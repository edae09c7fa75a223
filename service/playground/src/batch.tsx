/** The tab that scores a file. */

import { useEffect, useRef, useState } from "preact/hooks";
import { BatchCharts } from "./batch-charts";
import { BatchRun } from "./batch-run";
import { BatchTable } from "./batch-table";
import { Options } from "./conversation";
import { critiqueField, type Draft, emptyDraft } from "./draft";
import { download, outcomesAsCsv, outcomesAsJsonl } from "./downloads";
import { DropZone } from "./drop-zone";
import { formatRate, formatSeconds, plural } from "./format";
import { type ReadFile, readRows } from "./rows";
import type { ModelInfo } from "./shapes";
import type { Theme } from "./theme";

interface Props {
  model: ModelInfo | null;
  theme: Theme;
  onOpen: (draft: Draft) => void;
}

export function Batch({ model, theme, onOpen }: Props) {
  const [file, setFile] = useState<ReadFile | null>(null);
  const [fault, setFault] = useState("");
  const [draft, setDraft] = useState<Draft>(emptyDraft); // for its options alone
  const [run, setRun] = useState<BatchRun | null>(null);
  const [version, setVersion] = useState(0); // counts the redraws of a run, which is changed in place
  const scheduled = useRef(false);
  useEffect(() => () => run?.cancel(), [run]);

  const read = (name: string, text: string) => {
    run?.cancel();
    setRun(null);
    setFault("");
    try {
      setFile(readRows(name, text));
    } catch (error) {
      setFile(null);
      setFault(error instanceof Error ? error.message : String(error));
    }
  };
  const redraw = () => {
    if (scheduled.current) return;
    scheduled.current = true;
    setTimeout(() => {
      scheduled.current = false;
      setVersion((count) => count + 1);
    }, 200);
  };
  const start = () => {
    if (!file) return;
    const scalar = model !== null && model.manifest.critique_instruction === null;
    const critique = scalar ? false : critiqueField(draft, false);
    const next = new BatchRun(file.entries, { critique, maxItems: model?.limits.max_items ?? 32 }, redraw);
    setRun(next);
    void next.run();
  };
  const busy = run?.progress().state === "running";
  return (
    <div class="batch">
      <div class="editor">
        <section class="panel" aria-labelledby="file-title">
          <h2 id="file-title">File</h2>
          <DropZone onFile={read} />
          {fault && (
            <p class="failure" role="alert">
              {fault}
            </p>
          )}
          {file && <FileSummary file={file} />}
          <Options draft={draft} onChange={(fields) => setDraft((before) => ({ ...before, ...fields }))} model={model} />
          <div class="actions">
            {busy ? (
              <button type="button" onClick={() => run.cancel()}>
                Cancel
              </button>
            ) : (
              <button type="button" class="primary" disabled={!file || file.entries.length === 0} onClick={start}>
                Score the file
              </button>
            )}
          </div>
        </section>
        <div class="work">
          {run ? (
            <>
              <ProgressView run={run} />
              <BatchCharts outcomes={run.outcomes} version={version} theme={theme} />
              <div class="section-head">
                <h2>Rows</h2>
                <Downloads run={run} name={file?.name ?? "scores"} />
              </div>
              <BatchTable outcomes={run.outcomes} version={version} onOpen={onOpen} />
            </>
          ) : (
            <section class="empty" aria-label="No file scored yet">
              <p>
                <strong>No file scored yet.</strong> Drop a JSONL or CSV file with a prompt and a response in each row.
              </p>
              <pre class="code" tabIndex={0} aria-label="Example of a JSONL file">{`{"prompt": "Why is the sky blue?", "response": "Air scatters blue light."}
{"prompt": "What is 7 times 8?", "responses": ["56", "54"]}`}</pre>
              <p>
                A CSV file names its columns in the first line: <span class="code">prompt,response</span>. Columns{" "}
                <span class="code">criteria</span> and <span class="code">reference</span> are optional.
              </p>
            </section>
          )}
        </div>
      </div>
    </div>
  );
}

function FileSummary({ file }: { file: ReadFile }) {
  const responses = file.entries.reduce((sum, entry) => sum + entry.responses.length, 0);
  return (
    <div role="status" class="summary">
      <p>
        <strong>{file.name}</strong>: {plural(file.entries.length, "row")}, {plural(responses, "response")}.
      </p>
      {file.faults.length > 0 && (
        <div class="failure">
          <p>{plural(file.faults.length, "row")} can't be read and will be left out:</p>
          <ul>
            {file.faults.slice(0, 5).map((fault) => (
              <li key={fault.row}>
                Row {fault.row}: {fault.message}
              </li>
            ))}
          </ul>
          {file.faults.length > 5 && <p>And {file.faults.length - 5} more.</p>}
        </div>
      )}
    </div>
  );
}

function ProgressView({ run }: { run: BatchRun }) {
  const progress = run.progress();
  const failed = run.outcomes.filter((outcome) => outcome.error !== "");
  const running = progress.state === "running";
  return (
    <section class="panel progress" aria-label="Progress">
      <progress max={progress.total} value={progress.done} aria-label="Responses scored" />
      <p class="count">
        <strong>
          {progress.done} of {plural(progress.total, "response")}
        </strong>
        {running && `, ${formatRate(progress.rate)} per second, ${formatSeconds(progress.secondsLeft)} left`}
        {progress.waiting && <span class="muted"> {progress.waiting}</span>}
      </p>
      <p role="status" class="hint">
        {progress.state === "finished" && "Finished."}
        {progress.state === "cancelled" && "Cancelled. What is scored can be sorted and downloaded."}
      </p>
      {failed.length > 0 && (
        <p class="failure">
          {plural(failed.length, "response")} failed. Row {failed[0]?.row}: {failed[0]?.error}
        </p>
      )}
    </section>
  );
}

function Downloads({ run, name }: { run: BatchRun; name: string }) {
  const stem = `${name.replace(/\.\w+$/, "")}-scores`;
  return (
    <div class="segments" role="group" aria-label="Download">
      <span class="muted">Download</span>
      <button type="button" class="chip" onClick={() => download(`${stem}.csv`, "text/csv", outcomesAsCsv(run.outcomes))}>
        CSV
      </button>
      <button
        type="button"
        class="chip"
        onClick={() => download(`${stem}.jsonl`, "application/x-ndjson", outcomesAsJsonl(run.outcomes))}
      >
        JSONL
      </button>
    </div>
  );
}
