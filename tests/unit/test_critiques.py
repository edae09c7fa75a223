"""Stage 1: sampling, filtering and refining critiques, with a critic that says what it is told to."""

from __future__ import annotations

import doctest
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from criticrm_model.prompt import Renderer
from criticrm_training.commands.critiques import Critiques
from criticrm_training.critiques import endpoint_writer, records, sentences, verdict, vllm_writer
from criticrm_training.critiques.critique_task import CritiqueTask, Tasks
from criticrm_training.critiques.filter import QualityBounds, filter_critiques
from criticrm_training.critiques.records import SCHEMA, Critique, SideName, read_critiques
from criticrm_training.critiques.refine import refine
from criticrm_training.critiques.rendering import render_conversation
from criticrm_training.critiques.sample import SampleSettings, sample
from criticrm_training.critiques.writers import Conversation, Draft, Sampling, WriterError, WritingTask
from criticrm_training.data.pairs import PreferencePair
from criticrm_training.data.sources import DataError
from criticrm_training.parts import PartsError, read_parts, write_in_parts
from support.tiny import make_tokenizer

PAIRS = [
    PreferencePair(str(i), ({"role": "user", "content": f"Q{i}"},), f"good {i}", f"bad {i}", "all", f"q{i}")
    for i in range(150)
]


class Scripted:
    """A critic whose drafts are a function of the task and the number of the draft."""

    name = "scripted"

    def __init__(self, say: Callable[[WritingTask, int], str]) -> None:
        self._say = say
        self.calls: list[Sequence[WritingTask]] = []

    def write(self, tasks: Sequence[WritingTask], sampling: Sampling) -> list[list[Draft]]:
        self.calls.append(tasks)
        return [[Draft(self._say(task, k), "stop", 9) for k in range(sampling.n)] for task in tasks]


def critique(
    pair_id: str, side: SideName, score: int | None, number: int = 0, text: str = "a few plain words"
) -> Critique:
    return Critique(pair_id, side, number, text, score, "stop", 9)


def test_the_examples() -> None:
    assert doctest.testmod(sentences).failed == 0
    assert doctest.testmod(verdict).failed == 0


def sampled(out: Path, critic: Scripted, n: int = 2) -> list[Critique]:
    tasks = Tasks({"default": CritiqueTask(instruction="Review it.", max_tokens=32)})
    sample(PAIRS, critic, tasks, SampleSettings(n, 0.7), out=out, run={"data": "x"})
    return read_critiques(out)


def test_sampling_asks_for_every_response_and_takes_the_score_off(tmp_path: Path) -> None:
    critic = Scripted(lambda task, k: f"About {task.response}. Score: {k + 3}")
    found = sampled(tmp_path, critic)
    assert [(c.pair_id, c.side, c.sample) for c in found[:4]] == [
        ("0", "chosen", 0), ("0", "chosen", 1), ("0", "rejected", 0), ("0", "rejected", 1),
    ]  # fmt: skip
    assert len(found) == 600
    assert found[2].text == "About bad 0."
    assert found[3].score == 4
    seeds = [task.seed for call in critic.calls for task in call]
    assert len(set(seeds)) == len(seeds) == 300


def test_a_killed_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    def say(task: WritingTask, k: int) -> str:
        return f"About {task.response}, {task.seed}. Score: {k + 3}"

    whole = sampled(tmp_path / "whole", Scripted(say))

    def dies(task: WritingTask, k: int) -> str:
        if task.response == "good 100":
            raise KeyboardInterrupt
        return say(task, k)

    with pytest.raises(KeyboardInterrupt):
        sampled(tmp_path / "resumed", Scripted(dies))
    with pytest.raises(PartsError, match="has not ended"):
        read_critiques(tmp_path / "resumed")
    critic = Scripted(say)
    assert sampled(tmp_path / "resumed", critic) == whole
    assert len(critic.calls) == 2  # of three parts, one was there
    with pytest.raises(PartsError, match="another n; choose another folder"):
        sampled(tmp_path / "resumed", critic, n=3)


def test_filtering_by_hand() -> None:
    found = filter_critiques(
        [
            # Means 6 and 4: kept, less the chosen one scored 4 and the rejected one scored 6 (not below the mean of 6).
            critique("a", "chosen", 8, 0), critique("a", "chosen", 4, 1),
            critique("a", "rejected", 2, 0), critique("a", "rejected", 6, 1),
            critique("b", "chosen", 3), critique("b", "rejected", 5),  # contradicts the label
            critique("c", "chosen", 5), critique("c", "rejected", 5),  # a tie
            critique("d", "chosen", None), critique("d", "rejected", 1),  # no score to compare
            critique("e", "chosen", 9, text="ok"), critique("e", "rejected", 1),  # too short to learn from
        ],
        QualityBounds(least_words=3),
    )  # fmt: skip
    assert [(c.pair_id, c.side, c.score) for c in found.kept] == [("a", "chosen", 8), ("a", "rejected", 2)]
    assert dict(found.pairs) == {
        "kept": 1, "contradicts the label": 1, "a tie": 1, "a response without a score": 1,
        "no critique of a response that agrees and is fit to learn from": 1,
    }  # fmt: skip
    assert sum(found.critiques.values()) == 12
    assert found.critiques["no score that can be read"] == 1
    assert found.critiques["disagrees with the label"] == 2


def test_poor_critiques_are_dropped_and_unfinished_sentences_cut() -> None:
    echo = "it is bad it is bad it is bad"  # 6 sequences of four words, 3 of them seen before
    found = filter_critiques(
        [
            critique("a", "chosen", 8, 0, "It is right. And it is"), critique("a", "chosen", 9, 1, echo),
            critique("a", "rejected", 2, 0, "It is wrong. It is. Is it?"),
            critique("a", "rejected", 2, 1, "I rate it as 2 out of 9."),
            critique("a", "rejected", 2, 2, "My score is low."),
            critique("b", "chosen", 9, 0, echo), critique("b", "rejected", 2, 0, "It is wrong."),
        ],
        QualityBounds(least_words=2, most_repeats=0.4, most_sentences=2),
    )  # fmt: skip
    assert [(c.pair_id, c.text) for c in found.kept] == [("a", "It is right."), ("a", "It is wrong. It is.")]
    assert found.critiques["speaks of its score"] == 2
    assert found.critiques["repeats itself"] == 2
    assert found.pairs["no critique of a response that agrees and is fit to learn from"] == 1


def test_of_critiques_that_open_alike_the_first_are_kept() -> None:
    said = "The last reply is good, but {}."
    critiques = [
        critique(pair, side, 5, 0, said.format("Pair " + pair) if side == "chosen" else f"{pair} is wrong.")
        for pair in "abc"
        for side in ("chosen", "rejected")
    ]
    found = filter_critiques(critiques, QualityBounds(most_alike=2), ignore_labels=True)
    assert found.kept == critiques[:4]
    assert found.critiques["opens like many others"] == 1
    assert found.pairs["no critique of a response that agrees and is fit to learn from"] == 1


def test_labels_can_be_ignored() -> None:
    critiques = [
        critique("a", "chosen", 3), critique("a", "rejected", 5),  # contradicts the label
        critique("b", "chosen", None), critique("b", "rejected", None),
        critique("c", "chosen", 9, text="ok"), critique("c", "rejected", 1),
    ]  # fmt: skip
    found = filter_critiques(critiques, QualityBounds(least_words=3), ignore_labels=True)
    assert found.kept == critiques[:4]
    assert dict(found.pairs) == {"kept": 2, "no critique of a response that agrees and is fit to learn from": 1}


def test_what_names_nothing_of_the_response_is_dropped() -> None:
    critiques = [
        critique("a", "chosen", 9, 0, "The answer 54 is wrong."), critique("a", "chosen", 9, 1, "The reply is wrong."),
        critique("a", "rejected", 1, 0, "It repeats the word whatever."),
    ]  # fmt: skip
    responses = {("a", "chosen"): "It is 54, this reply says.", ("a", "rejected"): "Whatever."}
    found = filter_critiques(critiques, responses=responses, instruction="Is the last reply right?")  # type: ignore[arg-type]
    assert found.kept == [critiques[0], critiques[2]]
    assert found.critiques["names nothing of the response"] == 1
    with pytest.raises(DataError, match="no such pair"):
        filter_critiques(critiques, responses={("b", "chosen"): ""})


SEVERAL = [critique("0", side, 5, k, f"{side} {k}") for side in ("chosen", "rejected") for k in range(3)]  # type: ignore[arg-type]
ONE = [critique("1", "chosen", 5, 0, "c"), critique("1", "rejected", 5, 0, "r")]


def refined(out: Path, critic: Scripted, method: Any) -> list[Critique]:
    refine(PAIRS, SEVERAL + ONE, critic, method=method, top_k=2, max_tokens=32, out=out, run={})
    return read_critiques(out)


def test_summ_merges_what_is_several(tmp_path: Path) -> None:
    critic = Scripted(lambda task, _: f"merged {task.response}.")
    found = refined(tmp_path, critic, "summ")
    assert [c.text for c in found] == ["merged good 0.", "merged bad 0.", "c", "r"]
    (tasks,) = critic.calls
    assert "1. chosen 0\n2. chosen 1\n3. chosen 2" in tasks[0].instruction


@pytest.mark.parametrize(
    ("said", "finish", "kept"),
    [
        ("It is right. Its score is 9.", "stop", None),
        ("It is right. Score: 3", "stop", "It is right."),
        ("It rates 9 out of 10.", "stop", None),
        ("it is bad it is bad it is bad", "stop", None),
        ("Right.", "stop", None),
        ("It is right. And it", "length", None),
        ("It is right. It is fine. And it", "length", "It is right. It is fine."),
        ("It is right. It is fine. It is long.", "stop", "It is right. It is fine."),
    ],
)
def test_merged_critiques_are_filtered_again(tmp_path: Path, said: str, finish: str, kept: str | None) -> None:
    class Merging(Scripted):
        def write(self, tasks: Sequence[WritingTask], sampling: Sampling) -> list[list[Draft]]:
            return [
                [replace(draft, finish_reason=finish) for draft in group] for group in super().write(tasks, sampling)
            ]

    critic = Merging(lambda task, _: said if "good" in task.response else "It is wrong, and not good.")
    quality = QualityBounds(least_words=2, most_repeats=0.4, most_sentences=2)
    options = {"method": "summ", "top_k": 2, "max_tokens": 32, "quality": quality}
    refine(PAIRS, SEVERAL + ONE, critic, **options, out=tmp_path, run={})  # type: ignore[arg-type]
    found = {(c.pair_id, c.side): c for c in read_critiques(tmp_path)}
    assert (found["0", "chosen"].text if ("0", "chosen") in found else None) == kept
    assert all(c.finish_reason == "stop" for c in found.values() if c.pair_id == "0" and c.side == "chosen")
    assert [found["1", side].text for side in records.SIDES] == ["c", "r"]  # nothing was merged


def test_rank_keeps_the_best(tmp_path: Path) -> None:
    ratings = {
        "chosen 0": "2",
        "chosen 1": "9",
        "chosen 2": "5",
        "rejected 0": "7",
        "rejected 1": "?",
        "rejected 2": "1",
    }
    critic = Scripted(lambda task, _: f"Score: {ratings[task.instruction.rpartition('Review: ')[2]]}")
    found = refined(tmp_path, critic, "rank")
    assert [c.text for c in found] == ["chosen 1", "chosen 2", "rejected 0", "rejected 2", "c", "r"]


def test_rank_by_ratings_that_are_expected_where_none_is_written(tmp_path: Path) -> None:
    class Expecting(Scripted):
        def write(self, tasks: Sequence[WritingTask], sampling: Sampling) -> list[list[Draft]]:
            assert sampling.score_by == "expected"
            assert all("from 1 (useless) to 9 (excellent)" in task.instruction for task in tasks)
            scores = {"0": 2.5, "1": 2.25, "2": 7.0}
            return [[Draft("Well.", "stop", 2, scores[task.instruction[-1]])] for task in tasks]

    critic = Expecting(lambda *_: "")
    refine(PAIRS, SEVERAL, critic, method="rank", top_k=2, max_tokens=32, rate_by="expected", out=tmp_path, run={})
    assert [c.text for c in read_critiques(tmp_path)] == ["chosen 2", "chosen 0", "rejected 2", "rejected 0"]


def test_a_pair_without_a_rating_that_can_be_read_is_left_out(tmp_path: Path) -> None:
    found = refined(tmp_path, Scripted(lambda _, __: "I like it."), "rank")
    assert {c.pair_id for c in found} == {"1"}


@pytest.mark.parametrize(
    ("changes", "endpoint", "differing"),
    [
        (["--dtype", "float16"], False, "dtype"),
        (["--max-model-len", "64"], False, "max_model_len"),
        (["--max-model-len", "64"], True, None),  # it has its own
        (["--limit", "2"], False, "pairs"),
        (None, False, "pairs"),  # the same pairs by other names
    ],
)
@pytest.mark.parametrize("step", ["sample", "refine"])
def test_another_run_is_not_gone_on_from(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    step: str,
    changes: list[str] | None,
    endpoint: bool,
    differing: str | None,
) -> None:
    critic = Scripted(lambda *_: "It is a review. Score: 5")
    monkeypatch.setattr(vllm_writer, "VLLMWriter", lambda *_, **__: critic)
    monkeypatch.setattr(endpoint_writer, "EndpointWriter", lambda *_, **__: critic)
    rows = [{"id": str(i), "prompt": f"Q{i}", "chosen": "good", "rejected": "bad"} for i in range(3)]
    given = [critique(str(i), side, 5).row() for i in range(3) for side in records.SIDES]
    write_in_parts(tmp_path / "given", {}, [[0]], lambda _: given, SCHEMA, "made")
    data = tmp_path / "pairs.jsonl"
    arguments = {"sample": ["sample", str(data)], "refine": ["refine", str(tmp_path / "given"), "--data", str(data)]}
    common = ["--method", "summ"] if step == "refine" else ["-n", "1"]
    common += ["--endpoint", "http://nowhere/v1"] if endpoint else []

    def run(*more: str) -> int:
        data.write_text("\n".join(map(json.dumps, rows)))
        return Critiques(_cli_parse_args=[*arguments[step], *common, "--out", str(tmp_path / "out"), *more]).run()

    run()
    if changes is None:
        rows[0]["id"], rows[1]["id"] = rows[1]["id"], rows[0]["id"]
    if differing is None:
        assert run(*(changes or [])) == 0
        return
    with pytest.raises(PartsError, match=f"another {differing};"):
        run(*(changes or []))


def test_the_steps_by_their_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def say(task: WritingTask, k: int) -> str:
        if "Merge" in task.instruction:
            return f"merged review of {task.response}"
        return f"A review of {task.response}. Score: {5 + k if 'good' in task.response else 4 - k}"

    monkeypatch.setattr(vllm_writer, "VLLMWriter", lambda *_, **__: Scripted(say))
    rows = [{"prompt": f"Q{i}", "chosen": f"good {i}", "rejected": f"bad {i}"} for i in range(6)]
    data = tmp_path / "pairs.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)))
    folders = {step: str(tmp_path / step) for step in ("sample", "filter", "refine")}

    def run(*arguments: str) -> None:
        assert Critiques(_cli_parse_args=list(arguments)).run() == 0

    run("sample", str(data), "--out", folders["sample"], "-n", "3")
    run("filter", folders["sample"], "--out", folders["filter"])
    run("refine", folders["filter"], "--data", str(data), "--method", "summ", "--out", folders["refine"])
    assert len(read_critiques(tmp_path / "sample")) == 36
    assert sorted(c.text for c in read_critiques(tmp_path / "refine"))[0] == "merged review of bad 0"
    assert len(read_critiques(tmp_path / "refine")) == 12


def test_an_answer_that_does_not_fit_is_refused() -> None:
    conversation = Conversation(({"role": "user", "content": "Q"},), seed=0)
    with pytest.raises(WriterError, match=r"of \d+ tokens and an answer of up to 60 do not fit in max_model_len 64"):
        render_conversation(Renderer(make_tokenizer(), ""), conversation, max_model_len=64, max_tokens=60)


def test_parts_hold_one_run(tmp_path: Path) -> None:
    rows = [critique("a", "chosen", 1).row()]
    write_in_parts(tmp_path, {"x": 1}, [[0], [1]], lambda _: rows, SCHEMA, "test")
    assert read_parts(tmp_path) == rows * 2
    with pytest.raises(PartsError, match="another x"):
        write_in_parts(tmp_path, {"x": 2}, [[0]], lambda _: rows, SCHEMA, "test")
