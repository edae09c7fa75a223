"""`criticrm evaluate`: through a real server on the fake engine, and its numbers by hand."""

from __future__ import annotations

import doctest
import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest

from conftest import serving as app_served
from criticrm_model.checkpoint import Checkpoint
from criticrm_training.commands.evaluate import Evaluate
from criticrm_training.critiques.records import SCHEMA, SIDES, Critique
from criticrm_training.data.pairs import PreferencePair
from criticrm_training.data.sources import DataError
from criticrm_training.endpoint import EndpointError
from criticrm_training.evaluation import evaluate, quality, scoring, serving
from criticrm_training.evaluation.items import EvaluationItem, as_item
from criticrm_training.evaluation.outcomes import pair_preferences
from criticrm_training.evaluation.quality import critique_statistics
from criticrm_training.evaluation.scoring import by_item, method_scores, score_items
from criticrm_training.evaluation.serving import ServingError, scoring_service, start_service
from criticrm_training.parts import PartsError, write_in_parts
from support.live import CRITICRM, wait_until
from support.scripted import Scripted, in_place_of_a_service

pytestmark = pytest.mark.slow

PAIRS = [
    PreferencePair(str(i), ({"role": "user", "content": f"Q{i}"},), f"good {i}", f"bad {i}", "all", f"q{i}")
    for i in range(70)
]
ITEMS = [as_item(pair) for pair in PAIRS]


class Odd(Scripted):
    """Its scores hang on the number in the response."""

    def __init__(self) -> None:
        super().__init__(len)

    def _result(self, text: str, critique: Any) -> dict[str, Any]:
        good, number = text.startswith("good"), int(text.split()[1])
        n = int(critique) if isinstance(critique, bool) else critique["n"]
        shift = number % 3 == 0  # wrong on every third pair before a critique
        scores = [float(good) if k else float(good) - 2 * good * (number % 2) for k in range(n)]
        return {
            "error": None,
            "direct_score": float(good != shift),
            "score": sum(scores) / n,
            "warnings": [],
            "status": "ok",
            "critiques": [{"text": f"says {text}", "score": s, "finish_reason": "stop", "tokens": 3} for s in scores],
        }


def test_margins_by_hand(tmp_path: Path) -> None:
    service = Odd()
    rows = score_items(ITEMS, service, samples=4, out=tmp_path, run={"model": "x"})
    assert len(rows) == 140
    assert service.bodies[0]["critique"] is True
    assert service.bodies[0]["on_overflow"] == "truncate"
    found = pair_preferences(ITEMS, rows, [1, 4])
    assert (found["direct_score"].margins > 0).sum() == 46  # 24 of 70 numbers divide by three
    assert found["greedy critique"].outcomes.sum() == 35
    # Of an odd pair's four samples of the good response one is -1, the others 1; those of the bad one are 0.
    assert found["mean of 1"].outcomes[:2].tolist() == [1, 0.75]
    assert found["mean of 4"].outcomes[:2].tolist() == [1, 1]
    assert found["mean of 1"].margins[1] == found["mean of 4"].margins[1] == pytest.approx((-1 + 3) / 4)
    asked = len(service.bodies)
    assert score_items(ITEMS, service, samples=4, out=tmp_path, run={"model": "x"}) == rows
    assert len(service.bodies) == asked  # all of it was there
    with pytest.raises(PartsError, match="another model"):
        score_items(ITEMS, service, samples=4, out=tmp_path, run={"model": "y"})


def test_scores_are_of_the_pairs_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ids that are numbers of rows change with the rows' order, and with them the order of one question's pairs."""
    rows = [{"prompt": "Q", "chosen": "c" * n, "rejected": "r" * 5} for n in (9, 1)]
    data, out = tmp_path / "pairs.jsonl", ["--out", str(tmp_path / "out")]
    monkeypatch.setattr(evaluate, "scoring_service", in_place_of_a_service(Scripted(len)))
    data.write_text("\n".join(map(json.dumps, rows)))
    assert Evaluate(_cli_parse_args=[str(data), *out]).run() == 0
    data.write_text("\n".join(map(json.dumps, rows[::-1])))
    with pytest.raises(PartsError, match="another items"):
        Evaluate(_cli_parse_args=[str(data), *out]).run()


def test_a_critic_stands_for_its_critiques_and_a_scalar_for_its_direct_score(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before its critique the critic is always wrong, after it always right; the scalar is right on half."""
    rows = [{"prompt": f"Q{i}", "chosen": f"good {i}", "rejected": f"bad {i}"} for i in range(8)]
    data = tmp_path / "pairs.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)))

    class Critic(Scripted):
        def _result(self, text: str, critique: Any) -> dict[str, Any]:
            good = float(text.startswith("good"))
            written = [{"text": "says", "score": good, "finish_reason": "stop", "tokens": 3}]
            return super()._result(text, critique) | {"direct_score": -good, "critiques": written}

    def half(text: str) -> float:
        return float(text.startswith("good") and int(text.split()[1]) % 2)

    reports = []
    for service, more in ((Scripted(half), ["--direct-only"]), (Critic(len), [f"--against=scalar={tmp_path / '0'}"])):
        monkeypatch.setattr(evaluate, "scoring_service", in_place_of_a_service(service))
        out = tmp_path / str(len(reports))
        assert Evaluate(_cli_parse_args=[str(data), "--out", str(out), *more]).run() == 0
        reports.append(json.loads((out / "evaluation.json").read_text()))
    assert [report["headline"] for report in reports] == ["direct_score", "greedy critique"]
    headline, direct = reports[1]["against"]["scalar"]
    assert (headline["our_accuracy"], headline["their_accuracy"], headline["value"]) == (1, 0.75, 0.25)
    assert (direct["our_accuracy"], direct["their_accuracy"], direct["value"]) == (0, 0.75, -0.75)


def test_items_of_any_size(tmp_path: Path) -> None:
    prompt = PAIRS[0].prompt
    items = [
        EvaluationItem("a", prompt, ("good 1", "bad 2", "bad 3"), 1, "s", "q"),
        EvaluationItem("b", prompt, ("good 2",), 1, "s", "q"),
    ]
    rows = score_items(items, Odd(), samples=0, out=tmp_path, run={})
    assert [(row["item_id"], row["index"]) for row in rows] == [("a", 0), ("a", 1), ("a", 2), ("b", 0)]
    assert by_item(items, method_scores(rows)["direct_score"]) == [[1, 0, 1], [1]]


def test_a_response_without_a_score_is_no_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    service = Odd()
    failed = {"error": {"message": "the reward logit is nan"}, "critiques": [], "score": None, "direct_score": None}
    monkeypatch.setattr(service, "_result", lambda *_: failed)
    with pytest.raises(EndpointError, match="prompt 0, response 1: the reward logit is nan"):
        score_items(ITEMS, service, samples=0, out=tmp_path, run={})


def test_quality_by_hand() -> None:
    assert doctest.testmod(quality).failed == 0
    found = critique_statistics(
        ["the reply explains scattering", "the reply is good", "the reply is good", "it has 7 faults"],
        ["Scattering of light.", "No.", "The reply.", "There are 7."],
        [True, True, False, True],
        "Is the reply good?",
    )
    assert found == quality.CritiqueStatistics(4, ended=0.75, repeats=0.0, names=0.5, distinct=0.75)


@pytest.mark.filterwarnings("ignore:unclosed")
def test_the_command_through_a_server_of_its_own(
    opened_checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "pairs.jsonl"
    rows = [{"id": str(i), "prompt": f"Q{i}", "chosen": f"good {i}", "rejected": f"bad {i}"} for i in range(40)]
    data.write_text("\n".join(map(json.dumps, rows)))
    monkeypatch.setattr(serving, "start_service", lambda model: start_service(model, ["--engine", "fake"]))

    def run(out: str, *more: str) -> dict[str, Any]:
        arguments = [str(data), "--out", str(tmp_path / out), "--model", str(opened_checkpoint.folder), *more]
        assert Evaluate(_cli_parse_args=arguments).run() == 0
        report: dict[str, Any] = json.loads((tmp_path / out / "evaluation.json").read_text())
        return report

    first = run("first", "--samples", "1,2")
    assert set(first["accuracy"]["overall"]) == {
        "longer wins", "direct_score", "greedy critique", "mean of 1", "mean of 2",
    }  # fmt: skip
    assert first["accuracy"]["overall"]["direct_score"]["n"] == 40
    with monkeypatch.context() as without:  # all scores are there: no server is started
        without.delattr(serving, "start_service")
        assert run("first", "--samples", "1,2") == first
    # From here on one that is quick to start.
    monkeypatch.setattr(serving, "start_service", lambda _: app_served(opened_checkpoint))
    second = run("second", "--against", f"first={tmp_path / 'first'}")
    compared = {(c["ours"], c["theirs"]): c for c in second["against"]["first"]}
    assert set(compared) == {("greedy critique",) * 2, ("direct_score",) * 2}
    assert all((c["value"], c["n"]) == (0, 40) for c in compared.values())
    direct = run("direct", "--direct-only", "--against", f"first={tmp_path / 'first'}")
    assert set(direct["accuracy"]["overall"]) == {"longer wins", "direct_score"}
    assert [(c["ours"], c["theirs"]) for c in direct["against"]["first"]] == [
        ("direct_score", "greedy critique"),  # the headline of each
        ("direct_score", "direct_score"),
    ]
    assert direct["critiques_ended"] is None
    with pytest.raises(DataError, match="--samples and --frontier are of critiques"):
        run("direct", "--direct-only", "--samples", "4")
    with pytest.raises(DataError, match="evaluated other pairs"):
        run("third", "--limit", "10", "--against", f"first={tmp_path / 'first'}")


@pytest.mark.filterwarnings("ignore:unclosed")
def test_pairs_that_are_longer_than_the_model(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """They are cut as the service does, by the same rule after others' critiques, and counted.

    What is the same after it is a tie. The fake engine makes up its scores from the tokens.
    """
    caplog.set_level("INFO")
    monkeypatch.setattr(serving, "start_service", lambda model: start_service(model, ["--engine", "fake"]))
    far = "and so on " * 2000
    rows = [{"id": str(i), "prompt": f"Question {i}", "chosen": f"good {i}", "rejected": f"bad {i}"} for i in range(6)]
    rows += [
        {"id": "long prompt", "prompt": f"Why {far}?", "chosen": "good", "rejected": "bad"},
        {"id": "long reply", "prompt": "Why is it so?", "chosen": f"good {far}", "rejected": "bad"},
        {"id": "the same", "prompt": "How is it so?", "chosen": f"so {far} good", "rejected": f"so {far} bad"},
    ]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    critiques = [Critique(row["id"], side, 0, "It is.", 5, "stop", 4).row() for row in rows for side in SIDES]
    write_in_parts(tmp_path / "critiques", {}, [critiques], list, SCHEMA, "made")
    arguments = [str(tmp_path / "pairs.jsonl"), "--model", str(tiny_checkpoint), "--out", str(tmp_path / "out")]
    assert Evaluate(_cli_parse_args=[*arguments, "--teacher-forced", str(tmp_path / "critiques")]).run() == 0

    report = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert report["truncated"] == report["teacher_forced"]["truncated"]
    assert report["truncated"] == {"responses": 5, "of": 18, "share": 5 / 18}
    assert caplog.text.count("responses cut to the model's length: 5 of 18 (27.8%)") == 2
    table = pq.read_table(tmp_path / "out" / "outcomes.parquet").to_pydict()
    same = table["pair_id"].index("the same")
    for method in ("direct_score", "greedy critique", "teacher-forced"):
        assert table[method][same] == 0.5, method
        assert report["accuracy"]["overall"][method]["n"] == 9
        assert all(outcome in (0, 1) for i, outcome in enumerate(table[method]) if i != same), method


def test_a_termination_takes_the_server_along(tiny_checkpoint: Path, tmp_path: Path) -> None:
    rows = [{"prompt": f"Q{i}", "chosen": f"good {i}", "rejected": f"bad {i}"} for i in range(20_000)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    command = [str(CRITICRM), "evaluate", str(tmp_path / "pairs.jsonl"), "--model", str(tiny_checkpoint)]
    evaluation = subprocess.Popen(
        [*command, "--out", str(tmp_path / "out")], env=os.environ | {"CRITICRM_ENGINE": "fake"}
    )
    try:
        wait_until((tmp_path / "out" / "scores" / "part-000000.parquet").exists, timeout_s=120)
        (server,) = psutil.Process(evaluation.pid).children()
        evaluation.send_signal(signal.SIGTERM)
        assert evaluation.wait(timeout=60) == 128 + signal.SIGTERM
        assert not server.is_running()
    finally:
        evaluation.kill()


def test_a_server_that_does_not_start_says_why(tmp_path: Path) -> None:
    with (
        pytest.raises(ServingError, match="not a Critic-RM checkpoint"),
        start_service(str(tmp_path), ["--engine", "fake"]),
    ):
        pass


def test_a_url_where_nothing_runs_is_named() -> None:
    nothing = scoring_service("default", "http://127.0.0.1:9", key=None, concurrency=1)
    with pytest.raises(EndpointError, match=r"127\.0\.0\.1:9/v1/model is not a Critic-RM service's"), nothing:
        pass


def test_the_rows_have_their_columns() -> None:
    assert set(scoring.SCHEMA.names) >= {"item_id", "index", "direct_score", "greedy_score", "sampled_scores"}
