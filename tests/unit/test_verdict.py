"""What is asked for by category, and verdicts that are read by a rule."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml

from criticrm_training.answers import answer_text, equal, stated_answer
from criticrm_training.commands.critiques.filter import Filter
from criticrm_training.critiques.critique_task import CritiqueTask, TaskError, load_task, load_tasks, task_names
from criticrm_training.critiques.filter import FilterError, check_solved, filter_critiques
from criticrm_training.critiques.records import SCHEMA, Critique, SideName, read_critiques
from criticrm_training.critiques.verdict import VerdictRule, own_answer, verdict
from criticrm_training.data.pairs import PreferencePair
from criticrm_training.data.sources import DataError
from criticrm_training.parts import write_in_parts

RIGHT, WRONG = "Same answer: the reply is right.", "Different answer: the reply is wrong."
REPLY = "5 boxes of 9. The answer is 45."


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"5 * 9 = 45. The answer is 45.\nMine: 45. Reply: 45. {RIGHT}", True),
        (f"The answer is 54.\nMine: 54. Reply: 45. {WRONG}", False),
        ("Mine: 45. Reply: 45.", True),  # the closing words are cut off
        ("Mine: $45.00. Reply: 45.", True),
        ("**Mine:** 45 **Reply:** 45", True),
        ("mine: 54, reply: 45", False),
        ("Mine: 90/2. Reply: 45.", True),
        ("Mine: 45 boxes.\nReply: 45 boxes.", True),
        (f"Mine: 44. Reply: 44. {WRONG}", False),  # misquoted, but what it says is so
        (f"Mine: 44. Reply: 44. {RIGHT}", None),  # misquoted: its own answer is not the reply's
        (f"Mine: 45. Reply: 45. {WRONG}", None),
        (f"Mine: 45. Reply: 45. {RIGHT} {WRONG}", True),  # closing words that say both say nothing
        (f"Mine: 44. Reply: 45.\nMine: 45. Reply: 45. {RIGHT}", None),
        (f"Mine: 45. Reply: 45.\nMine: 45. Reply: 45. {RIGHT}", True),
        (f"Mine: 44 or 45. Reply: 45. {RIGHT}", None),
        (f"Mine: N. Reply: M. {RIGHT}", None),
        (f"It is well done. {RIGHT}", True),
        ("It is well done. different ANSWER:  the reply is\nwrong", False),
        ("The answer is 45.", None),
        ("Score: 45", None),
        ("", None),
    ],
)
def test_verdicts(text: str, said: bool | None) -> None:
    assert verdict(text, REPLY) is said


def test_a_reply_that_states_no_answer_is_judged_by_the_closing_words_alone() -> None:
    for reply in ("I do not know.", "So it is $12 for 3 days.", ""):
        assert verdict(f"Mine: 3. Reply: 3. {RIGHT}", reply) is True
        assert verdict("Mine: 3. Reply: 3.", reply) is None


def test_a_rule_of_ones_own() -> None:
    rule = VerdictRule(comparison="Ours: {own} | Theirs: {reply} | {closing}", right="YES", wrong="NO")
    line = rule.line(stated_answer("The answer is 1,234.50."), stated_answer(REPLY))
    assert line == "Ours: 1234.50 | Theirs: 45 | NO"
    assert verdict(line, REPLY, rule) is False
    assert verdict("Ours: 45 | Theirs: 45 | YES", REPLY, rule) is True
    assert own_answer(line, VerdictRule()) == []


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("The answer is 12. I counted 3 times.", "12"),
        ("So she pays $12 for 3 days.", None),  # the last number is no answer for being last
        ("**Answer: 42**", "42"),
        ("\\boxed{42}, that is 6 * 7", "42"),
        ("#### 1,234", "1234"),
        ("17 + 25 = 42\n42 * 3 = 126", "126"),  # a formula alone
        ("78", "78"),
        ("The answer is unclear.", None),
        ("Answer: B", None),
        ("x", None),
        ("", None),
        ("The answer is -3.50", "-3.50"),
        ("word " * 50_000 + "The answer is 7.", "7"),
    ],
)
def test_stated_answers(text: str, answer: str | None) -> None:
    found = stated_answer(text)
    assert (answer_text(found) if found else None) == answer


def test_answers_are_compared_off_the_main_thread_as_well() -> None:
    """Where no alarm can be set; and a tower of powers, which sympy would work out for hours, equals nothing."""
    found: list[Any] = []

    def compare() -> None:
        tower = stated_answer("The answer is 9^9^9^9.")
        found.append(equal(tower, stated_answer("The answer is 3.")))
        found.append(verdict(f"Mine: 1/2. Reply: 0.5. {RIGHT}", "The answer is 0.50."))

    thread = threading.Thread(target=compare)
    thread.start()
    thread.join()
    compare()
    assert found == [False, True] * 2


def test_the_packaged_tasks() -> None:
    assert task_names() == ["general", "reasoning"]
    assert load_task("general").verdict is None
    reasoning = load_task("reasoning")
    assert reasoning.verdict == VerdictRule()
    assert reasoning.derive
    assert "Mine: N. Reply: M." in reasoning.instruction
    assert RIGHT in reasoning.instruction
    assert WRONG in reasoning.instruction


def test_tasks_by_category(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("instruction: What is wrong?\nmax_tokens: 7\n")
    tasks = load_tasks(["reasoning=reasoning", f"chat={own}"])
    assert tasks.of("reasoning") == load_task("reasoning")
    assert tasks.of("chat").max_tokens == 7
    with pytest.raises(TaskError, match="no task for the category 'safety': there are tasks for chat, reasoning"):
        tasks.of("safety")
    assert load_tasks(["general"]).of("safety") == load_task("general")
    with pytest.raises(TaskError, match="two tasks for the category 'chat'"):
        load_tasks(["chat=general", "chat=reasoning"])
    for name in ("poetry", str(tmp_path / "none.yaml"), "../tasks/general"):
        with pytest.raises(TaskError, match=r"no critique task .* one of general, reasoning"):
            load_task(name)


@pytest.mark.parametrize(
    ("changes", "faults"),
    [
        ({"instruction": " "}, ["instruction: "]),
        ({"instruction": None, "max_tokens": 0, "colour": "red"}, ["instruction: ", "max_tokens: ", "colour: Extra"]),
        ({"verdict": {"comparison": "Mine: {own}."}}, ["verdict.comparison: .* {own}, {reply}, {closing}"]),
        ({"verdict": {"comparison": "{own} and Reply: {reply} {closing}"}}, ["a word and a colon must stand before"]),
        ({"verdict": {"comparison": "A: {own}\nB: {reply} {closing}"}}, ["must be one line"]),
        ({"verdict": {"right": ""}}, ["verdict.right: .* empty"]),
        ({"verdict": {"right": "Fine.", "wrong": "fine"}}, ["right and wrong must differ"]),
        ({"verdict": {"right": "Wrong? No.", "wrong": "Wrong"}}, ["neither may be part of the other"]),
    ],
)
def test_every_fault_of_a_task_is_named(tmp_path: Path, changes: dict[str, Any], faults: list[str]) -> None:
    path = tmp_path / "task.yaml"
    path.write_text(yaml.safe_dump({"instruction": "Review it.", "max_tokens": 9} | changes))
    with pytest.raises(TaskError) as raised:
        load_task(str(path))
    for fault in faults:
        raised.match(fault)


@pytest.mark.parametrize(("text", "words"), [("a: [", "is no YAML"), ("- 1", "no mapping"), ("", "no mapping")])
def test_a_task_that_is_no_mapping(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "task.yaml").write_text(text)
    with pytest.raises(TaskError, match=words):
        load_task(str(tmp_path / "task.yaml"))


@pytest.mark.parametrize(
    ("own", "side", "kept"),
    [
        ("45", "chosen", True),
        ("45", "rejected", True),
        ("44", "rejected", False),  # right about the reply, by luck
        (None, "rejected", False),  # it says "wrong", and why can't be told
    ],
)
def test_a_critique_that_has_not_solved_the_problem_is_not_kept(own: str | None, side: SideName, kept: bool) -> None:
    pair = PreferencePair(
        "1", ({"role": "user", "content": "5 boxes of 9?"},), REPLY, "The answer is 54.", "boxes", "q"
    )
    closing = RIGHT if side == "chosen" else WRONG
    text = f"Mine: {own}. Reply: {stated_answer(pair.response(side))[-1]}. {closing}" if own else closing
    critique = Critique("1", side, 0, text, None, "stop", 20, side == "chosen")
    solved = check_solved([pair], {"boxes": VerdictRule()})
    found = filter_critiques([critique], by="verdict", per_side=True, solved=solved)
    assert found.kept == ([critique] if kept else [])
    assert found.critiques["its own answer is not the chosen response's"] == (0 if kept else 1)
    assert filter_critiques([critique], by="verdict", per_side=True).kept == [critique]


def test_where_nothing_can_be_solved_the_verdict_alone_counts() -> None:
    pair = PreferencePair("1", ({"role": "user", "content": "Hello"},), "Hi!", "Go away.", "chat", "q")
    critique = Critique("1", "chosen", 0, RIGHT, None, "stop", 9, True)
    for rule in (VerdictRule(), None):
        assert filter_critiques(
            [critique], by="verdict", per_side=True, solved=check_solved([pair], {"chat": rule})
        ).kept
    stranger = Critique("2", "chosen", 0, RIGHT, None, "stop", 9, True)
    with pytest.raises(DataError, match="no such pair: is it other data"):
        filter_critiques([stranger], by="verdict", per_side=True, solved=check_solved([pair], {"chat": None}))


def test_two_folders_that_ask_in_different_ways(tmp_path: Path) -> None:
    """Each folder's critiques are read by the rule of its own task, and one category has one rule."""
    pair = {"id": "1", "prompt": "5 boxes of 9?", "chosen": REPLY, "rejected": "The answer is 54."}
    (tmp_path / "pairs.jsonl").write_text(json.dumps(pair), encoding="utf-8")
    critique = Critique("1", "chosen", 0, f"Mine: 45. Reply: 45. {RIGHT}", None, "stop", 9, True).row()
    for name, right in (("a", RIGHT), ("b", RIGHT), ("c", "YES")):
        task = {"instruction": f"Right, {name}?", "max_tokens": 9, "verdict": {"right": right}}
        run = {"tasks": {"default": CritiqueTask.model_validate(task).model_dump()}}
        write_in_parts(tmp_path / name, run, [[critique]], list, SCHEMA, "critiques")

    def kept(*folders: str, **options: Any) -> list[Critique]:
        out = tmp_path / "-".join(folders)
        solved = str(tmp_path / "pairs.jsonl")
        values = {"by": "verdict", "per_side": True, "solved": solved, "out": out, "least_words": 0} | options
        Filter(critiques=[tmp_path / folder for folder in folders], **values).run()
        return read_critiques(out)

    assert len(kept("a", "b")) == 2
    with pytest.raises(FilterError, match="have another rule than those before it"):
        kept("a", "c")
    with pytest.raises(FilterError, match="--solved goes with --by verdict"):
        kept("a", by="score")
