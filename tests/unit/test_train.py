"""`criticrm train`, from a file of pairs and critiques to a checkpoint, on a tiny base."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftConfig, PeftModel
from transformers import AutoModelForCausalLM

from criticrm_model import CheckpointError
from criticrm_model.checkpoint import Checkpoint
from criticrm_model.reference import ReferenceModel
from criticrm_model.reward_vector import load_reward_vector, save_reward_vector
from criticrm_training.critiques.records import SCHEMA, SIDES, read_critiques
from criticrm_training.data.pairs import read_pairs
from criticrm_training.data.splits import split_by_prompt
from criticrm_training.parts import PartsError, write_in_parts
from criticrm_training.training import critic_trainer
from criticrm_training.training import export as export_module
from criticrm_training.training.collator import PairCollator
from criticrm_training.training.model import JointModel
from criticrm_training.training.run import train
from criticrm_training.training.train_config import ConfigError, TrainConfig
from criticrm_training.training.trainer import JointTrainer
from support.runs import write_config
from support.tiny import INSTRUCTION, card, reward_vector

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("lora", [None, {"r": 8, "target_modules": "all-linear"}], ids=["full", "lora"])
def test_the_reward_that_was_trained_is_the_reward_that_is_served(
    base: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lora: dict[str, Any] | None
) -> None:
    config = write_config(tmp_path / "c.yaml", base, data, lora=lora)
    trained: list[Any] = []
    export = critic_trainer.export

    def keep(model: JointModel, *arguments: Any) -> None:
        batch = PairCollator(pad_id=0)(examples)
        with torch.no_grad():
            trained.append(model.eval()(**batch))
        export(model, *arguments)

    examples: list[Any] = []
    make = critic_trainer.make_examples

    def remember(*arguments: Any, **options: Any) -> Any:
        made = make(*arguments, **options)
        if options["learned"] is not None:  # those of the training pairs
            examples[:] = made
        return made

    monkeypatch.setattr(critic_trainer, "export", keep)
    monkeypatch.setattr(critic_trainer, "make_examples", remember)
    train(config, tmp_path / "out")

    opened = Checkpoint.open(tmp_path / "out")
    assert opened.manifest.critique_instruction == INSTRUCTION
    assert opened.manifest.calibration is not None
    assert opened.manifest.calibration.n == 12
    served = ReferenceModel.load(
        opened.folder, opened.manifest.reward_token_id, opened.renderer.stop_token_ids, dtype="float32"
    )
    (output,) = trained
    sides = [example[side] for example in examples for side in SIDES]
    for row, side in enumerate(sides):
        (critique,) = side["critiques"]
        direct, score = served.score(side["prompt_ids"], critique["token_ids"])
        assert direct == pytest.approx(output.direct_scores[row].item(), abs=1e-4)
        assert score == pytest.approx(output.scores[row].item(), abs=1e-4)
    history = json.loads((tmp_path / "out" / "history.json").read_text())
    assert max(log["eval_accuracy"] for log in history if "eval_accuracy" in log) >= 0.95


def test_an_adapter_is_kept_beside_its_reward(base: Path, data: Path, tmp_path: Path) -> None:
    """Base, adapter and reward vector are the checkpoint again: what a repository can hold of a model."""
    config = write_config(tmp_path / "c.yaml", base, data, lora={"r": 4}, trainer={"num_train_epochs": 1})
    train(config, tmp_path / "out")
    reward, card = load_reward_vector(tmp_path / "out" / "adapter")
    merged = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(tmp_path / "out" / "adapter"))
    whole = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    ids = torch.arange(20, 40)[None]
    there = whole(ids, output_hidden_states=True).hidden_states[-1]
    assert torch.allclose(merged(ids, output_hidden_states=True).hidden_states[-1], there, atol=1e-5)
    row = whole.get_output_embeddings().weight[Checkpoint.open(tmp_path / "out").manifest.reward_token_id]
    assert torch.equal(row, reward)
    assert card.critique_instruction == INSTRUCTION
    assert PeftConfig.from_pretrained(tmp_path / "out" / "adapter").base_model_name_or_path == card.base_model


def test_a_run_knows_which_pairs_it_learned_from(base: Path, data: Path, tmp_path: Path) -> None:
    """Those with critiques, and of these the share that was asked for; so many critiques of each."""
    training, _ = split_by_prompt(read_pairs(str(data / "pairs.jsonl")), 0.25)
    with_critiques = [pair for pair in training if not pair.id.endswith(("-3", "-7"))]
    assert len(with_critiques) < len(training)
    some = [c for c in read_critiques(data / "critiques") if not c.pair_id.endswith(("-3", "-7"))]
    write_in_parts(tmp_path / "some", {}, [[0]], lambda _: [c.row() for c in some for _ in range(3)], SCHEMA, "made")
    changes: dict[str, Any] = {"critiques_per_response": 1, "training_share": 0.5}
    changes |= {"critiques": str(tmp_path / "some"), "validation_critiques": str(tmp_path / "some")}
    once = {"num_train_epochs": 1}
    train(write_config(tmp_path / "c.yaml", base, data, trainer=once, **changes), tmp_path / "out")
    (trained_on,) = Checkpoint.open(tmp_path / "out").manifest.training_data
    assert trained_on.pairs == math.ceil(len(with_critiques) / 2)
    history = json.loads((tmp_path / "out" / "history.json").read_text())
    assert history[-1]["step"] == math.ceil(trained_on.pairs / 8)


def test_training_starts_from_a_fitted_reward(base: Path, data: Path, tmp_path: Path) -> None:
    save_reward_vector(reward_vector(), card(), tmp_path)
    still = {"num_train_epochs": 1, "learning_rate": 0.0}
    changes: dict[str, Any] = {"head": str(tmp_path), "lora": {"r": 2}, "trainer": still}
    train(write_config(tmp_path / "c.yaml", base, data, **changes), tmp_path / "out")
    assert torch.equal(load_reward_vector(tmp_path / "out" / "adapter")[0], reward_vector())
    save_reward_vector(reward_vector()[:-1], card(), tmp_path)
    with pytest.raises(ConfigError, match=r"head: .* the base needs"):
        train(write_config(tmp_path / "c.yaml", base, data, **changes), tmp_path / "other")


def test_the_attention_is_chosen_for_training_alone(
    base: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[str] = []

    def noting(kind: str, does: Any) -> Any:
        def note(first: Any, *rest: Any, **options: Any) -> Any:
            used.append(f"{kind} {first.lm.config._attn_implementation}")
            return does(first, *rest, **options)

        return note

    monkeypatch.setattr(critic_trainer, "export", noting("export", critic_trainer.export))
    monkeypatch.setattr(JointModel, "forward", noting("forward", JointModel.forward))
    once = {"num_train_epochs": 1}
    train(write_config(tmp_path / "c.yaml", base, data, attn_implementation="eager", trainer=once), tmp_path / "out")
    assert set(used) == {"forward eager", "export sdpa"}
    wrong = write_config(tmp_path / "c.yaml", base, data, attn_implementation="flash")
    with pytest.raises(ConfigError, match=r"attn_implementation: .*flash"):
        train(wrong, tmp_path / "other")


def test_a_killed_run_ends_as_if_it_had_not_been(
    base: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between two checkpoints, and again while the model is written."""
    config = write_config(tmp_path / "c.yaml", base, data)
    train(config, tmp_path / "whole")
    step, assemble = JointTrainer.training_step, export_module.assemble
    steps = 0

    def killed(self: Any, *arguments: Any, **options: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps == 13:
            raise KeyboardInterrupt
        return step(self, *arguments, **options)

    monkeypatch.setattr(JointTrainer, "training_step", killed)
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "resumed")
    # A checkpoint that was being written at the kill.
    (tmp_path / "resumed" / "trainer" / "checkpoint-11").mkdir()

    def half(model: Any, *_: Any) -> None:
        model.save_pretrained(tmp_path / "resumed")  # not yet its row, nor what names it
        raise KeyboardInterrupt

    monkeypatch.setattr(export_module, "assemble", half)
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "resumed")
    with pytest.raises(CheckpointError):
        Checkpoint.open(tmp_path / "resumed")
    monkeypatch.setattr(export_module, "assemble", assemble)
    train(config, tmp_path / "resumed")
    whole, resumed = (Checkpoint.open(tmp_path / name).manifest for name in ("whole", "resumed"))
    assert resumed.reward.sha256 == whole.reward.sha256
    assert resumed.calibration == whole.calibration
    histories = [json.loads((tmp_path / name / "history.json").read_text()) for name in ("whole", "resumed")]
    for key in ("critique_loss", "reward_loss", "accuracy"):  # averaged over the same steps
        logged = [{log["step"]: log[key] for log in history if key in log} for history in histories]
        assert logged[1] == pytest.approx(logged[0], rel=1e-4)


def test_another_run_is_not_gone_on_from(base: Path, data: Path, tmp_path: Path) -> None:
    trainer = {"num_train_epochs": 1}
    train(write_config(tmp_path / "c.yaml", base, data, trainer=trainer), tmp_path / "out")
    with pytest.raises(PartsError, match="another max_model_len, trainer; choose another folder"):
        train(write_config(tmp_path / "c.yaml", base, data, max_model_len=250), tmp_path / "out")


def test_the_scalar_baseline_sees_the_same_examples_without_critiques(base: Path, data: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path / "c.yaml", base, data)
    train(config, tmp_path / "scalar", scalar=True)
    train(config, tmp_path / "critic")
    scalar, critic = (json.loads((tmp_path / name / "history.json").read_text()) for name in ("scalar", "critic"))
    assert scalar[-1]["step"] == critic[-1]["step"]
    assert all(log["critique_loss"] == 0 for log in scalar if "critique_loss" in log)
    best = max(log["eval_direct_accuracy"] for log in scalar if "eval_direct_accuracy" in log)
    assert best >= 0.95


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"lora": {"rr": 4}}, "lora: .*rr"),
        ({"trainer": {"learning_speed": 1}}, "trainer: .*learning_speed"),
        ({"critiques": None}, "critiques: a Critic-RM learns from some"),
        ({"objective": {"distill_weight": 1}}, "distill_weight: the teacher is"),
    ],
)
def test_a_wrong_run_is_refused(base: Path, data: Path, tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        train(write_config(tmp_path / "c.yaml", base, data, **changes), tmp_path / "out")


def test_every_fault_of_a_config_is_named(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("bsae: x\nvalidation_share: 2\nobjective: {schedule: papre}\n")
    with pytest.raises(ConfigError) as caught:
        TrainConfig.read(tmp_path / "c.yaml")
    for word in ("bsae", "validation_share", "objective.schedule", "data: Field required"):
        assert word in str(caught.value)
