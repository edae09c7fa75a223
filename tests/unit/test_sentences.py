"""Where sentences end, and where a critique that was cut does not."""

from __future__ import annotations

import pytest

from criticrm_model.prompt import Renderer
from criticrm_training.critiques.records import Critique, critique_tokens
from criticrm_training.critiques.sentences import sentence_ends, whole_sentences
from support.tiny import make_tokenizer


@pytest.mark.parametrize(
    "text",
    [
        "It is right.|",
        "It is right.| It is short!| Is it?|",
        'It says "no."| It is wrong.|',
        "It says (twice) that it is.)| **Bold.**| _So._|",
        "It costs 2.5 dollars, or $3.50 each.|",
        "The answer is 4.| Mine: 4.| Reply: 5.|",
        "It has 3.| Then 4.|",
        "1. Add 2.| 2. Add 3.|",
        "1. Add two.|\n2. Add three.|\n  3. Stop.|",
        "Steps:\n1. Add.|\n",
        "Its faults: 1. It is long.| 2. It is wrong.|",
        "Mine: 1.| Reply: 2.| Different.|",
        "a. It is long.|\nb. It is wrong.|",
        "- 1. It is long.|",
        "**1.** It is long.|",
        "ii. It is long.|",
        "Use a list, e.g. this one, i.e. that one.|",
        "See cf. Fig. 3 and Eq. 4, approx. 5 vs. 6.|",
        "Dr. Smith met Mr. Jones, Mrs. Brown and Prof. White in St. Paul.|",
        "J. K. Rowling wrote it.|",
        "So do I.| He does not.|",
        "No. 7 is wrong.|",
        "Is it right? No.| It is wrong.|".replace("? ", "?| "),
        "It has eggs, milk, etc. and more.|",
        "It has eggs, milk, etc.| It is long.|",
        "At 5 p.m. it rains.|",
        "At 5 p.m.| It rains.|",
        "In the U.S. they do.|",
        "Well... it is so.|",
        "Well...| It is so.|",
        "Well\u2026 it is so.|",
        "What?!| No!!|",
        "It is at example.com or a.b.c and so on.|",
        "It is version 1.2.3 of it.|",
        "See Sec. 3, Vol. 2 and pp. 4-5 for Mt. Everest.|",
        "**1.** It is long.| **2.** It is wrong.|",
        "\u5b83\u662f\u5bf9\u7684\u3002|\u5b83\u5f88\u957f\uff01|\u8fd8\u6709",
        "\u300c\u306f\u3044\u3002\u300d|\u6b21\u306f",
        "It ends here",
        "Steps:\n1.",
        "As Dr.",
        "",
    ],
)  # fmt: skip
def test_ends(text: str) -> None:
    plain = text.replace("|", "")
    expected = [i - n for n, i in enumerate(j for j, char in enumerate(text) if char == "|")]
    assert sentence_ends(plain) == expected


def test_the_first_sentences() -> None:
    assert whole_sentences("1. Add 2. Then e.g. 7. Then 4", most=1) == "1. Add 2."
    assert whole_sentences("1. Add 2. Then e.g. 7. Then 4") == "1. Add 2. Then e.g. 7."
    assert whole_sentences("It is so, e.g. here", most=1) == "It is so, e.g. here"


def test_a_critique_that_was_cut_gets_no_end_of_turn_token() -> None:
    renderer = Renderer(make_tokenizer(), "")
    end = renderer.tokenize_critique("")
    words = renderer.tokenize_critique("It is wrong.")[:-1]
    assert len(end) == 1

    def tokens(text: str, finish: str, limit: int = 99) -> list[int]:
        return critique_tokens(renderer, Critique("a", "chosen", 0, text, None, finish, 9), limit)

    assert tokens("It is wrong.", "stop") == words + end
    assert tokens("It is wrong.", "length") == words
    assert tokens("It is wrong.", "stop", len(words)) == words
    assert tokens("It is wrong.", "length", 2) == words[:2]
    assert tokens("", "stop") == tokens("", "length") == end
