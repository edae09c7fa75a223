"""`criticrm decontaminate`."""

from __future__ import annotations

import logging
from pathlib import Path

from pydantic import Field, NonNegativeInt
from pydantic_settings import BaseSettings, CliImplicitFlag, CliPositionalArg, SettingsConfigDict

_SOURCE = "a .jsonl, .json or .parquet file, a folder, or a Hugging Face dataset owner/name[:subset][@split]"


class Decontaminate(BaseSettings):
    """Remove from a training file the rows that evaluation files hold too.

    A score on questions that were trained on says nothing about new ones, and public preference sets share prompts with
    public benchmarks. A row goes if its conversation begins with the same question as an evaluation row (case, white
    space and Unicode forms folded), or with nearly the same one (70 % of the word 3-grams are shared), or if any of its
    texts has 13 words in a row in common with any text of an evaluation row. Words in a row that many different
    questions have (a template, a refusal) do not count.

    Prints what goes by reason and by file, with examples; OUT gets the other rows as they are, with all their columns,
    and OUT's name with `.report.json` each removed row with its reason. Look at the examples with --dry-run first.

      criticrm decontaminate train.jsonl --against heldout.jsonl --against owner/name@test --out clean.jsonl
    """

    model_config = SettingsConfigDict(env_prefix="CRITICRM_DECONTAMINATE_", frozen=True, cli_kebab_case=True)

    data: CliPositionalArg[str] = Field(
        description=f"What to clean: {_SOURCE}; rows with a prompt, or with chosen and rejected that begin with it."
    )
    against: list[str] = Field(
        min_length=1,
        description=f"Evaluation data that must not be trained on, in any format with prompts: {_SOURCE}. Repeatable.",
    )
    out: Path | None = Field(
        None,
        description="A .jsonl file for the rows that are kept, or a .parquet file if the data is one. Needed without "
        "--dry-run.",
    )
    ngram: NonNegativeInt = Field(
        13,
        description="Consecutive words that make a passage (0: no search for passages). With fewer words, more "
        "matches are by chance.",
    )
    common: NonNegativeInt = Field(
        10, description="Ignore passages that occur in rows of more than this many different questions of the data."
    )
    exact_only: CliImplicitFlag[bool] = Field(
        False, description="Compare whole questions only: no near-duplicates and no passages."
    )
    dry_run: CliImplicitFlag[bool] = Field(False, description="Write nothing.")

    def run(self) -> int:
        from ..data.decontaminate import decontaminate

        logging.basicConfig(level=logging.INFO, format="%(message)s")
        decontaminate(
            self.data,
            self.against,
            None if self.dry_run else self.out,
            near=not self.exact_only,
            ngram=0 if self.exact_only else self.ngram,
            common=self.common,
            dry_run=self.dry_run,
        )
        return 0
