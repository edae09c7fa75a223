/** What the user edits, and the request it makes. */

import type { CritiqueOptions, Message, ScoreRequest } from "./shapes";

export const MAX_RESPONSES = 8;
export const MIN_RESPONSES = 1;
/** The service streams the tokens of at most so many critiques. */
export const MAX_LIVE_CRITIQUES = 64;

export interface Turn {
  role: "user" | "assistant";
  content: string;
}

/** `samples` and `maxTokens` as typed: empty text is the server's default. */
export interface Draft {
  system: string;
  turns: Turn[];
  responses: string[];
  criteria: string;
  reference: string;
  critique: boolean;
  samples: number;
  maxTokens: string;
  temperature: string;
  seed: string;
}

export function emptyDraft(): Draft {
  return {
    system: "",
    turns: [{ role: "user", content: "" }],
    responses: ["", ""],
    criteria: "",
    reference: "",
    critique: true,
    samples: 1,
    maxTokens: "",
    temperature: "",
    seed: "",
  };
}

/** A, B, C... */
export function label(index: number): string {
  return String.fromCharCode(65 + index);
}

/** Why the draft can't be scored yet, or "". */
export function draftFault(draft: Draft): string {
  if (draft.turns.length === 0 || draft.turns.every((turn) => turn.content.trim() === ""))
    return "Write a prompt first.";
  if (draft.turns.at(-1)?.role !== "user") return "The last turn must be the user's: the responses answer it.";
  if (draft.responses.every((response) => response.trim() === "")) return "Write at least one response.";
  return "";
}

export function buildRequest(draft: Draft, responses: string[], trace: boolean): ScoreRequest {
  const messages: Message[] = draft.system ? [{ role: "system", content: draft.system }] : [];
  messages.push(...draft.turns);
  const [only] = messages;
  return {
    prompt: messages.length === 1 && only?.role === "user" ? only.content : messages,
    responses,
    ...(draft.criteria.trim() ? { criteria: draft.criteria } : {}),
    ...(draft.reference.trim() ? { reference: draft.reference } : {}),
    critique: critiqueField(draft, trace),
  };
}

/** `true` and `false` where nothing else is chosen, which reads better in a copied command. */
export function critiqueField(draft: Draft, trace: boolean): boolean | CritiqueOptions {
  if (!draft.critique) return false;
  const options: CritiqueOptions = {};
  if (draft.samples > 1) options.n = draft.samples;
  if (draft.maxTokens) options.max_tokens = Number(draft.maxTokens);
  if (draft.temperature) options.temperature = Number(draft.temperature);
  if (draft.seed) options.seed = Number(draft.seed);
  if (trace) options.trace = true;
  return Object.keys(options).length > 0 ? options : true;
}

/** Of links and files, which may hold anything. */
export function isTurn(value: unknown): value is Turn {
  if (typeof value !== "object" || value === null) return false;
  const turn = value as Record<string, unknown>;
  return (turn.role === "user" || turn.role === "assistant") && typeof turn.content === "string";
}
