"""The controls of a training on a tiny model: what they must show where the training is right, and refusals."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from criticrm_training import control as control_module
from criticrm_training.commands.control import Control
from criticrm_training.control import RESULTS, control
from criticrm_training.control_critiques import blind_critiques, oracle_critiques, shuffled
from criticrm_training.critiques.critique_task import TaskError, load_tasks
from criticrm_training.critiques.records import read_critiques
from criticrm_training.critiques.verdict import VerdictRule
from criticrm_training.data.pairs import PreferencePair, read_pairs
from criticrm_training.data.sources import DataError
from criticrm_training.parts import PartsError
from criticrm_training.training.train_config import ConfigError, TrainConfig

TASKS = load_tasks(["reasoning"])
RULES = {"all": VerdictRule()}

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("logging_as_before")]


def rows(n: int) -> list[dict[str, Any]]:
    """Sums that a tiny model can't do: nothing but the critiques tells right from wrong."""
    draw = random.Random(0)
    found = []
    for i, number in enumerate(draw.sample(range(10_000), n)):
        a, b = divmod(number, 100)
        wrong = a + b + draw.choice([-9, -7, -4, 4, 7, 9])
        texts = {"chosen": f"The answer is {a + b}.", "rejected": f"The answer is {wrong}."}
        found.append({"id": f"sum-{i}", "prompt": f"{a} + {b}?", "reference": f"#### {a + b}"} | texts)
    return found


def write_config(folder: Path, base: Path, pairs: list[dict[str, Any]], **changes: Any) -> Path:
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    fields = {
        "base": str(base),
        "data": str(folder / "pairs.jsonl"),
        "validation_share": 0.5,
        "instruction": "Right?",
        "max_critique_tokens": 96,
        "max_model_len": 256,
        "calibration_pairs": 1,
        "objective": {"schedule": "constant", "weight": 0.3},
        "trainer": {
            "num_train_epochs": 4,
            "per_device_train_batch_size": 8,
            "learning_rate": 3e-3,
            "lr_scheduler_type": "linear",
            "warmup_steps": 0,
            "save_strategy": "no",
            "report_to": [],
            "disable_tqdm": True,
        },
    }
    (folder / "train.yaml").write_text(yaml.safe_dump(fields | changes))
    return folder / "train.yaml"


def pairs_of(folder: Path, made: list[dict[str, Any]]) -> list[PreferencePair]:
    (folder / "made.jsonl").write_text("\n".join(map(json.dumps, made)))
    return read_pairs(folder / "made.jsonl")


def test_what_the_controls_show_of_a_right_training(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped between two arms, it goes on; and a third run finds everything done."""
    file, out = write_config(tmp_path, base, rows(100)), tmp_path / "out"
    trained: list[str] = []
    train = control_module.train

    def train_some(config: TrainConfig, folder: Path, scalar: bool) -> None:
        trained.append(folder.name)
        if trained.count("oracle") == 1 and folder.name == "oracle":
            raise KeyboardInterrupt
        train(config, folder, scalar)

    monkeypatch.setattr(control_module, "train", train_some)
    with pytest.raises(KeyboardInterrupt):
        Control(config=file, out=out).run()
    assert Control(config=file, out=out).run() == 0
    assert trained == ["scalar", "oracle", "oracle", "shuffled", "coupled", "decoupled"]

    report = json.loads((out / RESULTS).read_text())
    assert len(report["checks"]) == 6
    assert all(report["checks"].values())
    accuracy = report["accuracy"]
    assert accuracy["oracle"]["unseen"]["value"] >= 0.95
    for arm in ("scalar", "shuffled", "coupled", "decoupled"):
        assert accuracy[arm]["unseen"]["low"] < 0.5 < accuracy[arm]["unseen"]["high"], arm
    assert accuracy["coupled"]["seen"]["value"] >= 0.95
    assert accuracy["coupled"]["unseen-kept"]["value"] >= 0.95
    assert accuracy["decoupled"]["unseen-kept"]["low"] < 0.5 < accuracy["decoupled"]["unseen-kept"]["high"]
    assert accuracy["oracle"]["unseen"]["n"] == report["pairs"]["held-out"]

    assert control(TrainConfig.read(file), out, TASKS) == report
    assert len(trained) == 6
    with pytest.raises(PartsError, match="another config"):
        control(TrainConfig.read(file).model_copy(update={"max_critique_tokens": 90}), out, TASKS)


def test_a_check_that_fails_is_an_exit_status(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control_module, "control", lambda *_: {"checks": {"one": True, "other": False}})
    assert Control(config=write_config(tmp_path, base, rows(4)), out=tmp_path / "out").run() == 1


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("reference", None, "no `reference`, which"),
        ("reference", "It is a sum.", "`reference` holds no answer"),
        ("chosen", "I counted 3 apples for 4 days.", "the chosen response states no answer"),
        ("chosen", "The answer is 1000.", "by its reference the chosen response is wrong"),
        ("rejected", "It must be this: the answer is %s.", "by its reference the rejected response is right"),
    ],
)
def test_a_pair_that_no_control_can_be_made_from(
    base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, field: str,
    value: str | None, reason: str,
) -> None:  # fmt: skip
    """Without a reference it is an error, for data without any can't be checked; else it is left out and counted."""
    made = rows(6)
    made[3][field] = value % made[3]["reference"].removeprefix("#### ") if value and "%s" in value else value
    with pytest.raises(DataError, match=f"pair 'sum-3': {reason}"):
        oracle_critiques(pairs_of(tmp_path, made), RULES)
    config, trained = TrainConfig.read(write_config(tmp_path, base, made)), []

    def stop(config: TrainConfig, *_: Any, **__: Any) -> None:
        trained.append({pair.id for pair in read_pairs(config.data)})
        raise KeyboardInterrupt

    monkeypatch.setattr(control_module, "train", stop)
    if value is None:
        with pytest.raises(DataError, match=f"pair 'sum-3': {reason}"):
            control(config, tmp_path / "out", TASKS)
        assert not (tmp_path / "out").exists()
        return
    with pytest.raises(KeyboardInterrupt):
        control(config, tmp_path / "out", TASKS)
    assert trained == [{f"sum-{i}" for i in range(6) if i != 3}]
    assert f"1 of 6 pairs are left out: {reason}" in caplog.text


def test_data_of_which_no_pair_can_be_used_is_refused(base: Path, tmp_path: Path) -> None:
    made = [row | {"chosen": "I do not know."} for row in rows(4)]
    with pytest.raises(DataError, match="pair 'sum-0': the chosen response states no answer"):
        control(TrainConfig.read(write_config(tmp_path, base, made)), tmp_path / "out", TASKS)


def test_controls_need_held_out_pairs(base: Path, tmp_path: Path) -> None:
    config = TrainConfig.read(write_config(tmp_path, base, rows(4), validation_share=0))
    with pytest.raises(ConfigError, match="validation_share"):
        control(config, tmp_path / "out", TASKS)


def test_a_limit_that_would_cut_the_verdict_off_is_refused(base: Path, tmp_path: Path) -> None:
    config = TrainConfig.read(write_config(tmp_path, base, rows(8), max_critique_tokens=12))
    trainer = config.trainer | {"num_train_epochs": 1}
    with pytest.raises(ConfigError, match=r"max_critique_tokens: 12 would cut .* the longest has \d+ tokens"):
        control(config.model_copy(update={"trainer": trainer}), tmp_path / "out", TASKS)


@pytest.mark.parametrize("overlong", ["drop", "truncate", "error"])
def test_pairs_that_are_too_long_are_measured_where_a_training_keeps_them(
    base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, overlong: str
) -> None:
    """What is dropped from each training is no pair that it has seen."""
    made = rows(40)
    for row in made[::5]:
        row["prompt"] += " Take your time, and then some more." * 40
    file = write_config(tmp_path, base, made, overlong=overlong)
    config = TrainConfig.read(file)
    config = config.model_copy(update={"trainer": config.trainer | {"num_train_epochs": 1}})
    if overlong == "error":
        with pytest.raises(DataError, match=r"training pairs: \d of \d+ \(.* need more than max_model_len 256"):
            control(config, tmp_path / "out", TASKS)
        return
    report = control(config, tmp_path / "out", TASKS)
    pairs = report["pairs"]
    assert pairs["training"] + pairs["held-out"] == (32 if overlong == "drop" else 40)
    for places in report["accuracy"].values():
        assert places["seen"]["n"] == pairs["training"]
        assert all(a["n"] == pairs["held-out"] for place, a in places.items() if place != "seen")
    assert caplog.text.count("measured pairs: ") == 2  # of either side


def test_critiques_by_rule(tmp_path: Path) -> None:
    pairs = pairs_of(tmp_path, rows(12))
    oracle, answer = oracle_critiques(pairs, RULES), {p.id: p.chosen.removeprefix("The answer is ") for p in pairs}
    assert [c.verdict for c in oracle] == [True, False] * 12
    assert oracle[0].text.startswith(f"The answer is {answer[oracle[0].pair_id]}\nMine: ")
    assert oracle[0].text.endswith("Same answer: the reply is right.")

    mixed = shuffled(pairs, oracle)
    assert sorted(c.text for c in mixed) == sorted(c.text for c in oracle)
    assert [(c.pair_id, c.side) for c in mixed] == [(c.pair_id, c.side) for c in oracle]
    called = [(first.verdict, second.verdict) for first, second in zip(mixed[::2], mixed[1::2], strict=True)]
    assert Counter(called) == dict.fromkeys([(True, True), (True, False), (False, True), (False, False)], 3)
    assert all(c.text.endswith(f"{'right' if c.verdict else 'wrong'}.") for c in mixed)

    unfiltered = blind_critiques(pairs, RULES)
    assert [c.verdict for c in unfiltered] == [True, False] * 24
    assert {c.sample for c in unfiltered} == {0, 1}


def test_controls_speak_as_the_task_of_each_category(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, out = tmp_path / "ours.yaml", tmp_path / "out"
    comparison = "Ours: {own} | Theirs: {reply} | {closing}"
    rule = {"comparison": comparison, "right": "ACCEPT", "wrong": "REFUSE"}
    task.write_text(yaml.safe_dump({"instruction": "Right?", "max_tokens": 96, "verdict": rule}))
    made = [row | {"category": ["mine", "other"][i % 2]} for i, row in enumerate(rows(12))]
    file = write_config(tmp_path, base, made)
    trained: list[TrainConfig] = []

    def stop(config: TrainConfig, folder: Path, **_: Any) -> None:
        trained.append(config)
        if folder.name == "oracle":
            raise KeyboardInterrupt

    monkeypatch.setattr(control_module, "train", stop)
    monkeypatch.setattr(control_module, "_require_room", lambda *_: None)
    monkeypatch.setattr(control_module, "_fitting", lambda pairs, *_: pairs)
    monkeypatch.setattr(control_module, "_margins", lambda *_: [1.0])

    def run(*tasks: str) -> int:
        return Control(_cli_parse_args=[str(file), "--out", str(out), *(f"--task={name}" for name in tasks)]).run()

    for options, words in (
        (["mine=reasoning"], "no task for the category 'other'"),
        (["mine=general", "reasoning"], "the task of the category 'mine' has no verdict, by whose rule"),
        (["resoning"], "no critique task 'resoning'"),
    ):
        with pytest.raises(TaskError, match=words):
            run(*options)
    assert not out.exists()
    with pytest.raises(KeyboardInterrupt):
        run(f"mine={task}", "reasoning")
    category = {row["id"]: row["category"] for row in made}
    for critique in read_critiques(trained[1].critiques[0]):
        words = {"mine": ("ACCEPT", "REFUSE"), "other": ("the reply is right.", "the reply is wrong.")}
        assert critique.text.endswith(words[category[critique.pair_id]][not critique.verdict])
        assert ("Theirs: " in critique.text) == (category[critique.pair_id] == "mine")
    with pytest.raises(PartsError, match="another rules"):
        run("reasoning")
