"""Rounds on a tiny model: what each leaves, how it goes on, and that no critic scores the pairs it was trained on."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

import criticrm_training
from criticrm_model.checkpoint import Checkpoint
from criticrm_model.files import write_json
from criticrm_training.commands.critiques import Critiques
from criticrm_training.commands.rounds import Rounds
from criticrm_training.commands.train import Train
from criticrm_training.critiques.critique_task import load_task
from criticrm_training.critiques.records import Critique, read_critiques
from criticrm_training.data.pairs import PreferencePair
from criticrm_training.data.sources import DataError
from criticrm_training.evaluation.reasoning import BESIDE_WRONG, VERDICT
from criticrm_training.rounds import run as run_module
from criticrm_training.rounds.config import RoundsConfig
from criticrm_training.rounds.plan import Folders, steps
from criticrm_training.rounds.table import REWARD, as_lines, measure
from criticrm_training.training.run import training_arguments
from criticrm_training.training.train_config import ConfigError
from support.tiny import make_model, make_tokenizer

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("logging_as_before")]

CONFIGS = Path(criticrm_training.__file__).parent / "configs"
TRAIN = {
    "max_critique_tokens": 24,
    "max_model_len": 512,
    "validation_share": 0.3,
    "calibration_pairs": 2,
    "objective": {"schedule": "constant"},
    "lora": {"r": 2, "target_modules": "all-linear"},
    "trainer": {
        "num_train_epochs": 1,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-3,
        "warmup_steps": 0,
        "eval_strategy": "no",
        "save_strategy": "no",
        "load_best_model_at_end": False,
        "report_to": [],
        "disable_tqdm": True,
    },
}
WORDS = [
    "sky", "sea", "sun", "moon", "star", "tree", "leaf", "stone", "river", "cloud", "wind", "snow",
    "rain", "fire", "sand", "moss", "rose", "bird", "fish", "wolf", "bear", "lamp", "glass", "iron",
]  # fmt: skip


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    folder = tmp_path / "inputs"
    tokenizer = make_tokenizer()
    make_model(len(tokenizer)).save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    rows = [
        {"id": str(i), "prompt": f"What is {word}?", "chosen": f"{word} is light", "rejected": f"{word} is a cat"}
        for i, word in enumerate(WORDS)
    ]
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "task.yaml").write_text("instruction: Is the last reply good?\nmax_tokens: 24\n")
    return folder


def config(inputs: Path, **changes: Any) -> Path:
    values = {
        "base": str(inputs / "base"),
        "data": str(inputs / "pairs.jsonl"),
        "tasks": {"default": str(inputs / "task.yaml")},
        "writer": "transformers",
        "dtype": "float32",
        "max_model_len": 512,
        "validation_pairs": 3,
        "sample": {"n": 3, "temperature": 2.0, "blind": "never"},
        # Nothing that a tiny model says agrees with a label.
        "filter": {"by": "score", "ignore_labels": True, "least_words": 0, "most_repeats": 1.0},
        "train": TRAIN,
    }
    path = inputs / "rounds.yaml"
    path.write_text(yaml.safe_dump(values | changes))
    return path


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[Sequence[str]]:
    """The commands that are run, in this process: starting one takes longer than all it does with a tiny model."""
    ran: list[Sequence[str]] = []

    def run_command(arguments: Sequence[str]) -> int:
        ran.append(arguments)
        command: Any = {"train": Train, "critiques": Critiques}[arguments[0]]
        status: int = command(_cli_parse_args=list(arguments[1:])).run()
        return status

    monkeypatch.setattr(run_module, "run_command", run_command)
    return ran


def rounds(path: Path, out: Path) -> None:
    assert Rounds(_cli_parse_args=[str(path), f"--out={out}"]).run() == 0


def test_two_rounds(inputs: Path, tmp_path: Path, commands: list[Sequence[str]]) -> None:
    out = tmp_path / "out"
    rounds(config(inputs), out)
    assert [c[0] if c[0] == "train" else c[1] for c in commands] == [
        "sample", "sample", "filter", "train", "sample", "sample", "filter", "train", "sample",
    ]  # fmt: skip
    results = json.loads((out / "rounds.json").read_text())
    assert [row["round"] for row in results] == [0, 1, 2]
    assert REWARD not in results[0]["measured"]
    assert all(0 <= row["measured"][REWARD]["value"] <= 1 for row in results[1:])
    for number in (1, 2):
        here = Folders(out, number)
        kept = results[number]["kept"]
        assert kept["sampled"] == len(read_critiques(here.sampled))
        assert kept["kept"] == len(read_critiques(here.filtered)) > 0
        assert kept["kept"] + sum(kept["dropped"].values()) == kept["sampled"]
        assert "cut at the limit" in kept["dropped"]
        assert Checkpoint.open(here.critic).manifest.critique_instruction == "Is the last reply good?"
    # The second round's critiques are the first critic's, with its rewards.
    assert f"--model={Folders(out, 1).critic}" in commands[4 + 1]
    assert all(c.score is not None for c in read_critiques(Folders(out, 2).sampled))
    lines = as_lines(results)
    assert len(lines) == 4 + 2
    assert lines[4].startswith("round 1 dropped: ")

    commands.clear()
    rounds(config(inputs), out)
    assert commands == []


def test_a_run_that_is_stopped_before_each_command_ends_with_the_files_of_one_that_was_not(
    inputs: Path, tmp_path: Path, commands: list[Sequence[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within a command nothing is lost either: tests/unit/test_killed.py."""
    path, runs = config(inputs), run_module.run_command
    ended, out = tmp_path / "whole", tmp_path / "out"
    rounds(path, ended)
    assert len(commands) == 9
    stopped_before: list[Sequence[str]] = []

    class Stopped(Exception): ...

    def stop_once(arguments: Sequence[str]) -> int:
        if arguments in stopped_before:
            return runs(arguments)
        stopped_before.append(arguments)
        raise Stopped

    monkeypatch.setattr(run_module, "run_command", stop_once)
    for _ in range(9):
        with pytest.raises(Stopped):
            rounds(path, out)
    rounds(path, out)
    assert len(commands) == 2 * 9  # none was run a second time
    assert json.loads((out / "rounds.json").read_text()) == json.loads((ended / "rounds.json").read_text())
    for name in ("sampled", "filtered", "validated"):
        assert read_critiques(out / "round-2" / name) == read_critiques(ended / "round-2" / name)


def test_folds_critique_pairs_that_their_critic_has_not_seen(inputs: Path, tmp_path: Path) -> None:
    path = config(inputs, folds=2, filter={"by": "score"})
    plan = dict(steps(RoundsConfig.read(path), tmp_path / "out", tmp_path / "t.jsonl", tmp_path / "v.jsonl"))
    first, second = plan[1], plan[2]
    assert [s.config["folds"] for s in first if s.config and "folds" in s.config] == [
        {"n": 2, "exclude": 0},
        {"n": 2, "exclude": 1},
    ]
    for fold in (0, 1):
        asked = next(s for s in second if s.name == f"sample fold {fold}").arguments
        assert f"--fold={fold}/2" in asked
        assert f"--model={tmp_path / 'out' / 'round-1' / f'critic-without-fold-{fold}'}" in asked
        assert "--score=reward" in asked
        assert "--in-sample" not in asked
    (trained,) = [s for s in second if s.config]
    assert len(trained.config["reward_critiques"]) == 2


@pytest.mark.usefixtures("commands")
def test_rounds_out_of_fold(inputs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    rounds(config(inputs, folds=2), out)
    pairs = [{c.pair_id for c in read_critiques(Folders(out, 2).fold_sampled(fold))} for fold in (0, 1)]
    assert not pairs[0] & pairs[1]
    assert json.loads((out / "rounds.json").read_text())[2]["kept"]["sampled"] == sum(map(len, pairs)) * 2 * 3


def test_more_folds_than_questions_are_refused_before_the_first_step(
    inputs: Path, tmp_path: Path, commands: list[Sequence[str]]
) -> None:
    with pytest.raises(DataError, match=r"no pair is in fold \d+/30: there are too few questions"):
        rounds(config(inputs, folds=30), tmp_path / "out")
    with pytest.raises(DataError, match=r"no pair is in fold \d/2: there are too few questions"):
        rounds(config(inputs, folds=2, limit=1), tmp_path / "out")
    assert commands == []
    assert not (tmp_path / "out").exists()


def test_verdicts_are_read_by_the_rules_of_the_tasks(inputs: Path) -> None:
    rule = {"comparison": "Ours: {own} | Theirs: {reply} | {closing}", "right": "ACCEPT", "wrong": "REFUSE"}
    (inputs / "task.yaml").write_text(yaml.safe_dump({"instruction": "Right?", "max_tokens": 24, "verdict": rule}))
    pairs = [
        PreferencePair("0", ({"role": "user", "content": "Q"},), "#### 4", "#### 5", category, "q", reference="#### 4")
        for category in ("all", "chat")
    ]
    critiques = [
        Critique("0", "chosen", 0, "Ours: 4 | Theirs: 4 | ACCEPT", None, "stop", 9),
        Critique("0", "rejected", 0, "Ours: 4 | Theirs: 5 | REFUSE", None, "stop", 9),
    ]
    tasks = {"default": str(inputs / "task.yaml"), "chat": "general"}
    loaded = RoundsConfig.read(config(inputs, tasks=tasks, train=TRAIN | {"instruction": "Right?"})).loaded_tasks
    found = [measure(critiques, [pair], loaded, by_reward=False) for pair in pairs]
    assert found[0][VERDICT]["value"] == found[0][BESIDE_WRONG]["value"] == 1
    assert found[0]["ended"] == found[1]["ended"] == 1
    assert VERDICT not in found[1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"filter": {"by": "score"}}, "folds: later rounds filter by the reward"),
        ({"train": {**TRAIN, "lambda": 3}}, "lambda"),
        ({"train": {**TRAIN, "critiques": "x"}, "rounds": 0}, "rounds"),
        ({"samples": 3}, "samples"),
    ],
)
def test_faults_of_the_file_are_named(inputs: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RoundsConfig.read(config(inputs, **changes))


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("rounds-*.yaml")), ids=lambda path: path.stem)
def test_a_config_that_is_shipped_is_taken(path: Path, tmp_path: Path) -> None:
    """Every field of its trainings too; and none of the critiques that it asks for is cut."""
    shipped = RoundsConfig.read(path)
    longest = max(load_task(name).max_tokens for name in shipped.tasks.values())
    for number in range(1, shipped.rounds + 1):
        arguments = training_arguments(shipped.train_config(number), tmp_path, scalar=False)
        assert arguments.max_critique_tokens > (shipped.sample.max_tokens or longest)


def test_the_first_critiques_are_the_bases(inputs: Path, tmp_path: Path) -> None:
    """`default` is the embedded critic where it writes, and that critic's base where it is trained from."""
    plan = dict(steps(RoundsConfig.read(config(inputs, base="default")), tmp_path, inputs, inputs))
    for step in (*plan[0], plan[1][0]):
        assert "--model=default-base" in step.arguments


def test_several_tasks_need_one_instruction(inputs: Path) -> None:
    several = {"default": str(inputs / "task.yaml"), "reasoning": "reasoning"}
    with pytest.raises(ConfigError, match=r"train\.instruction: the tasks have different instructions"):
        RoundsConfig.read(config(inputs, tasks=several))
    path = config(inputs, tasks=several, train={**TRAIN, "instruction": "Review it."})
    assert RoundsConfig.read(path).instruction == "Review it."


def test_a_command_that_fails_is_named(inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_module, "run_command", lambda _: 3)
    with pytest.raises(run_module.RoundsError, match=r"round 0 of 2, validate: `criticrm critiques sample .* status 3"):
        rounds(config(inputs), tmp_path / "out")


def test_another_configuration_is_another_run(inputs: Path, tmp_path: Path, commands: list[Sequence[str]]) -> None:
    out = tmp_path / "out"
    out.mkdir()
    write_json(out / "run.json", {})
    with pytest.raises(Exception, match="another config"):
        rounds(config(inputs), out)
    assert commands == []
