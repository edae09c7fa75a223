"""What a critic is asked for, by the category of a pair: a YAML file a task, in `tasks/` or of your own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BaseModel, ConfigDict, Field, PositiveInt, StringConstraints, ValidationError

from criticrm_model import CriticRMError

from ..faults import format_faults
from .verdict import VerdictRule

DEFAULT_CATEGORY = "default"

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


class TaskError(CriticRMError):
    """A critique task is missing or wrong; the message names every field that is."""


class CritiqueTask(BaseModel):
    """How critiques of one category are asked for, and how their verdict is read."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    instruction: Text = Field(description="Asks for a critique, after the reply: in training and in service as well.")
    max_tokens: PositiveInt = Field(description="Longest critique; longest derivation, if that is written blind.")
    derive: Text | None = Field(
        None, description="Asks for a solution, after the prompt and without the reply; None: can't be written blind."
    )
    explain: Text | None = Field(
        None, description="Follows a verdict of 'wrong'; the model continues it in sight of the reply (--explain)."
    )
    verdict: VerdictRule | None = Field(None, description="How a critique compares answers; None: it gives no verdict.")


@dataclass(frozen=True, slots=True)
class Tasks:
    """By category, `default` for the others.

    Raises:
        TaskError: there is no default, where a category is asked for that isn't there.
    """

    by_category: Mapping[str, CritiqueTask]

    def of(self, category: str) -> CritiqueTask:
        task = self.by_category.get(category) or self.by_category.get(DEFAULT_CATEGORY)
        if task is None:
            raise TaskError(
                f"no task for the category {category!r}: there are tasks for {', '.join(sorted(self.by_category))}; "
                f"add --task {category}=NAME or --task {DEFAULT_CATEGORY}=NAME"
            )
        return task

    def asking(self, instruction: str) -> Tasks:
        """The same with another instruction."""
        return Tasks({c: t.model_copy(update={"instruction": instruction}) for c, t in self.by_category.items()})

    def described(self) -> dict[str, object]:
        """As JSON: what a run depends on."""
        return {category: task.model_dump() for category, task in sorted(self.by_category.items())}


def load_tasks(names: Sequence[str]) -> Tasks:
    """`NAME` for every category, or `CATEGORY=NAME` for one; names as in `load_task`.

    Raises:
        TaskError: a task is missing or wrong, or a category has two.
    """
    tasks: dict[str, CritiqueTask] = {}
    for given in names:
        category, equals, name = given.partition("=")
        if not equals:
            category, name = DEFAULT_CATEGORY, given
        if category in tasks:
            raise TaskError(f"two tasks for the category {category!r}")
        tasks[category] = load_task(name)
    return Tasks(tasks)


def load_task(name: str) -> CritiqueTask:
    """A packaged task by its name, or one by the path of its `.yaml` file.

    Raises:
        TaskError: there is no such task, or it is wrong.
    """
    if name.endswith((".yaml", ".yml")):
        return _read(name, Path(name).read_text(encoding="utf-8") if Path(name).is_file() else None)
    file = files(__package__) / "tasks" / f"{name}.yaml"
    return _read(name, file.read_text(encoding="utf-8") if name in task_names() else None)


def task_names() -> list[str]:
    """Of the packaged tasks."""
    folder = files(__package__) / "tasks"
    return sorted(file.name.removesuffix(".yaml") for file in folder.iterdir() if file.name.endswith(".yaml"))


def _read(name: str, text: str | None) -> CritiqueTask:
    if text is None:
        raise TaskError(
            f"no critique task {name!r}: give the path of a .yaml file, or one of {', '.join(task_names())}"
        )
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise TaskError(f"the critique task {name} is no YAML: {error}") from error
    if not isinstance(values, dict):
        raise TaskError(f"the critique task {name} is no mapping of fields")
    try:
        return CritiqueTask.model_validate(values)
    except ValidationError as error:
        raise TaskError("\n  ".join([f"the critique task {name} is wrong:", *format_faults(error)])) from error
