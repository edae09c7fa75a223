"""`criticrm rounds`: every command of an arm in its order; a second run goes on where the first stopped."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from criticrm_model import CriticRMError
from criticrm_model.children import end_with_parent, exit_on_sigterm
from criticrm_model.files import write_json, write_text
from criticrm_model.manifest import MANIFEST_NAME

from ..critiques.records import read_critiques
from ..data.folds import Fold
from ..data.pairs import PreferencePair, content_sha256, pair_row, read_pairs
from ..data.splits import in_question_order, split_by_prompt
from ..parts import same_run
from .config import RoundsConfig
from .plan import Folders, Step, kept_folder, sampled_folders, steps, write_config
from .table import as_lines, measure, shares

RESULTS = "rounds.json"

logger = logging.getLogger(__name__)


class RoundsError(CriticRMError):
    """A command of the rounds failed; the message names it, and how to run it alone."""


def rounds(config: RoundsConfig, out: Path) -> list[dict[str, Any]]:
    """Run all rounds, print the table after each, and write `out/rounds.json`.

    Args:
        out: a folder a round (`round-0` measures the base), each step's output in a folder of its own.

    Raises:
        DataError: no training pair is in one of the folds.
        RoundsError: a command failed; what it printed is above.
        PartsError: `out` holds another run.
    """
    last = config.train_config(config.rounds)
    pairs = in_question_order(read_pairs(config.data, last.objective.rewards))
    share = last.validation_share
    training, validation = split_by_prompt(pairs, share)
    training = training[: config.limit] if config.limit else training
    validation = validation[: config.validation_pairs]
    for fold in range(config.folds) if config.folds > 1 else ():
        Fold(fold, config.folds).inside(training)  # each is sampled: an empty one is an error before the first step
    same_run(out, {"config": config.model_dump(mode="json", exclude={"data"}), "pairs": content_sha256(pairs)})
    files = {name: out / f"{name}.jsonl" for name in ("training", "validation")}
    _write_pairs(files["training"], training)
    _write_pairs(files["validation"], validation)
    exit_on_sigterm()
    done: list[dict[str, Any]] = []
    for number, plan in steps(config, out, files["training"], files["validation"]):
        for step in plan:
            _run(step, f"round {number} of {config.rounds}")
        here = Folders(out, number)
        row = {"round": number, "measured": _measure_round(config, here, validation)}
        done.append(row | ({"kept": _count_kept(config, here, training)} if number else {}))
        write_json(out / RESULTS, done)
        logger.info("\n%s", "\n".join(as_lines(done)))
    logger.info("wrote %s; the critic is %s", out / RESULTS, Folders(out, config.rounds).critic)
    return done


def _run(step: Step, where: str) -> None:
    if step.has_ended():
        logger.info("%s, %s: done before", where, step.name)
        return
    write_config(step)
    logger.info("%s, %s: criticrm %s", where, step.name, " ".join(step.arguments))
    if status := run_command(step.arguments):
        raise RoundsError(
            f"{where}, {step.name}: `criticrm {' '.join(step.arguments)}` ended with status {status}; fix the error "
            "above and run the same `criticrm rounds` again: it continues here"
        )


def run_command(arguments: Sequence[str]) -> int:
    """The exit status of `criticrm ARGUMENTS`, in a process of its own.

    A writer's engine gives its memory back to the training that follows only when its process ends.
    """
    command = [sys.executable, "-m", "criticrm_server", *arguments]
    return subprocess.run(command, preexec_fn=end_with_parent, check=False).returncode


def _measure_round(config: RoundsConfig, here: Folders, validation: Sequence[PreferencePair]) -> dict[str, Any]:
    has_reward = here.number > 0 and (here.critic / MANIFEST_NAME).is_file()
    return measure(read_critiques(here.validated), validation, config.loaded_tasks, by_reward=has_reward)


def _count_kept(config: RoundsConfig, here: Folders, training: Sequence[PreferencePair]) -> dict[str, Any]:
    sampled = [critique for folder in sampled_folders(config, here) for critique in read_critiques(folder)]
    filtered = config.filter.apply(sampled, training, config.loaded_tasks)
    return shares(sampled, read_critiques(kept_folder(config, here)), filtered)


def _write_pairs(file: Path, pairs: Sequence[PreferencePair]) -> None:
    write_text(file, "".join(json.dumps(pair_row(pair), ensure_ascii=False) + "\n" for pair in pairs))
