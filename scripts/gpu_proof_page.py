"""The input and the page of gpu_proof.sh.

gpu_proof_page.py conversations FILE   long conversations for `criticrm verify`
gpu_proof_page.py page OUT             gpu-proof.json and gpu-proof.html from the logs in OUT; 1 if a step failed
"""

from __future__ import annotations

import html
import json
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

from criticrm_model.pages import write_page

_LONG = (
    3_000  # words: more tokens than a step of vLLM's smaller defaults takes, so that prompts are prefilled in chunks
)
_CONVERSATIONS = 8


def write_conversations(path: Path) -> None:
    """Each one's context is all of the embedded ones, from another place on."""
    source = files("criticrm_server").joinpath("conversations.jsonl").read_text(encoding="utf-8")
    rows = [json.loads(line) for line in source.splitlines()]
    words = " ".join(row["responses"][0] for row in rows).split()
    words *= _LONG // len(words) + 2
    with path.open("w", encoding="utf-8") as file:
        for i, row in enumerate(rows[:_CONVERSATIONS]):
            question = row["prompt"] if isinstance(row["prompt"], str) else row["prompt"][-1]["content"]
            prompt = f"{' '.join(words[97 * i : 97 * i + _LONG])}\n\n{question}"
            file.write(json.dumps({"prompt": prompt, "responses": row["responses"][:1]}) + "\n")


def write_proof(out: Path) -> int:
    """Gather the steps; the exit status."""
    steps: list[dict[str, Any]] = []
    for line in (out / "steps.tsv").read_text().splitlines():
        name, status, seconds = line.split("\t")
        log = (out / f"{name}.log").read_text(errors="replace").strip()
        steps.append({"step": name, "passed": status == "0", "seconds": int(seconds), "result": _result(log)})
    (out / "gpu-proof.json").write_text(json.dumps(steps, indent=2) + "\n")
    rows = "".join(
        f"<tr><td>{s['step']}</td><td>{'passed' if s['passed'] else '<b>FAILED</b>'}</td><td>{s['seconds']} s</td></tr>"
        for s in steps
    )
    parts = ["<h1>Are rewards read right on this machine?</h1>", f"<table><tbody>{rows}</tbody></table>"]
    for s in steps:
        log = (out / f"{s['step']}.log").read_text(errors="replace")[-6000:]
        parts.append(f"<h2>{s['step']}</h2><pre>{html.escape(log)}</pre>")
    write_page(out / "gpu-proof.html", "Critic-RM: GPU proof", parts)
    print(f"wrote {out / 'gpu-proof.json'} and {out / 'gpu-proof.html'}")
    return int(not all(s["passed"] for s in steps))


def _result(log: str) -> Any:
    """A whole log of JSON, or its last line if that is; else None."""
    for text in (log, log.rpartition("\n")[2]):
        try:
            return json.loads(text)
        except ValueError:
            continue
    return None


if __name__ == "__main__":
    command, path = sys.argv[1], Path(sys.argv[2])
    sys.exit(write_conversations(path) if command == "conversations" else write_proof(path))
