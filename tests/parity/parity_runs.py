"""One start of vLLM for all of parity and invariance: what is run, and what came of it."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from criticrm_model import Completion
from criticrm_model.checkpoint import Checkpoint
from criticrm_model.prompt import Renderer
from criticrm_server.engines.base import Job

_WORDS = ["the", "sky", "is", "blue", "because", "air", "scatters", "light", "more", "than", "what", "remains"]


@dataclass(frozen=True)
class Run:
    """A job and what the engine made of it."""

    job: Job
    completions: list[Completion]
    cached_tokens: int


@dataclass(frozen=True)
class Runs:
    """The same 32 greedy jobs in five ways, by position; and the sampled ones."""

    alone: list[Run]
    batched: list[Run]
    shuffled: list[Run]
    cached: list[Run]
    sampled: list[Run]


def run_all(checkpoint: Checkpoint, log: Path) -> Runs:
    """Start vLLM once, run every batch, stop it. `log` gets what it writes."""
    prompts = rendered(checkpoint.renderer)
    jobs = [Job(ids, 1, 4 + 7 * i % 60, 0.0, None) for i, ids in enumerate(prompts)]
    sampled = [Job(ids, 4, 8 if i % 2 else 150, 1.0 + i % 2, seed=i) for i, ids in enumerate(prompts[:8])]
    order = random.Random(1).sample(range(len(jobs)), len(jobs))
    batches = [(True, [job]) for job in jobs]
    batches += [(True, jobs), (True, [jobs[i] for i in order]), (False, jobs), (True, sampled)]
    with log.open("wb") as errors:
        process = subprocess.run(
            [sys.executable, Path(__file__).with_name("engine_runs.py"), checkpoint.folder],
            input=json.dumps(
                [{"fresh_cache": fresh, "jobs": [asdict(job) for job in batch]} for fresh, batch in batches]
            ),
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            timeout=500,
        )
    assert process.returncode == 0, log.read_text()[-3000:]
    done = [
        [
            Run(job, [Completion(**completion) for completion in output["completions"]], output["cached_tokens"])
            for job, output in zip(batch, outputs, strict=True)
        ]
        for (_, batch), outputs in zip(batches, json.loads(process.stdout), strict=True)
    ]
    *alone, batched, shuffled, cached, samples = done
    in_order = [shuffled[order.index(i)] for i in range(len(jobs))]
    return Runs([one[0] for one in alone], batched, in_order, cached, samples)


def rendered(renderer: Renderer) -> list[list[int]]:
    """32 prompts: four families that share a long prefix, of different lengths."""
    draw = random.Random(0)
    prompts = []
    for family in range(4):
        opened = renderer.open([{"role": "user", "content": " ".join(draw.choices(_WORDS, k=40 + 10 * family))}])
        for _ in range(8):
            response = " ".join(draw.choices(_WORDS, k=draw.randint(1, 40)))
            one = opened.render(response, max_model_len=100_000, max_critique_tokens=1)
            prompts.append(one.token_ids)
    return prompts
