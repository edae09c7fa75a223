"""`criticrm evaluate`."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, PositiveInt
from pydantic_settings import CliToggleFlag, SettingsConfigDict

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
        "critiques. Needs --model, not --url.",
    )
    direct_only: CliToggleFlag[bool] = Field(
        False,
        description="Measure the score before any critique only: all that a scalar baseline has, and much faster.",
    )
    task: list[str] = Field(["reasoning"], description=RULE)
    against: NamedFolders = Field((), description=AGAINST)

    def run(self) -> int:
        from ..critiques.critique_task import load_tasks
        from ..evaluation.evaluate import evaluate

        evaluate(
            pairs=self.pairs(),
            out=self.out,
            **self.service(),
            samples=self.samples,
            against=by_name(self.against),
            tasks=load_tasks(self.task),
            teacher_forced=self.teacher_forced,
            critiques=not self.direct_only,
        )
        return 0
