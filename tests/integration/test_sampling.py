"""`criticrm critiques sample` with real vLLM: it reads what transformers computes, and a kill leaves nothing behind."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForCausalLM

from criticrm_model.checkpoint import Checkpoint
from criticrm_training.critiques.records import read_critiques
from criticrm_training.critiques.scores import score_request
from criticrm_training.data.pairs import read_pairs
from criticrm_training.data.splits import in_question_order
from support.live import CRITICRM
from support.references import load_reference
from support.tiny import INSTRUCTION

pytestmark = pytest.mark.integration
MAX_TOKENS = 24


def make_pairs(path: Path, n: int) -> Path:
    rows = [{"prompt": f"Why is sky {i} blue?", "chosen": f"Light {i}." * 3, "rejected": "It is."} for i in range(n)]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def command(pairs: Path, model: Path, out: Path, *options: str) -> list[str]:
    return [
        str(CRITICRM), "critiques", "sample", str(pairs), "--out", str(out), "--model", str(model), *options,
        "--dtype", "float32", "--max-tokens", str(MAX_TOKENS), "--instruction", INSTRUCTION, "--max-model-len", "512",
    ]  # fmt: skip


def test_a_critic_rm_scores_its_critiques_by_its_reward(
    tiny_checkpoint: Path, opened_checkpoint: Checkpoint, tmp_path: Path
) -> None:
    data = make_pairs(tmp_path / "pairs.jsonl", 8)
    options = ["--score", "reward", "--temperature", "0", "-n", "1"]
    subprocess.run(command(data, tiny_checkpoint, tmp_path / "out", *options), check=True, capture_output=True)
    renderer = opened_checkpoint.renderer
    prompts = [
        renderer.open(pair.prompt).render(text, max_model_len=512, max_critique_tokens=MAX_TOKENS).token_ids
        for pair in in_question_order(read_pairs(str(data)))
        for text in (pair.chosen, pair.rejected)
    ]
    expected, _ = load_reference(opened_checkpoint).critique(prompts, max_tokens=MAX_TOKENS)
    found = read_critiques(tmp_path / "out")
    assert len(found) == 16
    for critique, completion in zip(found, expected, strict=True):
        assert critique.text == renderer.decode(completion.token_ids)
        assert critique.score == pytest.approx(completion.score, abs=1e-4)


@pytest.fixture
def sampler(base: Path, tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    data = make_pairs(tmp_path / "pairs.jsonl", 6400)
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command(data, base, tmp_path / "out", "--score", "expected", "-n", "2"), stderr=log)
    yield process
    process.kill()
    process.wait()


def test_expected_scores_are_those_of_transformers_and_a_termination_takes_the_engine_along(
    base: Path, opened_checkpoint: Checkpoint, sampler: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    part = tmp_path / "out" / "part-000000.parquet"
    deadline = time.monotonic() + 200
    while not part.exists() and time.monotonic() < deadline:
        assert sampler.poll() is None
        time.sleep(0.2)
    family = psutil.Process(sampler.pid).children(recursive=True)
    assert family
    sampler.send_signal(signal.SIGTERM)
    assert sampler.wait(timeout=60) == 128 + signal.SIGTERM, (tmp_path / "log").read_text()[-2000:]
    assert not psutil.wait_procs(family, timeout=60)[1]

    rows: list[dict[str, Any]] = pq.read_table(part).to_pylist()[:12]
    pairs = {pair.id: pair for pair in read_pairs(str(tmp_path / "pairs.jsonl"))}
    model = AutoModelForCausalLM.from_pretrained(base)
    tokenizer = opened_checkpoint.renderer.tokenizer
    digits = [tokenizer.convert_tokens_to_ids(str(digit)) for digit in range(1, 10)]
    renderer = type(opened_checkpoint.renderer)(tokenizer, INSTRUCTION + score_request("expected"))
    for row in rows:
        pair = pairs[row["pair_id"]]
        prompt = renderer.open(pair.prompt).render(
            getattr(pair, row["side"]), max_model_len=512, max_critique_tokens=MAX_TOKENS
        )
        context = [*prompt.token_ids, *renderer.tokenize_critique(row["text"])[:-1]]
        ids = torch.tensor([[*context, *tokenizer("\nScore: ").input_ids]])
        with torch.no_grad():
            shares = model(ids).logits[0, -1, digits].double().softmax(0)
        assert row["score"] == pytest.approx(float(shares @ torch.arange(1.0, 10.0).double()), abs=1e-3)
