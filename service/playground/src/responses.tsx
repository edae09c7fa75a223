/** The responses' editors, side by side. */

import { type Draft, label, MAX_RESPONSES, MIN_RESPONSES } from "./draft";
import { TextArea } from "./fields";

interface Props {
  responses: string[];
  onChange: (change: Partial<Draft>) => void;
}

export function Responses({ responses, onChange }: Props) {
  const set = (place: number, text: string) =>
    onChange({ responses: responses.map((response, i) => (i === place ? text : response)) });
  return (
    <section aria-labelledby="responses-title">
      <div class="section-head">
        <h2 id="responses-title">Responses</h2>
        <button
          type="button"
          class="quiet small"
          disabled={responses.length >= MAX_RESPONSES}
          onClick={() => onChange({ responses: [...responses, ""] })}
        >
          Add a response
        </button>
      </div>
      <div class="columns">
        {responses.map((response, place) => (
          <div class="panel response" key={place}>
            <div class="turn-head">
              <Letter index={place} />
              {responses.length > MIN_RESPONSES && (
                <button
                  type="button"
                  class="quiet small"
                  aria-label={`Remove response ${label(place)}`}
                  onClick={() => onChange({ responses: responses.filter((_, i) => i !== place) })}
                >
                  Remove
                </button>
              )}
            </div>
            <TextArea
              label={`Response ${label(place)}`}
              hideLabel
              rows={2}
              value={response}
              placeholder="What the assistant answered"
              onValue={(text) => set(place, text)}
            />
          </div>
        ))}
      </div>
    </section>
  );
}

/** A response's letter in its colour. */
export function Letter({ index }: { index: number }) {
  return (
    <span class="letter" data-index={index}>
      {label(index)}
    </span>
  );
}
