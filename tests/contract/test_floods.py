"""Bodies that are cheap to send and were dear to answer: lists and objects full of faults, or of nothing."""

from __future__ import annotations

import asyncio
import gc
import json
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from typing import Any, get_type_hints

import pytest
from pydantic import TypeAdapter

from conftest import Running, StartApp
from criticrm_server import body as bodies
from criticrm_server.body import check_structure
from criticrm_server.errors import LimitExceeded
from criticrm_server.routes.guarded import GuardedRoute

JSON = {"content-type": "application/json"}
MANY = 50_000
MESSAGES: list[Any] = [{}] * MANY
UNKNOWN = {f"f{i}": 1 for i in range(MANY)}
GOOD: dict[str, Any] = {"prompt": "Q", "responses": ["A"]}
GYM: dict[str, Any] = {"responses_create_params": {"input": "Q"}, "response": {"output": []}}

FLOODS: list[tuple[str, Any, str]] = [
    ("/score", GOOD | {"responses": [1] * MANY}, "responses[0]"),
    ("/score", GOOD | {"responses": ["A"] * MANY + [1] * MANY}, f"responses[{MANY}]"),
    ("/score", GOOD | {"prompt": MESSAGES}, "prompt[0].role"),
    ("/score", GOOD | {"prompt": [{"role": "x", "content": 1, **UNKNOWN}]}, "prompt[0].f0"),
    ("/score", {"items": [1] * MANY}, "items[0]"),
    ("/score", {"items": [GOOD, {"prompt": MESSAGES, "responses": [1] * MANY}]}, "items[1].prompt[0].role"),
    ("/score", {"items": [GOOD | UNKNOWN]}, "items[0].f0"),
    ("/score", GOOD | UNKNOWN, "f0"),
    ("/score", GOOD | {"critique": UNKNOWN}, "critique.f0"),
    ("/score", GOOD | {"n" * 100_000: 1}, "n" * 100 + "..."),
    ("/get_reward", {"query": [1] * MANY, "prompts": [1] * MANY}, "query[0]"),
    ("/slime", {"prompt": MESSAGES, "response": "A"}, "prompt[0].role"),
    ("/slime", {"prompt": [{"role": "user", "content": [{}] * MANY}], "response": "A"}, "prompt[0].content[0].type"),
    ("/slime", {"prompt": [{"role": "user", "content": "", "tool_calls": [1] * MANY}], "response": "A"}, "prompt[0]"),
    ("/v1/score/evaluation", {"messages": [1] * MANY}, "messages[0]"),
    ("/classify", {"input": [None] * MANY}, "input[0]"),
    ("/classify", {"input": [-1] * MANY}, "input[0]"),
    ("/classify", {"input": [[-1]] * MANY}, "input[0][0]"),
    ("/classify", {"input": [[]] * MANY}, "input[0]"),
    ("/classify", {"text": [1] * MANY}, "text[0]"),
    ("/pooling", {"input": [[1]] * MANY}, "input"),
    ("/lmdeploy/pooling", {"input": [None] * MANY}, "input[0]"),
    ("/v1/embeddings", {"input": ["A"] * MANY}, "input"),
    ("/get_reward", {"prompts": [1] * MANY, "responses": ["A"] * MANY}, "prompts[0]"),
    ("/v1/chat/completions", {"messages": MESSAGES}, "messages[0].role"),
    ("/v1/responses", {"input": MESSAGES}, "input[0].role"),
    ("/xtuner", {"response": "A", "extra_info": {"prompt": MESSAGES}}, "extra_info.prompt[0].role"),
    ("/compare", {"conversation_history": [], "response_objs": [{"output": []}] * 300}, "response_objs"),
    ("/classify", {"messages": MESSAGES}, "messages[0].role"),
    ("/verify", GYM | {"responses_create_params": {"input": MESSAGES}}, "responses_create_params.input[0].role"),
    ("/verify", GYM | {"response": {"output": MESSAGES}}, "response.output[0].role"),
    ("/slime?" + "&".join(f"f{i}=1" for i in range(5000)), {"prompt": "Q", "response": "A"}, "query.f0"),
]


@pytest.mark.parametrize(
    ("path", "body", "field"), FLOODS, ids=[f"{path[:20]}-{field[:20]}" for path, _, field in FLOODS]
)
async def test_a_flood_is_answered_by_its_first_fault(running: Running, path: str, body: Any, field: str) -> None:
    response = await running.client.post(path, json=body)
    error = response.json()["error"]
    assert response.status_code == 422
    assert len(response.content) < 4000
    assert len(error["details"]) <= 10
    assert error["details"][0]["field"].startswith(field)


def _lists(schema: Any) -> Iterator[dict[str, Any]]:
    """Every list in a core schema."""
    if isinstance(schema, dict):
        if schema.get("type") == "list":
            yield schema
        for key, part in schema.items():
            if key != "metadata":
                yield from _lists(part)
    elif isinstance(schema, list | tuple):
        for part in schema:
            yield from _lists(part)


async def test_every_list_of_every_route_stops_at_its_first_fault(running: Running) -> None:
    found = 0
    for route in _guarded_routes(running.app.routes):
        hints = get_type_hints(route.endpoint, include_extras=True)
        if "body" in hints:
            for schema in _lists(TypeAdapter(hints["body"]).core_schema):
                found += 1
                assert schema.get("fail_fast"), (route.path, schema)
    assert found >= 10


def _guarded_routes(routes: Any) -> Iterator[GuardedRoute]:
    for route in routes:
        if isinstance(route, GuardedRoute):
            yield route
        elif nested := getattr(route, "original_router", None) or getattr(route, "router", None):
            yield from _guarded_routes(nested.routes)


SLOW_TO_PARSE = {
    "lists": b"[" + b"[]," * 600_000 + b"[]]",
    "objects": b"[" + b"{}," * 600_000 + b"{}]",
    "fields": b"{" + b",".join(b'"%x":1' % i for i in range(200_000)) + b"}",
    "numbers": b"[" + b"1," * 2_500_000 + b"1]",
    "strings": b"[" + b'"",' * 2_500_000 + b'""]',
    "after a string": b'["\\\\\\"[[[",' + b"[]," * 600_000 + b"[]]",
}


@pytest.mark.parametrize("kind", SLOW_TO_PARSE)
async def test_what_would_take_long_to_parse_is_refused_before(
    running: Running, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(bodies.pydantic_core, "from_json", None)  # would fail
    response = await running.client.post("/score", content=SLOW_TO_PARSE[kind], headers=JSON)
    assert response.status_code == 422
    assert response.json()["error"]["code"] == "limit_exceeded"
    assert response.json()["error"]["details"][0]["field"] == "body"


@pytest.mark.parametrize("text", ["[[{:,", '\\"', "\\\\", 'x"y[', "\n\u00e9\U0001f600[,"])
@pytest.mark.parametrize("shift", range(4))
async def test_what_stands_inside_a_string_is_no_structure(text: str, shift: int) -> None:
    """Wherever the slices of a long body are cut."""
    await check_structure(json.dumps({"prompt": "x" * shift + text * 80_000, "responses": [""]}).encode())
    await check_structure(json.dumps({"prompt": "x" * shift + text * 80_000}, ensure_ascii=False).encode())
    with pytest.raises(LimitExceeded):
        await check_structure(json.dumps(["x" * shift + text * 80_000, [[]] * 110_000]).encode())


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/get_reward", {"query": ["<|im_start|>user\n" * 80 + "<|im_start|>assistant\nA"] * 50}),
        ("/v1/score/evaluation", {"messages": ["<|im_start|>user\n" * 80 + "<|im_start|>assistant\nA"] * 50}),
        ("/classify", {"input": ["<|im_start|>user\n" * 80 + "<|im_start|>assistant\nA"] * 50}),
        ("/classify", {"messages": [{"role": "user", "content": ""}] * 200 + [{"role": "assistant", "content": "A"}]}),
        ("/slime", {"prompt": [{"role": "user", "content": ""}] * 200, "response": "A"}),
        (
            "/verify",
            {"responses_create_params": {"input": [{"role": "user", "content": ""}] * 200}, "response": {"output": []}},
        ),
    ],
)
async def test_messages_are_bounded_before_they_are_all_made(start_app: StartApp, path: str, body: Any) -> None:
    async with start_app(max_messages=100) as app:
        response = await app.client.post(path, json=body)
    assert response.status_code == 422
    assert response.json()["error"]["code"] == "limit_exceeded"
    assert response.json()["error"]["details"][0]["limit"] == 100
    assert response.json()["error"]["details"][0]["actual"] <= 200


async def _in_parts(content: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(content), 16_384):
        yield content[start : start + 16_384]


async def _waiting(app: Running, requests: int) -> None:
    while app.service.admission.waiting < requests:
        await asyncio.sleep(0.01)


async def test_bodies_that_wait_are_bounded_together(start_app: StartApp) -> None:
    body = json.dumps(GOOD | {"prompt": "x" * 400}).encode()
    async with start_app(max_sequences=1, max_critiques=1, max_body_bytes=1000, max_held_bytes=1000) as app:
        permit = await app.service.admission.admit(1)
        posts = [asyncio.create_task(app.client.post("/score", content=body, headers=JSON)) for _ in range(2)]
        await _waiting(app, 2)
        refused = await app.client.post("/score", content=body, headers=JSON)
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "overloaded"
        assert "Retry-After" in refused.headers
        permit.release()
        assert [(await post).status_code for post in posts] == [200, 200]
        assert app.app.state.held_bytes.held == 0
        assert (await app.client.post("/score", content=body, headers=JSON)).status_code == 200


@pytest.mark.parametrize(
    ("content", "status"), [(b"{", 422), (b"x" * 2000, 413), (json.dumps(GOOD).encode(), 200), (b"[1]", 422)]
)
async def test_however_a_request_ends_its_bytes_are_given_back(
    start_app: StartApp, content: bytes, status: int
) -> None:
    async with start_app(max_body_bytes=1000) as app:
        for _ in range(2):
            answer = await app.client.post("/score", content=_in_parts(content), headers=JSON)
            assert answer.status_code == status
        assert app.app.state.held_bytes.held == 0


async def test_bodies_that_are_still_being_read_count_too(start_app: StartApp) -> None:
    never = asyncio.Event()

    async def stalled() -> AsyncIterator[bytes]:
        yield b"x" * 900
        await never.wait()

    async with start_app(max_body_bytes=1000, max_held_bytes=1000) as app:
        slow = asyncio.create_task(app.client.post("/score", content=stalled(), headers=JSON))
        while not app.app.state.held_bytes.held:
            await asyncio.sleep(0.01)
        refused = await app.client.post("/score", json=GOOD | {"prompt": "x" * 200})
        assert refused.json()["error"]["code"] == "overloaded"
        slow.cancel()
        await asyncio.gather(slow, return_exceptions=True)
        assert app.app.state.held_bytes.held == 0


async def test_a_request_that_waits_does_not_keep_its_body(start_app: StartApp) -> None:
    """Only its text, which is a sixth of what was sent here."""
    content = b'{"prompt": "Q", "responses": ["' + b"\\u0041" * 1_000_000 + b'"]}'
    async with start_app(max_sequences=1, max_critiques=1) as app:
        permit = await app.service.admission.admit(1)
        tracemalloc.start()
        try:
            post = asyncio.create_task(app.client.post("/score", content=_in_parts(content), headers=JSON))
            await _waiting(app, 1)
            gc.collect()
            kept, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        permit.release()
        assert (await post).status_code == 422
    assert kept < 2_000_000


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/get_reward", {"query": ["Q", "[" * 1_000_001]}, "query[1]"),
        ("/get_reward", {"query": ["Q"], "prompts": ["[" * 1_000_001]}, "prompts[0]"),
        ("/v1/score/evaluation", {"messages": ["[" * 1_000_001]}, "messages[0]"),
        ("/classify", {"input": "[INST] " + "[" * 1_000_001}, "input"),
        ("/classify", {"input": ["[INST] " + "[" * 1_000_001]}, "input[0]"),
        ("/slime", {"prompt": "[INST] " + "[" * 1_000_001, "response": "A"}, "prompt"),
    ],
)
async def test_a_text_too_long_to_be_searched_for_markers_is_refused(
    running: Running, path: str, body: Any, field: str
) -> None:
    response = await running.client.post(path, json=body)
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (422, "limit_exceeded")
    assert error["details"][0]["field"] == field
    assert error["details"][0]["limit"] == 1_000_000
