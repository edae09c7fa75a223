/** Reading the service's streams: server-sent events and NDJSON. */

import { Failure } from "./failures";

export interface ServerEvent {
  name: string;
  data: string;
}

/** The events of a stream. The service writes one `event` and one `data` line for each. */
export async function* readEvents(response: Response): AsyncGenerator<ServerEvent> {
  for await (const block of readParts(response, "\n\n")) {
    const event: ServerEvent = { name: "message", data: "" };
    for (const line of block.split("\n")) {
      if (line.startsWith("event: ")) event.name = line.slice(7);
      else if (line.startsWith("data: ")) event.data += line.slice(6);
    }
    yield event;
  }
}

export function readLines(response: Response): AsyncGenerator<string> {
  return readParts(response, "\n");
}

/** What stands between separators; an unfinished last part is dropped. */
async function* readParts(response: Response, separator: string): AsyncGenerator<string> {
  if (!response.body) return;
  const reader = response.body.getReader();
  const decoder = new TextDecoder();
  let rest = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      rest += decoder.decode(value, { stream: true });
      const parts = rest.split(separator);
      rest = parts.pop() ?? "";
      yield* parts.filter((part) => part !== "");
    }
  } catch (error) {
    if (error instanceof TypeError) throw new Failure(null, "The connection to the server was lost."); // fetch's own
    throw error;
  } finally {
    reader.cancel().catch(() => undefined); // of no effect on one that ended
  }
}
