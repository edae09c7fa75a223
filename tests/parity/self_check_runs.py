"""The self-check of vLLM, sound and sabotaged, in a process of its own: what vLLM does to a process stays there.

    python self_check_runs.py CHECKPOINT OTHER > faults.json

Faults by sabotage; of the sound engine, none. `logprobs_mode` is a wrong readout of vLLM's own. OTHER has other weights
of the same architecture; the engine does not have them.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from criticrm_model.checkpoint import Checkpoint
from criticrm_server.checks import SelfCheckFailed
from criticrm_server.engines import readout, vllm_engine
from criticrm_server.self_check import Run, self_check
from criticrm_server.settings import Settings

sys.path.insert(0, str(Path(__file__).parents[1]))
from support.live import IN_ONE_PROCESS
from support.sabotage import MODES, SABOTAGES


async def check(
    folder: Path, sabotages: dict[str, Callable[[Run], Run]], other: Path | None = None
) -> dict[str, list[str]]:
    """Of one engine, by sabotage; at last as if it had other weights."""
    checkpoint = Checkpoint.open(folder)
    settings = Settings(model=str(folder), dtype="float32", kv_cache_gib=1.0, vllm_args=IN_ONE_PROCESS)
    engine = vllm_engine.VLLMEngine(checkpoint, settings)
    await engine.start()
    faults = {}

    async def note(name: str, run: Run, of: Checkpoint) -> None:
        began = time.monotonic()
        try:
            await self_check(run, engine.facts, of, 2048)
            faults[name] = []
        except SelfCheckFailed as error:
            faults[name] = error.faults
        sys.stderr.write(f"{name}: {time.monotonic() - began:.2f} s, {engine.facts}\n")

    try:
        for name, sabotage in sabotages.items():
            await note(name, sabotage(engine.run), checkpoint)
        if other is not None:
            await note("of another checkpoint", engine.run, Checkpoint.open(other))
    finally:
        await engine.close()
    return faults


if __name__ == "__main__":
    answer = os.fdopen(os.dup(1), "w")  # vLLM's processes write to standard output
    os.dup2(2, 1)
    folder, other = map(Path, sys.argv[1:])
    wrappers = {name: sabotage for name, (sabotage, _) in SABOTAGES.items()}
    found = asyncio.run(check(folder, {"none": lambda run: run, **wrappers}, other))
    for mode in MODES:
        readout.ENGINE_ARGUMENTS["logprobs_mode"] = mode
        found |= asyncio.run(check(folder, {mode: lambda run: run}))
    json.dump(found, answer)
    answer.close()
