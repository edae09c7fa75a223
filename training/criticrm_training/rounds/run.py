"""`criticrm rounds`: every command of an arm in its order; a second run goes on where the first stopped."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from criticrm_model import CriticRMError
from criticrm_model.files import write_json, write_text
from criticrm_model.manifest import MANIFEST_NAME

from ..children import end_with_parent, exit_on_sigterm
from ..critiques.critique_task import Tasks, load_tasks
from ..data.pairs import PreferencePair, content_sha256, in_question_order, pair_row, read_pairs
from ..data.splits import split_by_prompt
from ..parts import same_run
from .config import RoundsConfig
from .plan import Folders, Step, sampled_folders, steps, write_config
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
        RoundsError: a command failed; what it printed is above.
        PartsError: `out` holds another run.
    """
    pairs = in_question_order(read_pairs(config.data))
    same_run(out, {"config": config.model_dump(mode="json", exclude={"data"}), "pairs": content_sha256(pairs)})
    share = config.training(config.rounds, out, out).validation_share
    training, validation = split_by_prompt(pairs, share)
    training = training[: config.limit] if config.limit else training
    validation = validation[: config.validation_pairs]
    files = {name: out / f"{name}.jsonl" for name in ("training", "validation")}
    _write_pairs(files["training"], training)
    _write_pairs(files["validation"], validation)
    tasks = load_tasks([f"{category}={name}" for category, name in config.tasks.items()])
    exit_on_sigterm()
    done: list[dict[str, Any]] = []
    for number, plan in steps(config, out, files["training"], files["validation"]):
        for step in plan:
            _run(step, f"round {number} of {config.rounds}")
        done.append(_measured(config, Folders(out, number), validation, tasks))
        write_json(out / RESULTS, [row | {"measured": asdict(row["measured"])} for row in done])
        logger.info("\n%s", "\n".join(as_lines(done)))
    logger.info("wrote %s; the critic is %s", out / RESULTS, Folders(out, config.rounds).critic)
    return done


def _run(step: Step, where: str) -> None:
    if step.has_ended():
        logger.info("%s, %s: done before", where, step.name)
        return
    write_config(step)
    logger.info("%s, %s: criticrm %s", where, step.name, " ".join(step.arguments))
    # A process of its own: a writer's engine gives its memory back to the training that follows only when it ends.
    done = subprocess.run(
        [sys.executable, "-m", "criticrm_server", *step.arguments], preexec_fn=end_with_parent, check=False
    )
    if done.returncode:
        raise RoundsError(
            f"{where}, {step.name}: `criticrm {' '.join(step.arguments)}` ended with status {done.returncode}; mend "
            "what it says above, and the same `criticrm rounds` goes on from here"
        )


def _measured(
    config: RoundsConfig, here: Folders, validation: Sequence[PreferencePair], tasks: Tasks
) -> dict[str, Any]:
    by_reward = here.number > 0 and (here.critic / MANIFEST_NAME).is_file()
    row: dict[str, Any] = {
        "round": here.number,
        "measured": measure(here.validated, validation, tasks, by_reward=by_reward),
    }
    if here.number:
        row["kept"] = shares(sampled_folders(config, here), here.filtered if config.refine is None else here.refined)
    return row


def _write_pairs(file: Path, pairs: Sequence[PreferencePair]) -> None:
    write_text(file, "".join(json.dumps(pair_row(pair), ensure_ascii=False) + "\n" for pair in pairs))
