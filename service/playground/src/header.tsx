/** Name, tabs, the served model, the key, and the theme's switch. */

import { useState } from "preact/hooks";
import type { ModelInfo } from "./shapes";
import type { Theme } from "./theme";

export type Tab = "compare" | "batch";

const TABS: [Tab, string][] = [
  ["compare", "Compare"],
  ["batch", "Batch"],
];

interface Props {
  tab: Tab;
  onTab: (tab: Tab) => void;
  theme: Theme;
  onTheme: (theme: Theme) => void;
  model: ModelInfo | null;
  onKey: (key: string) => void;
}

export function Header({ tab, onTab, theme, onTheme, model, onKey }: Props) {
  const onArrow = (event: KeyboardEvent) => {
    if (event.key !== "ArrowLeft" && event.key !== "ArrowRight") return;
    const other: Tab = tab === "compare" ? "batch" : "compare";
    onTab(other);
    document.getElementById(`tab-${other}`)?.focus();
  };
  return (
    <header class="top">
      <h1>
        Critic-RM <span class="muted">playground</span>
      </h1>
      <div role="tablist" aria-label="Views" class="tabs" onKeyDown={onArrow}>
        {TABS.map(([name, text]) => (
          <button
            key={name}
            type="button"
            role="tab"
            id={`tab-${name}`}
            aria-selected={tab === name}
            aria-controls={`panel-${name}`}
            tabIndex={tab === name ? 0 : -1}
            onClick={() => onTab(name)}
          >
            {text}
          </button>
        ))}
      </div>
      <p class="model muted">
        {model ? (
          <>
            Model <strong>{model.model}</strong> <span class="code">{model.model_version}</span>
          </>
        ) : (
          "No model yet"
        )}
      </p>
      <KeyField onKey={onKey} />
      <button type="button" class="quiet" onClick={() => onTheme(theme === "dark" ? "light" : "dark")}>
        {theme === "dark" ? "Light" : "Dark"}
      </button>
    </header>
  );
}

function KeyField({ onKey }: { onKey: (key: string) => void }) {
  const [key, setKey] = useState("");
  return (
    <label class="key" title="Kept in memory until the page is closed. Not stored, not part of links or copied commands.">
      <span class="muted">API key</span>
      <input
        type="password"
        autocomplete="off"
        placeholder="none"
        value={key}
        onInput={(event) => setKey(event.currentTarget.value)}
        onChange={() => onKey(key)}
      />
    </label>
  );
}
