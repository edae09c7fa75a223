"""`criticrm best-of-n`: its estimates against enumeration, and the command against a fake policy and service."""

from __future__ import annotations

import doctest
import json
import math
import os
import random
from itertools import combinations
from pathlib import Path
from statistics import mean
from typing import Any

import pytest

from criticrm_model import NonFiniteReward
from criticrm_model.reward import finite_reward
from criticrm_training.commands.best_of_n import BestOfN
from criticrm_training.commands.report import Report
from criticrm_training.critiques.writers import WriterError
from criticrm_training.data.sources import DataError
from criticrm_training.endpoint import EndpointError
from criticrm_training.evaluation import subsets
from criticrm_training.evaluation.policies import choosing
from criticrm_training.evaluation.policies.choosing import any_of_k, best_of_k, majority_of_k
from criticrm_training.evaluation.policies.policy import run_in_child
from criticrm_training.parts import PartsError
from support.graded import Fakes, Messages, serving

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("logging_as_before")]


def test_the_examples() -> None:
    assert doctest.testmod(choosing).failed == 0


def test_by_hand() -> None:
    # Best first: wrong, right, right, wrong. Of the six pairs the three with the first are lost.
    rewards, right = [4.0, 3.0, 2.0, 1.0], [False, True, True, False]
    assert [best_of_k(rewards, right, k) for k in (1, 2, 3, 4)] == pytest.approx([1 / 2, 1 / 2, 1 / 4, 0])
    assert [any_of_k(right, k) for k in (1, 2, 3)] == pytest.approx([1 / 2, 5 / 6, 1])
    # Two against one against one without an answer.
    votes, right = [0, 0, 2, -1], [False, False, True, False]
    # Pairs: 00 lost, 02 twice a draw, 0- twice lost, 2- won.
    assert majority_of_k(votes, right, 2) == pytest.approx((0 + 2 * 1 / 2 + 0 + 1) / 6)
    assert majority_of_k(votes, right, 4) == 0
    assert majority_of_k([-1, -1], [False, False], 1) == 0


@pytest.mark.parametrize("seed", range(20))
def test_the_closed_forms_are_what_enumeration_finds(seed: int) -> None:
    rng = random.Random(seed)
    n = rng.randint(1, 7)
    rewards = [float(rng.randint(0, 3)) for _ in range(n)]  # few values: many are equal
    votes = [-1 if rng.random() < 0.2 else rng.randint(0, 2) for _ in range(n)]
    right = [vote == 1 for vote in votes]
    votes = [vote if vote < 0 else votes.index(vote) for vote in votes]
    for k in range(1, n + 1):
        best, found, majority = [], [], []
        for subset in combinations(range(n), k):
            highest = max(rewards[i] for i in subset)
            best.append(mean(right[i] for i in subset if rewards[i] == highest))
            found.append(any(right[i] for i in subset))
            counts = {vote: sum(votes[i] == vote for i in subset) for vote in {votes[i] for i in subset} - {-1}}
            winners = [vote for vote, count in counts.items() if count == max(counts.values())]
            majority.append(mean(right[vote] for vote in winners) if winners else 0)
        assert best_of_k(rewards, right, k) == pytest.approx(mean(best))
        assert any_of_k(right, k) == pytest.approx(mean(found))
        assert majority_of_k(votes, right, k) == pytest.approx(mean(majority))


def test_drawn_subsets_stand_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    votes = [0, 0, 0, 3, 3, 5, -1, 7]
    right = [vote == 3 for vote in votes]
    exact = majority_of_k(votes, right, 4)
    monkeypatch.setattr(subsets, "_MOST_SUBSETS", 69)  # there are 70
    subsets.subsets.cache_clear()
    assert majority_of_k(votes, right, 4) == pytest.approx(exact, abs=0.15)
    assert majority_of_k(votes, right, 8) == 0
    subsets.subsets.cache_clear()


def say(messages: Messages, k: int) -> str:
    """Answer k to question `i`: right where k is i modulo 4, else 100 + k."""
    i = int(messages[-1]["content"].split()[2])
    return f"I add. The answer is {i + 1 if k == i % 4 else 100 + k}."


def reward(response: str) -> tuple[float, float, str]:
    """Before the critique large numbers are liked, after it small ones: always wrong, then always right."""
    number = float(response.removesuffix(".").split()[-1])
    return number, -number, f"It says {number:.0f}."


def questions(folder: Path, count: int = 40, **more: Any) -> str:
    rows = [
        {"id": f"q{i}", "prompt": f"What is {i} + 1?", "reference": f"The answer is {i + 1}."} for i in range(count)
    ]
    path = folder / "questions.jsonl"
    path.write_text("\n".join(json.dumps(row | more) for row in rows))
    return str(path)


def run(fakes: Fakes, data: str, out: Path, *more: str) -> dict[str, Any]:
    arguments = [data, "--out", str(out), "--url", fakes.url, *more]
    assert BestOfN(_cli_parse_args=arguments).run() == 0
    report: dict[str, Any] = json.loads((out / "best_of_n.json").read_text())
    return report


def test_the_command_end_to_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    with serving(Fakes(say, reward)) as fakes:
        report = run(fakes, questions(tmp_path), tmp_path / "out", *fakes.policy(), "-n", "4")
    accuracy = {m: {k: a["value"] for k, a in row.items()} for m, row in report["accuracy"].items()}
    # One right answer of four, all different.
    assert accuracy["random"] == {"1": 0.25, "2": 0.25, "4": 0.25}
    assert accuracy["direct_score"] == {"1": 0.25, "2": 0, "4": 0}
    assert accuracy["greedy critique"] == accuracy["oracle"] == {"1": 0.25, "2": 0.5, "4": 1}
    assert accuracy["majority vote"] == {"1": 0.25, "2": 0.25, "4": 0.25}
    unseen = 1.96**2 / (40 + 1.96**2)  # every one of 40 questions is the same
    gain = report["differences"]["greedy critique - random"]
    assert (gain["value"], gain["n"]) == (0.75, 40)
    assert 0.75 - 1.3 * unseen < gain["low"] < 0.75 - unseen
    assert report["shares"] == {
        "answers without a number": 0,
        "answers that end by themselves": 1,
        "critiques that end by themselves": 1,
    }
    assert len(fakes.asked) == len(fakes.scored) == 40  # a question is one request
    assert all(len(body["responses"]) == 4 and body["critique"] is True for body in fakes.scored)
    assert all((body["n"], body["temperature"], body["max_tokens"]) == (4, 0.8, 512) for body in fakes.asked)
    assert report["truncated"] == {"responses": 0, "of": 160, "share": 0}
    assert "1.000 [0.912, 1.000]" in next(line for line in caplog.text.splitlines() if line.startswith("greedy"))

    page = tmp_path / "page.html"
    assert Report(_cli_parse_args=[str(page), "--best-of-n", f"<ours>={tmp_path / 'out'}"]).run() == 0
    assert page.read_text().count("data:image/svg") == 1
    assert "&lt;ours&gt;: accuracy of one answer of k, over 40 questions" in page.read_text()


def test_several_critiques_choose_too(tmp_path: Path) -> None:
    """Sampled critiques give the opposite of the greedy one's score: they always choose wrong."""
    with serving(Fakes(say, reward)) as fakes:
        report = run(fakes, questions(tmp_path), tmp_path / "out", *fakes.policy(), "-n", "4", "--samples", "3")
        assert {body["critique"] if body["critique"] is True else body["critique"]["n"] for body in fakes.scored} == {
            True,
            3,
        }
    at_four = {method: row["4"]["value"] for method, row in report["accuracy"].items()}
    assert list(at_four) == ["random", "direct_score", "greedy critique", "mean of 3", "majority vote", "oracle"]
    assert (at_four["greedy critique"], at_four["mean of 3"]) == (1, 0)
    assert report["differences"]["mean of 3 - direct_score"]["value"] == 0
    assert report["differences"]["mean of 3 - random"]["value"] == -0.25


def test_a_questions_seed_is_its_own(tmp_path: Path) -> None:
    seeds = []
    for more in (["--limit", "5"], [], ["--seed", "1"]):
        with serving(Fakes(say, reward)) as fakes:
            run(fakes, questions(tmp_path), tmp_path / str(len(seeds)), *fakes.policy(), "-n", "2", *more)
        seeds.append({body["messages"][0]["content"]: body["seed"] for body in fakes.asked})
    few, all_of_them, others = seeds
    assert len(set(all_of_them.values())) == 40
    assert few.items() <= all_of_them.items()
    assert not set(all_of_them.values()) & set(others.values())


def test_a_part_that_was_lost_is_made_again(tmp_path: Path) -> None:
    data, out = questions(tmp_path), tmp_path / "out"
    with serving(Fakes(say, reward)) as fakes:
        first = run(fakes, data, out, *fakes.policy(), "-n", "4")
    with serving(Fakes(say, reward)) as fakes:
        assert run(fakes, data, out, *fakes.policy(), "-n", "4") == first
        assert (fakes.asked, fakes.scored) == ([], [])
        (out / "answers" / "part-000001.parquet").unlink()
        (out / "scores" / "part-000000.parquet").unlink()
        assert run(fakes, data, out, *fakes.policy(), "-n", "4") == first
        assert (len(fakes.asked), len(fakes.scored)) == (8, 32)
        with pytest.raises(PartsError, match="another n;"):
            run(fakes, data, out, *fakes.policy(), "-n", "2")
        # A policy that now says something else: what was scored is no longer what it says.
        (out / "answers" / "part-000001.parquet").unlink()
        fakes.say = lambda *_: "The answer is 0."
        with pytest.raises(PartsError, match="another items;"):
            run(fakes, data, out, *fakes.policy(), "-n", "4")


def test_given_answers_need_no_policy(tmp_path: Path) -> None:
    responses = ["The answer is 1.", "I do not know.", "So 9 it is."]
    with serving(Fakes(say, lambda text: (0.0, float("1" in text), ""))) as fakes:
        report = run(fakes, questions(tmp_path, 1, responses=responses), tmp_path / "out")
        assert fakes.asked == []
        with pytest.raises(DataError, match="row 1: responses: 0 where each row needs some"):
            run(fakes, questions(tmp_path, 1), tmp_path / "other")
    assert report["policy"] is None
    assert report["n"] == 3
    at_three = {method: row["3"]["value"] for method, row in report["accuracy"].items()}
    # All direct scores are equal: one at random. Of the two votes one is right.
    assert at_three == {
        "random": pytest.approx(1 / 3),
        "direct_score": pytest.approx(1 / 3),
        "greedy critique": 1,
        "majority vote": 0.5,
        "oracle": 1,
    }
    assert report["shares"]["answers without a number"] == pytest.approx(1 / 3)
    assert report["shares"]["answers that end by themselves"] is None


def test_an_answer_without_a_score_is_no_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fakes = Fakes(say, reward)
    failed = {"index": 1, "error": {"message": "the reward logit is nan"}}
    monkeypatch.setattr(fakes, "score", lambda _: {"results": [failed] * 8})
    with serving(fakes), pytest.raises(EndpointError, match="prompt q0, response 1: the reward logit is nan"):
        run(fakes, questions(tmp_path, 1), tmp_path / "out", *fakes.policy())


def test_a_child_says_what_went_wrong() -> None:
    assert run_in_child(len, "four") == 4
    with pytest.raises(NonFiniteReward, match="the reward logit is nan"):
        run_in_child(finite_reward, math.nan)
    with pytest.raises(WriterError, match="the policy's process died"):
        run_in_child(os._exit, 9)
