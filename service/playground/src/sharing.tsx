/** Copy the request, or a link to the draft. */

import { useState } from "preact/hooks";
import { asCurl, asJson, asPythonCode, copyText } from "./copies";
import { buildRequest, type Draft } from "./draft";
import { draftLink } from "./link";
import type { ScoreRequest } from "./shapes";

const FORMATS: [string, (request: ScoreRequest) => string][] = [
  ["curl", asCurl],
  ["Python", asPythonCode],
  ["JSON", asJson],
];

export function CopyAndShare({ draft }: { draft: Draft }) {
  const [note, setNote] = useState("");
  const [shown, setShown] = useState(""); // to copy by hand, where the clipboard is refused

  const copy = async (name: string, text: string) => {
    const copied = await copyText(text);
    setNote(copied ? `${name} copied.` : `The browser refused the clipboard; copy the ${name} here:`);
    setShown(copied ? "" : text);
  };
  const share = () => {
    const link = draftLink(draft);
    history.replaceState(null, "", link);
    void copy("Link", link);
  };
  return (
    <div class="sharing">
      <div role="group" aria-label="Copy the request" class="segments">
        <span class="muted">Copy as</span>
        {FORMATS.map(([name, format]) => (
          <button
            key={name}
            type="button"
            class="chip"
            onClick={() => copy(name, format(buildRequest(draft, draft.responses, false)))}
          >
            {name}
          </button>
        ))}
        <button
          type="button"
          class="chip"
          title="The link holds the texts in its fragment, which is not sent to the server. It holds no key."
          onClick={share}
        >
          Share link
        </button>
      </div>
      <p role="status" class="muted note">
        {note}
      </p>
      {shown && <textarea class="code" aria-label="Text to copy" readonly rows={4} value={shown} />}
    </div>
  );
}
