/** The frame: header, the two tabs, and what they share. */

import { useEffect, useState } from "preact/hooks";
import { fetchModel, hasApiKey, setApiKey } from "./api";
import { Batch } from "./batch";
import { Compare } from "./compare";
import type { Draft } from "./draft";
import { type Description, describeFailure, isAbort } from "./failures";
import { Header, type Tab } from "./header";
import { FailureNotice } from "./notices";
import type { ModelInfo } from "./shapes";
import { applyTheme, onSystemTheme, systemTheme, type Theme } from "./theme";

export function App() {
  const [tab, setTab] = useState<Tab>("compare");
  const [theme, setTheme] = useState<Theme>(systemTheme);
  const [keys, setKeys] = useState(0); // how many keys were set: each makes the page ask for the model again
  const [opened, setOpened] = useState<Draft | null>(null);
  const { model, failure } = useModel(keys);

  useEffect(() => onSystemTheme(setTheme), []);
  applyTheme(theme);
  const changeKey = (key: string) => {
    setApiKey(key);
    setKeys((count) => count + 1);
  };
  const openDraft = (draft: Draft) => {
    setOpened(draft);
    setTab("compare");
  };
  return (
    <>
      <Header tab={tab} onTab={setTab} theme={theme} onTheme={setTheme} model={model} onKey={changeKey} />
      <main>
        {failure && <FailureNotice failure={failure} hint={hasApiKey() ? "" : "If it has API keys, type one above."} />}
        <div role="tabpanel" id="panel-compare" aria-labelledby="tab-compare" hidden={tab !== "compare"}>
          <Compare model={model} theme={theme} opened={opened} />
        </div>
        <div role="tabpanel" id="panel-batch" aria-labelledby="tab-batch" hidden={tab !== "batch"}>
          <Batch model={model} theme={theme} onOpen={openDraft} />
        </div>
      </main>
    </>
  );
}

function useModel(keys: number): { model: ModelInfo | null; failure: Description | null } {
  const [model, setModel] = useState<ModelInfo | null>(null);
  const [failure, setFailure] = useState<Description | null>(null);
  useEffect(() => {
    const abort = new AbortController();
    fetchModel(abort.signal).then(
      (found) => {
        setModel(found);
        setFailure(null);
      },
      (error: unknown) => {
        if (!isAbort(error)) setFailure(describeFailure(error));
      },
    );
    return () => abort.abort();
  }, [keys]);
  return { model, failure };
}
