"""One server whose layers are shared by two processes: the same critiques and rewards."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from criticrm_model.checkpoint import Checkpoint
from live import Server
from references import load_reference

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
    conversation = opened_checkpoint.renderer.open([{"role": "user", "content": prompt}])
    ids = [conversation.render(r, max_model_len=512, max_critique_tokens=24).token_ids for r in responses]
    expected, _ = load_reference(opened_checkpoint).critique(ids, max_tokens=24)
    answer = server.score(prompt=prompt, responses=responses, critique={"max_tokens": 24}).json()
    for result, completion in zip(answer["results"], expected, strict=True):
        assert result["critiques"][0]["text"] == opened_checkpoint.renderer.decode(completion.token_ids)
        assert result["score"] == pytest.approx(completion.score, abs=1e-4)
        assert result["direct_score"] == pytest.approx(completion.direct_score, abs=1e-4)
    sampled = server.score(prompt=prompt, responses=responses, critique={"n": 2, "seed": 3}).json()
    assert {result["status"] for result in sampled["results"]} == {"ok"}
