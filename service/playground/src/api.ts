/** Calls of the service. The key is held here, in memory, and nowhere else. */

import { Failure } from "./failures";
import type { ErrorInfo, ModelInfo, Result, ScoreRequest, StreamEnd, TokenEvent } from "./shapes";
import { readEvents, readLines } from "./streams";

let apiKey = "";

export function setApiKey(key: string): void {
  apiKey = key.trim();
}

export function hasApiKey(): boolean {
  return apiKey !== "";
}

/** The service's address, for commands that are copied. Under a proxy's prefix it is the page's folder. */
export function serviceUrl(): string {
  return new URL(".", location.href).href.replace(/\/$/, "");
}

export async function fetchModel(signal?: AbortSignal): Promise<ModelInfo> {
  const response = await call("./v1/model", { signal });
  return (await response.json()) as ModelInfo;
}

export async function score(request: ScoreRequest, signal: AbortSignal): Promise<Result[]> {
  const response = await post(request, "application/json", signal);
  return ((await response.json()) as { results: Result[] }).results;
}

export interface Listener {
  onToken: (token: TokenEvent) => void;
  onResult: (result: Result) => void;
}

/** Score with each token shown as it is written. Throws Failure also where the stream ends without its end. */
export async function scoreLive(request: ScoreRequest, listener: Listener, signal: AbortSignal): Promise<StreamEnd> {
  const response = await post(request, "text/event-stream", signal);
  for await (const { name, data } of readEvents(response)) {
    if (name === "token") listener.onToken(JSON.parse(data) as TokenEvent);
    else if (name === "result") listener.onResult(JSON.parse(data) as Result);
    else if (name === "end") return checked(JSON.parse(data) as StreamEnd);
  }
  throw new Failure(null, "The connection ended before the last result.");
}

/** Score many items; each result as it is finished. */
export async function scoreItems(body: object, onResult: (result: Result) => void, signal: AbortSignal): Promise<void> {
  const response = await post(body, "application/x-ndjson", signal);
  for await (const line of readLines(response)) {
    const part = JSON.parse(line) as Result | StreamEnd;
    if ("count" in part) {
      checked(part);
      return;
    }
    onResult(part);
  }
  throw new Failure(null, "The connection ended before the last result.");
}

function checked(end: StreamEnd): StreamEnd {
  if (end.error) throw new Failure(end.error, end.error.message);
  return end;
}

function post(body: object, accept: string, signal: AbortSignal): Promise<Response> {
  const headers = { "Content-Type": "application/json", Accept: accept };
  return call("./score", { method: "POST", body: JSON.stringify(body), headers, signal });
}

async function call(path: string, init: RequestInit): Promise<Response> {
  const headers = new Headers(init.headers);
  if (apiKey) headers.set("Authorization", `Bearer ${apiKey}`);
  let response: Response;
  try {
    response = await fetch(path, { ...init, headers, credentials: "same-origin" });
  } catch (error) {
    if (init.signal?.aborted) throw error;
    throw new Failure(null, "The server can't be reached.");
  }
  if (response.ok) return response;
  const retryAfter = Number(response.headers.get("Retry-After"));
  const info = await readError(response);
  if (info) throw new Failure(info, info.message, retryAfter || null);
  throw new Failure(null, `A proxy or another server answered with status ${response.status}.`, retryAfter || null);
}

async function readError(response: Response): Promise<ErrorInfo | null> {
  try {
    const body = (await response.json()) as { error?: ErrorInfo };
    return typeof body.error?.message === "string" ? body.error : null;
  } catch {
    return null; // no JSON: not an answer of the service
  }
}
