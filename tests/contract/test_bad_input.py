"""Every kind of bad input: its status, code, field and limit."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from conftest import MAX_MODEL_LEN, Running, StartApp
from criticrm_model.checkpoint import Checkpoint
from support.tiny import make_checkpoint

GOOD: dict[str, Any] = {"prompt": "Q", "responses": ["A"]}


def bad(body: object, code: str, field: str, **detail: object) -> Any:
    return pytest.param(body, code, field, detail, id=f"{field}-{json.dumps(body)[:50]}")


@pytest.mark.parametrize(
    ("body", "code", "field", "detail"),
    [
        bad({"prompt": 1, "responses": ["A"]}, "invalid_request", "prompt"),
        bad({"prompt": "Q", "responses": "A"}, "invalid_request", "responses"),
        bad({"prompt": "Q", "responses": [1]}, "invalid_request", "responses[0]"),
        bad({"prompt": "Q", "responses": [None]}, "invalid_request", "responses[0]"),
        bad({"prompt": "", "responses": ["A"]}, "invalid_request", "prompt", limit=1),
        bad({"prompt": [], "responses": ["A"]}, "invalid_request", "prompt", limit=1, actual=0),
        bad({"prompt": [{"role": "user"}], "responses": ["A"]}, "invalid_request", "prompt[0].content"),
        bad(
            {"prompt": [{"role": "<|im_end|>", "content": "x"}], "responses": ["A"]},
            "invalid_request",
            "prompt[0].role",
            limit="'system', 'user', 'assistant' or 'tool'",
        ),
        bad({"responses": ["A"]}, "invalid_request", "prompt"),
        bad({"prompt": "Q"}, "invalid_request", "responses"),
        bad({"prompt": "Q", "responses": []}, "invalid_request", "responses", limit=1, actual=0),
        bad({"items": []}, "invalid_request", "items", limit=1, actual=0),
        bad({"items": [{"prompt": "Q", "responses": []}]}, "invalid_request", "items[0].responses", limit=1),
        bad({"items": [GOOD], "prompt": "Q"}, "invalid_request", "prompt"),
        bad({"items": [GOOD | {"id": 7}]}, "invalid_request", "items[0].id"),
        bad({"items": [GOOD | {"id": "x" * 300}]}, "invalid_request", "items[0].id", limit=256),
        bad(GOOD | {"critque": True}, "invalid_request", "critque"),
        bad(GOOD | {"critique": {"N": 1}}, "invalid_request", "critique.N"),
        bad(GOOD | {"critique": "yes"}, "invalid_request", "critique"),
        bad(GOOD | {"critique": 1}, "invalid_request", "critique"),
        bad(GOOD | {"critique": {"n": 0}}, "invalid_request", "critique.n", limit=1),
        bad(GOOD | {"critique": {"n": -3}}, "invalid_request", "critique.n", limit=1),
        bad(GOOD | {"critique": {"n": 1.5}}, "invalid_request", "critique.n"),
        bad(GOOD | {"critique": {"n": True}}, "invalid_request", "critique.n"),
        bad(GOOD | {"critique": {"n": 10**30}}, "limit_exceeded", "critique.n", limit=4),
        bad(GOOD | {"critique": {"n": 5}}, "limit_exceeded", "critique.n", limit=4, actual=5),
        bad(GOOD | {"critique": {"n": 2, "temperature": 0}}, "invalid_request", "critique"),
        bad(GOOD | {"critique": {"max_tokens": 0}}, "invalid_request", "critique.max_tokens", limit=1),
        bad(GOOD | {"critique": {"max_tokens": 65}}, "limit_exceeded", "critique.max_tokens", limit=64, actual=65),
        bad(GOOD | {"critique": {"temperature": -0.1}}, "invalid_request", "critique.temperature", limit=0),
        bad(GOOD | {"critique": {"temperature": 2.1}}, "invalid_request", "critique.temperature", limit=2),
        bad(GOOD | {"critique": {"seed": -1}}, "invalid_request", "critique.seed", limit=0),
        bad(GOOD | {"critique": {"seed": 2**32}}, "invalid_request", "critique.seed", limit=2**32 - 1),
        bad(GOOD | {"on_overflow": "drop"}, "invalid_request", "on_overflow", limit="'error' or 'truncate'"),
        bad(GOOD | {"normalize": "true"}, "invalid_request", "normalize"),
        bad({"items": [GOOD] * 4}, "limit_exceeded", "items", limit=3, actual=4),
        bad({"prompt": "Q", "responses": ["A"] * 6}, "limit_exceeded", "responses", limit=5, actual=6),
        bad(
            {"items": [GOOD, {"prompt": "Q", "responses": ["A"] * 6}]},
            "limit_exceeded",
            "items[1].responses",
            limit=5,
            actual=6,
        ),
        bad(
            {"prompt": [{"role": "user", "content": ""}] * (MAX_MODEL_LEN + 1), "responses": ["A"]},
            "limit_exceeded",
            "prompt",
            limit=MAX_MODEL_LEN,
            actual=MAX_MODEL_LEN + 1,
        ),
        bad(
            {"prompt": [{"role": "user", "content": ""}] * 601, "responses": ["A"]},
            "limit_exceeded",
            "prompt",
            limit=600,
            actual=601,
        ),
        bad(
            {"items": [{"prompt": [{"role": "user", "content": ""}] * 301, "responses": ["A"]}] * 2},
            "limit_exceeded",
            "items",
            limit=600,
            actual=602,
        ),
        bad({"items": [{"prompt": [{"role": "user"}], "responses": [2]}]}, "invalid_request", "items[0].responses[0]"),
        bad(
            {"items": [{"prompt": "Q", "responses": ["A"] * 5}] * 3, "critique": {"n": 4}},
            "limit_exceeded",
            "body",
            limit=50,
            actual=60,
        ),
        bad([], "invalid_request", "body"),
        bad("text", "invalid_request", "body"),
        bad(None, "invalid_request", "body"),
    ],
)
async def test_bad_fields(start_app: StartApp, body: object, code: str, field: str, detail: dict[str, Any]) -> None:
    limits = {"max_items": 3, "max_responses": 5, "max_critiques": 4, "max_critique_tokens": 64, "max_sequences": 50}
    limits["max_messages"] = MAX_MODEL_LEN + 88
    async with start_app(**limits) as app:
        headers = {"content-type": "application/json"}
        response = await app.client.post("/score", content=json.dumps(body), headers=headers)
    error = response.json()["error"]
    assert response.status_code == 422
    assert error["code"] == code
    assert field in [entry["field"] for entry in error["details"]]
    entry = next(entry for entry in error["details"] if entry["field"] == field)
    assert {key: entry.get(key) for key in detail} == detail
    assert field in error["message"] or field == "body"
    assert error["request_id"] == response.headers["x-request-id"]


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b'{"prompt": NaN, "responses": ["A"]}',
        b'{"prompt": "Q", "responses": ["A"], "critique": {"temperature": Infinity}}',
        b'{"prompt": "Q", "responses": ["A"], "critique": {"temperature": 1e999}}',
        b'{"prompt": "\xff\xfe", "responses": ["A"]}',
        b'{"prompt": "\\ud800", "responses": ["A"]}',
        b"\x00",
        b"[" * 100_000,
        b'{"prompt": "Q", "responses": ["A"], "critique": {"n": ' + b"9" * 5000 + b"}}",
        b'\xef\xbb\xbf{"prompt": "Q", "responses": ["A"]}',
    ],
)
async def test_bad_json(running: Running, raw: bytes) -> None:
    response = await running.client.post("/score", content=raw, headers={"content-type": "application/json"})
    assert response.status_code == 422
    assert response.json()["error"]["code"] in ("invalid_json", "invalid_request")
    assert response.json()["error"]["details"]


async def test_nan_says_where(running: Running) -> None:
    raw = b'{"prompt": NaN, "responses": ["A"]}'
    response = await running.client.post("/score", content=raw, headers={"content-type": "application/json"})
    assert response.json()["error"]["code"] == "invalid_json"
    assert "line 1 column" in response.json()["error"]["message"]


async def test_a_prompt_too_long_gives_the_counts(running: Running) -> None:
    response = await running.score(prompt="word " * 3000, responses=["A", "B"])
    error = response.json()["error"]
    assert response.status_code == 422
    assert error["code"] == "prompt_too_long"
    (detail,) = error["details"]
    assert detail["prompt_tokens"] > 3000
    assert detail["max_critique_tokens"] == 24
    assert detail["limit"] == MAX_MODEL_LEN - 24


async def test_roles_the_template_refuses(start_app: StartApp, tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "gemma", "gemma")
    async with start_app(checkpoint=Checkpoint.open(folder)) as app:
        prompt = [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}]
        response = await app.score(prompt=prompt, responses=["A"])
    assert response.status_code == 422
    assert response.json()["error"]["code"] == "unsupported_conversation"
    assert response.json()["error"]["details"][0]["field"] == "prompt"
    assert "System role not supported" in response.json()["error"]["message"]


@pytest.mark.parametrize("declared", [True, False])
async def test_a_body_too_large(start_app: StartApp, declared: bool) -> None:
    body = json.dumps(GOOD | {"prompt": "x" * 2000}).encode()

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(body), 100):
            yield body[start : start + 100]

    async with start_app(max_body_bytes=1000) as app:
        content = body if declared else chunks()
        response = await app.client.post("/score", content=content, headers={"content-type": "application/json"})
    assert response.status_code == 413
    assert response.json()["error"]["code"] == "body_too_large"
    assert response.json()["error"]["details"] == [{"field": "body", "message": "too large", "limit": 1000}]


@pytest.mark.parametrize("media_type", ["application/x-www-form-urlencoded", "text/plain", ""])
async def test_a_body_not_declared_as_json(running: Running, media_type: str) -> None:
    headers = {"content-type": media_type} if media_type else {}
    response = await running.client.post("/score", content=json.dumps(GOOD), headers=headers)
    assert response.status_code == 415
    assert "Content-Type: application/json" in response.json()["error"]["message"]


async def test_json_with_a_charset_is_json(running: Running) -> None:
    headers = {"content-type": "application/json; charset=utf-8"}
    assert (await running.client.post("/score", content=json.dumps(GOOD), headers=headers)).status_code == 200


@pytest.mark.parametrize("key", [None, "wrong", "key-on", "Key-one", ""])
async def test_a_wrong_key(start_app: StartApp, key: str | None) -> None:
    async with start_app(api_keys=["key-one", "key-two"]) as app:
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        # Unauthorised before anything is read: the body would be refused too.
        response = await app.client.post("/score", content=b"{", headers=headers)
        model = await app.client.get("/v1/model", headers=headers)
    assert response.status_code == model.status_code == 401
    assert response.json()["error"]["code"] == "unauthorized"
    assert response.headers["www-authenticate"].startswith("Bearer")


async def test_without_a_key_the_body_is_not_even_read(start_app: StartApp) -> None:
    read: list[bytes] = []

    async def body() -> AsyncIterator[bytes]:
        read.append(b"{")
        yield b"{"

    async with start_app(api_keys=["key"]) as app:
        response = await app.client.post("/score", content=body(), headers={"content-type": "application/json"})
    assert response.status_code == 401
    assert read == []


async def test_a_body_declared_too_large_is_not_even_read(start_app: StartApp) -> None:
    read: list[bytes] = []

    async def body() -> AsyncIterator[bytes]:
        read.append(b"{")
        yield b"{"

    async with start_app(max_body_bytes=1000) as app:
        headers = {"content-type": "application/json", "content-length": "1001"}
        response = await app.client.post("/score", content=body(), headers=headers)
    assert response.status_code == 413
    assert read == []


@pytest.mark.parametrize("authorization", ["Basic a2V5", "key", "Bearer", "Bearer key extra", b"Bearer k\xe9y"])
async def test_what_is_no_bearer_key(start_app: StartApp, authorization: str | bytes) -> None:
    async with start_app(api_keys=["key"]) as app:
        headers = {b"authorization": authorization if isinstance(authorization, bytes) else authorization.encode()}
        assert (await app.client.post("/score", json=GOOD, headers=headers)).status_code == 401


async def test_a_key_beyond_ascii_opens(start_app: StartApp) -> None:
    async with start_app(api_keys=["schl\u00fcssel"]) as app:
        headers = {b"authorization": "Bearer schl\u00fcssel".encode()}
        assert (await app.client.post("/score", json=GOOD, headers=headers)).status_code == 200


@pytest.mark.parametrize("length", [b"\xb2", b"-1", b"x"])
async def test_an_odd_content_length_is_no_500(running: Running, length: bytes) -> None:
    """uvicorn refuses these itself; another server may not."""
    headers = {b"content-type": b"application/json", b"content-length": length}
    assert (await running.client.post("/score", content=json.dumps(GOOD), headers=headers)).status_code == 200


@pytest.mark.parametrize("key", ["key-one", "key-two"])
async def test_each_key_opens(start_app: StartApp, key: str) -> None:
    async with start_app(api_keys=["key-one", "key-two"]) as app:
        response = await app.client.post("/score", json=GOOD, headers={"authorization": f"Bearer {key}"})
        assert response.status_code == 200
        assert (await app.client.get("/health/ready")).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing", 404, "not_found"),
        ("GET", "/score", 405, "method_not_allowed"),
        ("OPTIONS", "/score", 405, "method_not_allowed"),
        ("POST", "/v1/model", 405, "method_not_allowed"),
        ("POST", "/health/ready", 405, "method_not_allowed"),
    ],
)
async def test_routing_errors_have_the_same_shape(
    running: Running, method: str, path: str, status: int, code: str
) -> None:
    response = await running.client.request(method, path)
    error = response.json()["error"]
    assert response.status_code == status
    assert set(error) == {"code", "message", "request_id", "details"}
    assert error["code"] == code
    assert error["request_id"] == response.headers["x-request-id"]
