/** Conversations to click. */

import { type Draft, emptyDraft } from "./draft";

export interface Example {
  name: string;
  draft: Draft;
}

function example(name: string, prompt: string, responses: string[], more: Partial<Draft> = {}): Example {
  return { name, draft: { ...emptyDraft(), turns: [{ role: "user", content: prompt }], responses, ...more } };
}

/** The first is what the embedded default was trained on. */
export const EXAMPLES: Example[] = [
  example("Arithmetic", "Start with 17, add 25, multiply by 3, subtract 48. What is the result?", [
    "The answer is 78.",
    "The answer is 68.",
  ]),
  example("Explanation", "Why is the sky blue?", [
    "Air molecules scatter short wavelengths more than long ones, so blue light reaches us from all directions.",
    "The sky is blue because it reflects the colour of the sea.",
    "That is a great question! Many people wonder about it, and there are many interesting answers.",
  ]),
  example(
    "Conversation",
    "",
    ["No: 9 is 3 times 3. 7 is a prime.", "Yes, 9 is a prime because it is odd."],
    {
      system: "You are a careful tutor. Correct your own mistakes.",
      turns: [
        { role: "user", content: "Name a prime." },
        { role: "assistant", content: "9" },
        { role: "user", content: "Are you sure?" },
      ],
    },
  ),
  example(
    "Four samples",
    "Start with 40, subtract 12, multiply by 5. What is the result?",
    ["The answer is 140.", "The answer is 28.", "40 - 12 = 28, and 28 * 5 = 140. The answer is 140."],
    { samples: 4 },
  ),
];
