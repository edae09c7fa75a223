"""What finished `critiques sample`s recorded of how their critiques were written."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from ..data.pairs import PreferencePair
from ..parts import read_run
from .critique_task import CritiqueTask, Tasks
from .filter import FilterError
from .verdict import VerdictRule

logger = logging.getLogger(__name__)


def instructions(folders: Sequence[Path]) -> list[str]:
    """Each instruction that the critiques in these folders were asked for with, once."""
    tasks = [task for folder in folders for task in read_run(folder).get("tasks", {}).values()]
    return list(dict.fromkeys(task["instruction"] for task in tasks))


def warn_of_trained_pairs(folders: Sequence[Path]) -> None:
    """Log a warning for each folder whose critic was trained on pairs that it wrote critiques of."""
    for folder in folders:
        if seen := read_run(folder).get("trained_pairs"):
            logger.warning(
                "%s: %d pairs ask a question that their critic was trained on: it agrees with their labels because"
                " it has learnt them",
                folder,
                seen,
            )


def verdict_rules(folders: Sequence[Path], pairs: Sequence[PreferencePair]) -> dict[str, VerdictRule | None]:
    """For each category of the pairs, the rule by which its critiques in these folders are read.

    Raises:
        FilterError: a folder has no tasks, or two of them read the critiques of a category by different rules.
    """
    found: dict[str, VerdictRule | None] = {}
    for folder in folders:
        described = read_run(folder).get("tasks", {})
        if not described:
            raise FilterError(f"{folder} does not name the task of its critiques, which --solved needs")
        tasks = Tasks({name: CritiqueTask.model_validate(task) for name, task in described.items()})
        for category, rule in tasks.rules(pair.category for pair in pairs).items():
            if found.setdefault(category, rule) != rule:
                raise FilterError(f"{folder}: critiques of {category!r} have another rule than those before it")
    return found
