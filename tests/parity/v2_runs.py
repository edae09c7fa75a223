"""vLLM's V2 model runner without a GPU: every step's reward against transformers, mode by mode.

    python tests/parity/v2_runs.py CHECKPOINT --modes greedy samples --steps 2000

Prints one line of JSON a mode: steps compared, the largest difference, seconds. Triton's interpreter runs the kernels
(`tests/triton_interpreter`); top-k, top-p and grammar kernels don't run in it, and nothing of the readout needs them.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parents[1]
os.environ |= {"TRITON_INTERPRET": "1", "VLLM_USE_V2_MODEL_RUNNER": "1"}
os.environ["PYTHONPATH"] = os.pathsep.join([str(TESTS / "triton_interpreter"), *sys.path[1:]])
sys.path.insert(0, str(TESTS / "triton_interpreter"))

import torch  # noqa: E402

from criticrm_model import Completion  # noqa: E402
from criticrm_model.checkpoint import Checkpoint  # noqa: E402
from criticrm_model.reference import ReferenceModel  # noqa: E402
from criticrm_model.references import fixed_prompts  # noqa: E402
from criticrm_server.engines import vllm_engine  # noqa: E402
from criticrm_server.engines.base import Job  # noqa: E402
from criticrm_server.self_check import self_check  # noqa: E402
from criticrm_server.settings import Settings  # noqa: E402

_TOKENS = 64
# vLLM arguments added to the service's, and critiques a prompt.
MODES: dict[str, tuple[dict[str, Any], int]] = {
    "greedy": ({}, 1),
    "samples": ({}, 3),
    "chunked": ({"enable_chunked_prefill": True, "max_num_batched_tokens": 64, "max_num_seqs": 16}, 1),
    "chunked samples": ({"enable_chunked_prefill": True, "max_num_batched_tokens": 64, "max_num_seqs": 16}, 3),
    # Room for 8 blocks of 128 tokens, and 8 sequences that end with two each.
    "preempted": ({"kv_cache_memory_bytes": 9 * 2**16, "max_model_len": 512, "max_num_seqs": 8}, 1),
    "async": ({"async_scheduling": True}, 1),
    # Two processes, a core each.
    "tensor-parallel": ({"tensor_parallel_size": 2}, 1),
    "pipeline-parallel": ({"pipeline_parallel_size": 2}, 1),
}


class Recording(vllm_engine.VLLMEngine):
    """Keeps the rewards of all steps, of which a completion has the first and the last."""

    steps: dict[tuple[float, tuple[int, ...]], list[float]]

    def _completion(self, completion: Any, ban: float) -> Completion:
        found = super()._completion(completion, ban)
        self.steps[found.direct_score, tuple(found.token_ids)] = list(completion.logprobs.logprobs[1::2])
        return found


async def run(folder: Path, mode: str, steps: int) -> dict[str, Any]:
    """The differences of one mode."""
    checkpoint = Checkpoint.open(folder)
    changes, n = MODES[mode]
    os.environ["VLLM_CPU_OMP_THREADS_BIND"] = "0|1" if mode.endswith("-parallel") else "auto"
    original = vllm_engine.engine_arguments
    vllm_engine.engine_arguments = lambda *arguments: original(*arguments) | changes
    began = time.monotonic()
    engine = Recording(checkpoint, Settings(model=str(folder), dtype="float32", kv_cache_gib=0.5))
    await engine.start()
    engine.steps = {}
    fixed = fixed_prompts(checkpoint.renderer)
    prompts = [
        [*a, *b[: 3 * i]] for i in range(-(-steps // (_TOKENS * n * len(fixed)))) for a in fixed for b in fixed[:1]
    ]
    jobs = [Job(ids, n, _TOKENS, 1.0 if n > 1 else 0.0, seed if n > 1 else None) for seed, ids in enumerate(prompts)]
    try:
        checked = await self_check(engine.run, engine.facts, checkpoint, 2048)
        ready = time.monotonic()
        outputs = await asyncio.gather(*(engine.run(job) for job in jobs))
        ended = time.monotonic()
    finally:
        await engine.close()
        vllm_engine.engine_arguments = original
    reference = ReferenceModel.load(
        folder, checkpoint.manifest.reward_token_id, checkpoint.renderer.stop_token_ids, dtype="float32"
    )
    differences = []
    for job, output in zip(jobs, outputs, strict=True):
        for completion in output.completions:
            with torch.inference_mode():
                ids = torch.tensor([[*job.token_ids, *completion.token_ids]])
                logits = reference.model(ids).logits[0, len(job.token_ids) - 1 : -1, reference.reward_token_id]
            rewards = torch.tensor(engine.steps[completion.direct_score, tuple(completion.token_ids)])
            differences += (rewards - logits).abs().tolist()
    return {
        "mode": mode,
        "runner": engine.facts.described["runner"],
        "steps": len(differences),
        "largest": max(differences),
        "self_check_largest": max(check.largest for check in checked),
        "start_s": round(ready - began, 1),
        "run_s": round(ended - ready, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--modes", nargs="+", choices=list(MODES), default=list(MODES))
    parser.add_argument("--steps", type=int, default=2000, help="at least so many in each mode (2000)")
    arguments = parser.parse_args()
    answer = os.fdopen(os.dup(1), "w")  # vLLM's processes write to standard output
    os.dup2(2, 1)
    for mode in arguments.modes:
        print(json.dumps(asyncio.run(run(arguments.checkpoint, mode, arguments.steps))), file=answer, flush=True)


if __name__ == "__main__":
    main()
