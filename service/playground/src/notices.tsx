/** Messages about what failed. */

import type { Description } from "./failures";

export function FailureNotice({ failure, hint = "" }: { failure: Description; hint?: string }) {
  return (
    <div class="failure" role="alert">
      <strong>{failure.title}</strong> {hint}
      {failure.detail && <p>{failure.detail}</p>}
      {failure.requestId && (
        <p class="muted">
          Request id <span class="code">{failure.requestId}</span>: it is in the server's log.
        </p>
      )}
    </div>
  );
}
