"""A plain vLLM engine that does what it reads: `worker.py generate|classify MODEL ARGUMENTS`.

What a user would run instead of the service: `LLM.generate` without any readout, or `LLM.classify`.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")


def answer(**fields: Any) -> None:
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
