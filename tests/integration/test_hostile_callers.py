"""Callers that would hold the service up without touching the engine: a live server on the fake engine."""

from __future__ import annotations

import asyncio
import json
import random
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from support.live import Server, wait_until

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def server(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("server") / "screen.log"
    with Server(str(tiny_checkpoint), "--engine", "fake", "--deadline-s", "6", log=log) as server:
        yield server


async def test_a_huge_text_is_refused_while_others_are_answered(server: Server) -> None:
    text = "".join(random.Random(0).choices("abcdefghijklmnop ", k=4_000_000))
    async with server.client() as client:
        huge = asyncio.create_task(client.post("/score", json={"prompt": text, "responses": ["ok"]}))
        while not huge.done():
            answer = await client.post("/score", json={"prompt": "Why?", "responses": ["So."]})
            assert answer.status_code == 200
        refused = await huge
    assert (refused.status_code, refused.json()["error"]["code"]) == (422, "prompt_too_long")
    detail = refused.json()["error"]["details"][0]
    assert detail["prompt_tokens"] > detail["limit"]  # a lower bound: the rest was not tokenised


@pytest.mark.parametrize(
    "body",
    [
        {"prompt": [{"role": "user", "content": "a"}] * 300_000, "responses": ["ok"]},
        {"items": [{"prompt": "Why?", "responses": ["ok"] * 256}] * 256, "critique": False},
        {"items": [{"prompt": "Why?", "responses": ["ok"] * 200}], "critique": {"n": 16}},
    ],
    ids=["messages", "responses", "critiques"],
)
def test_what_can_never_fit_is_refused(server: Server, body: dict[str, object]) -> None:
    answer = server.score(**body)
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "limit_exceeded")
    [fault] = answer.json()["error"]["details"]
    assert fault["actual"] > fault["limit"]


def test_a_caller_that_does_not_read_is_cut_off(server: Server) -> None:
    """Its place is given back soon after the deadline."""
    many = {"responses": [f"Answer {i}." for i in range(100)], "critique": {"n": 16, "max_tokens": 1000}}
    # The fake engine's critique is the end of its prompt: 10 MB of them here, which no socket buffers.
    prompt = "question content system model " * 1000
    content = json.dumps({"prompt": prompt, "on_overflow": "truncate", **many}).encode()
    url = httpx.URL(server.url)
    with socket.socket() as caller:
        caller.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        caller.connect((url.host, url.port))
        head = f"POST /score HTTP/1.1\r\nHost: here\r\nContent-Length: {len(content)}\r\n"
        head += "Content-Type: application/json\r\nAccept: application/x-ndjson\r\n\r\n"
        caller.sendall(head.encode() + content)

        def stuck() -> bool:
            held = server.metric("criticrm_sequences")
            time.sleep(0.5)
            return 0 < held == server.metric("criticrm_sequences")  # what was sent has left, the rest can't

        wait_until(stuck, 20)
        wait_until(lambda: server.metric("criticrm_sequences") == 0, 60)
    assert server.get("/health/ready").status_code == 200
