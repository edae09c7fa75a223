"""The pairs of examples/arithmetic: right results, one slip each, and nothing else that tells them apart."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from criticrm_training.answers import equal, stated_answer
from criticrm_training.critiques.critique_task import load_task
from criticrm_training.critiques.verdict import VerdictRule
from criticrm_training.data.pairs import read_pairs
from criticrm_training.rounds.config import RoundsConfig
from criticrm_training.training.train_config import TrainConfig

EXAMPLE = Path(__file__).parents[2] / "examples" / "arithmetic"
_SIGNS = {"add": "+", "subtract": "-", "multiply by": "*"}


@pytest.fixture(scope="module")
def chains() -> object:
    sys.path.insert(0, str(EXAMPLE))
    try:
        import chains

        return chains
    finally:
        sys.path.remove(str(EXAMPLE))


def worked_out(question: str) -> int:
    """By Python, from the question's words."""
    start, *steps = question.removeprefix("Start with ").partition(".")[0].split(", ")
    expression = start
    for step in steps:
        operation, number = step.rsplit(" ", 1)
        expression = f"({expression} {_SIGNS[operation]} {number})"
    return int(eval(expression))


def number(text: str) -> int:
    [found] = re.findall(r"-?\d+", text)
    return int(found)


def test_right_wrong_and_alike(chains: object) -> None:
    rows = chains.make_pairs(300, seed=3, steps=(2, 4))  # type: ignore[attr-defined]
    assert len({row["prompt"] for row in rows}) == 300
    # Short chains repeat themselves.
    assert len({row["id"] for row in chains.make_pairs(2000, seed=3, steps=(2, 2))}) == 2000  # type: ignore[attr-defined]
    assert {row["category"] for row in rows} == {"carry", "skipped step", "wrong operation"}
    for row in rows:
        result = worked_out(row["prompt"])
        assert number(row["chosen"]) == number(row["reference"]) == result
        assert number(row["rejected"]) != result
        assert number(row["rejected"]) > 0
        assert len(row["chosen"]) == len(row["rejected"])
        assert equal(stated_answer(row["chosen"]), stated_answer(row["reference"]))
        assert 2 <= len(row["prompt"].split(",")) - 1 <= 4


def test_the_same_seed_the_same_pairs(chains: object) -> None:
    make = chains.make_pairs  # type: ignore[attr-defined]
    assert make(20, 1, (2, 3)) == make(20, 1, (2, 3)) != make(20, 2, (2, 3))


def test_each_chain_is_a_question_of_its_own(chains: object, tmp_path: Path) -> None:
    """Near-duplicates are one question elsewhere; chains are alike in their words and differ in their numbers."""
    chains.write_pairs(tmp_path / "pairs.jsonl", chains.make_pairs(200, 1, (2, 4)))  # type: ignore[attr-defined]
    pairs = read_pairs(str(tmp_path / "pairs.jsonl"))
    assert len(pairs) == 200
    assert len({pair.group for pair in pairs}) > 190


def test_its_task_and_rounds_are_valid(tmp_path: Path) -> None:
    task = load_task(str(EXAMPLE / "check-by-solving.yaml"))
    assert task.derive is not None
    assert task.verdict == VerdictRule()
    config = (EXAMPLE / "rounds.yaml").read_text(encoding="utf-8")
    (tmp_path / "rounds.yaml").write_text(
        f"{config}\ntasks: {{default: {EXAMPLE / 'check-by-solving.yaml'}}}\n", encoding="utf-8"
    )
    assert RoundsConfig.read(tmp_path / "rounds.yaml").train_config(1).objective.trains_reward
    assert TrainConfig.read(EXAMPLE / "control.yaml").objective.trains_reward


def test_the_demo_gets_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its commands, without their work."""
    monkeypatch.syspath_prepend(str(EXAMPLE))
    import demo

    asked: list[list[str]] = []

    def run(command: list[str], **_: object) -> SimpleNamespace:
        asked.append(command[3:])
        assert all(isinstance(word, str) for word in command)
        out = next((Path(word.removeprefix("--out=")) for word in command if word.startswith("--out=")), tmp_path)
        if command[3] == "rounds":
            critic = out / "round-1" / "critic.yaml"
            critic.parent.mkdir(parents=True)
            critic.write_text(yaml.safe_dump({"trainer": {}}))
        if command[3] == "train":
            out.mkdir()
            (out / "summary.json").write_text('{"best": 0.6}')
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(demo.subprocess, "run", run)
    monkeypatch.setattr(sys, "argv", ["demo.py", f"--out={tmp_path / 'demo'}"])
    demo.main()
    assert [command[0] for command in asked] == ["rounds", "train", "train", "evaluate", "evaluate", "report"]
