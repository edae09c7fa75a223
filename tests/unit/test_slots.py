"""Columns that the critic reads behind its instruction: in training, while sampling, and in evaluation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from criticrm_model import Manifest
from criticrm_model.instruction import InstructionSlots
from criticrm_model.prompt import Renderer
from criticrm_training import CriticTrainer
from criticrm_training.commands.critiques import Critiques
from criticrm_training.critiques.sample import SampleSettings, asked
from criticrm_training.data.overlong import render_pairs
from criticrm_training.data.pairs import PreferencePair, pair_row, parse_pair
from criticrm_training.evaluation.items import as_item, items_sha256
from criticrm_training.evaluation.scoring import request_body
from criticrm_training.rounds.config import RoundsConfig
from criticrm_training.training.rows import read_rows
from criticrm_training.training.train_config import ConfigError, TrainConfig
from support.critics import ROWS, settings
from support.tiny import INSTRUCTION, make_tokenizer

RUBRIC, ANSWER = "Is it brief?", "It is blue."
ROW = {"prompt": "Why?", "chosen": "So.", "rejected": "No.", "criteria": RUBRIC, "reference": ANSWER}
BOTH = InstructionSlots(trained=("criteria", "reference"))


def pair(**changes: Any) -> PreferencePair:
    return parse_pair(ROW | changes, "0")


def rendered(slots: InstructionSlots | None, row: PreferencePair) -> str:
    renderer = Renderer(make_tokenizer(), INSTRUCTION, slots=slots)
    found = render_pairs([row], renderer, max_model_len=512, max_critique_tokens=8, overlong="error")
    return str(renderer.tokenizer.decode(found.prompts[0][0]))


def test_a_pair_keeps_its_criteria() -> None:
    assert parse_pair(pair_row(pair()), "0") == pair()
    assert pair(criteria="  ").criteria is None
    assert pair().content != pair(criteria=None).content
    assert "criteria" not in pair_row(pair(criteria=None))
    with pytest.raises(ValueError, match="criteria: 3 is not text"):
        pair(criteria=3)


def test_what_is_trained_with_is_read_and_nothing_else(caplog: pytest.LogCaptureFixture) -> None:
    plain = rendered(None, pair())
    assert RUBRIC not in plain
    assert ANSWER not in plain
    assert "1 have criteria, which are not read" in caplog.text
    text = rendered(BOTH, pair())
    assert text.index(INSTRUCTION) < text.index(RUBRIC) < text.index(ANSWER)
    assert rendered(InstructionSlots(trained=("criteria",)), pair()).count(ANSWER) == 0
    assert rendered(BOTH, pair(criteria=None, reference=None)) == plain  # a row may have none


def test_the_words_around_them_are_the_checkpoints() -> None:
    slots = InstructionSlots(criteria="Only: {criteria}", trained=("criteria",))
    assert f"Only: {RUBRIC}" in rendered(slots, pair())
    for wrong in ({"criteria": "no slot"}, {"reference": "{reference} {reference}"}, {"trained": ["rubric"]}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            InstructionSlots.model_validate(wrong)


def test_a_writer_reads_them_too() -> None:
    settings_ = SampleSettings(n=1, temperature=0.0, slots=BOTH)
    assert asked(pair(), "Q", settings_) == BOTH.fill("Q", RUBRIC, ANSWER)
    assert asked(pair(), "Q", SampleSettings(n=1, temperature=0.0)) == "Q"


def test_an_evaluation_sends_them_to_critics_that_were_trained_with_them() -> None:
    assert {"criteria": RUBRIC, "reference": ANSWER}.items() <= request_body(as_item(pair(), BOTH), True).items()
    plain = as_item(pair())
    assert not {"criteria", "reference"} & request_body(plain, True).keys()
    assert items_sha256([plain]) != items_sha256([as_item(pair(), BOTH)])


@pytest.mark.slow
def test_a_checkpoint_says_what_it_was_trained_with(base: Path, tmp_path: Path) -> None:
    rows = read_rows([{**row, "criteria": RUBRIC} for row in ROWS])
    slots = {"trained": ["criteria"]}
    trainer = CriticTrainer(str(base), settings(tmp_path, slots=slots), train_dataset=rows)
    trainer.train()
    trainer.save_model(str(tmp_path / "out"))
    assert Manifest.load(tmp_path / "out").slots == InstructionSlots(trained=("criteria",))


def test_wrong_slots_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"slots\.trained"):
        settings(tmp_path, slots={"trained": ["rubric"]})
    path = tmp_path / "train.yaml"
    path.write_text(json.dumps({"data": "x.jsonl", "slots": {"trained": ["criteria"], "criteria": "none"}}))
    with pytest.raises(ConfigError, match=r"slots\.criteria"):
        TrainConfig.read(path)


def test_the_command_line_takes_them(tmp_path: Path) -> None:
    command = Critiques(
        _cli_parse_args=["sample", "x.jsonl", "--out", str(tmp_path), "--slots", BOTH.model_dump_json()]
    )
    assert command.sample is not None
    assert command.sample.slots == BOTH


def test_rounds_sample_with_what_they_train_with(tmp_path: Path) -> None:
    from criticrm_training.rounds import plan

    config = RoundsConfig(base="b", data="d.jsonl", train={"slots": BOTH.model_dump()})
    written = plan._base_options(config, tmp_path)
    assert f"--slots={BOTH.model_dump_json()}" in written
    assert not any(one.startswith("--slots") for one in plan._base_options(RoundsConfig(base="b", data="d"), tmp_path))
