"""The pages' commands and files, run in their order on tiny models: each finds what the ones before it left."""

from __future__ import annotations

import json
import re
import runpy
import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
import yaml

from conftest import serving
from criticrm_model.checkpoint import Checkpoint
from criticrm_server.engines.transformers_engine import TransformersEngine
from criticrm_server.settings import Settings
from criticrm_training.critiques import open_writer, transformers_writer
from criticrm_training.critiques.writers import Conversation, Draft, Sampling, WritingTask
from criticrm_training.evaluation import serving as serving_module
from criticrm_training.rounds import run as rounds_module
from criticrm_training.training.train_config import TrainConfig
from support.scalars import make_classifier, save
from support.tiny import make_model, make_tokenizer

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
GUIDES = ["guides/first-critic.md", "guides/from-a-reward-model.md"]
PAGES = [*GUIDES, "own-model.md", "training.md", "import.md", "scoring.md", "results.md"]
ONLY_LOOK = ["guides/operating.md", "serving.md", "reference/commands.md"]
PAIRS = 10
# Run elsewhere, with vLLM: tests/docs/test_readme.py, tests/integration/test_verify_command.py.
ELSEWHERE = {"serve", "verify"}
NAMED = {  # in the pages, and here
    "allenai/reward-bench@filtered": "preferences.jsonl",
    "examples/arithmetic/control.yaml": "control.yaml",
    "FOLDER": "my-base",
}
STAGES = {
    *("style", "control", "scalars", "derive", "round1", "sample2", "round2", "critic", "mean4"),
    *("zero-shot", "matched", "claim", "shuffled", "best-of-n", "coupled"),
}  # one that fails leaves the others
FURTHER = {
    "examples/default/mix.py": ["--arithmetic", str(PAIRS)],
    "examples/gsm8k/experiment.py": [
        *("--dtype", "float32"),  # in which a control that fails is no end
        *("--pairs", "34", "--round2", "34"),  # more than one optimizer step
        *("--rates", "1e-3", "--critique-tokens", "32"),
    ],
}
FAILS_ON_TINY_MODELS = {"control"}  # with status 1 and its report: they learn nothing

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("logging_as_before")]


class Student(transformers_writer.TransformersWriter):
    """A tiny model that was taught to work chains out, with a wrong last step every fourth time."""

    def write(self, tasks: Sequence[WritingTask], sampling: Sampling) -> list[list[Draft]]:
        """Its rewards are the model's own, of what that wrote."""
        written = super().write(tasks, sampling)
        return [
            [self._judge(task, draft, k, sampling) for k, draft in enumerate(s)]
            for task, s in zip(tasks, written, strict=True)
        ]

    def _judge(self, task: WritingTask, draft: Draft, k: int, sampling: Sampling) -> Draft:
        derived = self._derive(task.prompt[-1]["content"], task.seed + k)
        mine, reply = (re.findall(r"The answer is (-?\d+)", text)[-1] for text in (derived, task.response))
        right = mine == reply
        verdict = "Same answer: the reply is right." if right else "Different answer: the reply is wrong."
        score = f"\nScore: {9 if right else 2}" if sampling.score_by == "written" else ""
        return replace(draft, text=f"{derived}\nMine: {mine}. Reply: {reply}. {verdict}{score}", finish_reason="stop")

    def answer(self, conversations: Sequence[Conversation], sampling: Sampling) -> list[list[Draft]]:
        return [
            [
                Draft(self._derive(one.messages[-1]["content"], one.seed + k), "stop", 40, truncated=False)
                for k in range(sampling.n)
            ]
            for one in conversations
        ]

    def _derive(self, problem: str, draw: int) -> str:
        result = int(re.findall(r"Start with (\d+)", problem)[-1])
        lines = []
        for verb, by in re.findall(r"(add|subtract|multiply by) (\d+)", problem):
            sign = {"add": "+", "subtract": "-", "multiply by": "*"}[verb]
            before, result = result, eval(f"{result} {sign} {by}")
            lines.append(f"{before} {sign} {by} = {result}")
        return "\n".join([*lines, f"The answer is {result + (draw % 4 == 0)}."])


@contextmanager
def in_this_process(model: str, *_: object, **__: object) -> Iterator[str]:
    checkpoint = Checkpoint.open(Path(model))
    with serving(checkpoint, TransformersEngine(checkpoint, Settings(engine="transformers", dtype="float32"))) as url:
        yield url


@contextmanager
def with_made_up_rewards(model: str, *_: object, **__: object) -> Iterator[str]:
    with serving(Checkpoint.open(Path(model))) as url:
        yield url


def run(arguments: Sequence[str]) -> int:
    (point,) = entry_points(group="criticrm.commands", name=arguments[0])
    status: int = point.load()(_cli_parse_args=list(arguments[1:])).run()
    return status


def blocks(page: str) -> list[tuple[str, str]]:
    """Language and text, in their order."""
    return re.findall(r"```(bash|yaml)\n(.*?)```", (DOCS / page).read_text("utf-8"), re.DOTALL)


def lines(block: str) -> list[list[str]]:
    found = [line for line in block.replace("\\\n", " ").splitlines() if re.match(r"(criticrm|python) ", line)]
    return [shlex.split(line, comments=True) for line in found]


def commands(page: str) -> list[list[str]]:
    return [line for language, block in blocks(page) if language == "bash" for line in lines(block)]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the pages' commands run: the models, data and files that they name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(open_writer, "find_spec", lambda _: None)  # no vLLM: it takes half a minute to start
    monkeypatch.setattr(transformers_writer, "TransformersWriter", Student)
    monkeypatch.setattr(serving_module, "start_service", in_this_process)
    monkeypatch.setattr(rounds_module, "run_command", run)
    tokenizer = make_tokenizer()
    for base in ("my-base", "path/to/instruct-model"):
        make_model(len(tokenizer)).save_pretrained(base)
        tokenizer.save_pretrained(base)
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    return tmp_path


def test_the_trainer_from_python(folder: Path) -> None:
    shutil.copytree("my-base", "Qwen/Qwen2.5-0.5B-Instruct")
    (program,) = re.findall(r"```python\n(.*?)```", (DOCS / "training.md").read_text("utf-8"), re.DOTALL)
    exec(compile(program, "training.md", "exec"), {})
    assert Checkpoint.open(folder / "my-critic-rm").manifest.training_data[0].pairs == 1


def test_fields_of_the_training_page_are_ones(folder: Path) -> None:
    write_arms("training.md", "my-base")
    fields = yaml.safe_load(Path("my-run.yaml").read_text())
    found = [yaml.safe_load(text) for language, text in blocks("training.md") if language == "yaml"]
    assert [list(one) for one in found] == [["slots"], ["objective"]]
    for one in found:
        (folder / "one.yaml").write_text(yaml.safe_dump(fields | one))
        TrainConfig.read(folder / "one.yaml")


def write_arms(page: str, base: str) -> None:
    """`my-rounds.yaml` as the first guide has it, with what the page itself changes; `my-run.yaml` from that."""
    (first,) = [yaml.safe_load(text) for language, text in blocks("guides/first-critic.md") if language == "yaml"]
    arm: dict[str, Any] = first | {"base": base, "rounds": 2 if "round-2" in (DOCS / page).read_text("utf-8") else 1}
    if page.startswith("guides/"):
        for language, text in blocks(page):
            arm |= yaml.safe_load(text) if language == "yaml" else {}
        arm["base"] = base if arm["base"] == first["base"] else arm["base"]
    Path("my-rounds.yaml").write_text(yaml.safe_dump(arm))
    made = {name: arm["train"][name] for name in arm["train"] if not name.endswith("critiques_per_response")}
    task = yaml.safe_load(Path("examples/arithmetic/check-by-solving.yaml").read_text())
    run_file = made | {"base": base, "data": "pairs.jsonl", "instruction": task["instruction"], "critiques": "sampled"}
    Path("my-run.yaml").write_text(yaml.safe_dump(run_file))


def write_pairs(name: str, count: int, seed: int) -> None:
    arguments = [name, "--pairs", str(count), "--steps", "2", "3", "--seed", str(seed)]
    run_program(["examples/arithmetic/chains.py", *arguments])


def run_program(arguments: Sequence[str]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", list(arguments))
        patch.syspath_prepend(str(Path(arguments[0]).parent))
        runpy.run_path(arguments[0], run_name="__main__")


def few(line: Sequence[str]) -> list[str]:
    """The line with fewer pairs, where it says how many."""
    counts = {"--pairs", "--heldout", "--validation", "--critique-pairs"}
    return [str(PAIRS) if before in counts else word for before, word in zip(["", *line[:-1]], line, strict=True)]


def make_what_the_results_are_of(tiny_checkpoint: Path) -> None:
    """Its pairs, a tiny base for its controls and its experiment."""
    shutil.copytree(tiny_checkpoint, "my-copy")
    control = yaml.safe_load((ROOT / "examples/arithmetic/control.yaml").read_text("utf-8"))
    control["trainer"] |= {"gradient_accumulation_steps": 1, "bf16": False}  # more than one step
    Path("control.yaml").write_text(yaml.safe_dump(control | {"base": "my-base", "dtype": "float32"}))
    Path("gsm8k").mkdir()
    for number, (name, pairs) in enumerate({"train": 34, "validation": PAIRS, "heldout": PAIRS + 4}.items(), start=1):
        write_pairs(f"gsm8k/{name}.jsonl", pairs, number)
    rows = [json.loads(line) for line in Path("gsm8k/heldout.jsonl").read_text().splitlines()]
    chosen_from = [
        {
            "prompt": [{"role": "user", "content": row["prompt"]}],
            "responses": [row["chosen"], row["rejected"]],
            "correct": [True, False],
        }
        for row in rows
    ]
    Path("gsm8k/bestof.jsonl").write_text("".join(json.dumps(row) + "\n" for row in chosen_from))
    write_pairs("valid.jsonl", PAIRS, 5)
    write_pairs("train.jsonl", PAIRS, 6)


def make_what_the_import_page_has_already(tiny_checkpoint: Path) -> None:
    save(make_model(390, tied=False), make_tokenizer("llama3"), Path("meta-llama/Llama-3.1-8B-Instruct"))
    make_classifier(Path("Skywork/Skywork-Reward-V2-Llama-3.1-8B"))
    shutil.copytree(tiny_checkpoint, "my-critic-rm")
    assert run(["critiques", "sample", "pairs.jsonl", "--model", "my-base", "--out", "sampled"]) == 0


@pytest.mark.parametrize("page", PAGES)
def test_a_page_runs_from_its_first_command_to_its_last(
    page: str, folder: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if page not in GUIDES:  # their commands are the same ones
        monkeypatch.setattr(serving_module, "start_service", with_made_up_rewards)
    write_arms(page, "my-base")
    for number, name in enumerate(["pairs.jsonl", "heldout.jsonl", "preferences.jsonl", "validation.jsonl"], start=1):
        write_pairs(name, PAIRS, number)
    make_classifier(folder / "Skywork/Skywork-Reward-V2-Qwen3-0.6B", "qwen3", tied=True)
    if page == "import.md":
        make_what_the_import_page_has_already(tiny_checkpoint)
    if page == "results.md":
        make_what_the_results_are_of(tiny_checkpoint)
    if page == "scoring.md":
        shutil.copytree(tiny_checkpoint, "my-critic-rm")
    done: list[list[str]] = []
    for line in commands(page):
        if line[0] == "python" and line[1].startswith("examples/"):
            run_program([NAMED.get(word, word) for word in few(line[1:])] + FURTHER.get(line[1], []))
        elif line[0] == "criticrm" and line[1] not in ELSEWHERE:
            words = [NAMED.get(word, word) for word in few(line[1:])]
            out = Path(line[line.index("--out") + 1]) if "--out" in line else None
            assert out is None or not out.exists() or line in done, line  # of another command, it would be refused
            assert run(words) == int(line[1] in FAILS_ON_TINY_MODELS), line
            assert out is None or out.exists(), line
            done.append(line)
    assert len(done) >= 2
    if page == "results.md":
        assert json.loads(Path("runs/gsm8k/results.json").read_text()).keys() == STAGES


@pytest.mark.parametrize("page", ONLY_LOOK)
def test_what_only_looks_says_that_all_is_well(
    page: str, folder: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CRITICRM_ENGINE", "transformers")
    monkeypatch.setenv("CRITICRM_PORT", "0")
    shutil.copytree(tiny_checkpoint, folder / "my-critic-rm")
    looked = [line[1:] for line in commands(page) if line[0] == "criticrm" and line[1] not in ELSEWHERE]
    assert looked
    for words in looked:
        words = ["my-critic-rm" if word == "default" else word for word in words]  # which takes minutes to build
        assert run(words[: words.index(">")] if ">" in words else words) == 0
