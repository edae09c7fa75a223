"""`--against` by the commands that people compare with: each arm's methods by hand, every arm against every other."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from itertools import combinations, permutations
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from criticrm_training.commands.evaluate import Evaluate
from criticrm_training.commands.judge import Judge
from criticrm_training.critiques.records import SCHEMA, SIDES, Critique
from criticrm_training.evaluation import evaluate
from criticrm_training.parts import write_in_parts
from support.scripted import Scripted, in_place_of_a_service

pytestmark = pytest.mark.usefixtures("logging_as_before")

N = 24
Right = Callable[[int], bool]  # of the number of a pair
HALF: Right = lambda i: i % 2 == 0  # noqa: E731
THIRD: Right = lambda i: i % 3 == 0  # noqa: E731
MOST: Right = lambda i: i % 4 > 0  # noqa: E731
EARLY: Right = lambda i: i < 7  # noqa: E731


class Service(Scripted):
    """A rejected response scores 0 by every method; a chosen one 1 where a method is right about it, else -1."""

    def __init__(self, direct: Right, greedy: Right, *samples: Right) -> None:
        super().__init__(len)
        self._direct, self._greedy, self._samples = direct, greedy, samples

    def _result(self, text: str, critique: Any) -> dict[str, Any]:
        kind, number = text.split()
        written = self._samples if isinstance(critique, dict) else [self._greedy] * int(critique)

        def score(right: Right) -> float:
            return (1.0 if right(int(number)) else -1.0) if kind == "good" else 0.0

        critiques = [{"text": "says", "score": score(right), "finish_reason": "stop", "tokens": 3} for right in written]
        return super()._result(text, critique) | {"direct_score": score(self._direct), "critiques": critiques}


def of(*rights: Right, m: int) -> list[float]:
    """By hand: how often the mean of m of the samples is right about each pair, expected over all m of them."""
    votes = [[1 if right(i) else -1 for right in rights] for i in range(N)]
    sums = [[sum(some) for some in combinations(vote, m)] for vote in votes]
    return [sum((s > 0) + 0.5 * (s == 0) for s in each) / len(each) for each in sums]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two pairs a question."""
    rows = [
        {"id": str(i), "prompt": f"Question {i // 2} of many", "chosen": f"good {i}", "rejected": f"bad {i}"}
        for i in range(N)
    ]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path / "pairs.jsonl"


def judged(folder: Path, *rights: Right) -> Path:
    """Critiques of a judge: 5 for each rejected response, 8 or 2 for a chosen one."""
    critiques = [
        Critique(str(i), side, k, "text", (8 if right(i) else 2) if side == "chosen" else 5, "stop", 9).row()
        for i in range(N)
        for side in SIDES
        for k, right in enumerate(rights)
    ]
    write_in_parts(folder, {}, [critiques], list, SCHEMA, "judged")
    return folder


# Of each arm its headline, and what each method gets right of each pair.
ARMS: dict[str, tuple[str, dict[str, Sequence[float]]]] = {
    "scalar": ("direct_score", {"direct_score": of(HALF, m=1)}),
    "critic": ("greedy critique", {"direct_score": of(THIRD, m=1), "greedy critique": of(MOST, m=1)}),
    "sampling critic": (
        "greedy critique",
        {
            "direct_score": of(EARLY, m=1),
            "greedy critique": of(HALF, m=1),
            "mean of 1": of(HALF, MOST, THIRD, m=1),
            "mean of 3": of(HALF, MOST, THIRD, m=3),
        },
    ),
    "judge of one": ("mean of 1", {"mean of 1": of(EARLY, m=1)}),
    "judge of three": (
        "mean of 3",
        {"mean of 1": of(EARLY, MOST, MOST, m=1), "mean of 3": of(EARLY, MOST, MOST, m=3)},
    ),
}


def run_all(data: Path, out: Path, monkeypatch: pytest.MonkeyPatch, against: Callable[[str], list[str]]) -> None:
    services = {
        "scalar": (Service(HALF, MOST), ["--direct-only"]),
        "critic": (Service(THIRD, MOST), []),
        "sampling critic": (Service(EARLY, HALF, HALF, MOST, THIRD), ["--samples", "1,3"]),
    }
    for name, (service, options) in services.items():
        monkeypatch.setattr(evaluate, "scoring_service", in_place_of_a_service(service))
        arguments = [str(data), "--out", str(out / name), *options, *against(name)]
        assert Evaluate(_cli_parse_args=arguments).run() == 0
    for name, rights in (("judge of one", [EARLY]), ("judge of three", [EARLY, MOST, MOST])):
        critiques = judged(out / f"critiques of {name}", *rights)
        arguments = [str(data), "--critiques", str(critiques), "--out", str(out / name), *against(name)]
        assert Judge(_cli_parse_args=arguments).run() == 0


def test_every_kind_of_arm_against_every_other(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "out"
    run_all(data, out, monkeypatch, against=lambda _: [])
    run_all(data, out, monkeypatch, against=lambda name: [f"--against={o}={out / o}" for o in ARMS if o != name])
    reports = {name: json.loads((out / name / "evaluation.json").read_text()) for name in ARMS}
    for ours, theirs in permutations(ARMS, 2):
        (headline, mine), (other_headline, other) = ARMS[ours], ARMS[theirs]
        found = reports[ours]["against"][theirs]
        expected = dict.fromkeys([(headline, other_headline), *((m, m) for m in mine if m in other)])
        assert [(c["ours"], c["theirs"]) for c in found] == list(expected), (ours, theirs)
        for c in found:
            a, b = float(np.mean(mine[c["ours"]])), float(np.mean(other[c["theirs"]]))
            assert (c["our_accuracy"], c["their_accuracy"]) == pytest.approx((a, b))
            assert c["value"] == pytest.approx(a - b)
            assert c["low"] <= c["value"] <= c["high"]
            assert c["n"] == N
            turned_round = reports[theirs]["against"][ours]
            back = next(b for b in turned_round if (b["theirs"], b["ours"]) == (c["ours"], c["theirs"]))
            turned = (-c["value"], -c["high"], -c["low"])
            assert (back["value"], back["low"], back["high"]) == pytest.approx(turned, abs=0.02)


def test_rewards_after_others_critiques_are_compared_where_these_are_the_same(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two critics that are forced onto the critiques of two teachers, the better may have the better teacher."""
    teachers = {name: tmp_path / name for name in ("one", "other")}
    for name, folder in teachers.items():
        write_in_parts(folder, {"model": name}, [[0]], lambda _: [], SCHEMA, name)
    for name, value in (("teacher_forced_margins", None), ("written_about", lambda *_: True)):
        monkeypatch.setattr(evaluate, name, value)
    cut = {"responses": 0, "of": 2 * N, "share": 0.0}

    def run(name: str, right: Right, teacher: str, *against: str) -> list[dict[str, Any]]:
        margins = np.array([np.nan if i >= 20 else 1.0 if right(i) else -1.0 for i in range(N)])
        monkeypatch.setattr(evaluate, "teacher_forced_margins", lambda *_, **__: (margins, cut))
        monkeypatch.setattr(evaluate, "scoring_service", in_place_of_a_service(Service(HALF, MOST)))
        options = [f"--teacher-forced={teachers[teacher]}", *(f"--against=x={tmp_path / folder}" for folder in against)]
        assert Evaluate(_cli_parse_args=[str(data), "--out", str(tmp_path / name), *options]).run() == 0
        found: dict[str, Any] = json.loads((tmp_path / name / "evaluation.json").read_text())["against"]
        return found.get("x", [])

    assert run("a", lambda _: True, "one") == []
    run("b", lambda _: False, "other")
    alike = {c["ours"]: c for c in run("c", HALF, "one", "a")}
    assert set(alike) == {"greedy critique", "direct_score", "teacher-forced"}
    assert (alike["teacher-forced"]["value"], alike["teacher-forced"]["n"]) == (-0.5, 20)
    for against in (["b"], ["a", "b"]):  # the second an arm of two runs, each after a teacher of its own
        assert {c["ours"] for c in run("c", HALF, "one", *against)} == {"greedy critique", "direct_score"}
