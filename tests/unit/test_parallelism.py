"""How a model is shared between GPUs: passed to vLLM, or refused with every reason at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

# vLLM changes the process that imports it, so it is asked in one of its own.
_ASK = """
import json, os, sys
from pathlib import Path
from criticrm_model import CriticRMError
from criticrm_model.checkpoint import Checkpoint
from criticrm_server.engines import vllm_arguments
from criticrm_server.settings import Settings

checkpoint = Checkpoint.open(Path(sys.argv[1]))
answers = []
for gpus, bind, settings in json.loads(sys.argv[2]):
    vllm_arguments.current_platform.is_cpu = lambda: gpus is None
    vllm_arguments.current_platform.is_cuda_alike = lambda: gpus is not None
    vllm_arguments.torch.cuda.device_count = lambda: gpus
    os.environ["VLLM_CPU_OMP_THREADS_BIND"] = bind
    try:
        arguments = vllm_arguments.engine_arguments(checkpoint, Settings(**settings))
        answers.append([arguments.get(name) for name in settings if name != "batch_invariant"])
    except CriticRMError as error:
        answers.append(str(error))
print(json.dumps(answers))
"""
TENSOR, PIPELINE, DATA = "tensor_parallel_size", "pipeline_parallel_size", "data_parallel_size"
# GPUs (None: the CPU build), VLLM_CPU_OMP_THREADS_BIND, settings, what is said. Two heads, one of them for keys and
# values, two layers.
CASES: list[tuple[int | None, str, dict[str, Any], list[str]]] = [
    (8, "auto", {"max_num_seqs": None, "served_model_name": "critic"}, []),
    (8, "auto", {"max_num_seqs": 7, "batch_invariant": True}, []),
    (None, "auto", {"max_num_seqs": 7}, []),
    (None, "auto", {"batch_invariant": True}, ["batch_invariant needs GPUs"]),
    (8, "auto", {TENSOR: 2, PIPELINE: 2, DATA: 2}, []),
    (7, "auto", {TENSOR: 2, PIPELINE: 2, DATA: 2}, ["is 8, but there are 7 GPUs"]),
    (64, "auto", {TENSOR: 3}, ["tensor_parallel_size 3 does not divide the model's 2 attention heads"]),
    (64, "auto", {PIPELINE: 3}, ["pipeline_parallel_size 3 exceeds the model's 2 layers"]),
    (4, "auto", {TENSOR: 3, PIPELINE: 3}, ["attention heads", "2 layers", "is 9, but there are 4 GPUs"]),
    (None, "auto", {}, []),
    (
        None,
        "auto",
        {TENSOR: 2, DATA: 32},
        ["is 64, and without GPUs vLLM puts each of these on a NUMA node of its own"],
    ),
    (None, "0|1", {TENSOR: 2}, []),
    (None, "0|1", {DATA: 2}, []),
    (None, "0|1", {PIPELINE: 2}, ["pipeline_parallel_size 2 needs GPUs"]),
]


@pytest.fixture(scope="module")
def answers(tiny_checkpoint: Path) -> list[list[int] | str]:
    cases = json.dumps([case[:3] for case in CASES])
    asked = subprocess.run(
        [sys.executable, "-c", _ASK, str(tiny_checkpoint), cases],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ,
    )
    found: list[list[int] | str] = json.loads(asked.stdout.splitlines()[-1])
    return found


@pytest.mark.integration  # it imports vLLM
@pytest.mark.parametrize("number", range(len(CASES)))
def test_what_is_passed_on_and_what_is_refused(answers: list[list[int] | str], number: int) -> None:
    _, _, settings, words = CASES[number]
    answer = answers[number]
    if not words:
        assert answer == [value for name, value in settings.items() if name != "batch_invariant"]
        return
    assert isinstance(answer, str)
    faults = answer.splitlines()[1:]
    assert len(faults) == len(words)
    assert all(word in fault for word, fault in zip(words, faults, strict=True))
