/** A draft in the link's fragment, which browsers do not send to the server. */

import { type Draft, emptyDraft, isTurn, MAX_RESPONSES, MIN_RESPONSES } from "./draft";

const PREFIX = "#draft=";

export function draftLink(draft: Draft): string {
  const bytes = new TextEncoder().encode(JSON.stringify(draft));
  const binary = Array.from(bytes, (byte) => String.fromCharCode(byte)).join("");
  const text = btoa(binary).replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
  return `${location.href.split("#")[0]}${PREFIX}${text}`;
}

/** The draft of a fragment, or null if it holds none. A link comes from anyone: each field is checked. */
export function readDraft(fragment: string): Draft | null {
  if (!fragment.startsWith(PREFIX)) return null;
  try {
    const base64 = fragment.slice(PREFIX.length).replaceAll("-", "+").replaceAll("_", "/");
    const bytes = Uint8Array.from(atob(base64), (character) => character.charCodeAt(0));
    return asDraft(JSON.parse(new TextDecoder().decode(bytes)) as unknown);
  } catch {
    return null; // cut off or changed on its way
  }
}

function asDraft(value: unknown): Draft | null {
  if (typeof value !== "object" || value === null) return null;
  const fields = value as Record<string, unknown>;
  const draft = emptyDraft();
  for (const name of ["system", "criteria", "reference", "maxTokens", "temperature", "seed"] as const) {
    const field = fields[name];
    if (typeof field === "string") draft[name] = field;
  }
  if (typeof fields.critique === "boolean") draft.critique = fields.critique;
  if (typeof fields.samples === "number") draft.samples = Math.min(Math.max(Math.round(fields.samples) || 1, 1), 16);
  if (Array.isArray(fields.turns)) draft.turns = fields.turns.filter(isTurn);
  if (Array.isArray(fields.responses)) {
    draft.responses = fields.responses.filter((one) => typeof one === "string").slice(0, MAX_RESPONSES);
  }
  while (draft.responses.length < MIN_RESPONSES) draft.responses.push("");
  return draft;
}
