/** The words of a critique and how much the reward moved over each. */

import type { Critique } from "./shapes";

/** A token as the event stream or a trace has it: its text and the reward before it. */
export interface TracedToken {
  text: string;
  score: number | null;
}

/** A word with the space before it. `before` and `after` are the rewards around it, null where not known, and `end` is
 * the place of the token that `after` stands before. */
export interface Word {
  space: string;
  text: string;
  before: number | null;
  after: number | null;
  end: number;
}

export function tracedTokens(critique: Critique): TracedToken[] {
  const trace = critique.trace;
  if (!trace) return [];
  // Offsets count Unicode code points; JavaScript's strings count UTF-16 units.
  const characters = Array.from(critique.text);
  const tokens: TracedToken[] = trace.offsets.map((offset, i) => ({
    text: characters.slice(offset, trace.offsets[i + 1] ?? characters.length).join(""),
    score: trace.scores[i] ?? null,
  }));
  if (trace.scores.at(-1) !== critique.score) tokens.push({ text: "", score: critique.score }); // of a cut one
  return tokens;
}

/** Tokens joined to words: a token with a white space in it begins another word. */
export function splitWords(tokens: TracedToken[]): Word[] {
  const words: Word[] = [];
  let word: Word | null = null;
  for (const [i, token] of tokens.entries()) {
    const end = Math.min(i + 1, tokens.length - 1); // of the last token nothing is known after it
    const after = tokens[end]?.score ?? token.score;
    for (const part of token.text.split(/(\s+)/)) {
      if (part === "") continue;
      if (part.trim() === "") {
        if (word?.text === "") word.space += part;
        else words.push((word = { space: part, text: "", before: token.score, after, end }));
      } else if (word) {
        word.text += part;
        Object.assign(word, { after, end });
      } else {
        words.push((word = { space: "", text: part, before: token.score, after, end }));
      }
    }
    if (word) Object.assign(word, { after, end }); // also over tokens without text, as the one that ends a critique
  }
  return words;
}

export function wordChange(word: Word): number {
  return word.before === null || word.after === null ? 0 : word.after - word.before;
}

/** How strongly each word is coloured, from -1 to 1: the change relative to the largest one. */
export function wordStrengths(words: Word[]): number[] {
  const changes = words.map(wordChange);
  const largest = Math.max(...changes.map(Math.abs), 0.05); // noise alone is not coloured strongly
  return changes.map((change) => change / largest);
}
