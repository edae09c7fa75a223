"""`criticrm evaluate`."""

from __future__ import annotations

import logging
from pathlib import Path

from pydantic import Field, PositiveInt
from pydantic_settings import CliImplicitFlag, SettingsConfigDict

from criticrm_model import CriticRMError

from .options import AGAINST, RULE, SAMPLES, NamedFolders, PairOptions, by_name


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
    frontier: CliImplicitFlag[bool] = Field(
        False,
        description="Also report accuracy against tokens where only close responses get a critique "
        '(`critique: {"when": "close"}`), over margins.',
    )
    recommend: CliImplicitFlag[bool] = Field(
        False,
        description="With --frontier: write the margin with the fewest tokens that loses at most half a point into the "
        'checkpoint, for `critique: "auto"`. Choose it on validation pairs, and report it on others.',
    )
    task: list[str] = Field(["reasoning"], description=RULE)
    against: NamedFolders = Field((), description=AGAINST)

    def run(self) -> int:
        from ..critiques.critique_task import load_tasks
        from ..evaluation.evaluate import evaluate

        folder = self._recommended_to()
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
        )
        if folder is not None:
            from criticrm_model import Manifest

            from ..data.sources import source_name
            from ..evaluation.frontier import recommend

            chosen = recommend(report["frontier"], source_name(self.data))
            Manifest.load(folder).model_copy(update={"selection": chosen}).save(folder)
            logging.getLogger(__name__).info('wrote margin %g for "auto" to %s', chosen.margin, folder)
        return 0

    def _recommended_to(self) -> Path | None:
        """The checkpoint's folder. Raises CriticRMError: there is none to write to."""
        if not self.recommend:
            return None
        if not self.frontier or self.url or self.direct_only or not Path(self.model).is_dir():
            raise CriticRMError("--recommend needs --frontier, critiques, and --model with a folder to write to")
        return Path(self.model)
