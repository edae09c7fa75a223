/** A file of prompts and responses, JSONL or CSV, read and checked row by row. */

import { parseCsv } from "./csv";
import type { Message } from "./shapes";

export const MAX_ENTRIES = 10_000;

/** A row of the file. `row` counts from 1, without a CSV's header. */
export interface Entry {
  row: number;
  prompt: string | Message[];
  responses: string[];
  criteria?: string;
  reference?: string;
}

export interface RowFault {
  row: number;
  message: string;
}

export interface ReadFile {
  name: string;
  entries: Entry[];
  faults: RowFault[];
}

/** Throws Error with a message for the user where nothing of the file can be read. */
export function readRows(name: string, text: string): ReadFile {
  const content = text.startsWith("\ufeff") ? text.slice(1) : text;
  const isJson = /\.(jsonl|ndjson|json)$/i.test(name) || content.trimStart().startsWith("{");
  const file: ReadFile = { name, entries: [], faults: [] };
  const values = isJson ? jsonValues(content) : csvValues(content);
  for (const [i, read] of values.entries()) {
    try {
      file.entries.push(asEntry(read(), i + 1));
    } catch (error) {
      file.faults.push({ row: i + 1, message: error instanceof Error ? error.message : String(error) });
    }
  }
  if (values.length === 0) throw new Error("The file has no rows.");
  if (values.length > MAX_ENTRIES) {
    throw new Error(`The file has ${values.length} rows; the page takes ${MAX_ENTRIES}. Use criticrm score for more.`);
  }
  return file;
}

function jsonValues(text: string): (() => unknown)[] {
  const lines = text.split("\n").filter((line) => line.trim() !== "");
  return lines.map((line) => () => {
    try {
      return JSON.parse(line) as unknown;
    } catch {
      throw new Error("not valid JSON");
    }
  });
}

function csvValues(text: string): (() => unknown)[] {
  const [header, ...records] = parseCsv(text);
  const names = header?.fields.map((name) => name.trim().toLowerCase()) ?? [];
  if (!names.includes("prompt") || !(names.includes("response") || names.includes("responses"))) {
    throw new Error(`The first line must name the columns prompt and response (or responses). It is: ${names.join(", ").slice(0, 200)}`);
  }
  return records.map((record) => () => {
    if (record.fields.length > names.length) throw new Error(`line ${record.line} has more fields than the header`);
    const value: Record<string, unknown> = Object.fromEntries(record.fields.map((field, i) => [names[i] ?? "", field]));
    if (names.includes("responses")) value.responses = parseList(String(value.responses ?? ""));
    return value;
  });
}

function parseList(text: string): unknown {
  try {
    return JSON.parse(text) as unknown;
  } catch {
    throw new Error('responses must be a JSON list of texts: ["first", "second"]');
  }
}

function asEntry(value: unknown, row: number): Entry {
  if (typeof value !== "object" || value === null || Array.isArray(value)) throw new Error("not an object");
  const { prompt, response, responses, criteria, reference } = value as Record<string, unknown>;
  if (prompt === undefined || prompt === "") throw new Error("no prompt");
  if (typeof prompt !== "string" && !Array.isArray(prompt)) throw new Error("prompt is neither text nor a list of messages");
  const texts = responses ?? (response === undefined ? undefined : [response]);
  if (texts === undefined) throw new Error("no response");
  if (!Array.isArray(texts) || texts.length === 0 || texts.some((text) => typeof text !== "string")) {
    throw new Error(responses === undefined ? "response is not text" : "responses is not a list of texts");
  }
  return {
    row,
    prompt: prompt as string | Message[], // the service checks the messages
    responses: texts as string[],
    ...(typeof criteria === "string" && criteria ? { criteria } : {}),
    ...(typeof reference === "string" && reference ? { reference } : {}),
  };
}

/** The prompt in one line, for the table. */
export function promptText(prompt: string | Message[]): string {
  if (typeof prompt === "string") return prompt;
  return String(prompt.at(-1)?.content ?? "");
}
