"""`criticrm correct`: its counts by hand, and the command against a fake policy and service."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from criticrm_training.commands.correct import Correct
from criticrm_training.evaluation.policies.correction import CONTROL, CRITIQUE, CRITIQUED, REQUEST, summary
from criticrm_training.parts import PartsError
from support.graded import Fakes, Messages, serving

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("logging_as_before")]
COUNT = 40


def test_the_counts_by_hand() -> None:
    right = {
        "before": [True, True, False, False, False],
        CRITIQUED: [True, False, True, True, False],
        CONTROL: [True, True, True, False, False],
    }
    found = summary(right, list("abcde"))
    assert {stage: a["value"] for stage, a in found["accuracy"].items()} == {
        "before": 0.4,
        CRITIQUED: pytest.approx(0.6),
        CONTROL: pytest.approx(0.6),
    }
    assert found["changes"] == {
        CRITIQUED: {"wrong to right": 2, "right to wrong": 1},
        CONTROL: {"wrong to right": 1, "right to wrong": 0},
    }
    gains = {name: a["value"] for name, a in found["differences"].items()}
    assert gains["after critique - before"] == pytest.approx(0.2)
    assert gains["after critique - after control"] == pytest.approx(0)
    # Which questions changed is what the interval is made of: equal accuracies are not equal answers.
    assert found["differences"]["after critique - after control"]["low"] < 0


def say(messages: Messages, _: int) -> str:
    """Right at first on every fourth; a critique repairs all but 0, 5, 10.. and the control all of 1, 5, 9.."""
    i = int(messages[0]["content"].split()[2])
    if len(messages) == 1:
        right = i % 4 == 0
    elif messages[-1]["content"] == REQUEST:
        right = i % 4 < 2
    else:
        right = i % 5 != 0
    return f"The answer is {i + 1 if right else -1}."


def reward(response: str) -> tuple[float, float, str]:
    return 0.0, 1.0, f"I doubt that {response!r} is right."


def run(fakes: Fakes, out: Path, *more: str) -> dict[str, Any]:
    rows = [{"id": f"q{i}", "prompt": f"What is {i} + 1?", "reference": f"#### {i + 1}"} for i in range(COUNT)]
    data = out.parent / "questions.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)))
    arguments = [str(data), "--out", str(out), "--url", fakes.url, *fakes.policy(), *more]
    assert Correct(_cli_parse_args=arguments).run() == 0
    report: dict[str, Any] = json.loads((out / "correction.json").read_text())
    return report


def test_the_command_end_to_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    with serving(Fakes(say, reward)) as fakes:
        report = run(fakes, tmp_path / "out")
    assert {stage: a["value"] for stage, a in report["accuracy"].items()} == {
        "before": 0.25,
        "after critique": 0.8,
        "after control": 0.5,
    }
    # 0 and 20 were right and are a multiple of five; of the 30 that were wrong, six are.
    assert report["changes"] == {
        "after critique": {"wrong to right": 24, "right to wrong": 2},
        "after control": {"wrong to right": 10, "right to wrong": 0},
    }
    gain = report["differences"]["after critique - after control"]
    assert gain["value"] == pytest.approx(0.3)
    assert gain["low"] < 0.3 < gain["high"]
    assert "after critique            0.800" in caplog.text

    assert all(body["temperature"] == 0 for body in fakes.asked)
    assert [body["responses"] for body in fakes.scored if "What is 7" in str(body["prompt"])] == [["The answer is -1."]]
    asked = [body["messages"] for body in fakes.asked if body["messages"][0]["content"] == "What is 7 + 1?"]
    begun = [{"role": "user", "content": "What is 7 + 1?"}, {"role": "assistant", "content": "The answer is -1."}]
    critique = "I doubt that 'The answer is -1.' is right."
    assert asked[0] == begun[:1]
    assert sorted(asked[1:], key=str) == [
        [*begun, {"role": "user", "content": f"{CRITIQUE}{critique}\n\n{REQUEST}"}],
        [*begun, {"role": "user", "content": REQUEST}],
    ]


def test_sampled_critiques_are_worth_their_mean(tmp_path: Path) -> None:
    """Of three sampled critiques the policy follows the one that ends in (1)."""

    def obey(messages: Messages, _: int) -> str:
        i, asked = int(messages[0]["content"].split()[2]), messages[-1]["content"]
        right = i % 4 == 0 if len(messages) == 1 else "(1)" in asked
        return f"The answer is {i + 1 if right else -1}."

    with serving(Fakes(obey, reward)) as fakes:
        report = run(fakes, tmp_path / "out", "--samples", "3")
        assert len(fakes.asked) == COUNT * (1 + 5)  # answers; revisions: greedy, three sampled, control
    assert {stage: a["value"] for stage, a in report["accuracy"].items()} == {
        "before": 0.25,
        "after critique": 0,
        "after a sampled critique": pytest.approx(1 / 3),
        "after control": 0,
    }
    assert report["changes"]["after a sampled critique"] == {
        "wrong to right": pytest.approx(30 / 3),
        "right to wrong": pytest.approx(10 * 2 / 3),
    }
    gain = report["differences"]["after a sampled critique - after control"]
    assert gain["value"] == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("stage", "made_again"),
    [("answers", (32, 0)), ("critiques", (0, 32)), ("revisions", (32, 0))],
)
def test_a_part_that_was_lost_is_made_again(tmp_path: Path, stage: str, made_again: tuple[int, int]) -> None:
    with serving(Fakes(say, reward)) as fakes:
        first = run(fakes, tmp_path / "out")
        assert (len(fakes.asked), len(fakes.scored)) == (3 * COUNT, COUNT)
        fakes.asked.clear()
        fakes.scored.clear()
        (tmp_path / "out" / stage / "part-000000.parquet").unlink()
        assert run(fakes, tmp_path / "out") == first
        assert (len(fakes.asked), len(fakes.scored)) == made_again


def test_revisions_of_other_critiques_are_refused(tmp_path: Path) -> None:
    with serving(Fakes(say, reward)) as fakes:
        run(fakes, tmp_path / "out")
        (tmp_path / "out" / "critiques" / "part-000000.parquet").unlink()
        fakes.reward = lambda _: (0.0, 0.0, "Another critique.")
        with pytest.raises(PartsError, match="another critiques;"):
            run(fakes, tmp_path / "out")
