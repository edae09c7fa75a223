"""`/classify`, called as verl's reward loop calls a vLLM server."""

from __future__ import annotations

import math
import time
from typing import Any

import httpx
import pytest

from conftest import Running, StartApp
from criticrm_model import NonFiniteReward
from criticrm_server.engines.base import Job, Output
from support.dropin import ASKED, PROMPT, result, score


async def ask(running: Running, **body: object) -> httpx.Response:
    return await running.client.post("/classify", json=body)


def raw(answer: httpx.Response) -> float:
    return float(answer.json()["data"][-1]["probs"][-1])


async def test_one_sample_as_verl_sends_it(running: Running) -> None:
    before = int(time.time())
    answer = await ask(running, model="rm/path", input=PROMPT + "So.<|im_end|>\n", use_activation=False)
    body = answer.json()
    expected = await result(running, ASKED, "So.")
    assert answer.status_code == 200
    assert before <= body.pop("created") <= time.time()
    tokens = expected["usage"]["prompt_tokens"]
    assert body == {
        "id": answer.headers["x-request-id"],
        "object": "list",
        "model": "default",
        "data": [{"index": 0, "label": "LABEL_0", "probs": [expected["score"]], "num_classes": 1, "warnings": []}],
        "usage": {"prompt_tokens": tokens, "completion_tokens": 24, "total_tokens": tokens + 24},
    }


async def test_a_list_keeps_its_order(running: Running) -> None:
    answer = await ask(running, input=[PROMPT + "one", PROMPT + "two"], use_activation=False)
    data = answer.json()["data"]
    assert [one["index"] for one in data] == [0, 1]
    assert [one["probs"] for one in data] == [[await score(running, ASKED, text)] for text in ("one", "two")]


async def test_messages(running: Running) -> None:
    messages = [*ASKED, {"role": "assistant", "content": [{"type": "text", "text": "So."}]}]
    answer = await ask(running, messages=messages, use_activation=False, add_generation_prompt=False)
    assert raw(answer) == await score(running, ASKED, "So.")


@pytest.mark.parametrize("several", [False, True])
async def test_token_ids_are_those_of_the_served_model(running: Running, several: bool) -> None:
    tokenizer = running.service.checkpoint.tokenizer
    texts = [PROMPT + "So, \u00fc <b>.<|im_end|>\n", PROMPT + "No."]
    ids = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    answer = await ask(running, input=ids if several else ids[0], use_activation=False)
    expected = [await score(running, ASKED, text) for text in ("So, \u00fc <b>.", "No.")]
    assert [one["probs"] for one in answer.json()["data"]] == [[one] for one in expected[: 1 + several]]


@pytest.mark.parametrize("told", [{}, {"use_activation": None}, {"use_activation": True}, {"activation": True}])
async def test_a_probability_unless_told_otherwise(running: Running, told: dict[str, Any]) -> None:
    """vLLM's default for one label: callers that leave it out expect a sigmoid."""
    answer = await ask(running, input=PROMPT + "So.", **told)
    assert raw(answer) == pytest.approx(1 / (1 + math.exp(-await score(running, ASKED, "So."))))


@pytest.mark.parametrize("told", [{"activation": False}, {"activation": True, "use_activation": False}])
async def test_the_older_name_of_the_flag(running: Running, told: dict[str, Any]) -> None:
    """verl sent it so for vLLM before 0.11.2: a sigmoid in its place would be a wrong reward in silence."""
    answer = await ask(running, input=PROMPT + "So.", **told)
    assert raw(answer) == await score(running, ASKED, "So.")


async def test_text_without_markers_answers_an_empty_message(running: Running) -> None:
    answer = await ask(running, input="All of it.", use_activation=False)
    assert raw(answer) == await score(running, [{"role": "user", "content": ""}], "All of it.")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "input"),
        ({"input": None}, "input"),
        ({"input": [1.5]}, "input[0]"),
        ({"input": [True]}, "input[0]"),
        ({"input": [1, "a"]}, "input[1]"),
        ({"input": ["a", 1]}, "input[1]"),
        ({"input": [-1]}, "input[0]"),
        ({"input": [0, 10**30]}, "input[1]"),
        ({"input": [[0], [10**6]]}, "input[1][0]"),
        ({"input": [[0], "a"]}, "input[1]"),
        ({"input": [[0], []]}, "input[1]"),
        ({"input": [[0]] * 300}, "input"),
        ({"input": [0] * 60_000}, "input"),
        ({"input": "a", "text": "b"}, "body"),
        ({"input": []}, "input"),
        ({"input": ["<|im_start|>user\nWhy?<|im_end|>\n"]}, "input[0]"),
        ({"input": "a", "use_activation": "no"}, "use_activation"),
        ({"messages": []}, "messages"),
        ({"messages": ASKED}, "messages"),
        ({"messages": [{"role": "assistant", "content": None}]}, "messages[0].content"),
        ({"input": [""] * 300}, "input"),
    ],
)
async def test_wrong_input_names_its_field(running: Running, body: dict[str, Any], field: str) -> None:
    answer = await ask(running, **body)
    assert answer.status_code == 422
    assert answer.json()["error"]["details"][0]["field"] == field


async def test_overload_is_no_4xx(start_app: StartApp) -> None:
    """verl gives up on every 4xx, 429 among them."""
    async with start_app(max_sequences=1, max_critiques=1, max_waiting=0) as app:
        with await app.service.admission.admit(1):
            answer = await ask(app, input=PROMPT + "So.", use_activation=False)
    assert answer.status_code == 503
    assert int(answer.headers["retry-after"]) >= 1


async def test_a_reward_that_is_not_finite_is_no_number(running: Running) -> None:
    async def fails(_: Job) -> Output:
        raise NonFiniteReward("nan")

    running.service.engine.run = fails
    answer = await ask(running, input=[PROMPT + "So."], use_activation=False)
    assert answer.status_code == 500
    assert set(answer.json()) == {"error"}
