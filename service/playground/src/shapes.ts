/** The shapes of the API, as far as the page reads them. */

export type Role = "system" | "user" | "assistant" | "tool";

export interface Message {
  role: Role;
  content: string;
}

export interface CritiqueOptions {
  n?: number;
  max_tokens?: number;
  temperature?: number;
  seed?: number;
  trace?: boolean;
}

export interface Item {
  id?: string;
  prompt: string | Message[];
  responses: string[];
  criteria?: string;
  reference?: string;
}

export interface ScoreRequest extends Item {
  critique: boolean | CritiqueOptions;
}

export interface ErrorInfo {
  code: string;
  message: string;
  request_id: string;
  details: { field?: string; message?: string }[];
}

/** `scores[i]` is the reward before the token that begins at `offsets[i]`. */
export interface Trace {
  offsets: number[];
  scores: number[];
}

export interface Critique {
  text: string;
  score: number;
  finish_reason: "stop" | "length" | "settled";
  tokens: number;
  trace: Trace | null;
}

export interface Result {
  id: string | null;
  index: number;
  status: "ok" | "truncated" | "error";
  score: number | null;
  direct_score: number | null;
  score_std: number | null;
  rewards?: Record<string, { score: number; direct_score: number }> | null;
  critiques: Critique[];
  warnings: string[];
  error: ErrorInfo | null;
}

export interface TokenEvent {
  index: number;
  critique: number;
  text: string;
  score: number | null;
}

export interface StreamEnd {
  id: string;
  count: number;
  error: ErrorInfo | null;
}

export interface Moments {
  mean: number;
  std: number;
}

export interface ModelInfo {
  model: string;
  model_version: string;
  max_model_len: number;
  limits: Record<string, number>;
  manifest: {
    critique_instruction: string | null;
    max_critique_tokens: number;
    calibration: { reference_set: string; n: number; score: Moments; direct_score: Moments } | null;
  };
}
