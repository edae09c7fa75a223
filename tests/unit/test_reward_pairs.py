"""What frameworks hand to a reward function, as the service's prompt and response."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from criticrm_client.rewards.pairs import Pair, item_of

ASKED = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
TEMPLATED = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n"
SAID = [{"role": "assistant", "content": "So."}]
PARTS = [{"type": "text", "text": "Wh"}, {"type": "text", "text": "y?"}]


@pytest.mark.parametrize(
    ("pair", "prompt", "response"),
    [
        (Pair("Why?", "So."), "Why?", "So."),
        (Pair(TEMPLATED, "So.<|im_end|>"), TEMPLATED, "So.<|im_end|>"),
        (Pair(TEMPLATED, "So.<|im_end|>", templated=True), ASKED, "So."),
        (Pair("Why?", "So.</s>", templated=True), ASKED[1:], "So."),
        (Pair(ASKED, "So.<|im_end|>", templated=True), ASKED, "So."),
        (Pair(ASKED, "So."), ASKED, "So."),
        (Pair(ASKED, SAID), ASKED, "So."),
        (Pair("Why?", SAID), ASKED[1:], "So."),
        (Pair(np.array(ASKED), "So."), ASKED, "So."),
        (Pair([{"role": "developer", "content": "Be brief."}, {"role": "user", "content": PARTS}], SAID), ASKED, "So."),
        (Pair([*ASKED, {"role": "assistant", "content": "Well, "}], SAID), ASKED, "Well, So."),
        (Pair(ASKED, [*SAID, *ASKED[1:], *SAID]), [*ASKED, *SAID, *ASKED[1:]], "So."),
    ],
)
def test_a_sample_becomes_an_item(pair: Pair, prompt: Any, response: str) -> None:
    item = item_of(pair)
    assert (item.prompt if isinstance(item.prompt, str) else list(item.prompt)) == prompt
    assert item.responses == (response,)


@pytest.mark.parametrize(
    ("pair", "told"),
    [
        (Pair("", "So."), "prompt: .* at least 1"),
        (Pair(None, "So."), "prompt is neither a text nor a list of messages: NoneType"),
        (Pair({"role": "user", "content": "Why?"}, "So."), "prompt is neither .*: dict"),
        (Pair(ASKED, None), "completion is neither"),
        (Pair([], "So."), "prompt is empty"),
        (Pair(["Why?"], "So."), r"prompt\.0 is no message with a role"),
        (Pair([{"role": "user"}], "So."), r"prompt\.0\.content is not text"),
        (Pair([{"role": "user", "content": [{"type": "image"}]}], "So."), r"prompt\.0\.content is not text"),
        (Pair([{"role": "critic", "content": "Hm."}], "So."), "role: .*'system', 'user'"),
        (Pair(ASKED, [{"role": "tool", "content": "7"}]), "completion ends with a turn of the tool"),
        (Pair(ASKED, [{"role": "assistant", "content": "", "tool_calls": [{}]}]), r"completion\.0\.tool_calls"),
        (Pair("Why?", "\ud800"), "not Unicode"),
    ],
)
def test_what_has_no_place_is_named(pair: Pair, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        item_of(pair)
