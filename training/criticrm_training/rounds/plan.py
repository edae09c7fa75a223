"""The commands that rounds are made of: each goes on where it was killed, and so does the whole."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from criticrm_model.manifest import DEFAULT_BASE_NAME, DEFAULT_NAME

from ..training.critic_trainer import SUMMARY
from .config import RoundsConfig


@dataclass(frozen=True, slots=True)
class Step:
    """One command, and what tells that it has ended.

    Attributes:
        arguments: after `criticrm`.
        out: its folder.
        config: written to `arguments[1]` first, for `criticrm train`.
    """

    name: str
    arguments: tuple[str, ...]
    out: Path
    config: dict[str, Any] | None = None

    def has_ended(self) -> bool:
        if self.config is not None:
            return (self.out / SUMMARY).is_file()
        run = self.out / "run.json"
        return run.is_file() and bool(json.loads(run.read_text(encoding="utf-8")).get("parts"))


@dataclass(frozen=True, slots=True)
class Folders:
    """The folders of one round; round 0 is the base, which has only validation critiques."""

    root: Path
    number: int

    @property
    def round(self) -> Path:
        return self.root / f"round-{self.number}"

    @property
    def sampled(self) -> Path:
        return self.round / "sampled"

    @property
    def filtered(self) -> Path:
        return self.round / "filtered"

    @property
    def refined(self) -> Path:
        return self.round / "refined"

    @property
    def critic(self) -> Path:
        return self.round / "critic"

    @property
    def validated(self) -> Path:
        return self.round / "validated"

    def fold_critic(self, fold: int) -> Path:
        return self.round / f"critic-without-fold-{fold}"

    def fold_sampled(self, fold: int) -> Path:
        return self.round / f"sampled-fold-{fold}"


def steps(config: RoundsConfig, out: Path, training: Path, validation: Path) -> Iterator[tuple[int, list[Step]]]:
    """`(round, its steps)`, from round 0, which measures the base.

    Args:
        training, validation: the pairs of either side, as files.
    """
    before = Folders(out, 0)
    yield 0, [_validate(config, before, validation)]
    for number in range(1, config.rounds + 1):
        here = Folders(out, number)
        yield (
            number,
            [
                *_sample(config, here, before, training),
                *_filter(config, here, training),
                *_train(config, here, last=number == config.rounds),
                _validate(config, here, validation),
            ],
        )
        before = here


def sampled_folders(config: RoundsConfig, here: Folders) -> list[Path]:
    """The critiques of a round: of one critic, or of one for each fold."""
    if here.number > 1 and config.folds > 1:
        return [here.fold_sampled(fold) for fold in range(config.folds)]
    return [here.sampled]


def kept_folder(config: RoundsConfig, here: Folders) -> Path:
    """The critiques that a round learns to write."""
    return here.filtered if config.refine is None else here.refined


def _sample(config: RoundsConfig, here: Folders, before: Folders, training: Path) -> list[Step]:
    options = [
        f"-n={config.sample.n}",
        f"--temperature={config.sample.temperature}",
        f"--seed={config.sample.seed + here.number}",
    ]
    if here.number == 1:
        blind = ["--blind"] if config.sample.blind == "first" else []
        arguments = [*_base_options(config, here.sampled), *options, *blind]
        return [Step("sample", ("critiques", "sample", str(training), *arguments), here.sampled)]
    if config.filter.by == "score":
        options += ["--score=reward", "--in-sample"] if config.filter.ignore_labels else ["--score=reward"]

    def step(name: str, critic: Path, folder: Path, *more: str) -> Step:
        arguments = [*_critic_options(config, critic, folder), *options, *more]
        return Step(name, ("critiques", "sample", str(training), *arguments), folder)

    if config.folds == 1:
        return [step("sample", before.critic, here.sampled)]
    return [
        step(f"sample fold {fold}", before.fold_critic(fold), here.fold_sampled(fold), f"--fold={fold}/{config.folds}")
        for fold in range(config.folds)
    ]


def _filter(config: RoundsConfig, here: Folders, training: Path) -> list[Step]:
    values = config.filter.model_dump(exclude_none=True, exclude={"solved"})
    options = [_flag(name, value) for name, value in values.items()]
    if config.filter.by_answer:
        options.append(f"--solved={training}")
    folders = [str(folder) for folder in sampled_folders(config, here)]
    made = [Step("filter", ("critiques", "filter", *folders, f"--out={here.filtered}", *options), here.filtered)]
    if config.refine is not None:
        options = [_flag(name, value) for name, value in config.refine.model_dump().items()]
        writer = _writer(config, config.base)
        arguments = ("critiques", "refine", str(here.filtered), f"--data={training}", f"--out={here.refined}")
        made.append(Step("refine", (*arguments, *writer, *options), here.refined))
    return made


def _train(config: RoundsConfig, here: Folders, *, last: bool) -> list[Step]:
    earlier = [Folders(here.root, number) for number in range(1, here.number)] if config.accumulate else []
    learned = [kept_folder(config, folders) for folders in (*earlier, here)]
    values = config.train_fields(here.number) | {"critiques": [str(folder) for folder in learned]}
    if config.train_config(here.number).objective.trains_reward:
        values["reward_critiques"] = [str(folder) for folder in sampled_folders(config, here)]

    def step(name: str, folder: Path, more: dict[str, Any]) -> Step:
        file = folder.with_name(f"{folder.name}.yaml")
        return Step(name, ("train", str(file), f"--out={folder}"), folder, values | more)

    folds = [] if last or config.folds == 1 else range(config.folds)
    return [
        *(
            step(f"train without fold {fold}", here.fold_critic(fold), {"folds": {"n": config.folds, "exclude": fold}})
            for fold in folds
        ),
        step("train", here.critic, {}),
    ]


def _validate(config: RoundsConfig, here: Folders, validation: Path) -> Step:
    """Greedy critiques of the validation pairs: with their rewards, where the critic has one."""
    greedy = ["-n=1", "--temperature=0"]
    if here.number == 0:
        arguments = [*_base_options(config, here.validated), *greedy]
    else:
        score = ["--score=reward"] if config.train_config(here.number).objective.trains_reward else []
        arguments = [*_critic_options(config, here.critic, here.validated), *greedy, *score]
    return Step("validate", ("critiques", "sample", str(validation), *arguments), here.validated)


def _base_options(config: RoundsConfig, folder: Path) -> list[str]:
    return [f"--out={folder}", *_writer(config, config.base), *_tasks(config), *_slots(config)]


def _critic_options(config: RoundsConfig, critic: Path, folder: Path) -> list[str]:
    """Asked as it was trained, and will be served."""
    asked = [*_tasks(config), f"--instruction={config.instruction}", *_slots(config)]
    return [f"--out={folder}", *_writer(config, str(critic)), *asked]


def _slots(config: RoundsConfig) -> list[str]:
    """Writers read what the critics are trained with."""
    slots = config.train_config(1).slots
    return [] if slots is None else [f"--slots={slots.model_dump_json()}"]


def _tasks(config: RoundsConfig) -> list[str]:
    longest = [] if config.sample.max_tokens is None else [f"--max-tokens={config.sample.max_tokens}"]
    return [*(f"--task={category}={name}" for category, name in config.tasks.items()), *longest]


def _writer(config: RoundsConfig, model: str) -> list[str]:
    if model == DEFAULT_NAME:  # a `base`; for a writer that is the name of the critic that was trained from it
        model = DEFAULT_BASE_NAME
    kind = [] if config.writer == "auto" else [f"--writer={config.writer}"]
    return [f"--model={model}", *kind, f"--dtype={config.dtype}", f"--max-model-len={config.max_model_len}"]


def _flag(name: str, value: object) -> str:
    option = name.replace("_", "-")
    return (f"--{option}" if value else f"--no-{option}") if isinstance(value, bool) else f"--{option}={value}"


def write_config(step: Step) -> None:
    """The file of a training step, next to its folder."""
    if step.config is not None:
        file = Path(step.arguments[1])
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(yaml.safe_dump(step.config, sort_keys=False), encoding="utf-8")
