"""One server whose layers are shared by two processes: the same critiques and rewards."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from criticrm_model.checkpoint import Checkpoint
from support.live import Server
from support.references import assert_results_of_transformers

CORES = sorted(os.sched_getaffinity(0))
pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(len(CORES) < 2, reason="each of two processes takes a core"),
]


@pytest.fixture(scope="module")
def server(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("server") / "screen.log"
    options = ["--dtype", "float32", "--tensor-parallel-size", "2", "--kv-cache-gib", "0.05"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_CPU_OMP_THREADS_BIND", f"{CORES[0]}|{CORES[1]}")
        patch.setenv("VLLM_CPU_NUM_OF_RESERVED_CPU", "0")
        with Server(str(tiny_checkpoint), *options, log=log) as server:
            yield server


def test_critiques_and_scores_are_those_of_transformers(server: Server, opened_checkpoint: Checkpoint) -> None:
    prompt, responses = "Why is the sky blue?", [f"Answer {number}." for number in range(8)]
    answer = server.score(prompt=prompt, responses=responses, critique={"max_tokens": 24}).json()
    assert_results_of_transformers(answer["results"], opened_checkpoint, prompt, responses, max_tokens=24)
    sampled = server.score(prompt=prompt, responses=responses, critique={"n": 2, "seed": 3}).json()
    assert {result["status"] for result in sampled["results"]} == {"ok"}
