"""`criticrm evaluate`."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from pydantic import Field, PositiveInt
from pydantic_settings import CliImplicitFlag, SettingsConfigDict

from criticrm_model import CriticRMError
from criticrm_model.manifest import DEFAULT_NAME

from .options import AGAINST, FRONTIER, RULE, SAMPLES, NamedFolders, PairOptions, by_name


class Evaluate(PairOptions):
    """Measure a Critic-RM on preference pairs it has not seen: before a critique, after it, and over several.

    --model is served for the time of the run; --url uses a service that runs already. A second run with the same
    inputs continues where the first stopped.
    """

    model_config = SettingsConfigDict(env_prefix="CRITICRM_EVALUATE_", frozen=True, cli_kebab_case=True)

    samples: tuple[PositiveInt, ...] = Field((), description=SAMPLES)
    teacher_forced: Path | None = Field(
        None,
        description="A finished `critiques sample` of these pairs by another model: also report the reward after its "
        "critiques.",
    )
    direct_only: CliImplicitFlag[bool] = Field(
        False,
        description="Measure the score before any critique only: all that a scalar baseline has, and much faster.",
    )
    frontier: CliImplicitFlag[bool] = Field(False, description=FRONTIER)
    recommend: CliImplicitFlag[bool] = Field(
        False,
        description="With --frontier: write the setting with the fewest tokens that loses at most half a point into "
        'the checkpoint, for `critique: "auto"`. Choose it on validation pairs, and report it on others.',
    )
    calibrate: CliImplicitFlag[bool] = Field(
        False,
        description="Fit the scales of `calibrated_score` on these pairs and write them into the checkpoint: for "
        "scores before critiques, after one, and after each number of --samples. Critiques of close responses need "
        "them. Also writes the mean and deviation for `normalize`, if the checkpoint has none.",
    )
    task: list[str] = Field(["reasoning"], description=RULE)
    against: NamedFolders = Field((), description=AGAINST)

    def run(self) -> int:
        from ..critiques.critique_task import load_tasks
        from ..evaluation.evaluate import evaluate

        folder = self._written_to()
        report = evaluate(
            pairs=self.pairs(),
            out=self.out,
            **self.service(),
            samples=self.samples,
            against=by_name(self.against),
            tasks=load_tasks(self.task),
            teacher_forced=self.teacher_forced,
            critiques=not self.direct_only,
            with_frontier=self.frontier,
            with_calibration=self.calibrate,
        )
        if folder is not None:
            self._write(folder, report)
        return 0

    def _written_to(self) -> Path | None:
        """The checkpoint's folder. Raises CriticRMError: there is none to write to."""
        if self.recommend and (not self.frontier or self.direct_only):
            raise CriticRMError("--recommend needs --frontier and critiques")
        if not (self.recommend or self.calibrate):
            return None
        if self.url or self.model == DEFAULT_NAME or not Path(self.model).is_dir():
            option = "recommend" if self.recommend else "calibrate"
            raise CriticRMError(f"--{option} needs --model with a folder to write to")
        return Path(self.model)

    def _write(self, folder: Path, report: dict[str, Any]) -> None:
        from criticrm_model import Calibration, Manifest

        from ..data.sources import source_name
        from ..evaluation.frontier import recommend

        logger, changes = logging.getLogger(__name__), dict[str, Any]()
        if self.calibrate:
            changes["calibration"] = Calibration.model_validate(report["calibration"])
            logger.info("wrote the calibration to %s", folder)
        if self.recommend:
            changes["selection"] = chosen = recommend(report["frontier"], source_name(self.data))
            logger.info('wrote the setting for "auto" to %s: %s', folder, chosen.model_dump(exclude={"chosen_on"}))
        Manifest.load(folder).model_copy(update=changes).save(folder)
