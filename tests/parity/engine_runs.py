"""Runs batches of jobs on our vLLM engine, in a process of its own: what vLLM does to a process stays there.

    python engine_runs.py CHECKPOINT < batches.json > outputs.json

A batch is `{"fresh_cache": bool, "jobs": [Job, ...]}`; its jobs run at once, batches one after the other.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from criticrm_model.checkpoint import Checkpoint
from criticrm_server.engines.base import Job
from criticrm_server.engines.vllm_engine import VLLMEngine
from criticrm_server.settings import Settings


async def run(folder: Path, batches: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    settings = Settings(model=str(folder), dtype="float32", kv_cache_gib=1.0)
    engine = VLLMEngine(Checkpoint.open(folder), settings)
    await engine.start()
    try:
        outputs = []
        for batch in batches:
            if batch["fresh_cache"]:
                assert await engine.llm.reset_prefix_cache()
            jobs = [Job(**job) for job in batch["jobs"]]
            async with asyncio.timeout(300):
                done = await asyncio.gather(*(engine.run(job) for job in jobs))
            outputs.append([asdict(output) for output in done])
        return outputs
    finally:
        await engine.close()


if __name__ == "__main__":
    answer = os.fdopen(os.dup(1), "w")  # vLLM's processes write to standard output
    os.dup2(2, 1)
    json.dump(asyncio.run(run(Path(sys.argv[1]), json.load(sys.stdin))), answer)
    answer.close()
