/** Labelled inputs. */

import { useId, useLayoutEffect, useRef } from "preact/hooks";

interface TextProps {
  label: string;
  value: string;
  onValue: (value: string) => void;
  placeholder?: string;
  rows?: number;
  hint?: string;
  hideLabel?: boolean;
}

/** A text field that grows with its text. */
export function TextArea({ label, value, onValue, placeholder, rows = 2, hint, hideLabel }: TextProps) {
  const id = useId();
  const field = useRef<HTMLTextAreaElement>(null);
  useLayoutEffect(() => {
    const element = field.current;
    if (!element || element.offsetParent === null) return; // hidden: it has no height
    element.style.height = "auto";
    element.style.height = `${Math.min(element.scrollHeight + 2, 320)}px`;
  }, [value]);
  return (
    <div class="field">
      <label for={id} class={hideLabel ? "hidden-label" : ""}>
        {label}
      </label>
      <textarea
        id={id}
        ref={field}
        rows={rows}
        value={value}
        placeholder={placeholder}
        aria-describedby={hint ? `${id}-hint` : undefined}
        onInput={(event) => onValue(event.currentTarget.value)}
      />
      {hint && (
        <p id={`${id}-hint`} class="hint">
          {hint}
        </p>
      )}
    </div>
  );
}

interface NumberProps {
  label: string;
  value: string;
  onValue: (value: string) => void;
  min: number;
  max: number;
  step?: number;
  placeholder?: string;
  title: string;
}

export function NumberField({ label, value, onValue, min, max, step = 1, placeholder, title }: NumberProps) {
  return (
    <label class="number" title={title}>
      <span>{label}</span>
      <input
        type="number"
        min={min}
        max={max}
        step={step}
        value={value}
        placeholder={placeholder}
        onInput={(event) => onValue(event.currentTarget.value)}
        onBlur={(event) => (event.currentTarget.value = value)} // where what was typed is not taken over
      />
    </label>
  );
}
