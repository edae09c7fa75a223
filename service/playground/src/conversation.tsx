/** The editor of what the responses answer: system prompt, turns, criteria, reference, options. */

import type { Draft, Turn } from "./draft";
import { NumberField, TextArea } from "./fields";
import type { ModelInfo } from "./shapes";

interface Props {
  draft: Draft;
  onChange: (change: Partial<Draft>) => void;
  model: ModelInfo | null;
}

export function Conversation({ draft, onChange, model }: Props) {
  const setTurn = (place: number, change: Partial<Turn>) =>
    onChange({ turns: draft.turns.map((turn, i) => (i === place ? { ...turn, ...change } : turn)) });
  const addTurn = () => {
    const role = draft.turns.at(-1)?.role === "user" ? "assistant" : "user";
    onChange({ turns: [...draft.turns, { role, content: "" }] });
  };
  return (
    <section class="panel" aria-labelledby="conversation-title">
      <h2 id="conversation-title">Conversation</h2>
      <TextArea
        label="System prompt"
        rows={1}
        value={draft.system}
        placeholder="Optional"
        onValue={(system) => onChange({ system })}
      />
      {draft.turns.map((turn, place) => (
        <div class="turn" key={place}>
          <div class="turn-head">
            <label>
              <span class="hidden-label">Role of turn {place + 1}</span>
              <select
                value={turn.role}
                onChange={(event) => setTurn(place, { role: event.currentTarget.value as Turn["role"] })}
              >
                <option value="user">User</option>
                <option value="assistant">Assistant</option>
              </select>
            </label>
            {draft.turns.length > 1 && (
              <button
                type="button"
                class="quiet small"
                aria-label={`Remove turn ${place + 1}`}
                onClick={() => onChange({ turns: draft.turns.filter((_, i) => i !== place) })}
              >
                Remove
              </button>
            )}
          </div>
          <TextArea
            label={`Turn ${place + 1}`}
            hideLabel
            value={turn.content}
            placeholder={turn.role === "user" ? "What the user wrote" : "What the assistant wrote"}
            onValue={(content) => setTurn(place, { content })}
          />
        </div>
      ))}
      <button type="button" class="quiet small" onClick={addTurn}>
        Add a turn
      </button>
      <details open={draft.criteria !== "" || draft.reference !== ""}>
        <summary>Criteria and reference</summary>
        <TextArea
          label="Criteria"
          value={draft.criteria}
          placeholder="What a good response does. Optional."
          onValue={(criteria) => onChange({ criteria })}
        />
        <TextArea
          label="Reference answer"
          value={draft.reference}
          placeholder="A correct answer to compare with. Optional."
          onValue={(reference) => onChange({ reference })}
        />
      </details>
      <Options draft={draft} onChange={onChange} model={model} />
    </section>
  );
}

function asSamples(text: string, most: number): number {
  return Math.min(Math.max(Math.round(Number(text)) || 1, 1), most);
}

/** How critiques are written. */
export function Options({ draft, onChange, model }: Props) {
  const scalar = model !== null && model.manifest.critique_instruction === null;
  return (
    <fieldset class="options">
      <legend>Critiques</legend>
      <label class="check" title="Without critiques the score is the direct score: faster, less accurate.">
        <input
          type="checkbox"
          checked={draft.critique && !scalar}
          disabled={scalar}
          onChange={(event) => onChange({ critique: event.currentTarget.checked })}
        />
        Write critiques
      </label>
      {scalar && <p class="hint">This model is an imported scalar reward model and writes none.</p>}
      {draft.critique && !scalar && (
        <div class="numbers">
          <NumberField
            label="Samples"
            title="Critiques of each response. The score is the mean of the rewards after them."
            min={1}
            max={model?.limits.max_critiques ?? 16}
            value={String(draft.samples)}
            onValue={(text) => text !== "" && onChange({ samples: asSamples(text, model?.limits.max_critiques ?? 16) })}
          />
          <NumberField
            label="Tokens"
            title="Longest critique, in tokens. Default: the checkpoint's own limit."
            min={1}
            max={model?.limits.max_critique_tokens ?? 1024}
            placeholder="default"
            value={draft.maxTokens}
            onValue={(maxTokens) => onChange({ maxTokens })}
          />
          <NumberField
            label="Temperature"
            title="0 is greedy. Default: 0 for one sample, 0.7 for several."
            min={0}
            max={2}
            step={0.1}
            placeholder={draft.samples > 1 ? "0.7" : "0"}
            value={draft.temperature}
            onValue={(temperature) => onChange({ temperature })}
          />
          <NumberField
            label="Seed"
            title="Seed of the sampling."
            min={0}
            max={2 ** 32 - 1}
            placeholder="random"
            value={draft.seed}
            onValue={(seed) => onChange({ seed })}
          />
        </div>
      )}
    </fieldset>
  );
}
