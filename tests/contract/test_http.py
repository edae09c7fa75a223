"""What a caller's HTTP may look like: compressed bodies, old versions, other methods, paths and options."""

from __future__ import annotations

import gzip
import http.client
import json
import socket
import zlib
from typing import Any
from urllib.parse import urlsplit

import pytest

from conftest import MAX_MODEL_LEN, Running, StartApp, serving
from criticrm_model import CriticRMError
from criticrm_model.checkpoint import Checkpoint
from criticrm_server.settings import Settings
from criticrm_server.sockets import bind, url_of

GOOD: dict[str, Any] = {"prompt": "Q", "responses": ["A"]}
BODY = json.dumps(GOOD).encode()
JSON = {"content-type": "application/json"}
NDJSON = "application/x-ndjson"


async def post(running: Running, content: bytes, encoding: str) -> Any:
    return await running.client.post("/score", content=content, headers=JSON | {"content-encoding": encoding})


@pytest.mark.parametrize("path", ["/score?critique=false", "/score?x", "/v1/model?a=1"])
async def test_options_where_none_are_taken_are_refused(running: Running, path: str) -> None:
    method = "POST" if path.startswith("/score") else "GET"
    answer = await running.client.request(method, path, json=GOOD)
    assert answer.status_code == 422
    (detail,) = answer.json()["error"]["details"]
    assert detail["field"] == "query." + path.partition("?")[2].partition("=")[0]
    assert "no options in its URL" in detail["message"]


async def test_a_gzip_body_is_read(running: Running) -> None:
    plain = (await running.score(GOOD)).json()["results"]
    for content in (gzip.compress(BODY), gzip.compress(BODY[:9]) + gzip.compress(BODY[9:])):
        assert (await post(running, content, "gzip")).json()["results"] == plain
    assert (await post(running, BODY, "identity")).json()["results"] == plain


@pytest.mark.parametrize(
    "content",
    [BODY, gzip.compress(BODY)[:-3], gzip.compress(BODY) + b"x", zlib.compress(BODY)],
    ids=["plain", "cut", "more after it", "zlib"],
)
async def test_a_body_that_is_no_gzip_is_422(running: Running, content: bytes) -> None:
    answer = await post(running, content, "gzip")
    assert answer.status_code == 422
    assert answer.json()["error"]["details"][0]["field"] == "body"


@pytest.mark.parametrize("encoding", ["br", "deflate", "zstd", "gzip, gzip"])
async def test_other_encodings_are_415(running: Running, encoding: str) -> None:
    answer = await post(running, BODY, encoding)
    assert answer.status_code == 415
    assert "gzip" in answer.json()["error"]["message"]


async def test_the_limit_holds_after_decompression(start_app: StartApp) -> None:
    """A bomb: 64 MiB of blanks in 64 KiB."""
    async with start_app(max_body_bytes=2**20) as app:
        answer = await post(app, gzip.compress(b" " * 2**26), "gzip")
        assert answer.status_code == 413
        assert answer.json()["error"]["details"][0]["limit"] == 2**20
        assert (await post(app, gzip.compress(b" " * 2**19 + BODY), "gzip")).status_code == 200


async def test_a_path_with_a_slash_is_no_redirect(running: Running) -> None:
    for path in ("/score/", "/health/live/", "/v1/model/"):
        answer = await running.client.post(path, json=GOOD, headers={"host": "elsewhere.example"})
        assert answer.status_code == 404
        assert "location" not in answer.headers


@pytest.mark.parametrize("path", ["/health/live", "/health/ready", "/metrics", "/v1/model"])
async def test_what_answers_get_answers_head(running: Running, path: str) -> None:
    assert (await running.client.head(path)).status_code == 200
    running.service.admission.drain()
    assert (await running.client.head("/health/ready")).status_code == 503


async def test_a_critique_longer_than_the_model_takes_is_refused_with_the_limit(start_app: StartApp) -> None:
    async with start_app(max_critique_tokens=10 * MAX_MODEL_LEN) as app:
        answer = await app.score(GOOD | {"critique": {"max_tokens": MAX_MODEL_LEN}})
        assert answer.status_code == 422
        (detail,) = answer.json()["error"]["details"]
        assert (detail["field"], detail["limit"]) == ("critique.max_tokens", MAX_MODEL_LEN - 1)
        answer = await app.score(GOOD | {"critique": {"max_tokens": MAX_MODEL_LEN - 1}})
        assert answer.json()["error"]["details"][0]["limit"] >= 0


async def test_a_default_critique_without_room_for_a_prompt_is_refused_at_the_start(start_app: StartApp) -> None:
    with pytest.raises(CriticRMError, match="lower critique_tokens"):
        async with start_app(critique_tokens=MAX_MODEL_LEN):
            pass


async def test_a_stream_is_not_held_back_by_proxies(running: Running) -> None:
    answer = await running.client.post("/score", json=GOOD, headers={"accept": NDJSON})
    assert answer.headers["x-accel-buffering"] == "no"


def test_http_1_0_gets_a_stream_without_chunks(opened_checkpoint: Checkpoint) -> None:
    with serving(opened_checkpoint) as url:
        where = urlsplit(url)
        with socket.create_connection((where.hostname, where.port)) as connection:
            head = f"POST /score HTTP/1.0\r\nContent-Type: application/json\r\nAccept: {NDJSON}\r\n"
            connection.sendall(f"{head}Content-Length: {len(BODY)}\r\n\r\n".encode() + BODY)
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        headers, _, body = answer.partition(b"\r\n\r\n")
        assert b"transfer-encoding" not in headers.lower()
        assert [set(json.loads(line)) >= {"usage"} for line in body.splitlines()] == [True, True]
        head_only = http.client.HTTPConnection(str(where.hostname), where.port)
        head_only.request("HEAD", "/health/live")
        assert head_only.getresponse().read() == b""
        head_only.close()


def test_where_it_listens_is_a_url() -> None:
    with bind("127.0.0.1", 0) as listener:
        assert url_of(listener) == f"http://127.0.0.1:{listener.getsockname()[1]}"
    if socket.has_ipv6:
        with bind("::1", 0) as listener:
            assert url_of(listener) == f"http://[::1]:{listener.getsockname()[1]}"


def test_connections_outlive_those_of_common_clients() -> None:
    assert Settings(engine="fake").keep_alive_s == 75
