"""What frameworks hand to a reward function, as the service's prompt and response."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from criticrm_client.rewards.samples import Sample, item_of

ASKED = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
TEMPLATED = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhy?<|im_end|>\n<|im_start|>assistant\n"
SAID = [{"role": "assistant", "content": "So."}]
PARTS = [{"type": "text", "text": "Wh"}, {"type": "text", "text": "y?"}]


@pytest.mark.parametrize(
    ("sample", "prompt", "response"),
    [
        (Sample("Why?", "So."), "Why?", "So."),
        (Sample(TEMPLATED, "So.<|im_end|>"), TEMPLATED, "So.<|im_end|>"),
        (Sample(TEMPLATED, "So.<|im_end|>", templated=True), ASKED, "So."),
        (Sample("Why?", "So.</s>", templated=True), ASKED[1:], "So."),
        (Sample(ASKED, "So.<|im_end|>", templated=True), ASKED, "So."),
        (Sample(ASKED, "So."), ASKED, "So."),
        (Sample(ASKED, SAID), ASKED, "So."),
        (Sample("Why?", SAID), ASKED[1:], "So."),
        (Sample(np.array(ASKED), "So."), ASKED, "So."),
        (
            Sample([{"role": "developer", "content": "Be brief."}, {"role": "user", "content": PARTS}], SAID),
            ASKED,
            "So.",
        ),
        (Sample([*ASKED, {"role": "assistant", "content": "Well, "}], SAID), ASKED, "Well, So."),
        (Sample(ASKED, [*SAID, *ASKED[1:], *SAID]), [*ASKED, *SAID, *ASKED[1:]], "So."),
    ],
)
def test_a_sample_becomes_an_item(sample: Sample, prompt: Any, response: str) -> None:
    item = item_of(sample)
    assert (item.prompt if isinstance(item.prompt, str) else list(item.prompt)) == prompt
    assert item.responses == [response]


@pytest.mark.parametrize(
    ("sample", "told"),
    [
        (Sample("", "So."), "prompt: .* at least 1"),
        (Sample(None, "So."), "prompt is neither a text nor a list of messages: NoneType"),
        (Sample({"role": "user", "content": "Why?"}, "So."), "prompt is neither .*: dict"),
        (Sample(ASKED, None), "completion is neither"),
        (Sample([], "So."), "prompt is empty"),
        (Sample(["Why?"], "So."), r"prompt\[0\] is no message with a role"),
        (Sample([{"role": "user"}], "So."), r"prompt\[0\]\.content is not text"),
        (Sample([{"role": "user", "content": [{"type": "image"}]}], "So."), r"prompt\[0\]\.content is not text"),
        (Sample([{"role": "critic", "content": "Hm."}], "So."), "role: .*'system', 'user'"),
        (Sample(ASKED, [{"role": "tool", "content": "7"}]), "completion ends with a turn of the tool"),
        (Sample(ASKED, [{"role": "assistant", "content": "", "tool_calls": [{}]}]), r"completion\[0\]\.tool_calls"),
        (Sample("Why?", "\ud800"), "not Unicode"),
    ],
)
def test_what_has_no_place_is_named(sample: Sample, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        item_of(sample)
