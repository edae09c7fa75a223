"""`/xtuner`, called as a remote judger of xtuner v1 calls it."""

from __future__ import annotations

from typing import Any

import pytest

from conftest import Running
from support.dropin import ASKED, PROMPT, score


@pytest.mark.parametrize("prompt", [PROMPT, ASKED], ids=["templated", "messages"])
@pytest.mark.parametrize("label", ["56", None, {"answer": 56}])
async def test_one_sample_as_it_is_sent(running: Running, prompt: Any, label: Any) -> None:
    body = {"response": "So.<|im_end|>", "label": label, "extra_info": {"prompt": prompt, "epoch": 1}}
    answer = await running.client.post("/xtuner", json=body)
    reward = await score(running, ASKED, "So.")
    assert answer.json() == {"score": reward, "reward": reward, "warnings": []}


async def test_a_response_goes_on_from_a_turn_that_the_prompt_begins(running: Running) -> None:
    prompt = [*ASKED, {"role": "assistant", "content": "Be"}]
    answer = await running.client.post("/xtuner", json={"response": "cause.", "extra_info": {"prompt": prompt}})
    assert answer.json()["score"] == await score(running, ASKED, "Because.")


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"response": "a", "label": "56"}, "extra_info"),
        ({"response": "a", "label": "56", "extra_info": {}}, "extra_info.prompt"),
        ({"response": None, "extra_info": {"prompt": "q"}}, "response"),
        ({"response": "a", "extra_info": {"prompt": []}}, "extra_info.prompt"),
        ({"response": "a", "extra_info": {"prompt": "<|unknown|>q"}}, "extra_info.prompt"),
    ],
)
async def test_wrong_types_name_their_field(running: Running, body: dict[str, Any], field: str) -> None:
    answer = await running.client.post("/xtuner", json=body)
    assert answer.status_code == 422
    assert answer.json()["error"]["details"][0]["field"] == field
