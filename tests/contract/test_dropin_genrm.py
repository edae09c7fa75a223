"""`/v1/responses`, `/compare` and `/seed_session`, called as NeMo-Gym's servers call them."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from conftest import Running, StartApp
from support.dropin import ASKED, score

PAIR = {"response_1": "So.", "response_2": "No."}


def said(text: str) -> dict[str, Any]:
    content = [{"type": "output_text", "text": text, "annotations": []}]
    return {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": content}


async def compare_pair(running: Running, **body: Any) -> httpx.Response:
    return await running.client.post("/v1/responses", json=body)


def verdict(answer: httpx.Response) -> dict[str, float]:
    """What `extract_output_text` and `parse_genrm_output` read."""
    assert answer.status_code == 200, answer.text
    texts = [part["text"] for item in answer.json()["output"] for part in item["content"]]
    return dict(json.loads("".join(texts)))


@pytest.mark.parametrize("newer", [False, True])
async def test_a_pair_as_both_versions_send_it(running: Running, newer: bool) -> None:
    asked = [{**message, "type": "message"} for message in ASKED]
    in_messages = [{"role": role, "content": text, "type": "message"} for role, text in PAIR.items()]
    params = {"max_output_tokens": 16384, "temperature": 0.6, "top_p": 0.95}
    body = {"input": asked, "metadata": PAIR} if newer else {"input": asked + in_messages}
    found = verdict(await compare_pair(running, **body, **params))
    scores = [await score(running, ASKED, text) for text in PAIR.values()]
    assert [found["score_1"], found["score_2"]] == scores
    assert (found["ranking"] < 3.5) == (scores[0] > scores[1])


async def test_it_is_a_responses_object(running: Running) -> None:
    body = (await compare_pair(running, input="Why?", metadata=PAIR)).json()
    required = {"id", "created_at", "model", "object", "output", "parallel_tool_calls", "tool_choice", "tools"}
    assert required <= set(body)
    usage = body["usage"]
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    assert usage["output_tokens"] == 48


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "input"),
        ({"input": "q"}, "metadata.response_1"),
        ({"input": "q", "metadata": {"response_1": "a"}}, "metadata.response_2"),
        ({"input": "q", "metadata": PAIR, "stream": True}, "stream"),
        ({"input": [{"role": "response_1", "content": "a"}]}, "input"),
    ],
)
async def test_what_is_no_pair_names_its_field(running: Running, body: dict[str, Any], field: str) -> None:
    answer = await compare_pair(running, **body)
    assert answer.status_code == 422
    assert answer.json()["error"]["details"][0]["field"] == field


async def test_all_responses_to_a_prompt(running: Running) -> None:
    reasoning = {"type": "reasoning", "id": "rs_1", "summary": []}
    objects = [{"output": [said("So.")]}, {"output": [reasoning, said("No.")]}, {"output": []}]
    body = {"conversation_history": ASKED, "response_objs": objects, "principle": None}
    answer = await running.client.post("/compare", json=body)
    expected = [await score(running, ASKED, text) for text in ("So.", "No.", "")]
    warnings: list[list[str]] = [[], [], ["empty_response"]]
    assert answer.json() == {"rewards": expected, "comparison_results": None, "metrics": {}, "warnings": warnings}


PRINCIPLE = "Be kind."


async def test_a_principle_is_what_is_judged_by(running: Running) -> None:
    items = [{"prompt": ASKED, "responses": [text], "criteria": PRINCIPLE} for text in ("So.", "No.")]
    expected = [result["score"] for result in (await running.score(items=items)).json()["results"]]
    objects = [{"output": [said("So.")]}, {"output": [said("No.")]}]
    body = {"conversation_history": ASKED, "response_objs": objects, "principle": PRINCIPLE}
    answer = (await running.client.post("/compare", json=body)).json()
    assert answer["rewards"] == expected
    assert answer["warnings"] == [["criteria_untrained"]] * 2
    pair = {"response_1": "So.", "response_2": "No."}
    newer = await compare_pair(running, input=ASKED, metadata=pair | {"principle": PRINCIPLE})
    roles = [{"role": role, "content": text} for role, text in (*pair.items(), ("principle", PRINCIPLE))]
    older = await compare_pair(running, input=[*ASKED, *roles])
    for found in (newer, older):
        assert [verdict(found)["score_1"], verdict(found)["score_2"]] == expected


@pytest.mark.parametrize("path", ["/seed_session", "/close_session"])
async def test_a_session_is_confirmed(running: Running, path: str) -> None:
    row = {"responses_create_params": {"input": "Why?"}, "task_id": 7}
    assert (await running.client.post(path, json=row)).json() == {}
    answer = await running.client.post(path, json={"resources_session_id": "s-1", "episode_id": "e"})
    assert answer.json() == {"resources_session_id": "s-1"}
    assert (await running.client.post(path, json=[])).status_code == 422
    assert (await running.client.post(f"{path}?n=1", json={})).status_code == 422


async def test_a_session_needs_the_key_too(start_app: StartApp) -> None:
    async with start_app(api_keys=["key"]) as app:
        assert (await app.client.post("/seed_session", json={})).status_code == 401


async def test_a_refusal_is_judged_as_the_answer(running: Running) -> None:
    part = {"type": "refusal", "refusal": "I can't."}
    output = [{"type": "message", "role": "assistant", "content": [part]}]
    answer = await running.client.post(
        "/verify", json={"responses_create_params": {"input": ASKED}, "response": {"output": output}}
    )
    assert answer.json()["reward"] == await score(running, ASKED, "I can't.")
    output[0]["content"] = [{"type": "refusal"}]
    wrong = await running.client.post(
        "/verify", json={"responses_create_params": {"input": ASKED}, "response": {"output": output}}
    )
    assert wrong.json()["error"]["details"][0]["field"] == "response.output[0].content[0].refusal"
