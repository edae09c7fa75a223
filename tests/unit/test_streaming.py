"""Groups of requests overlap in one engine: it is never short of work before the last of them."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from criticrm_model.prompt import Renderer
from criticrm_training.critiques.blind import sample_blind
from criticrm_training.critiques.critique_task import CritiqueTask, Tasks, load_tasks
from criticrm_training.critiques.records import SIDES, Critique, read_critiques
from criticrm_training.critiques.refine import Method, refine
from criticrm_training.critiques.sample import SampleSettings, sample
from criticrm_training.critiques.vllm_writer import VLLMWriter
from criticrm_training.critiques.writers import (
    Conversation,
    Draft,
    Request,
    Sampling,
    Streaming,
    WritingTask,
    drafts_in_order,
)
from criticrm_training.data.pairs import PreferencePair
from support.tiny import make_tokenizer

SEATS = 8


class Engine:
    """Works on `SEATS` sequences at a time; each ends after as many steps as its seed says."""

    def __init__(self) -> None:
        self.waiting: list[tuple[str, Any, int]] = []
        self.running: list[list[Any]] = []
        self.seats_taken: list[int] = []
        self.vllm_config = SimpleNamespace(scheduler_config=SimpleNamespace(max_num_seqs=SEATS))

    def get_num_unfinished_requests(self) -> int:
        return len(self.waiting) + len(self.running)

    def step(self) -> list[Any]:
        while self.waiting and len(self.running) < SEATS:
            request_id, params, steps = self.waiting.pop(0)
            self.running.append([request_id, params, steps])
        self.seats_taken.append(len(self.running))
        for sequence in self.running:
            sequence[2] -= 1
        ended = [s for s in self.running if s[2] <= 0]
        self.running = [s for s in self.running if s[2] > 0]
        return [SimpleNamespace(request_id=s[0], finished=True, outputs=[self._output(s[1])]) for s in ended]

    def _output(self, params: Any) -> Any:
        logprobs = [{digit: SimpleNamespace(logprob=0.0) for digit in params.logprob_token_ids or ()}]
        return SimpleNamespace(index=0, token_ids=[params.text], finish_reason="stop", logprobs=logprobs)


class LLM:
    def __init__(self) -> None:
        self.llm_engine = Engine()
        self.count = 0

    def enqueue(self, prompts: Sequence[Any], params: Sequence[Any], use_tqdm: bool) -> list[str]:
        assert not use_tqdm
        ids = []
        for each in params:
            steps = 1 if each.seed is None else each.seed % 7 + 1
            self.llm_engine.waiting.append((str(self.count), each, steps))
            ids.append(f"{self.count}-a1b2c3d4")
            self.count += 1
        assert len(prompts) == len(ids)
        return ids


@pytest.fixture
def writer(monkeypatch: pytest.MonkeyPatch) -> Iterator[VLLMWriter]:
    """Its drafts are the letters of their seeds."""
    vllm = ModuleType("vllm")
    vllm.SamplingParams = lambda **given: SimpleNamespace(  # type: ignore[attr-defined]
        **{"seed": None, "logprob_token_ids": None} | given, text=given.get("seed")
    )
    vllm.TokensPrompt = dict  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", vllm)
    writer = VLLMWriter.__new__(VLLMWriter)  # without its engine
    writer.name, writer._max_model_len, writer._rewards = "made", 512, None
    writer._tokenizer = make_tokenizer()
    writer._renderer = Renderer(writer._tokenizer, "")
    monkeypatch.setattr(writer._renderer, "decode", lambda ids: f"It says {ids[-1]}.")
    writer._llm, writer._finished, writer._max_num_seqs = LLM(), {}, SEATS
    yield writer
    assert not writer._finished
    assert writer._llm.llm_engine.get_num_unfinished_requests() == 0


def request(seed: int, **sampling: Any) -> Request:
    task = WritingTask(({"role": "user", "content": "Q"},), "R", "Review it.", seed)
    return Request(task, Sampling(**{"n": 1, "temperature": 0.7, "max_tokens": 9} | sampling))


def test_groups_overlap_and_come_in_order(writer: VLLMWriter) -> None:
    groups = [[request(5 * i + k) for k in range(5)] for i in range(12)]
    found = list(writer.stream(groups))
    assert [[d.text for (d,) in group] for group in found] == [
        [f"It says {r.asked.seed}." for r in group] for group in groups
    ]
    seats = writer._llm.llm_engine.seats_taken
    full = len(seats) - next(i for i, taken in enumerate(reversed(seats)) if taken == SEATS)
    assert all(taken == SEATS for taken in seats[:full])  # it empties once, at the end
    assert len(seats) - full <= 7


def test_groups_are_begun_when_there_is_room_and_not_before(writer: VLLMWriter) -> None:
    begun: list[int] = []

    def groups() -> Iterator[list[Request]]:
        for i in range(100):
            begun.append(i)
            yield [request(5 * i + k) for k in range(5)]

    stream = writer.stream(groups())
    next(stream)
    assert len(begun) <= 5
    assert len(list(stream)) == 99


def test_scores_that_are_expected_do_not_stop_the_others(writer: VLLMWriter) -> None:
    groups = [[request(5 * i + k, score_by="expected") for k in range(5)] for i in range(6)]
    found = list(writer.stream(groups))
    assert [[(d.text, d.score) for (d,) in group] for group in found] == [
        [(f"It says {r.asked.seed}.", 5.0) for r in group] for group in groups
    ]


def test_nothing_is_asked_of_the_engine_for_nothing(writer: VLLMWriter) -> None:
    assert writer.write([], Sampling(1, 0.7, 9)) == []
    assert list(writer.stream([])) == []
    (draft,) = writer.answer([Conversation(({"role": "user", "content": "Q"},), 3)], Sampling(1, 0.7, 9))
    assert draft == [Draft("It says 3.", "stop", 1)]


def test_parts_are_sampled_in_a_stream(writer: VLLMWriter, tmp_path: Path) -> None:
    pairs = [
        PreferencePair(str(i), ({"role": "user", "content": f"Q{i}"},), "a", "b", "all", f"q{i}") for i in range(150)
    ]
    tasks = Tasks({"default": CritiqueTask(instruction="Review it.", max_tokens=9)})
    sample(pairs, writer, tasks, SampleSettings(1, 0.7), out=tmp_path, run={})
    streamed = read_critiques(tmp_path)
    assert [(c.pair_id, c.side) for c in streamed] == [(p.id, side) for p in pairs for side in ("chosen", "rejected")]
    seats = writer._llm.llm_engine.seats_taken
    assert sum(taken < SEATS for taken in seats) <= 7

    # Those of a part that is there are not asked for again, and the others are the same.
    (tmp_path / "part-000001.parquet").unlink()
    asked = writer._llm.count
    sample(pairs, writer, tasks, SampleSettings(1, 0.7), out=tmp_path, run={})
    assert read_critiques(tmp_path) == streamed
    assert writer._llm.count - asked == 128


def short_steps(writer: VLLMWriter) -> int:
    """How many steps of the engine had fewer sequences than it has seats; they are forgotten."""
    seats, writer._llm.llm_engine.seats_taken = writer._llm.llm_engine.seats_taken, []
    assert seats
    return sum(taken < SEATS for taken in seats)


@pytest.mark.parametrize("method", ["summ", "rank"])
def test_parts_are_refined_in_a_stream(
    writer: VLLMWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: Method
) -> None:
    """Greedy, so that each request takes a step: 63 or 3 * 63 of a part, 147 or 3 * 147 of all, in eight seats."""
    monkeypatch.setattr(writer._renderer, "decode", lambda _: "Score: 5" if method == "rank" else "It is right.")
    pairs = [
        PreferencePair(str(i), ({"role": "user", "content": f"Q{i}"},), f"a {i}", "b", "all", f"q{i}")
        for i in range(150)
    ]
    contested = [pair.id for i, pair in enumerate(pairs) if i % 64]
    critiques = [
        Critique(pair.id, side, k, f"It is {k}.", 5, "stop", 4)
        for pair in pairs
        for side in SIDES
        for k in range(3 if side == "chosen" and pair.id in contested else 1)
    ]

    def refined() -> list[Critique]:
        refine(pairs, critiques, writer, method=method, top_k=2, max_tokens=9, out=tmp_path, run={})
        return read_critiques(tmp_path)

    streamed = refined()
    assert short_steps(writer) == 1  # the last one
    kept = 2 if method == "rank" else 1
    assert [(c.pair_id, c.side) for c in streamed] == [
        (pair.id, side)
        for pair in pairs
        for side in SIDES
        for _ in range(kept if side == "chosen" and pair.id in contested else 1)
    ]

    (tmp_path / "part-000001.parquet").unlink()
    asked = writer._llm.count
    assert refined() == streamed
    assert writer._llm.count - asked == (63 if method == "summ" else 3 * 63)


def test_explanations_are_written_in_a_stream(
    writer: VLLMWriter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of each pair, whose rejected answer is wrong."""
    decode = Renderer(writer._tokenizer, "").decode
    monkeypatch.setattr(
        writer._renderer, "decode", lambda ids: f"{decode(ids[:-1])} {ids[-1]}." if ids[:-1] else "The answer is 4."
    )
    pairs = [
        PreferencePair(str(i), ({"role": "user", "content": f"Q{i}"},), "#### 4", f"#### {5 + i}", "all", f"q{i}")
        for i in range(150)
    ]

    def explained() -> list[Critique]:
        settings = SampleSettings(1, 0.7)
        sample_blind(pairs, writer, load_tasks(["reasoning"]), settings, explain_tokens=9, out=tmp_path, run={})
        return read_critiques(tmp_path)

    streamed = explained()
    assert [(c.pair_id, c.side) for c in streamed] == [(pair.id, side) for pair in pairs for side in SIDES]
    explanations = [c.text.partition("The first wrong step of the reply is")[2] for c in streamed]
    assert [bool(text) for text in explanations] == [False, True] * 150
    assert len(set(explanations)) > 100  # each is of its own seed
    assert short_steps(writer) <= 2 * 7  # at the end of the derivations, and at the end

    (tmp_path / "part-000001.parquet").unlink()
    asked = writer._llm.count
    assert explained() == streamed
    assert writer._llm.count - asked == 64


def test_writers_that_cannot_stream_are_asked_group_by_group() -> None:
    class Plain:
        name = "plain"

        def write(self, tasks: Sequence[WritingTask], sampling: Sampling) -> list[list[Draft]]:
            return [[Draft(f"{task.seed}, {sampling.max_tokens}", "stop", 1)] for task in tasks]

        def answer(self, conversations: Sequence[Conversation], sampling: Sampling) -> list[list[Draft]]:
            return [[Draft(f"answer {c.seed}", "stop", sampling.n)] for c in conversations]

    assert not isinstance(Plain(), Streaming)
    conversation = Request(Conversation((), 7), Sampling(1, 0.7, 9))
    groups = [[request(1), request(2, max_tokens=5), conversation, request(3)], [], [request(4)]]
    found = [[d.text for (d,) in group] for group in drafts_in_order(Plain(), groups)]
    assert found == [["1, 9", "2, 5", "answer 7", "3, 9"], [], ["4, 9"]]
