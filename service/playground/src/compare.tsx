/** The tab that compares responses to one conversation. */

import { useEffect, useRef, useState } from "preact/hooks";
import { Conversation } from "./conversation";
import { type Draft, draftFault, emptyDraft } from "./draft";
import { EXAMPLES } from "./examples";
import { readDraft } from "./link";
import { RunView } from "./run-view";
import { Responses } from "./responses";
import { type Run, startRun } from "./run";
import type { ModelInfo } from "./shapes";
import { CopyAndShare } from "./sharing";
import type { Theme } from "./theme";

interface Props {
  model: ModelInfo | null;
  theme: Theme;
  /** A draft that another tab opens here. */
  opened: Draft | null;
}

export function Compare({ model, theme, opened }: Props) {
  const [typed, setDraft] = useState<Draft>(() => readDraft(location.hash) ?? emptyDraft());
  const [run, setRun] = useState<Run | null>(null);
  const [scored, setScored] = useState<Draft | null>(null); // what `run` was started with
  const running = useRef<{ cancel: () => void } | null>(null);
  const scalar = model !== null && model.manifest.critique_instruction === null;
  const draft = scalar ? { ...typed, critique: false } : typed;
  const fault = draftFault(draft);
  const busy = run?.state === "running";

  const open = (next: Draft) => {
    running.current?.cancel();
    setRun(null);
    setDraft(next);
  };
  useEffect(() => {
    if (opened) open(opened);
  }, [opened]);
  useEffect(() => {
    const onHash = () => {
      const linked = readDraft(location.hash);
      if (linked) open(linked);
    };
    addEventListener("hashchange", onHash);
    return () => removeEventListener("hashchange", onHash);
  }, []);
  useEffect(() => () => running.current?.cancel(), []);

  const change = (fields: Partial<Draft>) => setDraft((before) => ({ ...before, ...fields }));
  const start = () => {
    if (fault || busy) return;
    setScored(typed);
    running.current = startRun(draft, setRun);
  };
  const onKeyDown = (event: KeyboardEvent) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
      event.preventDefault();
      start();
    }
  };
  return (
    <div class="compare" onKeyDown={onKeyDown}>
      <div class="toolbar">
        <div class="examples" role="group" aria-label="Examples">
          <span class="muted">Examples</span>
          {EXAMPLES.map((example) => (
            <button key={example.name} type="button" class="chip" onClick={() => open(structuredClone(example.draft))}>
              {example.name}
            </button>
          ))}
        </div>
        <CopyAndShare draft={draft} />
      </div>
      <div class="editor">
        <Conversation draft={draft} onChange={change} model={model} />
        <div class="work">
          <Responses responses={draft.responses} onChange={change} />
          <div class="actions">
            {busy ? (
              <button type="button" onClick={() => running.current?.cancel()}>
                Cancel
              </button>
            ) : (
              <button type="button" class="primary" aria-disabled={fault !== ""} onClick={start}>
                Score
              </button>
            )}
            <p class="muted">{fault || (busy ? "" : "Ctrl + Enter scores too.")}</p>
          </div>
          {run && !busy && scored !== typed && <p class="hint">The scores below are of the texts before your changes.</p>}
          {run ? <RunView run={run} model={model} theme={theme} /> : <Empty />}
        </div>
      </div>
    </div>
  );
}

function Empty() {
  return (
    <section class="empty" aria-label="No scores yet">
      <p>
        <strong>No scores yet.</strong> Write a prompt and its responses, or click an example, then press Score.
      </p>
      <dl>
        <div>
          <dt>Direct score</dt>
          <dd>The reward before any critique.</dd>
        </div>
        <div>
          <dt>Critique and score</dt>
          <dd>The model writes a critique of each response alone, then a reward. The score is the mean of these rewards.</dd>
        </div>
        <div>
          <dt>Comparing</dt>
          <dd>A score has no fixed scale: compare it with those of other responses to the same prompt.</dd>
        </div>
      </dl>
    </section>
  );
}
