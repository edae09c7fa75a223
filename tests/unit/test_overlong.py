"""Pairs that are longer than the model: dropped, cut or refused, and always counted."""

from __future__ import annotations

import logging

import pytest

from criticrm_model.prompt import Message, Renderer
from criticrm_training.data.overlong import Overlong, RenderedPairs, log_truncated, render_pairs
from criticrm_training.data.pairs import PreferencePair
from criticrm_training.data.sources import DataError
from support.tiny import INSTRUCTION, make_tokenizer

QUESTION = "Why is the sky blue?"


def make_pair(
    name: str, prompt: str = QUESTION, chosen: str = "good", rejected: str = "bad", category: str = "all"
) -> PreferencePair:
    messages: tuple[Message, ...] = ({"role": "user", "content": prompt},)
    return PreferencePair(name, messages, chosen, rejected, category, prompt)


SHORT = make_pair("short", category="chat")
LONG = make_pair("long", prompt=QUESTION + " passage" * 60, category="factuality")
SAME_BEGINNING = make_pair("same", chosen="begin " * 100 + "good", rejected="begin " * 100 + "bad", category="chat")


@pytest.fixture(scope="module")
def renderer() -> Renderer:
    return Renderer(make_tokenizer(), INSTRUCTION)


def rendered(renderer: Renderer, *pairs: PreferencePair, overlong: Overlong, max_model_len: int = 120) -> RenderedPairs:
    return render_pairs(pairs, renderer, max_model_len=max_model_len, max_critique_tokens=8, overlong=overlong)


def test_what_fits_is_rendered_as_it_is_served(renderer: Renderer, caplog: pytest.LogCaptureFixture) -> None:
    found = rendered(renderer, SHORT, overlong="error")
    served = [
        renderer.open(SHORT.prompt).render(text, max_model_len=120, max_critique_tokens=8).token_ids
        for text in ("good", "bad")
    ]
    assert found == RenderedPairs([SHORT], [(served[0], served[1])], truncated=0, dropped=0, equal=0)
    assert not caplog.records


def test_dropped(renderer: Renderer, caplog: pytest.LogCaptureFixture) -> None:
    found = rendered(renderer, LONG, SHORT, SAME_BEGINNING, overlong="drop")
    assert (found.pairs, found.truncated, found.dropped, found.equal) == ([SHORT], 0, 2, 0)
    assert len(found.prompts) == 1
    (record,) = caplog.records
    longest = max(
        len(renderer.open(pair.prompt).render(text, max_model_len=9999, max_critique_tokens=8).token_ids) + 8
        for pair in (LONG, SAME_BEGINNING)
        for text in (pair.chosen, pair.rejected)
    )
    assert record.levelno == logging.WARNING
    assert record.getMessage() == (
        "pairs: 2 of 3 (66.7 %: factuality 100.0 %, chat 50.0 %) need more than max_model_len 120, critiques of 8 "
        f"tokens included; {longest} would fit all; they are dropped (overlong: drop)"
    )
    assert not rendered(renderer, LONG, SHORT, overlong="error", max_model_len=longest).dropped


def test_truncated_as_the_service_does(renderer: Renderer, caplog: pytest.LogCaptureFixture) -> None:
    found = rendered(renderer, LONG, SHORT, overlong="truncate")
    assert (found.pairs, found.truncated, found.dropped, found.equal) == ([LONG, SHORT], 1, 0, 0)
    opened = renderer.open(LONG.prompt)
    assert found.prompts[0] == tuple(
        opened.render(text, max_model_len=120, max_critique_tokens=8, truncate=True).token_ids
        for text in (LONG.chosen, LONG.rejected)
    )
    assert QUESTION in renderer.tokenizer.decode(found.prompts[0][0])
    assert "they are truncated (overlong: truncate)" in caplog.text


def test_pairs_that_cutting_makes_equal_are_left_out(renderer: Renderer, caplog: pytest.LogCaptureFixture) -> None:
    found = rendered(renderer, SAME_BEGINNING, SHORT, overlong="truncate")
    assert (found.pairs, found.truncated, found.dropped, found.equal) == ([SHORT], 0, 0, 1)
    assert "pairs: 1 of 2 are left out: both responses come out as the same tokens" in caplog.text


def test_so_are_those_that_a_template_makes_equal(caplog: pytest.LogCaptureFixture) -> None:
    trims = Renderer(make_tokenizer("gemma"), INSTRUCTION)
    found = rendered(trims, make_pair("blank", chosen="same", rejected="same \n"), SHORT, overlong="drop")
    assert (found.pairs, found.equal) == ([SHORT], 1)
    assert "the same tokens" in caplog.text


def test_all_equal_is_an_error(renderer: Renderer) -> None:
    with pytest.raises(DataError, match=r"pairs: none of 1 is left: 0 are too long.*of 1 both responses come out"):
        rendered(renderer, SAME_BEGINNING, overlong="truncate")


def test_none_left_is_an_error(renderer: Renderer) -> None:
    with pytest.raises(DataError, match=r"none of 2 is left: 2 are too long for max_model_len 120.*longest pair needs"):
        rendered(renderer, LONG, SAME_BEGINNING, overlong="drop")
    assert rendered(renderer, overlong="drop") == RenderedPairs([], [], 0, 0, 0)  # there was none


def test_refused(renderer: Renderer) -> None:
    with pytest.raises(DataError, match=r"pairs: 1 of 2 \(50.0 %.*would fit all. The first is pair 'long'"):
        rendered(renderer, SHORT, LONG, overlong="error")


def test_a_template_that_does_not_fit(renderer: Renderer) -> None:
    with pytest.raises(DataError, match="max_model_len 20 is too small for pair 'short'"):
        rendered(renderer, SHORT, overlong="truncate", max_model_len=20)


def test_a_role_that_the_template_refuses_is_named() -> None:
    no_system = Renderer(make_tokenizer("gemma"), INSTRUCTION)
    pair = PreferencePair("7", ({"role": "system", "content": "s"},), "good", "bad", "all", "s")
    with pytest.raises(DataError, match=r"pair '7': prompt: .*refuses the roles \[system\]"):
        rendered(no_system, pair, overlong="drop")


def test_one_line_counts_what_was_cut(caplog: pytest.LogCaptureFixture) -> None:
    log_truncated(0, 10, max_model_len=100)
    assert not caplog.records
    log_truncated(3, 10, max_model_len=100)
    assert caplog.records[0].getMessage().startswith("3 of 10 prompts (30.0 %) were truncated to fit max_model_len 100")
