"""Questions, their near-duplicates, and splits that keep them together."""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import pairwise

import pytest

from criticrm_model.prompt import Message
from criticrm_training.data.near_duplicates import near_duplicates, normalized_words
from criticrm_training.data.pairs import PreferencePair
from criticrm_training.data.sources import DataError
from criticrm_training.data.splits import in_question_order, merged_groups, question_group, split_by_prompt

RNG = random.Random(0)
VOCABULARY = [f"word{i}" for i in range(2000)]


def user(text: str) -> Message:
    return {"role": "user", "content": text}


def a_text(words: int = 40) -> list[str]:
    return RNG.choices(VOCABULARY, k=words)


@dataclass(frozen=True)
class Thing:
    id: str
    group: str


def test_a_conversation_and_its_continuation_are_one_question() -> None:
    turns = [user("Where  is it?"), Message(role="assistant", content="Here."), user("Where exactly?")]
    assert question_group(turns) == question_group(turns[:1]) == "where is it?"
    assert question_group([Message(role="system", content="Be kind."), *turns]) == "where is it?"
    assert question_group([Message(role="system", content="Be kind.")]) == "be kind."
    assert question_group([user("\ufb01ne \uff21")]) == question_group([user("fine a")])  # NFKC


def test_near_duplicates_are_found_and_others_are_not() -> None:
    one, other = a_text(), a_text()
    changed = [*one[:20], "changed", *one[21:]]
    half = one[:20] + other[20:]
    texts = [" ".join(words) for words in (one, other, changed, half)]
    assert list(near_duplicates(texts)) == [(0, 2)]
    assert list(near_duplicates(["What is it?", "what is it", "WHAT, is it!", "what was it"])) == [(0, 1), (0, 2)]
    assert list(near_duplicates(["?!", "...", ""])) == []


@pytest.mark.parametrize(
    ("one", "other"), [("12 + 7", "12 - 7"), ("3*4", "3 ÷ 4"), ("2^(1+1)", "2-(1+1)"), ("5 < 6", "5 > 6")]
)
def test_another_sign_of_arithmetic_is_another_question(one: str, other: str) -> None:
    assert list(near_duplicates([f"What is {one}?", f"What is {other}?", f"what is {one}"])) == [(0, 2)]


def test_recall_over_many() -> None:
    texts = []
    for _ in range(300):
        words = a_text(60)
        texts += [" ".join(words), " ".join([*words[:30], "changed", *words[31:]])]
    assert set(near_duplicates(texts)) == {(i, i + 1) for i in range(0, 600, 2)}


def test_the_wording_of_a_template_does_not_count() -> None:
    """Thirty questions after the same forty words are thirty questions; a copy of one is still found."""
    template = " ".join(a_text())
    texts = [f"{template} {' '.join(a_text(6))}" for _ in range(30)]
    assert list(near_duplicates(texts)) == []
    assert list(near_duplicates([*texts, texts[3] + "!"])) == [(3, 30)]


def test_characters_of_languages_without_spaces_are_words() -> None:
    assert normalized_words("天空为什么是蓝色的? Why blue") == [*"天空为什么是蓝色的", "why", "blue"]
    assert list(
        near_duplicates(["请问天空为什么看起来是蓝色的呢", "请问天空为什么看起来是蓝色的", "大海为什么是咸的"])
    ) == [(0, 1)]


def test_groups_are_connected_components_in_any_order() -> None:
    first = a_text(60)
    second = [*first[:57], "b1", "b2", "b3"]
    third = ["c1", "c2", "c3", *second[3:]]  # like the second, less like the first
    chain = [" ".join(words) for words in (first, second, third)]
    groups = [*chain, *(" ".join(a_text()) for _ in range(20))]
    merged = merged_groups(groups)
    assert {merged[text] for text in chain} == {min(chain)}
    assert all(merged[text] == text for text in groups[3:])
    for _ in range(3):
        RNG.shuffle(groups)
        assert merged_groups(groups) == merged


def test_a_split_keeps_questions_together_whatever_the_order() -> None:
    things = [Thing(str(i), f"question {i % 100}") for i in range(400)]
    training, validation = split_by_prompt(things, 0.25)
    assert len(training) + len(validation) == 400
    assert not {thing.group for thing in training} & {thing.group for thing in validation}
    assert 0.1 < len(validation) / 400 < 0.4
    assert split_by_prompt(reversed(things), 0.25)[1] == validation[::-1]
    assert split_by_prompt(things, 0.25, seed=1)[1] != validation
    fewer = [thing for thing in things if thing.group < "question 5"]
    assert split_by_prompt(fewer, 0.25)[1] == [thing for thing in validation if thing in fewer]


@pytest.mark.parametrize("share", [1e-9, 1 - 1e-9])
def test_no_side_is_empty(share: float) -> None:
    things = [Thing(str(i), f"question {i // 2}") for i in range(8)]
    for some in (things, things[:4]):
        training, validation = split_by_prompt(some, share)
        assert min(len(training), len(validation)) == 2
        assert len({thing.group for thing in min(training, validation, key=len)}) == 1


def test_one_question_can_not_be_split() -> None:
    things = [Thing(str(i), "question") for i in range(8)]
    with pytest.raises(DataError, match="needs two questions; these 8 pairs are of 1"):
        split_by_prompt(things, 0.1)


def test_the_order_is_by_question() -> None:
    things = [Thing(str(i), f"question {i % 10}") for i in range(40)]
    groups = [thing.group for thing in in_question_order(things)]
    assert groups != sorted(groups)
    assert sum(a != b for a, b in pairwise(groups)) == 9
    assert in_question_order(reversed(things)) == in_question_order(things)


def test_no_held_out_conversation_begins_like_one_of_training() -> None:
    """hh-rlhf holds conversations that go on from others: by their last turn they would be other questions."""
    pairs = []
    for i in range(60):
        turns: list[Message] = [user(f"question {i}"), Message(role="assistant", content="reply"), user(f"then {i}?")]
        pairs += [
            PreferencePair(f"{i}-{n}", tuple(turns[:n]), "good", "bad", "all", question_group(turns[:n]))
            for n in (1, 3)
        ]
    training, validation = split_by_prompt(pairs, 0.3)
    assert validation
    assert not {p.prompt[0]["content"] for p in training} & {p.prompt[0]["content"] for p in validation}
