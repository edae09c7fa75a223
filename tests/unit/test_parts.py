"""Work in parts whose stream runs ahead, and requests that never wait for a part to end."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Generator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from criticrm_training.critiques.endpoint_writer import EndpointWriter
from criticrm_training.critiques.writers import (
    Conversation,
    Draft,
    Request,
    Sampling,
    Streaming,
    WriterError,
    WritingTask,
)
from criticrm_training.endpoint import Endpoint, EndpointError
from criticrm_training.evaluation import scoring
from criticrm_training.evaluation.items import EvaluationItem
from criticrm_training.evaluation.policies import policy as policy_module
from criticrm_training.evaluation.policies.policy import Asked, PolicySettings
from criticrm_training.evaluation.scoring import score_items
from criticrm_training.parts import read_parts, stream_in_parts

pytestmark = pytest.mark.slow

SCHEMA = pa.schema([("number", pa.int64())])
Rows = Generator[list[dict[str, Any]], None, None]


def in_rows(chunk: Sequence[int]) -> list[dict[str, Any]]:
    return [{"number": n} for n in chunk]


def write(folder: Path, stream: Any, chunks: Sequence[Sequence[int]] = ([0, 1], [2], [3, 4])) -> None:
    stream_in_parts(folder, {"of": "numbers"}, chunks, stream, SCHEMA, "made")


def test_a_stream_sees_only_what_is_missing_and_may_run_ahead(tmp_path: Path) -> None:
    seen: list[int] = []

    def eager(chunks: Sequence[Sequence[int]]) -> Rows:
        ahead = [seen.extend(chunk) or chunk for chunk in chunks]  # type: ignore[func-returns-value]
        yield from map(in_rows, ahead)

    write(tmp_path, eager)
    assert [row["number"] for row in read_parts(tmp_path)] == seen == [0, 1, 2, 3, 4]
    (tmp_path / "part-000001.parquet").unlink()
    write(tmp_path, eager)
    assert [row["number"] for row in read_parts(tmp_path)] == [0, 1, 2, 3, 4]
    assert seen[5:] == [2]


def test_parts_that_were_done_before_a_failure_stay(tmp_path: Path) -> None:
    closed = []

    def failing(chunks: Sequence[Sequence[int]]) -> Rows:
        try:
            yield in_rows(chunks[0])
            raise EndpointError("gone")
        finally:
            closed.append(True)

    with pytest.raises(EndpointError, match="gone"):
        write(tmp_path, failing)
    assert [path.name for path in sorted(tmp_path.glob("part-*"))] == ["part-000000.parquet"]
    assert closed == [True]
    write(tmp_path, lambda chunks: (in_rows(chunk) for chunk in chunks))
    assert [row["number"] for row in read_parts(tmp_path)] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("count", [2, 4])
def test_a_stream_of_another_length_is_an_error(tmp_path: Path, count: int) -> None:
    with pytest.raises(ValueError, match=r"zip\(\) argument 2 is"):
        write(tmp_path, lambda _: (in_rows([n]) for n in range(count)))
    assert "parts" not in json.loads((tmp_path / "run.json").read_text())


class Answers:
    """A server that answers a request with what `answer` makes of its body."""

    def __init__(self, answer: Any) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                status, value = answer(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                raw = json.dumps(value).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            def log_message(self, *_: Any) -> None: ...

        class Server(ThreadingHTTPServer):
            request_queue_size = 128

        self.server = Server(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever)

    def __enter__(self) -> str:
        self.thread.start()
        return f"http://127.0.0.1:{self.server.server_port}"

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


def result(text: str, critique: Any) -> dict[str, Any]:
    n = 1 if critique is True else critique["n"]
    written = [{"text": f"of {text}", "score": float(k), "finish_reason": "stop", "tokens": 3} for k in range(n)]
    return {"error": None, "status": "ok", "direct_score": 0.0, "critiques": written, "warnings": []}


def test_requests_of_the_next_parts_are_in_flight_with_those_of_this_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every eight requests wait for each other: with parts of one item, two requests each, four parts must be on."""
    together = threading.Barrier(8)

    def answer(body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        together.wait(timeout=60)
        return 200, {"results": [result(text, body["critique"]) for text in body["responses"]]}

    monkeypatch.setattr(scoring, "_ITEMS_PER_PART", 1)
    items = [EvaluationItem(str(i), ({"role": "user", "content": "Q"},), (f"r{i}",), 1, "s", "q") for i in range(8)]
    with Answers(answer) as url:
        rows = score_items(items, Endpoint(url, concurrency=8), samples=2, out=tmp_path, run={})
    assert [row["greedy_critique"] for row in rows] == [f"of r{i}" for i in range(8)]
    assert all(row["sampled_scores"] == [0.0, 1.0] for row in rows)
    assert len(list(tmp_path.glob("part-*"))) == 8


def test_answers_come_in_order_and_no_more_are_in_flight_than_allowed() -> None:
    together, lock, now, most = threading.Barrier(3), threading.Lock(), 0, 0

    def answer(body: int) -> tuple[int, int]:
        nonlocal now, most
        with lock:
            now += 1
            most = max(most, now)
        together.wait(timeout=60)  # three are in flight
        with lock:
            now -= 1
        return 200, body * 10

    with Answers(answer) as url:
        found = Endpoint(url, concurrency=3).post_all("/x", list(range(21)))
    assert found == [10 * n for n in range(21)]
    assert most == 3


def test_one_refusal_ends_all() -> None:
    """Though an earlier request would wait for ever."""
    held = threading.Event()

    def answer(body: int) -> tuple[int, Any]:
        if body == 0:
            held.wait(timeout=60)
        return (422, "too long") if body == 2 else (200, body)

    with Answers(answer) as url:
        with pytest.raises(EndpointError, match="422"):
            Endpoint(url, concurrency=4).post_all("/x", list(range(8)))
        held.set()


@pytest.mark.parametrize("later", range(8))
def test_an_exit_that_a_signal_handler_raises_in_the_loop_is_an_exit(
    monkeypatch: pytest.MonkeyPatch, later: int
) -> None:
    """In whichever step of the loop it is raised, before or after the answer that is waited for."""

    async def post(_: object, __: object, ___: str, number: int, body: Any) -> Any:
        for _step in range(4 if number == 0 else later):
            await asyncio.sleep(0)
        if number == 1:
            raise SystemExit(143)
        return body

    monkeypatch.setattr(Endpoint, "_post", post)
    with pytest.raises(SystemExit) as exit_:
        Endpoint("http://nowhere", concurrency=2).post_all("/x", [0, 1])
    assert exit_.value.code == 143


def test_a_request_that_fails_is_named_by_its_prompt(tmp_path: Path) -> None:
    """A lone surrogate, as broken data has it, can't be sent; the third item has one."""
    texts = ["fine", "fine too", "broken \ud800"]
    items = [
        EvaluationItem(f"p{i}", ({"role": "user", "content": "Q"},), (text,), 1, "s", "q")
        for i, text in enumerate(texts)
    ]

    def answer(body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        return 200, {"results": [result(text, body["critique"]) for text in body["responses"]]}

    with Answers(answer) as url, pytest.raises(EndpointError, match="prompt p2: a text with a lone surrogate"):
        score_items(items, Endpoint(url), samples=2, out=tmp_path, run={})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"results": []}, "prompt 0: 0 results for 1 responses"),
        ({"results": [result("a", {"n": 3})]}, "prompt 0, response 1: 3 critiques where 1 were requested"),
        ({"results": [result("a", True) | {"direct_score": float("nan")}]}, "response 1: a score of nan, which is no"),
        ({"results": [result("a", True) | {"direct_score": None}]}, "response 1: a score of None, which is no number"),
    ],
)
def test_an_answer_of_another_size_is_an_error(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    items = [EvaluationItem("0", ({"role": "user", "content": "Q"},), ("r",), 1, "s", "q")]
    with Answers(lambda _: (200, change)) as url, pytest.raises(EndpointError, match=message):
        score_items(items, Endpoint(url), samples=0, out=tmp_path, run={})


USER = {"role": "user", "content": "Q"}


def completion(body: dict[str, Any]) -> dict[str, Any]:
    """Says the seed it was asked with, as often as it was asked for."""
    choices = [
        {"index": k, "message": {"content": f"{body['seed']}.{k}"}, "finish_reason": "stop"} for k in range(body["n"])
    ]
    return {"choices": choices, "usage": {"completion_tokens": body["n"]}}


def asked(seed: int, n: int = 1, label: str = "") -> Request:
    """Conversations and critiques in turn."""
    messages = ({"role": "user", "content": "Q"},)
    if seed % 2:
        return Request(Conversation(messages, seed, label), Sampling(n, 0.7, 9))  # type: ignore[arg-type]
    return Request(WritingTask(messages, "R", "I", seed, label=label), Sampling(n, 0.7, 9))  # type: ignore[arg-type]


def test_an_endpoint_is_asked_for_the_next_groups_before_one_has_ended() -> None:
    """Every eight requests wait for each other, and a group has three at the most."""
    together = threading.Barrier(8)

    def answer(body: dict[str, Any]) -> tuple[int, Any]:
        together.wait(timeout=60)
        return 200, completion(body)

    groups = [[asked(0), asked(1, n=2), asked(2)], [], [asked(3), asked(4)], [asked(5)], [asked(6), asked(7)]]
    with Answers(answer) as url:
        writer = EndpointWriter(Endpoint(url, concurrency=8), "big")
        assert isinstance(writer, Streaming)
        found = [[[d.text for d in drafts] for drafts in group] for group in writer.stream(iter(groups))]
    assert found == [
        [["0.0"], ["1.0", "1.1"], ["2.0"]], [], [["3.0"], ["4.0"]], [["5.0"]], [["6.0"], ["7.0"]],
    ]  # fmt: skip


def test_groups_are_read_no_further_than_requests_can_start() -> None:
    read: list[int] = []

    def groups() -> Generator[list[Request], None, None]:
        for seed in range(50):
            read.append(seed)
            yield [asked(seed)]

    with Answers(lambda body: (200, completion(body))) as url:
        stream = EndpointWriter(Endpoint(url, concurrency=2), "big").stream(groups())
        assert next(stream) == [[Draft("0.0", "stop", 1)]]
        assert len(read) <= 6
        assert len(list(stream)) == 49


@pytest.mark.parametrize(
    ("fault", "error", "message"),
    [
        ((422, "too long"), EndpointError, "^pair 'g5': .* answered 422"),
        ((200, {"choices": []}), WriterError, "^pair 'g5': .* answered 200, but returned 0 choices"),
    ],
)
def test_a_request_of_a_later_group_is_named(fault: tuple[int, Any], error: type[Exception], message: str) -> None:
    groups = [
        [asked(2 * i, label=f"pair 'g{2 * i}'"), asked(2 * i + 1, label=f"pair 'g{2 * i + 1}'")] for i in range(9)
    ]
    with Answers(lambda body: fault if body["seed"] == 5 else (200, completion(body))) as url:
        writer = EndpointWriter(Endpoint(url, concurrency=2), "big")
        with pytest.raises(error, match=message):
            list(writer.stream(groups))


def test_a_policy_answers_the_next_parts_with_this_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Best-of-n and correction: parts of two conversations, of which four are in flight together."""
    together = threading.Barrier(8)
    requests: list[int] = []

    def answer(body: dict[str, Any]) -> tuple[int, Any]:
        requests.append(body["seed"])
        together.wait(timeout=60)
        return 200, completion(body)

    monkeypatch.setattr(policy_module, "_CONVERSATIONS_PER_PART", 2)
    questions: list[Asked] = [(f"q{i}", Conversation((USER,), i)) for i in range(16)]  # type: ignore[arg-type]
    sampling = Sampling(2, 0.7, 9)
    with Answers(answer) as url:
        settings = PolicySettings("big", endpoint=url, concurrency=8)
        rows = policy_module.answer(settings, questions, sampling, out=tmp_path, run={}, label="answers")
        assert len(requests) == 16
        again = policy_module.answer(settings, questions, sampling, out=tmp_path, run={}, label="answers")
    assert rows == again == [
        {"id": f"q{i}", "responses": [f"{i}.0", f"{i}.1"], "ended": [True, True]} for i in range(16)
    ]  # fmt: skip
    assert len(requests) == 16
    assert len(list(tmp_path.glob("part-*"))) == 8


def test_a_policy_that_has_nothing_left_to_answer_is_not_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    questions: list[Asked] = [("q", Conversation((USER,), 0))]  # type: ignore[arg-type]
    with Answers(lambda body: (200, completion(body))) as url:
        settings = PolicySettings("big", endpoint=url)
        policy_module.answer(settings, questions, Sampling(1, 0.7, 9), out=tmp_path, run={}, label="answers")

        def refuse(*_: Any, **__: Any) -> None:
            raise AssertionError("nothing is left to do")

        monkeypatch.setattr(policy_module, "open_writer", refuse)
        found = policy_module.answer(settings, questions, Sampling(1, 0.7, 9), out=tmp_path, run={}, label="answers")
    assert [row["responses"] for row in found] == [["0.0"]]
