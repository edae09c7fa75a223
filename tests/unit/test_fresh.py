"""The best checkpoint is chosen after critiques that the model writes at each evaluation, once it trains the reward."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GenerationConfig

from criticrm_model.checkpoint import Checkpoint
from criticrm_model.reference import ReferenceModel
from criticrm_training.training import trainer as trainer_module
from criticrm_training.training.fresh import write_critiques
from criticrm_training.training.run import train
from support.joint import EXAMPLES, fit
from support.runs import write_config
from support.tiny import make_model

pytestmark = pytest.mark.slow


def test_critiques_are_those_that_the_reference_writes(opened_checkpoint: Checkpoint) -> None:
    """Greedy, of any length of prompt, and without the base's own habits of generation."""
    reference = ReferenceModel.load(
        opened_checkpoint.folder,
        opened_checkpoint.manifest.reward_token_id,
        opened_checkpoint.renderer.stop_token_ids,
        dtype="float32",
    )
    prompts = [EXAMPLES[i][side]["prompt_ids"] for i in range(3) for side in ("chosen", "rejected")]
    stops = opened_checkpoint.renderer.stop_token_ids
    expected = [reference.critique([prompt], max_tokens=12)[0][0].token_ids for prompt in prompts]
    banned = [opened_checkpoint.manifest.reward_token_id]
    habits = GenerationConfig(repetition_penalty=5.0)
    reference.model.generation_config = habits
    assert (
        write_critiques(reference.model, prompts, stop_token_ids=stops, max_tokens=12, suppress_token_ids=banned)
        == expected
    )
    assert reference.model.generation_config is habits
    ended = write_critiques(reference.model, prompts, stop_token_ids=[expected[0][3]], max_tokens=12)
    assert ended[0] == expected[0][: expected[0].index(expected[0][3]) + 1]


def test_none_is_the_best_before_the_reward_is_trained(
    base: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []

    def write(lm: Any, prompts: Any, **options: Any) -> Any:
        written.append(len(prompts))
        return write_critiques(lm, prompts, **options)

    monkeypatch.setattr(trainer_module, "write_critiques", write)
    steps = {"num_train_epochs": 2, "eval_steps": 1, "save_steps": 1, "logging_steps": 1, "fresh_critique_pairs": 3}
    config = write_config(tmp_path / "c.yaml", base, data, objective={"schedule": "paper"}, trainer=steps)
    train(config, tmp_path / "out")
    history = json.loads((tmp_path / "out" / "history.json").read_text())
    rewarded = {log["step"] for log in history if log.get("reward_weight_times_rate", 0) > 0}
    judged = {log["step"] for log in history if "eval_accuracy" in log}
    assert judged == rewarded
    assert judged < {log["step"] for log in history if "eval_direct_accuracy" in log}
    assert written == [6] * len(judged)
    states = sorted((tmp_path / "out" / "trainer").glob("checkpoint-*/trainer_state.json"))
    best = [json.loads(path.read_text())["best_global_step"] for path in states]
    assert all(step in judged for step in best if step)


def test_as_many_pairs_get_critiques_as_were_asked_for(tmp_path: Path) -> None:
    trainer = fit(tmp_path, max_steps=1, fresh_critique_pairs=5)
    examples = trainer._with_fresh_critiques().to_list()
    assert [len(example["chosen"]["critiques"]) for example in examples] == [1] * 5 + [0] * 11
    assert all(c["reward"] and not c["learn"] for e in examples[:5] for c in e["rejected"]["critiques"])
    metrics = trainer.evaluate()
    assert {"eval_accuracy", "eval_direct_accuracy"} <= metrics.keys()
    assert trainer.eval_dataset.to_list()[10]["chosen"]["critiques"]  # those it came with are left alone


def test_a_scalar_writes_none(tmp_path: Path) -> None:
    trainer = fit(tmp_path, max_steps=1, scalar=True)
    trainer.args.fresh_critique_pairs = 5
    assert "eval_direct_accuracy" in trainer.evaluate()


def test_a_model_that_generates_trains_on_as_before(tmp_path: Path) -> None:
    """An evaluation changes nothing of what is trained."""
    plain, evaluated = (
        fit(tmp_path / name, max_steps=4, eval_strategy=name, eval_steps=1, load_best_model_at_end=False)
        for name in ("no", "steps")
    )
    assert plain.model is not None
    assert evaluated.model is not None
    for (name, ours), theirs in zip(plain.model.named_parameters(), evaluated.model.parameters(), strict=True):
        assert torch.equal(ours, theirs), name


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    from criticrm_training.training import fresh

    monkeypatch.setattr(fresh, "_TOKENS_PER_BATCH", 40)
    lm = make_model(300).eval()
    prompts = [[5] * n for n in (3, 30, 7, 12)]
    few = write_critiques(lm, prompts, stop_token_ids=[1], max_tokens=4)
    monkeypatch.setattr(fresh, "_TOKENS_PER_BATCH", 10_000)
    assert write_critiques(lm, prompts, stop_token_ids=[1], max_tokens=4) == few
