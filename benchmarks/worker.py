"""A plain vLLM engine, as a user would run it instead of the service.

`LLM.generate` without any readout, or `LLM.classify`. `worker.py generate|classify MODEL ARGUMENTS` reads tasks and
writes answers, a line of JSON each. Another program that is called and that talks like it (trainers.py) can be run by
`Worker` too.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

os.environ |= {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1"}


class Worker:
    """Such an engine in a process of its own, for the time of a `with`; `ready` is its first answer."""

    def __init__(
        self, kind: str, model: Path, arguments: dict[str, Any], log: Path, program: Path = Path(__file__)
    ) -> None:
        self._log = log
        with log.open("wb") as sink:
            self._process = subprocess.Popen(
                [sys.executable, str(program), kind, str(model), json.dumps(arguments)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=sink,
                text=True,
            )
        self.ready = self._read()

    @property
    def pid(self) -> int:
        return self._process.pid

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin
        with suppress(BrokenPipeError):  # it has ended, which `run` reported
            self._process.stdin.close()
        self._process.wait(60)

    def run(self, **task: Any) -> dict[str, Any]:
        """The answer to a task, with the `seconds` it took in the engine."""
        assert self._process.stdin
        with suppress(BrokenPipeError):  # `_read` says why
            self._process.stdin.write(json.dumps(task) + "\n")
            self._process.stdin.flush()
        return self._read()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout
        for line in self._process.stdout:
            if line.startswith("@"):  # vLLM prints lines of its own
                answer: dict[str, Any] = json.loads(line[1:])
                return answer
        raise SystemExit(
            f"a worker ended with status {self._process.wait(60)}:\n{self._log.read_text(errors='replace')[-3000:]}"
        )


def answer(**fields: Any) -> None:
    """One line to whoever runs this process as a `Worker`."""
    print("@" + json.dumps(fields), flush=True)


def main() -> None:
    from vllm import LLM, PoolingParams, SamplingParams, TokensPrompt

    kind, model, arguments = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
    llm = LLM(model, runner="pooling" if kind == "classify" else "generate", **arguments)
    answer(ready=True)
    for line in sys.stdin:
        task = json.loads(line)
        prompts = [TokensPrompt(prompt_token_ids=ids) for ids in task["prompts"]]
        began = time.perf_counter()
        if kind == "generate":
            params = SamplingParams(temperature=0, max_tokens=task["max_tokens"], stop_token_ids=task["stop_token_ids"])
            outputs = llm.generate(prompts, params, use_tqdm=False)
            answer(seconds=time.perf_counter() - began, completions=[list(o.outputs[0].token_ids) for o in outputs])
        else:
            scores = llm.classify(prompts, pooling_params=PoolingParams(use_activation=False), use_tqdm=False)
            answer(seconds=time.perf_counter() - began, scores=[s.outputs.probs[-1] for s in scores])


if __name__ == "__main__":
    main()
