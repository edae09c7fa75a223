"""`/verify`, called as an agent server of NeMo-Gym calls a resources server."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from conftest import Running, StartApp
from support.dropin import ASKED, score

MARK = "judge_failed"


def said(text: str) -> dict[str, Any]:
    content = [{"type": "output_text", "text": text, "annotations": []}]
    return {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": content}


def row(asked: Any, *output: dict[str, Any], **more: Any) -> dict[str, Any]:
    params = {"input": asked, "temperature": 0.5, "tools": []} | more.pop("params", {})
    response = {"id": "resp_1", "created_at": 1.5, "model": "policy", "object": "response", "output": list(output)}
    return {"responses_create_params": params, "response": response | {"tools": [], "usage": None}, **more}


async def ask(running: Running, body: dict[str, Any], query: str = "") -> httpx.Response:
    return await running.client.post(f"/verify{query}", json=body)


async def test_the_row_comes_back_with_a_reward(running: Running) -> None:
    body = row(ASKED, said("So."), task_id=7, rubric={"points": [1.0, 2]}, _ng_task_index=3)
    answer = await ask(running, body)
    assert answer.status_code == 200
    assert answer.json() == body | {"reward": await score(running, ASKED, "So."), "reward_warnings": []}


async def test_an_old_reward_is_replaced(running: Running) -> None:
    answer = await ask(running, row("Why?", said("So."), reward=0.0))
    assert answer.json()["reward"] == await score(running, "Why?", "So.")


@pytest.mark.parametrize(
    ("asked", "params"),
    [
        ("Why?", {"instructions": "Be brief."}),
        ([{"role": "user", "content": "Why?"}], {"instructions": "Be brief."}),
        ([{"role": "developer", "content": "Be brief.", "type": "message"}, ASKED[1]], {}),
        ([ASKED[0], ASKED[1] | {"type": None}], {}),
        ([ASKED[0], {"role": "user", "content": [{"type": "input_text", "text": "Why?"}]}], {}),
    ],
)
async def test_the_forms_of_what_was_asked(running: Running, asked: Any, params: dict[str, Any]) -> None:
    answer = await ask(running, row(asked, said("So."), params=params))
    assert answer.json()["reward"] == await score(running, ASKED, "So.")


async def test_the_last_message_is_judged_after_all_that_was_done(running: Running) -> None:
    output = [
        {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "Hm."}]},
        {"type": "function_call", "call_id": "c1", "name": "add", "arguments": '{"a": 1}'},
        {"type": "function_call_output", "call_id": "c1", "output": "2"},
        said("So."),
    ]
    answer = await ask(running, row(ASKED, *output))
    call = json.dumps({"name": "add", "arguments": '{"a": 1}'})
    asked = [*ASKED, {"role": "assistant", "content": call}, {"role": "tool", "content": "2"}]
    assert answer.json()["reward"] == await score(running, asked, "So.")


async def test_a_policy_that_gave_no_answer(running: Running) -> None:
    assert (await ask(running, row(ASKED))).json()["reward"] == await score(running, ASKED, "")
    output = [{"type": "function_call_output", "call_id": "c1", "output": "2"}]
    asked = [*ASKED, {"role": "tool", "content": "2"}]
    assert (await ask(running, row(ASKED, *output))).json()["reward"] == await score(running, asked, "")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "responses_create_params"),
        ({"responses_create_params": {"input": "q"}}, "response"),
        ({"responses_create_params": {"input": 1}, "response": {"output": []}}, "responses_create_params.input"),
        (row("q", {"type": "image_generation_call"}), "response.output[0]"),
        (row("q", {"type": "message", "role": "assistant", "content": 1}), "response.output[0].content"),
        (row([{"role": "user", "content": [{"type": "input_image"}]}]), "responses_create_params.input[0].content"),
        ({"responses_create_params": {"input": "q"}, "response": "text"}, "response"),
    ],
)
async def test_wrong_types_name_their_field(running: Running, body: dict[str, Any], field: str) -> None:
    answer = await ask(running, body)
    assert answer.status_code == 422
    assert any(detail["field"].startswith(field) for detail in answer.json()["error"]["details"])


async def test_every_failure_is_marked_and_has_no_reward(start_app: StartApp) -> None:
    async with start_app(api_keys=["key"], max_body_bytes=2000) as app:
        client, body = app.client, row("q", said("a"))
        answers = [await client.post("/verify", json=body)]
        client.headers["authorization"] = "Bearer key"
        answers.append(await client.post("/verify", content=b"{}", headers={"content-type": "text/plain"}))
        answers.append(await client.post("/verify", content=b"{", headers={"content-type": "application/json"}))
        answers.append(await client.post("/verify", json=row("q" * 2000)))
        answers.append(await client.post("/verify?critque=false", json=body))
        app.service.engine.run = None  # an error that nobody foresaw
        answers.append(await client.post("/verify", json=body))
        app.service.admission.drain()
        answers.append(await client.post("/verify", json=body))
        elsewhere = await client.post("/score", json={})
    assert [answer.status_code for answer in answers] == [401, 415, 422, 413, 422, 500, 503]
    for answer in answers:
        assert set(answer.json()) == {"error", "_ng_failure_class"}
        assert answer.json()["_ng_failure_class"] == MARK
    assert set(elsewhere.json()) == {"error"}
