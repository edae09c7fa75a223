"""`criticrm critiques`: sample, filter, refine."""

from __future__ import annotations

import logging
from dataclasses import asdict
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, Field, NonNegativeFloat, NonNegativeInt, PositiveInt
from pydantic_settings import (
    BaseSettings,
    CliImplicitFlag,
    CliPositionalArg,
    CliSubCommand,
    SettingsConfigDict,
    get_subcommand,
)

from criticrm_model.manifest import DEFAULT_CRITIQUE_INSTRUCTION

from .options import PAIRS, WriterOptions


class Sample(WriterOptions):
    """Write several critiques of every response, each with a score."""

    data: CliPositionalArg[str] = Field(description=PAIRS)
    n: PositiveInt = Field(10, description="Critiques a response.")
    temperature: NonNegativeFloat = Field(0.7, description="Sampling temperature; 0 is greedy.")
    max_tokens: PositiveInt = Field(96, description="Longest critique, its score line included.")
    score: Literal["written", "expected", "reward"] = Field(
        "written",
        description="How a critique is scored: by the number it ends in; by the number that the model expects to "
        "write there, for models that write none or always the same; or by the reward of a Critic-RM.",
    )
    instruction: str = Field(DEFAULT_CRITIQUE_INSTRUCTION, description="What asks for a critique.")
    seed: int = Field(0, description="Seed of the sampling; each response draws from its own.")

    def run(self) -> int:
        from ..critiques.records import read_critiques
        from ..critiques.sample import sample, summary
        from ..critiques.writers import Sampling
        from ..tables import as_rows

        pairs = self.pairs(self.data)
        sample(
            pairs,
            self.critic(),
            Sampling(self.n, self.temperature, self.max_tokens, self.score),
            instruction=self.instruction,
            out=self.out,
            run=self.run_on(pairs),
            seed=self.seed,
        )
        logging.getLogger(__name__).info("%s", as_rows(summary(read_critiques(self.out))))
        return 0


class Filter(BaseModel):
    """Keep the pairs and the critiques that agree with the labels, and are fit to learn from."""

    critiques: CliPositionalArg[list[Path]] = Field(description="Finished `critiques sample`s.")
    out: Path = Field(description="Folder for what is kept.")
    least_words: NonNegativeInt = Field(4, description="Critiques with fewer words are dropped.")
    most_repeats: float = Field(
        0.2, ge=0, le=1, description="So are those in which a greater share of four-word sequences came before."
    )
    most_sentences: PositiveInt | None = Field(
        None, description="Longer critiques are cut after so many: small models say the same again after one or two."
    )
    most_alike: PositiveInt | None = Field(
        None,
        description="Of critiques that open with the same six words, the first so many are kept: what is said of many"
        " responses becomes all that a greedy model says.",
    )
    ignore_labels: CliImplicitFlag[bool] = Field(
        False,
        description="Quality alone decides: for critics that agree with the labels no more often than by luck, whose"
        " critiques would tell the labels to the reward that is trained on them.",
    )
    about: str | None = Field(
        None,
        description="The preference pairs that were critiqued: critiques that take up no long word or number of their"
        " response are dropped as well.",
    )

    def run(self) -> int:
        from ..critiques.filter import Quality, filter_critiques, summary
        from ..critiques.records import SCHEMA, SIDES, read_critiques
        from ..data.pairs import pairs_sha256, read_pairs
        from ..parts import read_run, run_digest, write_in_parts
        from ..tables import as_rows

        quality = Quality(self.least_words, self.most_repeats, self.most_sentences, self.most_alike)
        pairs = read_pairs(self.about) if self.about else []
        found = filter_critiques(
            [critique for folder in self.critiques for critique in read_critiques(folder)],
            quality,
            ignore_labels=self.ignore_labels,
            responses={(pair.id, side): getattr(pair, side) for pair in pairs for side in SIDES} or None,
            instruction=" ".join(read_run(folder).get("instruction", "") for folder in self.critiques),
        )
        rows = [critique.row() for critique in found.kept]
        run = {
            "critiques": [run_digest(folder) for folder in self.critiques],
            **asdict(quality),
            "ignore_labels": self.ignore_labels,
            "about": pairs_sha256(pairs) if self.about else None,
        }
        write_in_parts(self.out, run, [rows], list, SCHEMA, "filter")
        logging.getLogger(__name__).info("%s", as_rows(summary(found)))
        return 0


class Refine(WriterOptions):
    """Merge the critiques of each response into one (summ), or keep the best of them (rank)."""

    critiques: CliPositionalArg[Path] = Field(description="A finished `critiques filter`.")
    data: str = Field(description="The preference pairs that were critiqued.")
    method: Literal["summ", "rank"] = Field(description="summ merges critiques, rank keeps the best.")
    top_k: PositiveInt = Field(2, description="Critiques a response that rank keeps.")
    max_tokens: PositiveInt = Field(96, description="Longest merged critique.")
    rate: Literal["written", "expected"] = Field(
        "written",
        description="How rank reads a rating: the number that is written, or the one that the model expects to write.",
    )

    def run(self) -> int:
        from ..critiques.records import read_critiques
        from ..critiques.refine import refine, summary
        from ..parts import run_digest
        from ..tables import as_rows

        before, pairs = read_critiques(self.critiques), self.pairs(self.data)
        refine(
            pairs,
            before,
            self.critic(),
            method=self.method,
            top_k=self.top_k,
            max_tokens=self.max_tokens,
            rate_by=self.rate,
            out=self.out,
            run={"critiques": run_digest(self.critiques)} | self.run_on(pairs),
        )
        logging.getLogger(__name__).info("%s", as_rows(summary(before, read_critiques(self.out))))
        return 0


class Critiques(BaseSettings):
    """Write, filter and refine the critiques that a Critic-RM learns from."""

    model_config = SettingsConfigDict(env_prefix="CRITICRM_CRITIQUES_", cli_kebab_case=True)

    sample: CliSubCommand[Sample] = Field(description="Write several critiques of every response.")
    filter: CliSubCommand[Filter] = Field(description="Keep what agrees with the labels.")
    refine: CliSubCommand[Refine] = Field(description="Merge the critiques of a response, or keep the best.")

    def run(self) -> int:
        logging.basicConfig(level=logging.INFO, format="%(message)s")
        step = get_subcommand(self)
        assert isinstance(step, Sample | Filter | Refine)
        return step.run()
