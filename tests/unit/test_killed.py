"""A command that is killed at any write, and called again, ends as if it had not been killed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from criticrm_training.cli import Critiques
from criticrm_training.critiques import critics as critics_module
from criticrm_training.critiques import refine as refine_module
from criticrm_training.critiques import sample as sample_module
from criticrm_training.critiques.critics import Draft, Sampling, Task
from criticrm_training.evaluation import evaluate as evaluate_module
from criticrm_training.evaluation import probes as probes_module
from criticrm_training.evaluation import scoring as scoring_module
from criticrm_training.evaluation.benchmarks import benchmark as benchmark_module
from criticrm_training.evaluation.cli import Benchmark, BestOfN, Correct, Evaluate, Judge, Probe
from criticrm_training.evaluation.policies import answer_scores as answer_scores_module
from criticrm_training.evaluation.policies import policy as policy_module
from graded import Fakes, serving
from scripted import Scripted, in_place_of_a_service

COUNT = 5

pytestmark = pytest.mark.usefixtures("logging_as_before")


class Killed(BaseException):
    """No command catches it, as none catches SIGKILL."""


class Critic:
    name = "scripted"

    def write(self, tasks: list[Task], sampling: Sampling) -> list[list[Draft]]:
        def say(task: Task, k: int) -> str:
            return f"Review {k} of {task.response}. Score: {5 + k if 'good' in task.response else 4 - k}"

        return [[Draft(say(task, k), "stop", 9) for k in range(sampling.n)] for task in tasks]


@pytest.fixture(autouse=True)
def fakes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Fakes]:
    """In place of vLLM, the service and a policy; parts of two, so that there are several."""
    monkeypatch.setattr(critics_module, "VLLMCritic", lambda *_, **__: Critic())
    service = in_place_of_a_service(Scripted(len))
    for module in (evaluate_module, probes_module, benchmark_module):
        monkeypatch.setattr(module, "scoring_service", service)
    for module, size in (
        (sample_module, "_PAIRS_PER_PART"),
        (refine_module, "_PAIRS_PER_PART"),
        (scoring_module, "_ITEMS_PER_PART"),
        (answer_scores_module, "_QUESTIONS_PER_PART"),
        (policy_module, "_CONVERSATIONS_PER_PART"),
    ):
        monkeypatch.setattr(module, size, 2)

    def say(messages: list[dict[str, str]], k: int) -> str:
        return f"{len(messages)}, so the answer is {k}."

    with serving(Fakes(say, lambda response: (float(len(response)), 1.0, "Hm."))) as fakes:
        yield fakes


@pytest.fixture
def given(tmp_path: Path) -> Path:
    """What the commands read."""
    rows = [
        {"id": str(i), "prompt": f"Q{i}", "chosen": f"good {i}", "rejected": f"bad {i}", "reference": f"#### {i}"}
        for i in range(COUNT)
    ]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    items = [{"id": i, "prompt": f"Q{i}", "chosen": "good", "rejected": "bad", "subset": "hep-cpp"} for i in range(5)]
    (tmp_path / "rewardbench.jsonl").write_text("\n".join(map(json.dumps, items)))
    run_critiques("sample", str(tmp_path / "pairs.jsonl"), "-n", "3", "--out", str(tmp_path / "sampled"))
    run_critiques("filter", str(tmp_path / "sampled"), "--out", str(tmp_path / "filtered"))
    return tmp_path


def run_critiques(*arguments: str) -> None:
    assert Critiques(_cli_parse_args=list(arguments)).run() == 0


def contents(folder: Path) -> dict[str, Any]:
    """Parquet files by what they say, others by their bytes."""
    return {
        str(path.relative_to(folder)): pq.read_table(path).to_pylist()
        if path.suffix == ".parquet"
        else path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def pairs_command(command: Any, *more: str) -> Callable[[Path, Path, Fakes], None]:
    def run(given: Path, out: Path, _: Fakes) -> None:
        arguments = [str(given / "pairs.jsonl"), "--out", str(out), *(word.format(given=given) for word in more)]
        assert command(_cli_parse_args=arguments).run() == 0

    return run


def critiques_command(step: str, source: str, *more: str) -> Callable[[Path, Path, Fakes], None]:
    def run(given: Path, out: Path, _: Fakes) -> None:
        run_critiques(step, str(given / source), "--out", str(out), *(word.format(given=given) for word in more))

    return run


def graded_command(command: Any, *more: str) -> Callable[[Path, Path, Fakes], None]:
    def run(given: Path, out: Path, fakes: Fakes) -> None:
        asked = ["--url", fakes.url, *fakes.policy(), *more]
        assert command(_cli_parse_args=[str(given / "pairs.jsonl"), "--out", str(out), *asked]).run() == 0

    return run


def benchmark(given: Path, out: Path, _: Fakes) -> None:
    arguments = ["rewardbench", str(given / "rewardbench.jsonl"), "--out", str(out)]
    assert Benchmark(_cli_parse_args=arguments).run() == 0


COMMANDS: dict[str, tuple[Callable[[Path, Path, Fakes], None], int]] = {
    # With how many writes there are at least: parts, run.json before and after them, the report.
    "sample": (critiques_command("sample", "pairs.jsonl", "-n", "3"), 5),
    "filter": (critiques_command("filter", "sampled"), 3),
    "rank": (critiques_command("refine", "filtered", "--data", "{given}/pairs.jsonl", "--method", "rank"), 5),
    "summ": (critiques_command("refine", "filtered", "--data", "{given}/pairs.jsonl", "--method", "summ"), 5),
    "evaluate": (pairs_command(Evaluate, "--samples", "2"), 7),
    "judge": (pairs_command(Judge, "--critiques", "{given}/sampled"), 2),
    "probe": (pairs_command(Probe), 6),
    "benchmark": (benchmark, 6),
    "best-of-n": (graded_command(BestOfN, "-n", "2"), 11),
    "correct": (graded_command(Correct), 18),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_killed_at_any_write(name: str, given: Path, fakes: Fakes, monkeypatch: pytest.MonkeyPatch) -> None:
    run, least = COMMANDS[name]
    run(given, given / "whole", fakes)
    replace = Path.replace
    for at in count():
        writes = 0

        def until_killed(path: Path, target: Path) -> Path:
            nonlocal writes
            if writes == at:  # noqa: B023 - called within this turn of the loop
                raise Killed
            writes += 1
            return replace(path, target)

        out = given / f"killed-at-{at}"
        with monkeypatch.context() as patched:
            patched.setattr(Path, "replace", until_killed)
            try:
                run(given, out, fakes)
                break
            except Killed:
                pass
        run(given, out, fakes)
        assert contents(out) == contents(given / "whole")
    assert at >= least
