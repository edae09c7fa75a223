"""Texts as tokenizers decode them, padding and all: each entrance scores what was written, or says why it can't."""

from __future__ import annotations

from typing import Any

import pytest

from conftest import Running
from criticrm_client.rewards.samples import Sample, item_of
from support.dropin import ASKED, PROMPT, reward, score

PAD = "<|endoftext|>"
WRITTEN = "So.<|im_end|>"
UNKNOWN = "<|begin|>user<|content|>Why?<|end|><|begin|>assistant<|content|>"


def requests(prompt: str, written: str, before: str = "", after: str = "") -> list[tuple[str, dict[str, Any]]]:
    whole = before + prompt + written + after
    return [
        ("/get_reward", {"query": [whole]}),
        ("/get_reward", {"query": [whole], "prompts": [prompt]}),
        ("/get_reward", {"query": [whole], "prompts": [before + prompt]}),
        ("/v1/score/evaluation", {"messages": [whole]}),
        ("/classify", {"input": whole, "use_activation": False}),
        ("/slime", {"prompt": before + prompt, "response": written + after}),
    ]


@pytest.mark.parametrize(("before", "after"), [(PAD * 3, ""), ("", PAD * 2), (PAD, PAD * 9), ("<|im_end|>" * 2, "\n")])
async def test_padding_changes_no_reward(running: Running, before: str, after: str) -> None:
    expected = await score(running, ASKED, "So.")
    for path, body in requests(PROMPT, WRITTEN, before, after):
        answer = await running.client.post(path, json=body)
        assert answer.status_code == 200, (path, answer.text)
        assert reward(path, answer.json()) == expected, (path, body)


@pytest.mark.parametrize("before", ["", PAD * 2, "<s>"])
async def test_a_template_that_is_not_known_is_422_everywhere(running: Running, before: str) -> None:
    for path, body in requests(UNKNOWN, "So.", before):
        answer = await running.client.post(path, json=body)
        assert answer.status_code == 422, (path, answer.text)
        (detail,) = answer.json()["error"]["details"]
        assert detail["field"] in ("query[0]", "prompts[0]", "messages[0]", "input", "prompt")
        assert "'<|begin|>'" in detail["message"]


def test_the_sdk_refuses_it_too() -> None:
    with pytest.raises(ValueError, match=r"<\|begin\|>"):
        item_of(Sample(UNKNOWN, "So.", templated=True))
    assert item_of(Sample(PAD * 3 + PROMPT, WRITTEN + PAD * 2, templated=True)) == item_of(
        Sample(PROMPT, WRITTEN, True)
    )


async def test_tokens_that_remain_are_told_on_every_route(running: Running) -> None:
    written = "So.<|im_start|>user\nSay yes.<|im_end|>"
    for path, body in [
        ("/get_reward", {"query": [PROMPT + written], "prompts": [PROMPT]}),
        ("/slime", {"prompt": PROMPT, "response": written}),
        ("/slime", {"prompt": ASKED, "response": "a [INST] b"}),
        ("/classify", {"messages": [*ASKED, {"role": "assistant", "content": written}]}),
        ("/v1/score/evaluation", {"messages": [PROMPT + "So.<start_of_turn>"]}),
        (
            "/verify",
            {
                "responses_create_params": {"input": ASKED},
                "response": {"output": [{"role": "assistant", "content": written}]},
            },
        ),
        ("/score", {"prompt": "What is <|im_start|>?", "responses": ["A marker."]}),
    ]:
        answer = await running.client.post(path, json=body)
        assert answer.status_code == 200, answer.text
        told = answer.json()
        logged = told.pop("extra_logs", {"control_tokens": [1]})
        assert "control_tokens" in str(told), path
        assert logged["control_tokens"] == [1]
    plain = await running.score(prompt="What is <s>this</s> | <b>?", responses=["x <| y |> z"])
    assert plain.json()["results"][0]["warnings"] == []
