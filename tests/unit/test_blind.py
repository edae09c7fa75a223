"""Derivations from the prompt alone, compared with each response; and what is kept by verdict."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from criticrm_training.commands.critiques import Critiques
from criticrm_training.critiques import endpoint_writer
from criticrm_training.critiques.blind import asking_to_derive, read_derivations, sample_blind
from criticrm_training.critiques.critique_task import CritiqueTask, TaskError, Tasks, load_task, load_tasks
from criticrm_training.critiques.filter import FilterError, QualityBounds, filter_critiques
from criticrm_training.critiques.records import Critique, SideName, read_critiques
from criticrm_training.critiques.sample import SampleSettings, sample
from criticrm_training.critiques.summary import blind_summary, sample_summary
from criticrm_training.critiques.writers import Conversation, Draft, Sampling, WritingTask
from criticrm_training.data.pairs import PreferencePair, read_pairs

TASKS = load_tasks(["reasoning"])
RIGHT, WRONG = "Same answer: the reply is right.", "Different answer: the reply is wrong."


class Solver:
    """Derives these texts in turn for every prompt; goes on after a prefix with `explains`; critiques with `says`."""

    name = "solver"

    def __init__(self, *derivations: str, explains: str = " 2 + 2 = 5.", finish: str = "stop", says: str = "") -> None:
        self._derivations = derivations
        self._explains, self._finish, self._says = explains, finish, says
        self.conversations: list[Conversation] = []
        self.tasks: list[WritingTask] = []

    def answer(self, conversations: Sequence[Conversation], sampling: Sampling) -> list[list[Draft]]:
        self.conversations += conversations
        cut = {text: "length" if text.endswith("...") else "stop" for text in self._derivations}
        return [[Draft(text, cut[text], 10) for text in self._derivations[: sampling.n]] for _ in conversations]

    def write(self, tasks: Sequence[WritingTask], sampling: Sampling) -> list[list[Draft]]:
        self.tasks += tasks
        said = [task.prefix + self._explains if task.prefix else self._says for task in tasks]
        return [[Draft(text, self._finish, 5) for _ in range(sampling.n)] for text in said]

    def close(self) -> None: ...


def pair(
    number: int, question: str, chosen: str, rejected: str, reference: str | None = "The answer is 4."
) -> PreferencePair:
    return PreferencePair(
        str(number), ({"role": "user", "content": question},), chosen, rejected, "all", question, reference=reference
    )


PAIRS = [
    pair(0, "2 + 2?", "The answer is 4.", "The answer is 5."),
    pair(1, "2 + 2?", "It makes 4. The answer is 4.", "The answer is 6."),
    pair(2, "3 + 1?", "#### 4", "I do not know."),
]


def blind(out: Path, writer: Solver, n: int = 2, explain: int = 0) -> list[Critique]:
    sample_blind(PAIRS, writer, TASKS, SampleSettings(n, 0.7), explain_tokens=explain, out=out, run={})
    return read_critiques(out)


def test_one_derivation_of_a_prompt_serves_all_its_responses(tmp_path: Path) -> None:
    writer = Solver("2 and 2 make 4.\nThe answer is 4.", "The answer is 5.")
    found = blind(tmp_path, writer)
    assert len(writer.conversations) == 2  # of three pairs
    assert len({c.seed for c in writer.conversations}) == 2
    assert all("The answer is" not in c.messages[0]["content"].partition("\n")[0] for c in writer.conversations)
    assert not writer.tasks  # the comparison is written by rule
    assert [(c.pair_id, c.side, c.sample, c.score, c.verdict) for c in found] == [
        ("0", "chosen", 0, 1.0, True), ("0", "chosen", 1, 0.0, False),
        ("0", "rejected", 0, 0.0, False), ("0", "rejected", 1, 1.0, True),
        ("1", "chosen", 0, 1.0, True), ("1", "chosen", 1, 0.0, False),
        ("1", "rejected", 0, 0.0, False), ("1", "rejected", 1, 0.0, False),
        ("2", "chosen", 0, 1.0, True), ("2", "chosen", 1, 0.0, False),  # no critique of "I do not know."
    ]  # fmt: skip
    assert found[0].text == f"2 and 2 make 4.\nThe answer is 4.\nMine: 4. Reply: 4. {RIGHT}"
    assert found[2].text == f"2 and 2 make 4.\nThe answer is 4.\nMine: 4. Reply: 5. {WRONG}"
    assert {(c.finish_reason, c.tokens) for c in found} == {("stop", 10)}


def test_what_states_no_answer_makes_no_critique_and_is_counted(tmp_path: Path) -> None:
    writer = Solver("The answer is 4.", "So it is 4, I think.", "The answer is 4. But wait, ...", "The answer is 6.")
    found = blind(tmp_path, writer, n=4)
    assert {c.sample for c in found} == {0, 3}
    rows = dict(blind_summary(read_derivations(tmp_path), PAIRS))
    assert rows["derivations"] == "8 of 2 prompts"
    assert rows["derivations cut at the limit: not used"] == "2 of 8 (25.0%)"
    assert rows["derivations without an answer: not used"] == "2 of 8 (25.0%)"
    assert rows["responses without an answer: no critiques"] == "1 of 6 (16.7%)"
    assert rows["derivations whose answer is right"] == "2 of 8 (25.0%)"
    rows = dict(sample_summary(found, PAIRS, TASKS))
    assert rows["responses"] == "5 of 6"
    assert rows["verdicts that can be read"] == "10 of 10 (100.0%)"
    assert rows["verdicts on chosen responses that agree"] == "3 of 6 (50.0%)"
    assert rows["verdicts on rejected responses that agree"] == "3 of 4 (75.0%)"
    assert rows["own answer right beside a right reply"] == "3 of 6 (50.0%)"
    assert rows["own answer right beside a wrong reply"] == "2 of 4 (50.0%)"
    assert rows["own answer that of a wrong reply"] == "1 of 4 (25.0%)"


def test_the_first_wrong_step_is_named_in_sight_of_the_reply(tmp_path: Path) -> None:
    writer = Solver("The answer is 4.")
    found = blind(tmp_path, writer, n=1, explain=16)
    assert [task.response for task in writer.tasks] == ["The answer is 5.", "The answer is 6."]
    prefix = f"The answer is 4.\nMine: 4. Reply: 5. {WRONG} The first wrong step of the reply is"
    assert writer.tasks[0].prefix == prefix
    assert writer.tasks[0].instruction == load_task("reasoning").instruction
    assert found[1] == Critique("0", "rejected", 0, f"{prefix} 2 + 2 = 5.", 0.0, "stop", 15, False)
    assert found[0].text.endswith(RIGHT)


@pytest.mark.parametrize(
    ("explains", "finish", "kept"),
    [
        (" 2 + 2 = 5. And then it", "length", " 2 + 2 = 5."),
        (" the sum of 2 and", "length", None),  # no whole sentence: the comparison alone
        ("", "stop", None),
        (f" none. {RIGHT}", "stop", None),  # it takes its verdict back
        (f" none. Mine: 5. Reply: 5. {RIGHT}", "stop", None),
    ],
)
def test_an_explanation_that_is_none_is_left_out(tmp_path: Path, explains: str, finish: str, kept: str | None) -> None:
    found = blind(tmp_path, Solver("The answer is 4.", explains=explains, finish=finish), n=1, explain=16)
    compared = f"The answer is 4.\nMine: 4. Reply: 5. {WRONG}"
    assert found[1].text == (f"{compared} The first wrong step of the reply is{kept}" if kept else compared)
    assert (found[1].finish_reason, found[1].score) == ("stop", 0.0)


def test_the_request_ends_the_last_turn_of_the_user() -> None:
    task = CritiqueTask(instruction="Review it.", max_tokens=9, derive="Solve it.")
    system, user, reply = (
        {"role": "system", "content": "S"}, {"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"},
    )  # fmt: skip
    assert asking_to_derive((system, user), task) == (system, {"role": "user", "content": "Q\n\nSolve it."})
    assert asking_to_derive((user, reply), task)[-1] == {"role": "user", "content": "Solve it."}


def test_examples_are_earlier_turns() -> None:
    task = CritiqueTask.model_validate(
        {
            "instruction": "Right?",
            "derive": "Solve it.",
            "max_tokens": 9,
            "examples": [{"prompt": "1 + 1?", "derivation": "1 + 1 = 2\nThe answer is 2."}],
        }
    )
    system, user = {"role": "system", "content": "Be brief."}, {"role": "user", "content": "2 + 2?"}
    shown = (
        {"role": "user", "content": "1 + 1?\n\nSolve it."},
        {"role": "assistant", "content": "1 + 1 = 2\nThe answer is 2."},
    )
    asked = {"role": "user", "content": "2 + 2?\n\nSolve it."}
    assert asking_to_derive((system, user), task) == (system, *shown, asked)
    assert asking_to_derive((user,), task) == (*shown, asked)


def test_a_task_that_derives_nothing_is_refused(tmp_path: Path) -> None:
    silent = Tasks({"default": load_task("reasoning").model_copy(update={"explain": None})})
    for tasks, settings, explain, words in (
        (load_tasks(["general"]), SampleSettings(1, 0), 0, "'all' has no derive and no verdict"),
        (silent, SampleSettings(1, 0), 9, "no explain"),
        (TASKS, SampleSettings(1, 0, score_by="reward"), 0, "by their verdict, not reward"),
    ):  # fmt: skip
        with pytest.raises(TaskError, match=words):
            sample_blind(PAIRS, Solver(), tasks, settings, explain_tokens=explain, out=tmp_path, run={})
    with pytest.raises(TaskError, match="no rule"):
        sample(PAIRS, Solver(), load_tasks(["general"]), SampleSettings(1, 0, score_by="verdict"), out=tmp_path, run={})


def test_tasks_of_several_categories_in_one_run(tmp_path: Path) -> None:
    says = f"Her score is 9. The answer is 4. Mine: 4. Reply: 4. {RIGHT} Score: 7"
    writer = Solver(says=says)
    mixed = [PAIRS[0], PreferencePair("9", PAIRS[0].prompt, "a", "b", "chat", "q")]
    sample(mixed, writer, load_tasks(["all=reasoning", "general"]), SampleSettings(1, 0.7), out=tmp_path, run={})
    found = read_critiques(tmp_path)
    assert [(c.pair_id, c.side, c.score, c.verdict) for c in found] == [
        ("0", "chosen", 1.0, True), ("0", "rejected", None, None),
        ("9", "chosen", 7.0, None), ("9", "rejected", 7.0, None),
    ]  # fmt: skip
    assert found[0].text == says  # nobody asked it for a score
    assert found[2].text == says.removesuffix(" Score: 7")
    assert ["'Score: '" in task.instruction for task in writer.tasks] == [False, False, True, True]


def critique(
    pair_id: str, side: SideName, said: bool | None, finish: str = "stop", text: str = "5 + 4 = 9"
) -> Critique:
    return Critique(pair_id, side, 0, text, None if said is None else float(said), finish, 9, said)


VERDICTS = [
    critique("a", "chosen", True), critique("a", "chosen", False), critique("a", "rejected", False),
    critique("b", "chosen", None), critique("b", "rejected", False, text="9 out of 10 scores"),
    critique("c", "chosen", True), critique("c", "rejected", True),
    critique("d", "chosen", True, "length"), critique("d", "rejected", True),
]  # fmt: skip


def test_critiques_are_kept_by_their_own_verdict() -> None:
    found = filter_critiques(VERDICTS, by="verdict", per_side=True)
    assert found.kept == [VERDICTS[0], VERDICTS[2], VERDICTS[4], VERDICTS[5]]
    assert dict(found.pairs) == {
        "kept": 1, "kept: the rejected response alone": 1, "kept: the chosen response alone": 1,
        "no critique that agrees and is fit to learn from": 1,
    }  # fmt: skip
    assert +found.critiques == {
        "kept": 4, "no verdict that can be read": 1, "disagrees with the label": 3, "cut at the limit": 1,
    }  # fmt: skip
    both = filter_critiques(VERDICTS, by="verdict")
    assert both.kept == [VERDICTS[0], VERDICTS[2]]
    assert both.pairs["no critique of a response that agrees and is fit to learn from"] == 3
    with pytest.raises(FilterError, match="not cut to a number of sentences"):
        filter_critiques(VERDICTS, QualityBounds(most_sentences=1), by="verdict")


def test_drafts_that_were_cut_are_not_learnt_from_unless_they_end_before() -> None:
    def scored(side: SideName, score: int, text: str, finish: str) -> Critique:
        return Critique("a", side, 0, text, score, finish, 9)

    one, two = "It is right. It is", "It is wrong. It is bad. And it"
    critiques = [scored("chosen", 8, one, "length"), scored("rejected", 2, two, "length")]
    found = filter_critiques(critiques, per_side=True)
    assert found.kept == []
    assert found.critiques["cut at the limit"] == 2
    found = filter_critiques(critiques, QualityBounds(most_sentences=2), per_side=True)
    assert [(c.text, c.finish_reason) for c in found.kept] == [("It is wrong. It is bad.", "stop")]
    assert found.critiques["cut at the limit"] == 1


def test_blind_critiques_by_their_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint_writer, "EndpointWriter", lambda *_: Solver("The answer is 4.", "The answer is 5."))
    rows = [{"id": p.id, "prompt": p.prompt[0]["content"], "chosen": p.chosen, "rejected": p.rejected} for p in PAIRS]
    data = tmp_path / "pairs.jsonl"
    data.write_text("\n".join(map(json.dumps, rows)))
    assert read_pairs(data)[0].reference is None

    def run(*arguments: str) -> None:
        assert Critiques(_cli_parse_args=list(arguments)).run() == 0

    endpoint = ["--endpoint", "http://nowhere/v1", "-n", "2"]
    run("sample", str(data), "--blind", "--task", "reasoning", "--out", str(tmp_path / "sampled"), *endpoint)
    run("filter", str(tmp_path / "sampled"), "--by", "verdict", "--per-side", "--out", str(tmp_path / "filtered"))
    kept = read_critiques(tmp_path / "filtered")
    assert sorted((c.pair_id, c.side, c.sample) for c in kept) == [
        ("0", "chosen", 0), ("0", "rejected", 0), ("1", "chosen", 0), ("1", "rejected", 0), ("1", "rejected", 1),
        ("2", "chosen", 0),
    ]  # fmt: skip
    with pytest.raises(TaskError, match="--explain needs --blind"):
        run("sample", str(data), "--explain", "9", "--task", "reasoning", "--out", str(tmp_path / "x"), *endpoint)
