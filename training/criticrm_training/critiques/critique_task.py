"""What a critic is asked for, by the category of a pair: a YAML file a task, in `tasks/` or of your own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
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


class Example(BaseModel):
    """A problem with its solution, as it should be written."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    prompt: Text
    derivation: Text


class CritiqueTask(BaseModel):
    """The prompts for critiques of one category, and the rule that parses their verdict."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    instruction: Text = Field(
        description="Instruction for a critique, which follows the reply in training and in the service."
    )
    max_tokens: PositiveInt = Field(description="Longest critique, in tokens; with --blind, longest derivation.")
    derive: Text | None = Field(
        None,
        description="Instruction for a solution, which follows the prompt, without the reply. None: the task does not "
        "support --blind.",
    )
    examples: tuple[Example, ...] = Field(
        (), description="Solved problems, shown as earlier turns before a derivation (few-shot)."
    )
    explain: Text | None = Field(
        None,
        description="Text after a verdict of 'wrong', which the model continues with the reply in its prompt "
        "(--explain).",
    )
    verdict: VerdictRule | None = Field(
        None, description="Rule that parses a critique's verdict. None: the task has no verdict."
    )


@dataclass(frozen=True, slots=True)
class Tasks:
    """Critique tasks by category; `default` is for the other categories.

    Raises:
        TaskError: a category has no task, and there is no default.
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

    def rules(self, categories: Iterable[str]) -> dict[str, VerdictRule | None]:
        """How verdicts are read, by category; None: its critiques give none. Raises TaskError."""
        return {category: self.of(category).verdict for category in dict.fromkeys(categories)}

    def with_instruction(self, instruction: str) -> Tasks:
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
    """The names of the packaged tasks."""
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
