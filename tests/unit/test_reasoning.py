"""Own answers and verdicts of critiques, against references; and responses that are cut, counted by every command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from criticrm_training.commands.evaluate import Evaluate
from criticrm_training.commands.report import Report
from criticrm_training.critiques.critique_task import TaskError
from criticrm_training.critiques.verdict import VerdictRule
from criticrm_training.data.pairs import PreferencePair
from criticrm_training.evaluation import evaluate
from criticrm_training.evaluation.reasoning import (
    BESIDE_RIGHT,
    BESIDE_WRONG,
    COPIED,
    OWN_ANSWER,
    READABLE,
    VERDICT,
    reasoning_report,
)
from support.scripted import Scripted, in_place_of_a_service

RULES = {"math": VerdictRule()}
SAME, OTHER = "Same answer: the reply is right.", "Different answer: the reply is wrong."


def pair(number: int, reference: str | None = "The answer is 12.") -> PreferencePair:
    prompt = ({"role": "user", "content": f"Q{number}"},)
    return PreferencePair(
        str(number), prompt, "The answer is 12.", "The answer is 13.", "math", f"q{number}", reference=reference
    )


CRITIQUES = [
    # It works out 12 beside both: right, and its verdicts prefer the chosen reply.
    *(f"Mine: 12. Reply: 12. {SAME}", f"Mine: 12. Reply: 13. {OTHER}"),
    # It copies both: its verdicts are the same.
    *(f"Mine: 12. Reply: 12. {SAME}", f"Mine: 13. Reply: 13. {SAME}"),
    # It is wrong in its own way beside the right reply, and says nothing of the wrong one.
    *(f"Mine: 99. Reply: 12. {OTHER}", "Looks fine."),
    # Of a pair without a reference.
    *("Mine: 1.", "Mine: 2."),
]


def test_by_hand() -> None:
    found = reasoning_report([pair(0), pair(1), pair(2), pair(3, reference=None)], CRITIQUES, RULES)
    assert {name: (a["value"], a["n"]) for name, a in found.items()} == {
        OWN_ANSWER: (pytest.approx(5 / 6), 6),
        BESIDE_RIGHT: (pytest.approx(2 / 3), 3),
        BESIDE_WRONG: (pytest.approx(1 / 3), 3),
        COPIED: (pytest.approx(1 / 3), 3),
        READABLE: (pytest.approx(5 / 6), 6),
        VERDICT: (pytest.approx((1 + 0.5 + 0.5) / 3), 3),  # the third has no second verdict: a tie
    }
    assert 0 < found[VERDICT]["low"] < found[VERDICT]["high"] <= 1


def test_a_verdict_that_prefers_the_rejected_reply_is_wrong() -> None:
    found = reasoning_report([pair(0)], [f"Mine: 13. Reply: 12. {OTHER}", f"Mine: 13. Reply: 13. {SAME}"], RULES)
    assert found[VERDICT]["value"] == 0
    assert found[COPIED]["value"] == 1
    assert found[BESIDE_RIGHT]["value"] == found[BESIDE_WRONG]["value"] == 0


def test_which_reply_is_right_is_read_from_it_not_from_its_label() -> None:
    both_right = PreferencePair(
        "0", ({"role": "user", "content": "Q"},), "#### 12", "#### 12", "m", "q", reference="#### 12"
    )
    found = reasoning_report([both_right], [f"Mine: 12. Reply: 12. {SAME}"] * 2, {"m": VerdictRule()})
    assert found[BESIDE_RIGHT]["n"] == 2
    assert BESIDE_WRONG not in found


def test_without_a_reference_there_is_nothing_to_report() -> None:
    assert reasoning_report([pair(0, reference=None)], ["Mine: 1.", "Mine: 2."], RULES) == {}


class Critic(Scripted):
    """Its critiques find 12 whatever they see."""

    def _result(self, text: str, critique: Any) -> dict[str, Any]:
        found = super()._result(text, critique)
        for written in found["critiques"]:
            right = "12" in text
            written["text"] = f"Mine: 12. Reply: {12 if right else 13}. {SAME if right else OTHER}"
        return found | {"status": "truncated" if "13" in text else "ok"}


def test_evaluate_and_report_show_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(evaluate, "scoring_service", in_place_of_a_service(Critic(len)))
    rows = [
        {"prompt": f"Q{i}", "chosen": f"The answer is 12. {i}", "rejected": "The answer is 13.", "reference": "#### 12"}
        for i in range(4)
    ]
    data = tmp_path / "pairs.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)))
    assert Evaluate(_cli_parse_args=[str(data), "--out", str(tmp_path / "out")]).run() == 0
    report = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert report["reasoning"][BESIDE_WRONG]["value"] == report["reasoning"][VERDICT]["value"] == 1
    assert report["truncated"] == {"responses": 4, "of": 8, "share": 0.5}
    assert "responses cut to the model's length: 4 of 8 (50.0%)" in caplog.text
    assert f"{BESIDE_WRONG}: 1.000 [0.510, 1.000] of 4" in caplog.text
    page = tmp_path / "page.html"
    assert Report(_cli_parse_args=[str(page), f"--evaluations=<critic>={tmp_path / 'out'}"]).run() == 0
    text = page.read_text()
    assert f"<td>{BESIDE_WRONG}</td><td>1.000 <span class=interval>0.510 to 1.000</span></td>" in text
    assert "&lt;critic&gt;: 4 of 8 responses (50.0%) were scored with their prompt or text cut" in text


OURS = """
instruction: Is it right?
max_tokens: 9
verdict: {comparison: "Ours: {own} | Theirs: {reply} | {closing}", right: "ACCEPT", wrong: "REFUSE"}
"""


class OurCritic(Scripted):
    """Its critiques find 12 whatever they see, and say so as the task `OURS` asks."""

    def _result(self, text: str, critique: Any) -> dict[str, Any]:
        found = super()._result(text, critique)
        for written in found["critiques"]:
            right = "12" in text
            written["text"] = f"Ours: 12 | Theirs: {12 if right else 13} | {'ACCEPT' if right else 'REFUSE'}"
        return found


def test_critiques_are_read_by_the_rule_that_they_were_asked_for_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By category; a task without a rule has nothing to report; nothing is scored anew for another rule."""
    service = OurCritic(len)
    monkeypatch.setattr(evaluate, "scoring_service", in_place_of_a_service(service))
    rows = [
        {"prompt": f"Q{i}", "chosen": "The answer is 12.", "rejected": "The answer is 13.", "reference": "#### 12"}
        | {"category": "sums" if i % 4 else "products"}
        for i in range(8)
    ]
    data, task = tmp_path / "pairs.jsonl", tmp_path / "ours.yaml"
    data.write_text("\n".join(map(json.dumps, rows)))
    task.write_text(OURS)

    def reasoning(*options: str) -> dict[str, tuple[float, int]]:
        assert Evaluate(_cli_parse_args=[str(data), "--out", str(tmp_path / "out"), *options]).run() == 0
        report = json.loads((tmp_path / "out" / "evaluation.json").read_text())
        return {name: (a["value"], a["n"]) for name, a in report.get("reasoning", {}).items()}

    assert reasoning()[OWN_ANSWER] == reasoning()[READABLE] == (0, 16)  # by the rule of the packaged `reasoning`
    asked = len(service.bodies)
    found = reasoning(f"--task={task}")
    assert found[OWN_ANSWER] == found[READABLE] == (1, 16)
    assert found[BESIDE_RIGHT] == found[BESIDE_WRONG] == found[VERDICT] == (1, 8)
    assert reasoning(f"--task=sums={task}", "--task=default=general")[VERDICT] == (1, 6)
    assert reasoning("--task=general") == {}
    for options, words in (
        ([f"--task=sums={task}"], "no task for the category 'products'"),
        (["--task=resoning"], "no critique task 'resoning'"),
    ):
        with pytest.raises(TaskError, match=words):
            reasoning(*options)
    assert len(service.bodies) == asked
