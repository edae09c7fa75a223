"""`/slime`, called as slime's remote_rm calls it."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from conftest import Running
from support.dropin import ASKED, PROMPT, result, score

KEYS = {"score", "direct_score", "truncated", "critique", "rewards", "warnings"}


async def ask(running: Running, url: str = "/slime", **body: object) -> httpx.Response:
    return await running.client.post(url, json=body)


@pytest.mark.parametrize("prompt", [PROMPT, ASKED], ids=["templated", "messages"])
@pytest.mark.parametrize("label", ["56", None, {"answer": 56}])
async def test_one_sample_as_it_is_sent(running: Running, prompt: Any, label: Any) -> None:
    answer = await ask(running, prompt=prompt, response="So.<|im_end|>", label=label)
    expected = await result(running, ASKED, "So.")
    assert answer.status_code == 200
    assert answer.json() == {
        "score": expected["score"],
        "direct_score": expected["direct_score"],
        "truncated": False,
        "rewards": None,
        "warnings": [],
        "critique": expected["critiques"][0]["text"],
    }


async def test_a_plain_prompt_is_one_user_turn(running: Running) -> None:
    answer = await ask(running, prompt="Why?", response="So.", label=None)
    assert answer.json()["score"] == await score(running, "Why?", "So.")


async def test_a_glm_policy_ends_with_the_marker_of_the_next_turn(running: Running) -> None:
    prompt = "[gMASK]<sop><|system|>\nBe brief.<|user|>\nWhy?<|assistant|>\n"
    answer = await ask(running, prompt=prompt, response="So.<|user|>", label=None)
    assert answer.json()["score"] == await score(running, ASKED, "So.")


async def test_a_response_goes_on_from_a_turn_that_the_prompt_begins(running: Running) -> None:
    begun = [*ASKED, {"role": "assistant", "content": "Be"}]
    for prompt in (begun, PROMPT + "Be"):
        answer = await ask(running, prompt=prompt, response="cause.")
        assert answer.json()["score"] == await score(running, ASKED, "Because.")


async def test_messages_in_parts(running: Running) -> None:
    parts = [{"type": "text", "text": "Wh"}, {"type": "text", "text": "y?"}]
    prompt = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": parts, "name": "me"}]
    answer = await ask(running, prompt=prompt, response="So.")
    assert answer.json()["score"] == await score(running, ASKED, "So.")


async def test_the_keys_are_always_the_same(running: Running) -> None:
    for query in ("", "?critique=false", "?include=false", "?n=3", "?normalize=true"):
        answer = (await ask(running, f"/slime{query}", prompt="Why?", response="So.")).json()
        assert set(answer) == KEYS
        assert (answer["critique"] is None) == (query in ("?critique=false", "?include=false"))
    several = (await ask(running, "/slime?n=3&max_tokens=4", prompt="Why?", response="So.")).json()
    texts = (await result(running, "Why?", "So.", critique={"n": 3, "max_tokens": 4}))["critiques"]
    assert several["critique"] == "\n\n".join(critique["text"] for critique in texts)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"response": "a"}, "prompt"),
        ({"prompt": "q"}, "response"),
        ({"prompt": "q", "response": None}, "response"),
        ({"prompt": "q", "response": ["a"]}, "response"),
        ({"prompt": 1, "response": "a"}, "prompt"),
        ({"prompt": [], "response": "a"}, "prompt"),
        ({"prompt": ["q"], "response": "a"}, "prompt[0]"),
        ({"prompt": [{"role": "me", "content": "q"}], "response": "a"}, "prompt[0].role"),
        ({"prompt": [{"role": "user", "content": [{"type": "image"}]}], "response": "a"}, "prompt[0].content"),
        (
            {"prompt": [{"role": "assistant", "content": "", "tool_calls": [{"id": "1"}]}], "response": "a"},
            "prompt[0].tool_calls",
        ),
    ],
)
async def test_wrong_types_name_their_field(running: Running, body: dict[str, Any], field: str) -> None:
    answer = await ask(running, **body)
    assert answer.status_code == 422
    assert any(detail["field"].startswith(field) for detail in answer.json()["error"]["details"])
    assert field in answer.json()["error"]["message"]


async def test_fields_that_are_not_ours_are_let_by(running: Running) -> None:
    assert (await ask(running, prompt="q", response="a", index=3, metadata={})).status_code == 200


@pytest.mark.parametrize("kind", ["reference", "criteria"])
async def test_the_label_can_be_sent_to_the_critic(running: Running, kind: str) -> None:
    (expected,) = (await running.score(prompt=ASKED, responses=["So."], **{kind: "56"})).json()["results"]
    for label in ("56", 56):
        answer = await ask(running, f"/slime?label={kind}", prompt=PROMPT, response="So.", label=label)
        assert answer.json()["score"] == expected["score"]
        assert answer.json()["warnings"] == [f"{kind}_untrained"]
    without = await ask(running, f"/slime?label={kind}", prompt=PROMPT, response="So.", label=None)
    assert without.json()["score"] == await score(running, ASKED, "So.")
    for label in ({"answer": 56}, True, "", 1e400):
        body = json.dumps({"prompt": PROMPT, "response": "So.", "label": label}).replace("Infinity", "1e400")
        headers = {"content-type": "application/json"}
        refused = await running.client.post(f"/slime?label={kind}", content=body, headers=headers)
        assert refused.json()["error"]["details"][0]["field"] == "label"
    unknown = await ask(running, "/slime?label=truth", prompt=PROMPT, response="So.", label="56")
    assert unknown.json()["error"]["details"][0]["field"] == "query.label"
