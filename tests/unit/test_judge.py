"""`criticrm judge`, by hand; rewards after the critiques of another model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from conftest import serving
from criticrm_model.checkpoint import Checkpoint
from criticrm_model.reference import ReferenceModel
from criticrm_training.commands.critiques import Critiques
from criticrm_training.commands.evaluate import Evaluate
from criticrm_training.commands.judge import Judge
from criticrm_training.critiques.records import SCHEMA, SIDES, Critique, SideName, by_response, read_critiques
from criticrm_training.data.pairs import PreferencePair, pairs_sha256, read_pairs
from criticrm_training.data.sources import DataError
from criticrm_training.data.splits import in_question_order
from criticrm_training.evaluation.items import as_item
from criticrm_training.evaluation.teacher_forced import read_by_transformers, teacher_forced_margins
from criticrm_training.parts import PartsError, read_parts, write_in_parts

PAIRS = [
    PreferencePair(str(i), ({"role": "user", "content": f"Q{i}"},), f"good {i}", f"bad {i}", "all", f"q{i}")
    for i in range(4)
]
# By pair and side, the scores of two critiques; None: no score can be read.
SCORES: dict[tuple[str, SideName], list[float | None]] = {
    ("0", "chosen"): [7, 7], ("0", "rejected"): [5, 5],  # right
    ("1", "chosen"): [6, None], ("1", "rejected"): [4, 8],  # right by the first, a tie by both
    ("2", "chosen"): [None, None], ("2", "rejected"): [3, 3],  # unreadable: a tie
}  # fmt: skip


def write_critiques(folder: Path, **run: str) -> Path:
    rows = [
        Critique(pair_id, side, i, f"The reply is {score}.", score, "stop" if i else "length", 7).row()
        for (pair_id, side), scores in SCORES.items()
        for i, score in enumerate(scores)
    ]
    write_in_parts(folder, {"model": "m", **run}, [[0]], lambda _: rows, SCHEMA, "made")
    return folder


def write_pairs(path: Path) -> Path:
    rows = [{"id": p.id, "prompt": p.prompt[0]["content"], "chosen": p.chosen, "rejected": p.rejected} for p in PAIRS]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def run_judge(tmp_path: Path, *more: str) -> dict[str, Any]:
    critiques = write_critiques(tmp_path / "critiques")
    data = write_pairs(tmp_path / "pairs.jsonl")
    out = tmp_path / "judged"
    arguments = [str(data), "--critiques", str(critiques), "--out", str(out), *more]
    assert Judge(_cli_parse_args=arguments).run() == 0
    report: dict[str, Any] = json.loads((out / "evaluation.json").read_text())
    return report


def test_a_judge_by_hand(tmp_path: Path) -> None:
    report = run_judge(tmp_path)
    overall = report["accuracy"]["overall"]
    # One of each side: of the second pair 6 is above 4 and below 8, and twice there is no score.
    assert overall["mean of 1"]["value"] == pytest.approx((1 + 0.5 + 0.5) / 3)
    assert overall["mean of 2"]["value"] == pytest.approx((1 + 0.5 + 0.5) / 3)
    assert overall["mean of 2"]["n"] == 3
    assert report["unreadable_pairs"] == {"mean of 1": pytest.approx(1 / 2), "mean of 2": pytest.approx(1 / 3)}
    assert report["pairs_without_critiques"] == 1
    assert report["critiques_ended"] == 0.5
    assert report["headline"] == "mean of 2"


def test_others_compare_with_the_judges_headline(tmp_path: Path) -> None:
    run_judge(tmp_path)
    headline, mean_of_1 = run_judge(tmp_path, "--against", f"itself={tmp_path / 'judged'}")["against"]["itself"]
    assert (headline["ours"], headline["theirs"]) == ("mean of 2", "mean of 2")
    assert (headline["value"], headline["n"], headline["their_accuracy"]) == (0, 3, pytest.approx(2 / 3))
    assert (mean_of_1["ours"], mean_of_1["theirs"]) == ("mean of 1", "mean of 1")


def test_critiques_of_other_pairs_with_the_same_ids_are_noticed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    data = write_pairs(tmp_path / "pairs.jsonl")
    for name, sampled_of in (("these", read_pairs(data)), ("others", [replace(PAIRS[0], chosen="another")])):
        critiques = write_critiques(tmp_path / name, pairs=pairs_sha256(in_question_order(sampled_of)[:3]))
        arguments = [str(data), "--critiques", str(critiques), "--out", str(tmp_path / "out")]
        caplog.clear()
        assert Judge(_cli_parse_args=arguments).run() == 0
        assert ("matched with them by id alone" in caplog.text) == (name == "others")


def test_a_judge_of_other_data(tmp_path: Path) -> None:
    data = tmp_path / "other.jsonl"
    data.write_text('{"id": "x", "prompt": "Q", "chosen": "a", "rejected": "b"}\n')
    critiques = write_critiques(tmp_path / "critiques")
    with pytest.raises(DataError, match="critiques of none of these 1 pairs"):
        Judge(_cli_parse_args=[str(data), "--critiques", str(critiques), "--out", str(tmp_path / "out")]).run()
    with pytest.raises(PartsError):
        Judge(_cli_parse_args=[str(data), "--critiques", str(tmp_path), "--out", str(tmp_path / "out")]).run()


def test_a_judge_is_measured_on_all_that_it_wrote(tmp_path: Path) -> None:
    """Critiques that a filter kept agree with the labels: a judge by them would always be right."""
    sampled = write_critiques(tmp_path / "critiques")
    data = write_pairs(tmp_path / "pairs.jsonl")
    critiques = Critiques(
        _cli_parse_args=["filter", str(sampled), "--out", str(tmp_path / "kept"), "--least-words", "0"]
    )
    assert critiques.run() == 0
    arguments = [str(data), "--critiques", str(tmp_path / "kept"), "--out", str(tmp_path / "out")]
    with pytest.raises(DataError, match="kept where they agree with the labels"):
        Judge(_cli_parse_args=arguments).run()


def test_rewards_after_others_critiques_by_hand(tiny_checkpoint: Path, tmp_path: Path) -> None:
    critiques = write_critiques(tmp_path / "critiques")
    out = tmp_path / "forced"
    reader, items = read_by_transformers(tiny_checkpoint), [as_item(pair) for pair in PAIRS]
    found, cut = teacher_forced_margins(reader, items, critiques, out=out, run={"model": "tiny"})
    assert cut == {"responses": 0, "of": 6, "share": 0}
    assert found.dtype == np.float64
    assert np.isnan(found).tolist() == [False, False, False, True]

    checkpoint = Checkpoint.open(tiny_checkpoint)
    renderer = checkpoint.renderer
    model = ReferenceModel.load(tiny_checkpoint, checkpoint.manifest.reward_token_id, renderer.stop_token_ids)
    rewards = {}
    for side in SIDES:
        prompt = renderer.open(PAIRS[0].prompt).render(
            getattr(PAIRS[0], side), max_model_len=checkpoint.max_model_len, max_critique_tokens=24
        )
        whole = renderer.tokenize_critique(f"The reply is {SCORES['0', side][0]}.")
        # The first critique was cut at its limit: it has no end-of-turn token, as where the service cuts one.
        rewards[side] = sum(model.score(prompt.token_ids, ids)[1] for ids in (whole[:-1], whole)) / 2
    assert found[0].item() == pytest.approx(rewards["chosen"] - rewards["rejected"], abs=1e-5)

    kept = read_parts(out)
    assert teacher_forced_margins(reader, items, critiques, out=out, run={"model": "tiny"})[0][0] == found[0]
    assert read_parts(out) == kept
    with pytest.raises(PartsError, match="another"):
        teacher_forced_margins(reader, items, critiques, out=out, run={"model": "other"})


def test_a_service_reads_others_critiques(opened_checkpoint: Checkpoint, tmp_path: Path) -> None:
    critiques = write_critiques(tmp_path / "critiques")
    with serving(opened_checkpoint) as url, httpx.Client(base_url=url) as client:
        arguments = [str(write_pairs(tmp_path / "p.jsonl")), "--out", str(tmp_path / "o"), "--url", url]
        assert Evaluate(_cli_parse_args=[*arguments, "--teacher-forced", str(critiques)]).run() == 0
        groups = by_response(read_critiques(critiques))
        expected = []
        for row in read_parts(tmp_path / "o" / "teacher-forced"):
            pair = next(pair for pair in PAIRS if pair.id == row["pair_id"])
            sent = [{"text": c.text, "finish_reason": c.finish_reason} for c in groups[pair.id, row["side"]]]
            body = {"prompt": list(pair.prompt), "responses": [pair.response(row["side"])], "critiques": [sent]}
            expected.append(client.post("/score", json=body).json()["results"][0]["score"])
            assert row["score"] == pytest.approx(expected[-1])
    assert len(set(expected)) == len(expected) == 6
