"""`criticrm judge`."""

from __future__ import annotations

import logging
from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, CliPositionalArg, SettingsConfigDict

from .options import AGAINST, PAIRS, NamedFolders, by_name


class Judge(BaseSettings):
    """Measure a language model as the judge of preference pairs, by the scores that its sampled critiques give.

    What a Critic-RM must beat: `criticrm critiques sample DATA --model BASE`, then this.
    """

    model_config = SettingsConfigDict(env_prefix="CRITICRM_JUDGE_", frozen=True, cli_kebab_case=True)

    data: CliPositionalArg[str] = Field(description=PAIRS)
    critiques: Path = Field(description="A finished `critiques sample` of these pairs by the judge.")
    out: Path = Field(description="Folder for evaluation.json, margins.parquet and outcomes.parquet.")
    against: NamedFolders = Field((), description=AGAINST)

    def run(self) -> int:
        from ..data.pairs import read_pairs
        from ..data.splits import in_question_order
        from ..evaluation.judge import judge

        logging.basicConfig(level=logging.INFO, format="%(message)s")
        judge(in_question_order(read_pairs(self.data)), self.critiques, self.out, by_name(self.against))
        return 0
