"""Rows in every form: what is read, and what is refused because something of it would be lost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from criticrm_training.data.pairs import read_pairs
from criticrm_training.data.rows import Row, read_row
from criticrm_training.data.sources import DataError

USER = {"role": "user", "content": "Why?"}
WHY = (USER,)
TALK = "\n\nHuman: Why?\n\nAssistant:"
SYSTEM = {"role": "system", "content": "Be kind."}
TEXTS = {"chosen": "good", "rejected": "bad"}


def said(text: Any, **more: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text} | more


def replies(**fields: Any) -> dict[str, Any]:
    return {"chosen": [said("good")], "rejected": [said("bad")]} | fields


@pytest.mark.parametrize(
    "prompt",
    [
        TALK,
        TALK + " ",
        TALK + "\n",
        TALK.strip(),
        TALK.replace("\n", "\r\n"),
        "Why?\n\nAssistant:",
        "Why?\nAssistant: ",
        [USER, said("")],
        [USER, said(" \n")],
        [USER, said([{"type": "text", "text": ""}])],
        "Why?",
        "\n\nHuman: Why?",
        "User: Why?\n\nAssistant:",
    ],
)
@pytest.mark.parametrize("responses", [TEXTS, replies()])
def test_a_prompt_that_opens_the_assistants_turn(prompt: Any, responses: dict[str, Any]) -> None:
    assert read_row({"prompt": prompt} | responses) == Row(WHY, "good", "bad")


def test_a_conversation_that_opens_the_assistants_turn() -> None:
    turns = [USER, said("Because."), {"role": "user", "content": "Really?"}]
    text = "\n\nHuman: Why?\n\nAssistant: Because.\n\nHuman: Really?\n\nAssistant:"
    for prompt in (text, text.strip(), [*turns, said("")]):
        assert read_row({"prompt": prompt} | TEXTS) == Row(tuple(turns), "good", "bad")


def test_user_is_a_speaker_as_human_is() -> None:
    text = "User: Why?\n\nAssistant: Because.\n\nUser: Really?\n\nAssistant:"
    turns = (USER, said("Because."), {"role": "user", "content": "Really?"})
    assert read_row({"prompt": text} | TEXTS).prompt == turns


@pytest.mark.parametrize(
    "end",
    [
        "<|im_end|>\n<|im_start|>assistant\n",
        "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
        "<end_of_turn>\n<start_of_turn>model\n",
        " [/INST]",
        "\n<|assistant|>\n",
        "\n\n### Response:\n",
        " ASSISTANT:",
        "\n\nassistant: ",
    ],
)
def test_a_prompt_that_a_template_has_rendered_is_refused(end: str) -> None:
    with pytest.raises(ValueError, match="prompt: it ends by opening the assistant's turn"):
        read_row({"prompt": "Why?" + end} | TEXTS)
    assert read_row({"prompt": "Why is it" + end + "Really?"} | TEXTS).chosen == "good"


def test_a_response_that_the_prompt_begins() -> None:
    for prompt in (TALK + " Sure,", [USER, said("Sure,")]):
        row = read_row({"prompt": prompt, "chosen": " good", "rejected": " bad"})
        assert row == Row(WHY, "Sure, good", "Sure, bad")
        row = read_row({"prompt": prompt, "chosen": "Sure, good", "rejected": "Sure, bad"})
        assert row == Row(WHY, "Sure, good", "Sure, bad")


def test_two_turns_of_the_assistant_may_be_one_response_or_two() -> None:
    with pytest.raises(ValueError, match="prompt: its last message is the assistant's, and so are the responses"):
        read_row({"prompt": [USER, said("Sure,")]} | replies())
    whole = {"prompt": [USER, said("One.")], "chosen": [USER, said("One."), said("good")]}
    row = read_row(whole | {"rejected": [USER, said("One."), said("bad")]})
    assert row == Row((USER, said("One.")), "good", "bad")
    with pytest.raises(ValueError, match="no prompt: the field prompt holds the assistant's turn alone"):
        read_row({"prompt": [said("Sure,")]} | TEXTS)


@pytest.mark.parametrize("between", [" ", "\n\n", "\n"])
def test_texts_that_repeat_the_prompt(between: str) -> None:
    prompt = "Why is the sky blue?"
    row = read_row({"prompt": prompt, "chosen": f"{prompt}{between}good", "rejected": f"{prompt}{between}bad"})
    assert row == Row(({"role": "user", "content": prompt},), "good", "bad", repeated_prompt=True)


def test_texts_in_turns_that_repeat_the_prompt() -> None:
    for prompt in (TALK, TALK.removesuffix("\n\nAssistant:"), "Why?"):
        row = {"prompt": prompt, "chosen": f"{TALK} good", "rejected": f"{TALK} bad"}
        assert read_row(row) == Row(WHY, "good", "bad")
    row = {"prompt": TALK + " Sure,", "chosen": f"{TALK} Sure, good", "rejected": f"{TALK} Sure, bad"}
    assert read_row(row) == Row(WHY, "Sure, good", "Sure, bad", repeated_prompt=True)
    why = "Why is it so?"
    row = {"prompt": why, "chosen": f"{why}\n\nAssistant: good", "rejected": f"{why}\n\nAssistant: bad"}
    assert read_row(row) == Row(({"role": "user", "content": why},), "good", "bad", repeated_prompt=True)


@pytest.mark.parametrize("prompt", [TALK, TALK + " Sure,", "\n\nHuman: Why?"])
def test_more_turns_than_the_response(prompt: str) -> None:
    more = f"{TALK} Sure, so.\n\nHuman: Really?\n\nAssistant:"
    with pytest.raises(ValueError, match="chosen: the messages before the response are not those of prompt"):
        read_row({"prompt": prompt, "chosen": f"{more} Yes.", "rejected": f"{more} No."})


def test_what_only_looks_like_a_repeated_prompt() -> None:
    greeting = {"prompt": "Hi", "chosen": "Hi there!", "rejected": "Hi friend!"}
    word = {"prompt": "Give me a noun", "chosen": "Give me a nouns list", "rejected": "Give me a nounlist"}
    one = {"prompt": "Why is it blue?", "chosen": "Why is it blue? So.", "rejected": "No."}
    for row in (greeting, word, one):
        assert read_row(row) == Row(({"role": "user", "content": row["prompt"]},), row["chosen"], row["rejected"])


def test_a_reply_that_is_a_dialogue() -> None:
    dialogue = "Human: Hi.\n\nAssistant: Hello."
    assert read_row({"prompt": "Write a dialogue.", "chosen": dialogue, "rejected": "No."}).chosen == dialogue
    for prompt in ("Human: Why?\n\nAssistant:", None, "Why?"):
        row = {"chosen": "Human: Why?\n\nAssistant: A word.", "rejected": "Human: Why?\n\nAssistant: A lie."}
        assert read_row(row | {"prompt": prompt}) == Row(WHY, "A word.", "A lie.")


def test_an_indentation_after_a_repeated_prompt_stays() -> None:
    for prompt in ("def add(a, b):", "def add(a, b):\n"):
        between = "" if prompt.endswith("\n") else "\n"
        row = {side: f"{prompt}{between}    return {text}" for side, text in (("chosen", "a + b"), ("rejected", "a"))}
        assert read_row({"prompt": prompt} | row).chosen == "    return a + b"


@pytest.mark.parametrize("prompt", ["", [], "  ", [{"role": "user", "content": " "}], "\n\nAssistant:", [said("")]])
def test_a_prompt_that_says_nothing(prompt: Any) -> None:
    with pytest.raises(ValueError, match="no prompt: the field prompt"):
        read_row({"prompt": prompt, "chosen": "The sky is blue.", "rejected": "The sky is green."})


def test_a_prompt_that_is_null_is_the_conversations() -> None:
    for prompt in (None, ""):
        whole = {"prompt": prompt, "chosen": [USER, said("good")], "rejected": [USER, said("bad")]}
        assert read_row(whole) == Row(WHY, "good", "bad")
    assert read_row({"prompt": None, "chosen": "It is so.", "rejected": "It is not."}).prompt[0]["content"] == "It is"


def test_white_space_around_a_turn_tells_no_conversations_apart() -> None:
    whole = {"prompt": "Why? ", "chosen": [USER, said("good")], "rejected": [{"role": "user", "content": "Why?\n"}]}
    whole["rejected"] += [said("bad")]
    assert read_row(whole) == Row(({"role": "user", "content": "Why? "},), "good", "bad")


@pytest.mark.parametrize(
    ("chosen", "rejected", "prompt"),
    [
        ("天空为什么是蓝色的\uff1f因为散射。", "天空为什么是蓝色的\uff1f不知道。", "天空为什么是蓝色的\uff1f"),
        ("天空是蓝色的", "天空是绿色的", "天空是"),
        ("空はなぜ青い?\n散乱です", "空はなぜ青い?\n知らない", "空はなぜ青い?"),
        ("Answer:\tyes", "Answer:\tno", "Answer:"),
    ],
)
def test_a_common_prefix_ends_between_words(chosen: str, rejected: str, prompt: str) -> None:
    row = read_row({"chosen": chosen, "rejected": rejected})
    assert row.prompt[0]["content"] == prompt
    assert row.prompt[0]["content"] in chosen
    assert chosen.endswith(row.chosen)
    assert rejected.endswith(row.rejected)
    assert row.chosen


@pytest.mark.parametrize(("chosen", "rejected"), [("Theory", "Theme"), ("天", "地"), ("a b", "c d"), ("x", "")])
def test_no_common_prefix(chosen: str, rejected: str) -> None:
    with pytest.raises(ValueError, match="no prompt, and chosen and rejected do not begin with the same text"):
        read_row({"chosen": chosen, "rejected": rejected})


CALL = {"type": "function", "function": {"name": "search", "arguments": "{}"}}
IMAGE = {"type": "image_url", "image_url": {"url": "x"}}


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (replies(chosen=[said(None, tool_calls=[CALL])]), r"chosen\[0\]\.tool_calls would be lost"),
        (replies(prompt=[USER, said("", tool_calls=[CALL]), USER]), r"prompt\[1\]\.tool_calls would be lost"),
        (replies(chosen=[said("", function_call=CALL)]), r"chosen\[0\]\.function_call would be lost"),
        (replies(chosen=[said("good", reasoning_content="Hm.")]), r"chosen\[0\]\.reasoning_content would be lost"),
        (replies(chosen=[said(None)]), r"chosen\[0\]: a message needs a role and a content that is text"),
        (replies(prompt=[{"role": "user", "content": [IMAGE]}]), r"prompt\[0\].content\[0\]: a part of the type"),
        (replies(prompt=[{"role": "human", "content": "Q"}]), r"prompt\[0\].role: 'human' is none of system, user"),
        (replies(prompt=[{"from": "robot", "value": "Q"}]), r"prompt\[0\].from: 'robot' is none of system, human"),
        (replies(prompt=[{"from": "human", "value": None}]), r"prompt\[0\].value: a message needs"),
        (replies(prompt=["Q"]), r"prompt\[0\]: a message needs"),
        (replies(prompt="Q", tools=[CALL]), "tools would be lost"),
        (replies(prompt="Q", functions=[CALL]), "functions would be lost"),
        (TEXTS | {"prompt": "Q", "system": "Be kind."}, "system would be lost: put what it says into"),
        (TEXTS | {"question": "Q"}, "no prompt \\(is 'question' the prompt"),
        (replies(conversations=[USER]), "no prompt \\(is 'conversations' the prompt"),
        (TEXTS | {"prompt": "Q", "chosen": " \n"}, "chosen: it says nothing"),
        (TEXTS | {"prompt": "Q", "chosen": "bad \n"}, "chosen and rejected are the same text, but for white space"),
        (TEXTS | {"prompt": 3}, "prompt: neither text nor a list"),
        (TEXTS | {"prompt": 0}, "prompt: neither text nor a list"),
        (TEXTS | {"prompt": {}}, "prompt: neither text nor a list"),
        (TEXTS | {"prompt": float("nan")}, "prompt: neither text nor a list"),
        (
            replies(chosen=[USER, said("good")], rejected=[SYSTEM, USER, said("bad")]),
            "do not begin with the same turns",
        ),
        ("a text", "a row is an object with the fields prompt, chosen and rejected, not str"),
    ],
)
def test_what_would_be_lost_is_refused(row: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        read_row(row)


def test_empty_lists_and_nulls_lose_nothing() -> None:
    user = USER | {"tool_calls": None, "name": None, "images": []}
    row = read_row({"prompt": [user]} | replies(tools=None, history=[], system=""))
    assert row == Row(WHY, "good", "bad")


def test_a_blank_rejected_response_is_a_response() -> None:
    assert read_row({"prompt": "Why?", "chosen": "good", "rejected": ""}) == Row(WHY, "good", "")


def test_parts_of_a_content() -> None:
    parts = [{"type": "text", "text": "One.", "image_url": None}, {"type": "text", "text": "Two."}]
    row = read_row({"prompt": [{"role": "user", "content": parts}]} | TEXTS)
    assert row.prompt == ({"role": "user", "content": "One.\nTwo."},)


def test_sharegpt_messages() -> None:
    prompt = [{"from": "system", "value": "Be kind."}, {"from": "human", "value": "Why?"}]
    row = {
        "prompt": prompt,
        "chosen": [{"from": "gpt", "value": "good"}],
        "rejected": [{"from": "gpt", "value": "bad"}],
    }
    assert read_row(row) == Row((SYSTEM, USER), "good", "bad")


def written(tmp_path: Path, text: str, name: str = "pairs.jsonl") -> Path:
    path = tmp_path / name
    path.write_bytes(text.encode())
    return path


ROW = {"prompt": "Why?"} | TEXTS


@pytest.mark.parametrize("name", ["pairs.jsonl", "pairs.json"])
def test_a_byte_order_mark_is_no_text(tmp_path: Path, name: str) -> None:
    assert len(read_pairs(written(tmp_path, "\ufeff" + json.dumps(ROW), name))) == 1


def test_a_list_of_rows_in_lines_or_not(tmp_path: Path) -> None:
    for before in ("", "\ufeff", "\n \n"):
        assert len(read_pairs(written(tmp_path, before + json.dumps([ROW], indent=1), "pairs.json"))) == 1


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (ROW | {"chosen": "cut \ud83d"}, r"row 2: chosen: character 5 is '\\ud83d', half of a surrogate pair"),
        (replies(prompt=[USER | {"content": "\udc00"}]), r"row 2: prompt\[0\]\.content: character 1 is"),
        (ROW | {"id": "\ud83d"}, "row 2: id: character 1"),
        (ROW | {"id": float("nan")}, "row 2: id: nan is neither text nor an integer"),
        (ROW | {"category": ["a"]}, r"row 2: category: \['a'\] is neither text"),
        (ROW | {"category": True}, "row 2: category: True is neither text"),
        ([], "row 2: a row is an object"),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, row: Any, words: str) -> None:
    lines = [ROW, row]
    path = written(tmp_path, "\n".join(map(json.dumps, lines)))
    for source in (path, written(tmp_path, json.dumps(lines), "pairs.json")):
        with pytest.raises(DataError, match=words):
            read_pairs(source)


def test_a_whole_character_in_two_halves_is_a_character(tmp_path: Path) -> None:
    path = written(tmp_path, json.dumps(ROW | {"chosen": "\U0001f600"}))
    assert "\\ud83d\\ude00" in path.read_text()
    assert read_pairs(path)[0].chosen == "\U0001f600"


def test_nesting_without_end(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="row 1: not JSON"):
        read_pairs(written(tmp_path, "[" * 200_000))


def test_a_very_long_row(tmp_path: Path) -> None:
    (pair,) = read_pairs(written(tmp_path, json.dumps(ROW | {"chosen": "word " * 400_000})))
    assert len(pair.chosen) == 2_000_000


def test_repeated_prompts_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [
        {"prompt": "Why is it so?", "chosen": f"Why is it so? {i}", "rejected": "Why is it so? no"} for i in range(3)
    ]
    with caplog.at_level("INFO"):
        assert [pair.chosen for pair in read_pairs(written(tmp_path, "\n".join(map(json.dumps, rows))))] == [
            "0",
            "1",
            "2",
        ]
    assert "pairs.jsonl: in 3 rows both responses repeat the prompt; it was taken off them" in caplog.text
