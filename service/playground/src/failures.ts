/** What went wrong, in words. */

import type { ErrorInfo } from "./shapes";

const EXPLANATIONS: Record<string, string> = {
  unauthorized: "The server needs an API key, or does not accept this one.",
  overloaded: "The server is busy: all places and the queue are full.",
  draining: "The server is shutting down.",
  sleeping: "The engine is asleep until /admin/wake.",
  busy: "The server is loading other weights.",
  engine_dead: "The engine stopped; the server will restart.",
  engine_failed: "The engine returned no finished critique.",
  no_engine_server: "No engine server is healthy.",
  deadline_exceeded: "The request took longer than the server allows.",
  prompt_too_long: "The text is too long for the model.",
  limit_exceeded: "The request exceeds a limit of the server.",
  invalid_request: "The server refused a field of the request.",
  unsupported_conversation: "The model's chat template does not support this conversation.",
  body_too_large: "The request is too large.",
  non_finite_reward: "The model returned a reward that is not a number.",
  internal: "The server failed unexpectedly.",
};

/** A request that failed. `info` is null where no answer of the service arrived. */
export class Failure extends Error {
  constructor(
    readonly info: ErrorInfo | null,
    message: string,
    readonly retryAfterS: number | null = null,
  ) {
    super(message);
  }
}

export interface Description {
  title: string;
  detail: string;
  requestId: string;
}

export function describeInfo(info: ErrorInfo): Description {
  const title = EXPLANATIONS[info.code] ?? "The request failed.";
  return { title, detail: `${info.message} (${info.code})`, requestId: info.request_id };
}

export function describeFailure(error: unknown): Description {
  if (error instanceof Failure && error.info) return describeInfo(error.info);
  if (error instanceof Failure) return { title: error.message, detail: "", requestId: "" };
  return { title: "The page failed unexpectedly.", detail: String(error), requestId: "" };
}

/** Aborted by the user, which is no failure. */
export function isAbort(error: unknown): boolean {
  return error instanceof DOMException && error.name === "AbortError";
}
