/** Scores the entries of a file in requests of a bounded size, some at a time. */

import { scoreItems } from "./api";
import { Failure, isAbort } from "./failures";
import type { Entry } from "./rows";
import type { CritiqueOptions, Item, Result } from "./shapes";

const RESPONSES_A_REQUEST = 32;
const REQUESTS_AT_A_TIME = 2;
const MAX_TRIES = 8;

/** One response of the file and what came of it. `score` null and `error` "": not scored yet. */
export interface RowOutcome {
  row: number;
  index: number;
  entry: Entry;
  score: number | null;
  direct: number | null;
  std: number | null;
  critique: string;
  error: string;
}

export interface Progress {
  state: "running" | "finished" | "cancelled";
  done: number;
  total: number;
  /** Responses a second. */
  rate: number;
  secondsLeft: number;
  /** Why it waits, if it does. */
  waiting: string;
}

export interface BatchOptions {
  critique: boolean | CritiqueOptions;
  /** Most items that the service takes in one request. */
  maxItems: number;
}

export function startOutcomes(entries: Entry[]): RowOutcome[] {
  return entries.flatMap((entry) =>
    entry.responses.map((_, index) => {
      return { row: entry.row, index, entry, score: null, direct: null, std: null, critique: "", error: "" };
    }),
  );
}

/** Entries in requests of at most RESPONSES_A_REQUEST responses; one with more goes alone. */
export function groupEntries(entries: Entry[], maxItems: number): Entry[][] {
  const groups: Entry[][] = [];
  let size = Infinity;
  for (const entry of entries) {
    const group = groups.at(-1);
    if (group && group.length < maxItems && size + entry.responses.length <= RESPONSES_A_REQUEST) {
      group.push(entry);
      size += entry.responses.length;
    } else {
      groups.push([entry]);
      size = entry.responses.length;
    }
  }
  return groups;
}

/** Runs until all outcomes are there, or `signal` aborts. Outcomes are changed in place. */
export class BatchRun {
  readonly outcomes: RowOutcome[];
  private readonly byRow = new Map<number, RowOutcome[]>();
  private readonly groups: Entry[][];
  private readonly abort = new AbortController();
  private readonly began = performance.now();
  private done = 0;
  private waiting = "";
  private state: Progress["state"] = "running";

  constructor(
    entries: Entry[],
    private readonly options: BatchOptions,
    private readonly onProgress: () => void,
  ) {
    this.outcomes = startOutcomes(entries);
    for (const outcome of this.outcomes) {
      this.byRow.set(outcome.row, [...(this.byRow.get(outcome.row) ?? []), outcome]);
    }
    this.groups = groupEntries(entries, options.maxItems);
  }

  progress(): Progress {
    const rate = this.done / Math.max((performance.now() - this.began) / 1000, 0.001);
    const total = this.outcomes.length;
    const secondsLeft = (total - this.done) / rate;
    return { state: this.state, done: this.done, total, rate, secondsLeft, waiting: this.waiting };
  }

  cancel(): void {
    this.abort.abort();
  }

  async run(): Promise<void> {
    const workers = Array.from({ length: REQUESTS_AT_A_TIME }, () => this.work());
    await Promise.all(workers);
    this.state = this.abort.signal.aborted ? "cancelled" : "finished";
    this.onProgress();
  }

  private async work(): Promise<void> {
    for (let group = this.groups.shift(); group; group = this.groups.shift()) {
      await this.score(group).catch((error: unknown) => {
        if (!isAbort(error)) throw error;
      });
      if (this.abort.signal.aborted) return;
    }
  }

  /** Score a group; rows that the service refuses by name are reported, and the others are sent again. */
  private async score(group: Entry[]): Promise<void> {
    for (let tries = 1; group.length > 0; tries += 1) {
      try {
        const items = group.map(asItem);
        await scoreItems({ items, critique: this.options.critique }, (one) => this.record(one), this.abort.signal);
        return;
      } catch (error) {
        if (isAbort(error)) throw error;
        const failure = error instanceof Failure ? error : new Failure(null, String(error));
        const wait = waitBeforeRetry(failure, tries);
        if (wait !== null) await this.pause(wait, failure);
        else if (!this.reportRows(group, failure)) this.report(group, failure.message);
        group = group.filter((entry) => this.byRow.get(entry.row)?.some(isOpen));
      }
    }
  }

  private record(result: Result): void {
    const outcome = this.byRow.get(Number(result.id))?.[result.index];
    if (!outcome || !isOpen(outcome)) return;
    outcome.score = result.score;
    outcome.direct = result.direct_score;
    outcome.std = result.score_std;
    outcome.critique = result.critiques[0]?.text ?? "";
    outcome.error = result.error ? result.error.message : "";
    this.done += 1;
    this.waiting = "";
    this.onProgress();
  }

  /** Report the rows that an error names (`items[3].prompt`); false if it names none. */
  private reportRows(group: Entry[], failure: Failure): boolean {
    let named = false;
    for (const { field, message } of failure.info?.details ?? []) {
      const place = /^items\[(\d+)\]\.?(.*)/.exec(field ?? "");
      const entry = place && group[Number(place[1])];
      if (!entry) continue;
      named = true;
      this.report([entry], `${place[2]}: ${message ?? failure.message}`);
    }
    return named;
  }

  private report(entries: Entry[], message: string): void {
    for (const outcome of entries.flatMap((entry) => this.byRow.get(entry.row) ?? [])) {
      if (!isOpen(outcome)) continue;
      outcome.error = message;
      this.done += 1;
    }
    this.onProgress();
  }

  private async pause(seconds: number, failure: Failure): Promise<void> {
    this.waiting = `${failure.message}: trying again in ${seconds} s`;
    this.onProgress();
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, seconds * 1000);
      this.abort.signal.addEventListener("abort", () => {
        clearTimeout(timer);
        resolve();
      });
    });
    this.abort.signal.throwIfAborted();
  }
}

function isOpen(outcome: RowOutcome): boolean {
  return outcome.score === null && outcome.error === "";
}

function asItem(entry: Entry): Item {
  const { row, ...item } = entry;
  return { id: String(row), ...item };
}

/** Seconds to wait, or null where trying again is of no use. */
function waitBeforeRetry(failure: Failure, tries: number): number | null {
  if (tries >= MAX_TRIES) return null;
  if (failure.retryAfterS !== null) return failure.retryAfterS;
  return failure.info === null ? Math.min(2 ** tries, 30) : null; // the connection was lost
}
