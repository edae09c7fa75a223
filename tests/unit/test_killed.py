"""Killed at any point, a command ends on its next run with the files of one that was not killed.

The points are those of `killer`: before each change of a file, and in the middle of what was written.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import pytest

from criticrm_model.manifest import MANIFEST_NAME
from criticrm_training.commands.benchmark import Benchmark
from criticrm_training.commands.best_of_n import BestOfN
from criticrm_training.commands.correct import Correct
from criticrm_training.commands.critiques import Critiques
from criticrm_training.commands.evaluate import Evaluate
from criticrm_training.commands.fit_head import FitHead
from criticrm_training.commands.judge import Judge
from criticrm_training.commands.probe import Probe
from criticrm_training.commands.report import Report
from criticrm_training.critiques import blind, endpoint_writer, records, refine, sample
from criticrm_training.critiques.writers import Conversation, Draft, Sampling, WritingTask
from criticrm_training.endpoint import Endpoint
from criticrm_training.evaluation import evaluate, probes, scoring, teacher_forced
from criticrm_training.evaluation.benchmarks import benchmark
from criticrm_training.evaluation.policies import best_of_n, correction, policy
from criticrm_training.parts import write_in_parts
from criticrm_training.training.run import train
from support.graded import Fakes, Messages
from support.killer import killed
from support.runs import write_config
from support.scripted import Scripted, in_place_of_a_service
from support.tiny import INSTRUCTION, make_checkpoint

pytestmark = [
    pytest.mark.slow,
    pytest.mark.usefixtures("logging_as_before"),
    pytest.mark.filterwarnings("ignore:unclosed"),
]
PAIRS = [{"id": str(i), "prompt": f"Q{i}", "chosen": "c" * (i + 2), "rejected": "r" * 3} for i in range(5)]
QUESTIONS = [{"id": str(i), "prompt": f"What is {i} + 1?", "reference": f"#### {i + 1}"} for i in range(3)]

MANIFEST = f"out/{MANIFEST_NAME}"
_TIMES = re.compile(rb'"eval_(runtime|\w+_per_second)": [\d.]+')


class Critic:
    """Its draft is a function of the task and the draft's number."""

    name = "made"

    def __init__(self, *_: object) -> None: ...

    def write(self, tasks: Sequence[WritingTask], sampling: Sampling) -> list[list[Draft]]:
        return [[self._draft(task, k) for k in range(sampling.n)] for task in tasks]

    def answer(self, conversations: Sequence[Conversation], sampling: Sampling) -> list[list[Draft]]:
        return [[Draft(f"The answer is {c.seed % 2}.", "stop", 5)] * sampling.n for c in conversations]

    def _draft(self, task: WritingTask, k: int) -> Draft:
        if task.prefix:
            return Draft(f"{task.prefix} that of {task.response}.", "stop", 4)
        return Draft(
            f"A review of {task.response}, {task.seed}. Score: {k + 2 + 3 * ('c' in task.response)}", "stop", 9
        )


@pytest.fixture
def inputs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Pairs, questions and critiques; parts are small, so that there are several."""
    for module, size in (
        (sample, "_PAIRS_PER_PART"), (refine, "_PAIRS_PER_PART"), (blind, "_PAIRS_PER_PART"),
        (blind, "_PROMPTS_PER_PART"), (scoring, "_ITEMS_PER_PART"),
        (teacher_forced, "_PAIRS_PER_PART"), (policy, "_CONVERSATIONS_PER_PART"),
    ):  # fmt: skip
        monkeypatch.setattr(module, size, 2)
    for module in (evaluate, probes, benchmark, best_of_n, correction):
        monkeypatch.setattr(module, "scoring_service", in_place_of_a_service(Scripted(len)))
    folder = tmp_path / "inputs"
    folder.mkdir()
    for name, rows in (("pairs", PAIRS), ("questions", QUESTIONS)):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    critiques = [
        records.Critique(row["id"], side, k, f"It says {row[side]}, that is all.", k + score, "stop", 9)
        for row in PAIRS
        for side, score in (("chosen", 5), ("rejected", 2))
        for k in range(2)
    ]
    write_in_parts(folder / "critiques", {}, [[0]], lambda _: [c.row() for c in critiques], records.SCHEMA, "made")
    return folder


def run(command: type[Any], *arguments: object) -> None:
    assert command(_cli_parse_args=[str(argument) for argument in arguments]).run() == 0


def content(folder: Path) -> dict[str, bytes]:
    """Of every file by its path, less how long something took; less a trainer's own files."""
    files = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file()}
    return {
        name: _TIMES.sub(b"", path.read_bytes()) if path.name == "history.json" else path.read_bytes()
        for name, path in files.items()
        if not name.startswith("out/trainer/")
    }


def half_written(found: dict[str, bytes], whole: dict[str, bytes]) -> list[str]:
    """What a reader would take for the result. A checkpoint's files are written by others, its manifest last."""
    if MANIFEST in whole and MANIFEST not in found:
        return []
    begun = {name: text for name, text in found.items() if name.endswith("/run.json")}
    assert all(json.loads(text) for text in begun.values())
    return [n for n in found if n not in begun and not n.endswith(".partial") and found[n] != whole.get(n)]


def at_every_point(command: Callable[[Path], object], folder: Path, points: Iterable[int] | None = None) -> int:
    """Kill `command` at each of `points`, as far as there are any, and compare. Returns the first where it ended."""
    (folder / "whole").mkdir(parents=True)
    command(folder / "whole" / "out")
    whole = content(folder / "whole")
    assert whole
    for point in points or count():
        again = folder / str(point)
        again.mkdir()
        ended = not killed(command, again / "out", point)
        if not ended:
            assert half_written(content(again), whole) == [], point
            command(again / "out")
        found = content(again)
        assert [name for name in found.keys() | whole if found.get(name) != whole.get(name)] == [], point
        if ended:
            return point
    raise AssertionError


@pytest.mark.parametrize("step", ["sample", "filter", "summ", "rank"])
def test_critiques(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    monkeypatch.setattr(endpoint_writer, "EndpointWriter", Critic)
    endpoint = ["--endpoint", "http://nowhere/v1", "--model", "made"]
    arguments: dict[str, list[object]] = {
        "sample": [inputs / "pairs.jsonl", "-n", 2, *endpoint],
        "filter": [inputs / "critiques"],
    }
    for method in ("summ", "rank"):
        refined = [inputs / "critiques", "--data", inputs / "pairs.jsonl", "--method", method, "--top-k", 1]
        arguments[method] = [*refined, *endpoint]
    name = step if step in ("sample", "filter") else "refine"
    points = at_every_point(lambda out: run(Critiques, name, *arguments[step], "--out", out), tmp_path / "runs")
    assert points >= 9


def test_blind_critiques(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint_writer, "EndpointWriter", Critic)
    rows = [row | {"chosen": f"The answer is {i % 2}.", "rejected": "7"} for i, row in enumerate(PAIRS)]
    (inputs / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    options = ["--task", "reasoning", "--blind", "--explain", 8, "-n", 2, "--endpoint", "http://nowhere/v1"]
    arguments = ["sample", inputs / "pairs.jsonl", *options]
    points = at_every_point(lambda out: run(Critiques, *arguments, "--out", out), tmp_path / "runs")
    assert points >= 20


def test_evaluate(inputs: Path, tmp_path: Path) -> None:
    arguments = [inputs / "pairs.jsonl", "--samples", "1,2"]
    assert at_every_point(lambda out: run(Evaluate, *arguments, "--out", out), tmp_path / "runs") >= 20


def test_evaluate_teacher_forced(inputs: Path, tmp_path: Path, tiny_checkpoint: Path) -> None:
    arguments = [inputs / "pairs.jsonl", "--model", tiny_checkpoint, "--teacher-forced", inputs / "critiques"]
    assert at_every_point(lambda out: run(Evaluate, *arguments, "--out", out), tmp_path / "runs") >= 30


def test_judge(inputs: Path, tmp_path: Path) -> None:
    arguments = [inputs / "pairs.jsonl", "--critiques", inputs / "critiques"]
    assert at_every_point(lambda out: run(Judge, *arguments, "--out", out), tmp_path / "runs") >= 5


def test_benchmark(inputs: Path, tmp_path: Path) -> None:
    rows = [row | {"subset": "alpacaeval-easy"} for row in PAIRS]
    (inputs / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    arguments = ["rewardbench", inputs / "rows.jsonl"]
    assert at_every_point(lambda out: run(Benchmark, *arguments, "--out", out), tmp_path / "runs") >= 15


def test_probe(inputs: Path, tmp_path: Path) -> None:
    assert at_every_point(lambda out: run(Probe, inputs / "pairs.jsonl", "--out", out), tmp_path / "runs") >= 15


@pytest.mark.parametrize("command", [BestOfN, Correct])
def test_graded_answers(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: type[Any]) -> None:
    def say(messages: Messages, k: int) -> str:
        return f"The answer is {k + len(messages)}."

    answers = Fakes(say, lambda _: (0, 0, ""))
    monkeypatch.setattr(Endpoint, "post_each", lambda _, __, bodies: (answers.chat(body) for body in bodies))
    arguments = [inputs / "questions.jsonl", "--policy", "small", "--policy-endpoint", "http://nowhere/v1"]
    samples = ["-n", 2] if command is BestOfN else []
    points = at_every_point(lambda out: run(command, *arguments, *samples, "--out", out), tmp_path / "runs")
    assert points >= 20


def test_fit_head(base: Path, inputs: Path, tmp_path: Path) -> None:
    def fit(out: Path) -> None:
        arguments = ["--base", base, "--instruction", INSTRUCTION, "--max-critique-tokens", 3, "--folds", 2]
        sizes = ["--batch-size", 8, "--max-model-len", 256, "--dtype", "float32"]
        run(FitHead, inputs / "pairs.jsonl", *arguments, *sizes, "--out", out)

    assert at_every_point(fit, tmp_path / "runs", count(0, 3)) >= 15


def test_report(inputs: Path, tmp_path: Path) -> None:
    run(Evaluate, inputs / "pairs.jsonl", "--out", tmp_path / "evaluated")
    points = at_every_point(
        lambda out: run(Report, out, "--evaluations", f"m={tmp_path / 'evaluated'}"), tmp_path / "runs"
    )
    assert points >= 3


@pytest.mark.parametrize(("best", "first"), [("accuracy", 0), ("loss", 5)])
def test_train(base: Path, data: Path, tmp_path: Path, best: str, first: int) -> None:
    """In and between checkpoints and in the export: every eleventh of some 70 points, for each takes a second.

    By its accuracy the first checkpoint stays the best; by its loss each is better than the one before.
    """
    steps = {"max_steps": 6, "logging_steps": 4, "eval_steps": 2, "save_steps": 2, "metric_for_best_model": best}
    config = write_config(tmp_path / "c.yaml", base, data, trainer=steps, lora={"r": 2}, calibration_pairs=2)
    assert at_every_point(lambda out: train(config, out), tmp_path / "runs", count(first, 11)) >= 60


def test_a_manifest_vouches_for_no_other_files(tiny_checkpoint: Path, tmp_path: Path) -> None:
    """A checkpoint that is written over another one has a manifest again when all of it is there."""
    for point in count():
        out = tmp_path / str(point) / "out"
        shutil.copytree(tiny_checkpoint, out)
        ended = not killed(make_checkpoint, out, point)
        if (out / MANIFEST_NAME).is_file():
            assert content(out) == content(tiny_checkpoint), point
        if ended:
            assert point >= 10
            return


_OPENS_A_SERVER = """
import sys, time
from criticrm_training.evaluation.serving import start_service
with start_service(sys.argv[1], ["--engine", "fake"]) as url:
    print(url, flush=True)
    time.sleep(600)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="prctl(2)")
def test_a_server_ends_with_the_command_that_was_killed(tiny_checkpoint: Path) -> None:
    arguments = [sys.executable, "-c", _OPENS_A_SERVER, str(tiny_checkpoint)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as command:
        assert command.stdout is not None
        url = command.stdout.readline().strip()
        assert httpx.get(f"{url}/health/live").status_code == 200
        command.kill()

    def ask_for_ever() -> None:
        while httpx.get(f"{url}/health/live"):
            time.sleep(0.2)

    with pytest.raises(httpx.TransportError):
        ask_for_ever()
