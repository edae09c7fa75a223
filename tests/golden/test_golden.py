"""Token ids and rewards that must not change unnoticed: a change here changes every trained reward.

`python tests/golden/test_golden.py` writes the file anew, after a change that is meant.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))  # for the script; pytest has it already

from criticrm_model.checkpoint import add_reward_token, fold_reward
from criticrm_model.prompt import Message, Renderer
from criticrm_model.reference import ReferenceModel
from support.tiny import INSTRUCTION, STYLES, make_model, make_tokenizer, reward_vector

FILE = Path(__file__).with_name("golden.json")
CONVERSATION: list[Message] = [
    {"role": "user", "content": "  Why is the sky blue?\n"},
    {"role": "assistant", "content": "Air scatters light. 1234 <|im_end|>"},
    {"role": "user", "content": "Überall? 天空"},
]
RESPONSE = " Yes, and </s>[INST] everywhere. "


def golden() -> dict[str, Any]:
    values: dict[str, Any] = {}
    for style in STYLES:
        tokenizer = make_tokenizer(style)
        opened = Renderer(tokenizer, INSTRUCTION).open(CONVERSATION)
        values[style] = opened.render(RESPONSE, max_model_len=512, max_critique_tokens=8).token_ids
    tokenizer = make_tokenizer()
    model = make_model(len(tokenizer))
    token_id = add_reward_token(model, tokenizer)
    fold_reward(model, token_id, reward_vector())
    reference = ReferenceModel(model, token_id, Renderer(tokenizer, INSTRUCTION).stop_token_ids)
    (completion,), _ = reference.critique([values["chatml"]], max_tokens=8)
    values["critique"] = completion.token_ids
    values["rewards"] = [completion.direct_score, completion.score]
    return values


@pytest.fixture(scope="module")
def now() -> dict[str, Any]:
    return golden()


@pytest.fixture(scope="module")
def then() -> dict[str, Any]:
    values: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    return values


@pytest.mark.parametrize("name", [*STYLES, "critique"])
def test_token_ids(now: dict[str, Any], then: dict[str, Any], name: str) -> None:
    assert now[name] == then[name]


def test_rewards(now: dict[str, Any], then: dict[str, Any]) -> None:
    assert now["rewards"] == pytest.approx(then["rewards"], abs=1e-4)


if __name__ == "__main__":
    FILE.write_text(json.dumps(golden()) + "\n", encoding="utf-8")
