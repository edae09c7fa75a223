/** The request as a command, as Python and as JSON. The key is never part of them. */

import { hasApiKey, serviceUrl } from "./api";
import type { ScoreRequest } from "./shapes";

export function asJson(request: ScoreRequest): string {
  return JSON.stringify(request, null, 2);
}

export function asCurl(request: ScoreRequest): string {
  const body = asJson(request).replaceAll("'", `'\\''`);
  const key = hasApiKey() ? ` \\\n  -H "Authorization: Bearer $CRITICRM_KEY"` : "";
  return `curl '${serviceUrl()}/score' -H 'Content-Type: application/json'${key} -d '${body}'`;
}

export function asPythonCode(request: ScoreRequest): string {
  const { prompt, responses, ...options } = request;
  const named = Object.entries(options).map(([name, value]) => `    ${name}=${asPython(value, 1)},\n`);
  const key = hasApiKey() ? ', key=os.environ["CRITICRM_KEY"]' : "";
  return [
    ...(hasApiKey() ? ["import os\n"] : []),
    "from criticrm_client import CriticRM\n",
    `client = CriticRM(${JSON.stringify(serviceUrl())}${key})`,
    `scores = client.score(\n    ${asPython(prompt, 1)},\n    ${asPython(responses, 1)},\n${named.join("")})`,
    "for result in scores.results:",
    "    print(result.reward, result.direct_score, [critique.text for critique in result.critiques])",
    "",
  ].join("\n");
}

/** A value of JSON as a Python literal. JSON's text escapes are Python's too. */
function asPython(value: unknown, depth: number): string {
  const inner = "    ".repeat(depth + 1);
  const outer = "    ".repeat(depth);
  if (value === true) return "True";
  if (value === false) return "False";
  if (value === null || value === undefined) return "None";
  if (Array.isArray(value)) {
    return `[\n${value.map((one) => `${inner}${asPython(one, depth + 1)},\n`).join("")}${outer}]`;
  }
  if (typeof value === "object") {
    const fields = Object.entries(value).map(([name, one]) => `${JSON.stringify(name)}: ${asPython(one, depth + 1)}`);
    return `{${fields.join(", ")}}`;
  }
  return JSON.stringify(value);
}

/** False where the browser gives no access to the clipboard, as over plain HTTP from another machine. */
export async function copyText(text: string): Promise<boolean> {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return false;
  }
}
