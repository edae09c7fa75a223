"""Critics and scalar baselines are trained alike: reward weights, learning rates, and what the run says of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from criticrm_model import CheckpointError
from criticrm_model.checkpoint import Checkpoint
from criticrm_model.reward_vector import load_reward_vector, save_reward_vector
from criticrm_training.calibrating import CalibrationError
from criticrm_training.card import reward_card
from criticrm_training.critiques.records import SCHEMA, Critique, read_critiques
from criticrm_training.data.pairs import read_pairs
from criticrm_training.linear_probe.features import PairFeatures
from criticrm_training.parts import write_in_parts
from criticrm_training.training.critic_trainer import SUMMARY
from criticrm_training.training.run import train
from criticrm_training.training.train_config import ConfigError
from support.runs import write_config
from support.tiny import card, reward_vector

pytestmark = pytest.mark.slow

PAPER: dict[str, Any] = {"objective": {"schedule": "paper"}}


def summary(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / SUMMARY).read_text())
    return found


def history(out: Path, key: str) -> list[float]:
    return [log[key] for log in json.loads((out / "history.json").read_text()) if key in log]


def write_critiques(folder: Path, critiques: list[Critique]) -> str:
    write_in_parts(folder, {}, [[0]], lambda _: [c.row() for c in critiques], SCHEMA, "made")
    return str(folder)


def test_critic_and_scalar_train_the_reward_equally(base: Path, data: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path / "c.yaml", base, data, **PAPER, trainer={"num_train_epochs": 2, "logging_steps": 1})
    train(config, tmp_path / "critic")
    train(config, tmp_path / "scalar", scalar=True)
    critic, scalar = summary(tmp_path / "critic"), summary(tmp_path / "scalar")
    assert scalar["scalar"]
    assert not critic["scalar"]
    for key in ("steps", "pairs", "reward_weight_times_rate"):
        assert critic[key] == scalar[key], key
    assert critic["tokens"] > scalar["tokens"]
    # Of 2 epochs the second: a weight that rises to 0.9 at the whole rate.
    steps = critic["steps"]
    weights = [0.9 * max(0.0, 2 * step / steps - 1) for step in range(steps)]
    assert history(tmp_path / "critic", "reward_weight") == pytest.approx(weights)
    assert critic["reward_weight_times_rate"] == pytest.approx(3e-3 * sum(weights))
    assert history(tmp_path / "critic", "reward_weight_times_rate")[-1] == critic["reward_weight_times_rate"]


def test_max_steps_trains_the_reward(base: Path, data: Path, tmp_path: Path) -> None:
    """The fitted head that it starts from doesn't pass through as it is."""
    save_reward_vector(reward_vector(), card(), tmp_path)
    steps = {"max_steps": 6, "logging_steps": 1}
    changes: dict[str, Any] = {"head": str(tmp_path), "lora": {"r": 2}, "trainer": steps}
    train(write_config(tmp_path / "c.yaml", base, data, **PAPER, **changes), tmp_path / "out")
    # An epoch has 4 steps: the last 4 of 6.
    expected = [1.0, 1.0, *(1 - 0.9 * done / 4 for done in range(4))]
    assert history(tmp_path / "out", "critique_weight") == pytest.approx(expected)
    moved = load_reward_vector(tmp_path / "out" / "adapter")[0] - reward_vector()
    assert moved.abs().max() > 1e-3
    assert summary(tmp_path / "out")["reward_trained"]


@pytest.mark.parametrize("changes", [{"beta": 0.0}, {}], ids=["beta", "one step"])
def test_a_run_that_never_trains_its_reward_is_refused(
    base: Path, data: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    objective = {"schedule": "paper", **changes}
    steps = {"max_steps": 1} if not changes else {"num_train_epochs": 2}
    config = write_config(tmp_path / "c.yaml", base, data, objective=objective, trainer=steps)
    with pytest.raises(ConfigError, match="the reward loss never has a weight"):
        train(config, tmp_path / "out")
    assert not list((tmp_path / "out").rglob("checkpoint-*"))


@pytest.mark.parametrize(
    "steps",
    [{"max_steps": 1}, {"max_steps": 1, "lr_scheduler_type": "linear"}, {"max_steps": 1, "warmup_steps": 5}],
    ids=["default", "linear", "long warm-up"],
)
@pytest.mark.parametrize("scalar", [False, True])
def test_a_rate_of_zero_throughout_is_refused(
    base: Path, data: Path, tmp_path: Path, steps: dict[str, Any], scalar: bool
) -> None:
    """A warm-up begins at 0: the reward that came out was the one that went in."""
    config = write_config(tmp_path / "c.yaml", base, data, trainer=steps)
    with pytest.raises(ConfigError, match="warmup_steps: in each of the 1 optimizer steps of this run the learning"):
        train(config, tmp_path / "out", scalar=scalar)
    assert not list((tmp_path / "out").rglob("checkpoint-*"))


def test_one_step_without_a_warm_up_trains_the_reward(base: Path, data: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path / "c.yaml", base, data, trainer={"max_steps": 1, "warmup_steps": 0})
    train(config, tmp_path / "out")
    assert Checkpoint.open(tmp_path / "out").manifest.calibration is not None


def test_no_whole_batch_is_refused(base: Path, data: Path, tmp_path: Path) -> None:
    trainer = {"per_device_train_batch_size": 64, "dataloader_drop_last": True}
    with pytest.raises(ConfigError, match="dataloader_drop_last: 31 training pairs are no whole batch"):
        train(write_config(tmp_path / "c.yaml", base, data, trainer=trainer), tmp_path / "out")


def test_a_reward_without_spread_has_no_moments(data: Path) -> None:
    states = PairFeatures(torch.ones(2, 2, 64), torch.ones(2, 2, 64), [["", ""], ["", ""]], 1.0)
    with pytest.raises(CalibrationError, match="the reward before the critique has mean 0 and standard deviation 0"):
        reward_card(
            torch.zeros(64),
            states,
            base="base",
            instruction="?",
            max_critique_tokens=8,
            data="pairs",
            pairs=read_pairs(data / "pairs.jsonl"),
            reference_set="both responses of 2 pairs",
        )


@pytest.mark.parametrize("kind", ["linear", "cosine", "inverse_sqrt", "reduce_lr_on_plateau"])
def test_a_rate_that_ends_before_the_reward_begins_is_refused(
    base: Path, data: Path, tmp_path: Path, kind: str
) -> None:
    config = write_config(tmp_path / "c.yaml", base, data, **PAPER, trainer={"lr_scheduler_type": kind})
    with pytest.raises(ConfigError, match=f"lr_scheduler_type: {kind} ends the learning rate when"):
        train(config, tmp_path / "out")


@pytest.mark.parametrize("objective", [{"schedule": "critique"}, {"schedule": "constant", "weight": 1}])
def test_critiques_alone_make_a_language_model_and_no_reward(
    base: Path, data: Path, tmp_path: Path, objective: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    config = write_config(
        tmp_path / "c.yaml", base, data, objective=objective, lora={"r": 2}, trainer={"num_train_epochs": 1}
    )
    train(config, tmp_path / "out")
    assert summary(tmp_path / "out")["reward_trained"] is False
    assert summary(tmp_path / "out")["reward_weight_times_rate"] == 0
    assert "Its reward was not trained" in caplog.text
    with pytest.raises(CheckpointError, match="not a Critic-RM checkpoint"):
        Checkpoint.open(tmp_path / "out")
    assert (tmp_path / "out" / "adapter" / "adapter_config.json").is_file()
    with pytest.raises(ConfigError, match="scalar: this objective trains no reward"):
        train(config, tmp_path / "scalar", scalar=True)
    # What a first round is for.
    second = write_config(tmp_path / "d.yaml", tmp_path / "out", data, trainer={"num_train_epochs": 1})
    train(second, tmp_path / "second")
    assert Checkpoint.open(tmp_path / "second").manifest.calibration is not None


def test_critiques_of_one_role(base: Path, data: Path, tmp_path: Path) -> None:
    """The critique loss learns from filtered critiques, here of one response; the reward reads after others."""
    made = read_critiques(data / "critiques")
    learned = [c for c in made if c.side == "chosen"]
    judged = [Critique(c.pair_id, c.side, k, f"Reply {k}.", None, "stop", 5) for c in made for k in range(3)]
    changes = {
        "critiques": write_critiques(tmp_path / "learned", learned),
        "reward_critiques": write_critiques(tmp_path / "judged", judged),
        "reward_critiques_per_response": 2,
    }
    once = {"num_train_epochs": 1, "logging_steps": 1}
    train(write_config(tmp_path / "c.yaml", base, data, trainer=once, **changes), tmp_path / "out")
    # The reward can't tell the responses by these critiques as it can by those that name the label.
    assert history(tmp_path / "out", "reward_loss")[0] == pytest.approx(0.6931, abs=1e-3)
    assert all(torch.tensor(history(tmp_path / "out", "critique_loss")) > 0)
    alone = {"critiques": changes["critiques"]}
    with pytest.raises(ConfigError, match="reward_critiques: no training pair has critiques of both responses"):
        train(write_config(tmp_path / "d.yaml", base, data, trainer=once, **alone), tmp_path / "alone")
