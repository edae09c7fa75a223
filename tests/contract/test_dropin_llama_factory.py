"""`/v1/score/evaluation`, called as LLaMA-Factory's PPO trainer calls it."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from conftest import Running
from support.dropin import ASKED, PROMPT, score

PATH = "/v1/score/evaluation"


async def ask(running: Running, messages: object, **more: object) -> httpx.Response:
    return await running.client.post(PATH, json={"model": "model", "messages": messages, **more})


async def test_a_batch_as_it_is_sent(running: Running) -> None:
    said = ["So.", "", "Because."]
    answer = await ask(running, [f"{PROMPT}{text}<|im_end|>" for text in said])
    assert answer.status_code == 200
    assert answer.json() == {
        "id": answer.headers["x-request-id"],
        "object": "score.evaluation",
        "model": "default",
        "scores": [await score(running, ASKED, text) for text in said],
        "warnings": [[], ["empty_response"], []],
    }


async def test_an_earlier_turn_of_the_assistant_is_context(running: Running) -> None:
    text = PROMPT + "So.<|im_end|>\n<|im_start|>user\nAnd?<|im_end|>\n<|im_start|>assistant\nNo.<|im_end|>"
    asked = [*ASKED, {"role": "assistant", "content": "So."}, {"role": "user", "content": "And?"}]
    assert (await ask(running, [text])).json()["scores"] == [await score(running, asked, "No.")]


@pytest.mark.parametrize("text", ["Human: Why?\nAssistant: So.", "<s>Human: Why?\nAssistant: So.</s>"])
async def test_a_text_without_markers_answers_an_empty_message(running: Running, text: str) -> None:
    answer = await ask(running, [text])
    expected = await score(running, [{"role": "user", "content": ""}], "Human: Why?\nAssistant: So.")
    assert answer.json()["scores"] == [expected]


async def test_a_conversation_that_ends_with_the_user_has_no_response(running: Running) -> None:
    answer = await ask(running, [PROMPT + "So.", "<|im_start|>user\nWhy?<|im_end|>"])
    error = answer.json()["error"]
    assert answer.status_code == 422
    assert error["details"][0]["field"] == "messages[1]"
    assert "ends with a turn of the user" in error["message"]


async def test_nothing_gets_nothing(running: Running) -> None:
    assert (await ask(running, [])).json()["scores"] == []


async def test_other_models_and_fields_are_let_by(running: Running) -> None:
    assert (await ask(running, [PROMPT], max_length=None, model=None)).status_code == 200


@pytest.mark.parametrize(
    ("messages", "field"),
    [(None, "messages"), ("text", "messages"), ([1], "messages[0]"), ([{"role": "user"}], "messages[0]")],
)
async def test_wrong_types_name_their_field(running: Running, messages: Any, field: str) -> None:
    answer = await ask(running, messages)
    assert answer.status_code == 422
    assert [detail["field"] for detail in answer.json()["error"]["details"]] == [field]


async def test_one_that_is_too_long_fails_the_batch(running: Running) -> None:
    answer = await ask(running, [PROMPT + "So.", PROMPT + "word " * 2000])
    assert answer.status_code == 422
    assert answer.json()["error"]["code"] == "prompt_too_long"
    assert "scores" not in answer.json()
