"""The commands that rounds are made of: each goes on where it was killed, and so does the whole."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..training.run import SUMMARY
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
        return run.is_file() and "parts" in json.loads(run.read_text(encoding="utf-8"))


@dataclass(frozen=True, slots=True)
class Folders:
    """Of one round; round 0 is the base, which has validation critiques alone."""

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
    yield 0, [_validate(config, before, config.base, validation)]
    for number in range(1, config.rounds + 1):
        here = Folders(out, number)
        yield (
            number,
            [
                *_sample(config, here, before, training),
                *_filter(config, here, training),
                *_train(config, here, last=number == config.rounds),
                _validate(config, here, str(here.critic), validation),
            ],
        )
        before = here


def sampled_folders(config: RoundsConfig, here: Folders) -> list[Path]:
    """The critiques of a round: of one critic, or of one for each fold."""
    if here.number > 1 and config.folds > 1:
        return [here.fold_sampled(fold) for fold in range(config.folds)]
    return [here.sampled]


def _sample(config: RoundsConfig, here: Folders, before: Folders, training: Path) -> list[Step]:
    def step(name: str, model: str, folder: Path, *more: str) -> Step:
        return Step(name, ("critiques", "sample", str(training), *_asked(config, model, folder), *more), folder)

    options = [
        f"--n={config.sample.n}",
        f"--temperature={config.sample.temperature}",
        f"--seed={config.sample.seed + here.number}",
    ]
    if here.number == 1:
        blind = ["--blind"] if config.sample.blind == "first" else []
        return [step("sample", config.base, here.sampled, *options, *blind)]
    score = [] if config.filter.by == "verdict" else ["--score=reward"]
    if config.folds == 1:
        return [step("sample", str(before.critic), here.sampled, *options, *score)]
    return [
        step(
            f"sample fold {fold}",
            str(before.fold_critic(fold)),
            here.fold_sampled(fold),
            *options,
            *score,
            f"--folds={config.folds}",
            f"--fold={fold}",
        )
        for fold in range(config.folds)
    ]


def _filter(config: RoundsConfig, here: Folders, training: Path) -> list[Step]:
    values = config.filter.model_dump(exclude_none=True)
    options = [_flag(name, value) for name, value in values.items()]
    folders = [str(folder) for folder in sampled_folders(config, here)]
    made = [Step("filter", ("critiques", "filter", *folders, f"--out={here.filtered}", *options), here.filtered)]
    if config.refine is not None:
        options = [_flag(name, value) for name, value in config.refine.model_dump().items()]
        writer = _writer(config, config.base)
        arguments = ("critiques", "refine", str(here.filtered), f"--data={training}", f"--out={here.refined}")
        made.append(Step("refine", (*arguments, *writer, *options), here.refined))
    return made


def _train(config: RoundsConfig, here: Folders, *, last: bool) -> list[Step]:
    learned = here.filtered if config.refine is None else here.refined
    judged = sampled_folders(config, here)
    fields = config.train | (config.first_train if here.number == 1 else {})
    values = {"base": config.base, "data": config.data, "critiques": str(learned), **fields}
    values["reward_critiques"] = [str(folder) for folder in judged] if len(judged) > 1 else str(judged[0])

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


def _validate(config: RoundsConfig, here: Folders, model: str, validation: Path) -> Step:
    """Greedy critiques of the validation pairs: of the critic with its rewards, of the base with its verdicts."""
    arguments = (
        "critiques",
        "sample",
        str(validation),
        *_asked(config, model, here.validated),
        "--n=1",
        "--temperature=0",
    )
    return Step("validate", arguments, here.validated)


def _asked(config: RoundsConfig, model: str, folder: Path) -> list[str]:
    tasks = [f"--task={category}={name}" for category, name in config.tasks.items()]
    longest = [] if config.sample.max_tokens is None else [f"--max-tokens={config.sample.max_tokens}"]
    return [f"--out={folder}", *_writer(config, model), *tasks, *longest]


def _writer(config: RoundsConfig, model: str) -> list[str]:
    return [f"--model={model}", f"--writer={config.writer}", f"--dtype={config.dtype}"]


def _flag(name: str, value: object) -> str:
    option = "--" + name.replace("_", "-")
    return f"{option}={str(value).lower()}" if isinstance(value, bool) else f"{option}={value}"


def write_config(step: Step) -> None:
    """The file of a training step, next to its folder."""
    if step.config is not None:
        file = Path(step.arguments[1])
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(yaml.safe_dump(step.config, sort_keys=False), encoding="utf-8")
