"""Grading: which answers are found, and which are equal."""

from __future__ import annotations

import doctest
import json
from pathlib import Path
from typing import Any

import pytest

from criticrm_training import answers as answers_module
from criticrm_training.answers import equal, final_answer, votes
from criticrm_training.data.sources import DataError
from criticrm_training.evaluation.policies.questions import questions_sha256, read_questions

BEGUN = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "It is"}]


def test_the_examples() -> None:
    assert doctest.testmod(answers_module).failed == 0


@pytest.mark.parametrize(
    ("reference", "solution"),
    [
        ("16 - 3 - 4 = 9\nThe answer is 18.", "She makes 9 * $2 = $18 a day.\nThe answer is 18 dollars."),
        ("#### 18", "The answer is 18."),
        ("9 * 2 = <<9*2=18>>18\n#### 18", "#### 18"),
        ("#### 18", "#### $18\nI ate 3 of them."),
        ("#### 18", "#### 1. Count the eggs: 9\n#### 2. Multiply by 2\nShe makes $18."),
        ("The answer is 42.", "So \\boxed{42} it is, of 50."),
        ("The answer is 42.", "\\(6 \\times 7 = 42\\)"),
        ("The answer is 42.", "**Final answer: 42 km/h**"),
        ("The answer is 42.", "Answer: **42**"),
        ("The answer is 42.", "She has 42 apples."),
        ("The answer is 42.", "The answer is $42.00."),
        ("The answer is 42.", "Janet makes \\$42 per day."),
        ("The answer is 42.", "The answer is $\\$42$."),
        ("The answer is 1,234.", "1234 grams"),
        ("The answer is 1234.", "It costs €1,234.00"),
        ("The answer is 0.5.", "1/2"),
        ("The answer is 0.5.", "\\boxed{\\frac{1}{2}}"),
        ("The answer is 5.5.", "They ate 5 1/2 pizzas."),
        ("The answer is 7.", "7.0"),
        ("The answer is -3.", "\N{MINUS SIGN}3"),
        ("The answer is 25.", "25 %"),
        ("The answer is 0.25.", "25 %"),
        ("The answer is 2.", "$x = 2$"),
        ("\\boxed{x^2 + 1}", "\\boxed{1 + x^2}"),
        ("The answer is 12.", "The answer is 10 + 2 = 12"),
        ("The answer is 42.", "The answer is 42 for 3 days."),
    ],
)
def test_right(reference: str, solution: str) -> None:
    assert equal(final_answer(reference), final_answer(solution))


@pytest.mark.parametrize(
    ("reference", "solution"),
    [
        ("The answer is 42.", "The answer is 24."),
        ("The answer is 42.", "-42"),
        ("The answer is 42.", "4.2"),
        ("The answer is 42.", "420"),
        ("The answer is 2125.", "2.125"),
        ("The answer is 42.", "42 - 2 = 40"),
        ("The answer is 42.", "\\boxed{41}, not 42"),
        ("The answer is 42.", "#### 41\nIt was 42."),
        ("The answer is 0.33.", "1/3"),
        ("The answer is 5.", "5 1/2"),
        ("The answer is 42.", "I do not know."),
        ("The answer is 42.", ""),
        ("The answer is 42.", "forty-two"),
    ],
)
def test_wrong(reference: str, solution: str) -> None:
    assert not equal(final_answer(reference), final_answer(solution))


def test_equal_answers_vote_together_and_none_does_not_vote() -> None:
    texts = ["I do not know.", "1/2", "The answer is 3.", "0.5", "", "3.00", "50"]
    assert votes([final_answer(text) for text in texts]) == [-1, 1, 2, 1, -1, 2, 6]


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def row(number: int, **more: Any) -> dict[str, Any]:
    return {"id": f"q{number}", "prompt": f"What is {number} + 1?", "reference": f"The answer is {number + 1}.", **more}


def test_each_question_once_in_an_order_of_its_own(tmp_path: Path) -> None:
    rows = [row(i, chosen="a", rejected="b") for i in range(20)]
    # The same question again, asked in messages and answered in other words; and a row without a reference.
    again = row(3, id="other", prompt=[{"role": "user", "content": "What is 3 + 1?"}], reference="#### 4")
    found = read_questions(write(tmp_path / "a.jsonl", [*rows, again, {"prompt": "x", "reference": None}, {"x": 1}]))
    assert sorted(q.id for q in found) == sorted(r["id"] for r in rows)
    assert found == read_questions(write(tmp_path / "b.jsonl", rows[::-1]))
    assert read_questions(tmp_path / "b.jsonl", limit=5) == found[:5]
    assert questions_sha256(found) != questions_sha256(found[:5])


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"prompt": "x"}], "no row has a field 'reference'"),
        ([row(1), row(2, reference=7)], "row 2: reference: no text"),
        ([row(1), row(2, reference="Nobody knows.")], "row 2: reference: no answer that can be graded in 'Nobody"),
        ([{"reference": "The answer is 2."}], "row 1: no field 'prompt'"),
        ([row(1, prompt=7)], "row 1: prompt: neither text nor a list"),
        ([row(1), ["What is 1 + 1?", "#### 2"]], "row 2: a row is an object with fields, not list"),
        ([row(1), "What is 1 + 1?"], "row 2: a row is an object with fields, not str"),
        ([row(1), row(2, prompt=BEGUN)], "row 2: prompt: its last message is the assistant's, and so are the resp"),
        ([row(1), row(2, prompt="\n\nHuman: Why?\n\nAssistant: It")], "row 2: prompt: its last message is the"),
        ([row(1), row(1, reference="The answer is 3.")], "row 2: reference: another answer than that of 'q1'"),
        ([row(1), row(2, id="q1")], "row 2: id: 'q1' is that of another question"),
    ],
)
def test_what_is_wrong_with_a_row_is_named(tmp_path: Path, rows: list[Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        read_questions(write(tmp_path / "rows.jsonl", rows))


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([row(1)], "row 1: responses: 0 where each row needs some"),
        ([row(1, responses=["a"]), row(2, responses=["a", "b"])], "row 2: responses: 2 where each row needs 1"),
        ([row(1, responses="a")], "row 1: responses: no list of texts"),
        ([row(1, responses=["a"]), row(1, responses=["b"])], "row 2: responses: others than those of 'q1'"),
    ],
)
def test_given_responses_are_as_many_for_each(tmp_path: Path, rows: list[Any], words: str) -> None:
    with pytest.raises(DataError, match=words):
        read_questions(write(tmp_path / "rows.jsonl", rows), with_responses=True)
