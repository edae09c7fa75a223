"""A critic with several rewards: its labels, its loss, and the rewards that it ends with."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import logsigmoid

from criticrm_model.checkpoint import Checkpoint
from criticrm_model.importing.importer import Source, import_model
from criticrm_training import CriticTrainer
from criticrm_training.critiques.transformers_writer import TransformersWriter
from criticrm_training.critiques.writers import Sampling, WritingTask
from criticrm_training.data.labels import read_label
from criticrm_training.data.pairs import pair_row, parse_pair, read_pairs
from criticrm_training.data.sources import DataError
from criticrm_training.training.losses import losses
from criticrm_training.training.model import JointOutput
from criticrm_training.training.rows import read_rows
from criticrm_training.training.train_config import ConfigError
from support.critics import ROWS, settings
from support.references import load_reference
from support.scalars import make_classifier
from support.tiny import make_several

pytestmark = pytest.mark.slow

WEIGHTS = {"helpfulness": 0.75, "correctness": 0.25}
# Opposite labels: one reward, whatever its weight, can't have both.
LABELS = {"helpfulness": "chosen", "correctness": "rejected"}


def rows(**labels: object) -> list[dict[str, Any]]:
    given = {name: value for name, value in LABELS.items()} | labels
    return [{k: v for k, v in row.items() if k not in ("margin", "agreement")} | given for row in ROWS]


@pytest.mark.parametrize(
    ("value", "label"),
    [("chosen", 1.0), ("rejected", 0.0), ("tie", 0.5), (0.8, 0.8), (1, 1.0), (0, 0.0), (None, None)],
)
def test_labels(value: object, label: float | None) -> None:
    assert read_label(value, "helpfulness") == label


@pytest.mark.parametrize("value", ["better", 2, -0.1, math.nan, True, ["chosen"]])
def test_what_is_no_label(value: object) -> None:
    with pytest.raises(ValueError, match=r"^helpfulness: "):
        read_label(value, "helpfulness")


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"helpfulness": None, "correctness": None}, "row 0: helpfulness, correctness: there is a label in none"),
        ({"margin": 1.0}, "row 0: margin: is of one reward"),
        ({"agreement": 0.9}, "row 0: agreement: is of one reward"),
        ({"correctness": "yes"}, "row 0: correctness: 'yes' is none of chosen, rejected, tie"),
    ],
)
def test_rows_that_are_wrong(changes: dict[str, object], fault: str) -> None:
    with pytest.raises(DataError, match=fault):
        read_rows(rows(**changes), "data", WEIGHTS)


def test_a_pair_is_written_and_read_back_with_its_labels() -> None:
    pair = parse_pair(rows(correctness=0.3)[0], "0", WEIGHTS)
    assert parse_pair(pair_row(pair), "0", WEIGHTS) == pair
    assert pair.labels == (("helpfulness", 1.0), ("correctness", 0.3))
    assert pair.content != parse_pair(rows(correctness=0.4)[0], "0", WEIGHTS).content


def test_the_loss_is_the_mean_over_the_labels_that_are_there() -> None:
    rewards = torch.tensor([[2.0, 1.0], [0.5, 3.0], [1.0, -1.0], [0.0, 2.0]])  # two pairs, [4, rewards]
    batch = {
        "side_at": torch.arange(4),
        "share": torch.ones(4),
        "chosen_at": torch.tensor([0, 2]),
        "rejected_at": torch.tensor([1, 3]),
        "margin": torch.zeros(2),
        "agreement": torch.ones(2),
        "labels": torch.tensor([[1.0, 0.0], [0.7, math.nan]]),
    }
    scores = rewards @ torch.tensor([0.75, 0.25])
    output = JointOutput(torch.zeros(()), scores, scores, rewards, rewards)
    found = losses(output, batch, torch.tensor([1, 2, 2, 9]))

    def bradley_terry(margin: float, p: float) -> float:
        both = logsigmoid(torch.tensor([margin, -margin])).tolist()
        return -(p * both[0] + (1 - p) * both[1])

    first = (bradley_terry(1.5, 1.0) + bradley_terry(-2.0, 0.0)) / 2
    second = bradley_terry(1.0, 0.7)
    assert found.reward.item() == pytest.approx((first + second) / 2)
    assert found.direct.item() == pytest.approx((first + second) / 2)


def test_each_reward_learns_its_own_labels(base: Path, tmp_path: Path) -> None:
    args = settings(tmp_path / "run", max_steps=40, rewards=WEIGHTS, critique_weight=0.1)
    trainer = CriticTrainer(str(base), args, train_dataset=rows())
    trainer.train()
    trainer.save_model(str(tmp_path / "critic"))
    checkpoint = Checkpoint.open(tmp_path / "critic")
    assert {reward.name: reward.weight for reward in checkpoint.manifest.rewards} == WEIGHTS
    model = load_reference(checkpoint)
    critique = checkpoint.renderer.tokenize_critique("Good.")
    right = {name: 0 for name in WEIGHTS}
    for row in ROWS:
        opened = checkpoint.renderer.open([{"role": "user", "content": row["prompt"]}])
        read = [
            model.read(opened.render(row[side], max_model_len=256, max_critique_tokens=12).token_ids, critique).rewards
            for side in ("chosen", "rejected")
        ]
        for k, name in enumerate(WEIGHTS):
            right[name] += (read[0][k][1] > read[1][k][1]) == (LABELS[name] == "chosen")
    assert min(right.values()) > 0.9 * len(ROWS)


def test_a_critic_with_several_writes_none_of_their_tokens_and_scores_by_their_sum(tmp_path: Path) -> None:
    folder = make_several(tmp_path / "critic")
    checkpoint = Checkpoint.open(folder)
    writer = TransformersWriter(str(folder), max_model_len=256, dtype="float32")
    task = WritingTask([{"role": "user", "content": "Why?"}], "So.", checkpoint.manifest.critique_instruction or "", 0)
    ((draft,),) = writer.write([task], Sampling(n=1, temperature=0.0, max_tokens=6, score_by="reward"))
    rendered = checkpoint.renderer.open(task.prompt).render("So.", max_model_len=256, max_critique_tokens=6)
    ((completion,), _) = load_reference(checkpoint).critique([rendered.token_ids], max_tokens=6)
    assert draft.score == pytest.approx(completion.score, abs=1e-4)


def test_training_starts_from_the_rewards_of_an_imported_model(tmp_path: Path) -> None:
    source = make_classifier(tmp_path / "source", "qwen2", tied=True, labels=3)
    weights = {"a": 1.0, "b": 0.5, "c": 0.0}
    manifest = import_model(Source(str(source), objectives=weights), tmp_path / "imported").manifest
    labels = [{"a": "chosen", "b": "tie", "c": None} | row for row in rows()]
    trainer = CriticTrainer(
        str(tmp_path / "imported"), settings(tmp_path / "run", rewards=weights), train_dataset=labels
    )
    model = trainer.accelerator.unwrap_model(trainer.model)
    assert model.reward.weight.shape == (3, 64)
    assert model.reward.weight.any(dim=1).all()
    head = model.lm.get_output_embeddings().weight
    assert not head[list(manifest.reward_tokens.ids)].any()
    with pytest.raises(ConfigError, match=r"objective\.rewards: .* has the rewards a, b, c: name the same"):
        CriticTrainer(str(tmp_path / "imported"), settings(tmp_path / "other"), train_dataset=ROWS)


@pytest.mark.parametrize(
    ("rewards", "fault"),
    [
        ({"helpfulness": 1.0}, "rewards: .*one reward has no name"),
        ({"a": 0.0, "b": 0.0}, "rewards: .*all weights are 0"),
    ],
)
def test_rewards_that_make_no_score(rewards: dict[str, float], fault: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=fault):
        settings(tmp_path / "run", rewards=rewards)


def test_a_column_that_is_not_there_is_named(tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    file.write_text('{"prompt": "Why?", "chosen": "a", "rejected": "b"}')
    with pytest.raises(DataError, match="helpfulness, correctness: there is a label in none of these columns"):
        read_pairs(file, WEIGHTS)
