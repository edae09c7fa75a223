"""Work in parts whose stream runs ahead, and requests that never wait for a part to end."""

from __future__ import annotations

import json
import threading
from collections.abc import Generator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from criticrm_training.endpoint import Endpoint, EndpointError
from criticrm_training.evaluation import scoring
from criticrm_training.evaluation.items import Item
from criticrm_training.evaluation.scoring import score_items
from criticrm_training.parts import read_parts, stream_in_parts

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
    written = [{"text": f"of {text}", "score": float(k), "finish_reason": "stop"} for k in range(n)]
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
    items = [Item(str(i), ({"role": "user", "content": "Q"},), (f"r{i}",), 1, "s", "q") for i in range(8)]
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


def test_a_request_that_fails_is_named_by_its_prompt(tmp_path: Path) -> None:
    """A lone surrogate, as broken data has it, can't be sent; the third item has one."""
    texts = ["fine", "fine too", "broken \ud800"]
    items = [Item(f"p{i}", ({"role": "user", "content": "Q"},), (text,), 1, "s", "q") for i, text in enumerate(texts)]

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
    items = [Item("0", ({"role": "user", "content": "Q"},), ("r",), 1, "s", "q")]
    with Answers(lambda _: (200, change)) as url, pytest.raises(EndpointError, match=message):
        score_items(items, Endpoint(url), samples=0, out=tmp_path, run={})
