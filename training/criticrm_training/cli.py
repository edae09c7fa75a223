"""The settings of this package's commands. Light: what needs torch is imported when a command runs."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, Field, NonNegativeFloat, NonNegativeInt, PositiveInt, SecretStr
from pydantic_settings import (
    BaseSettings,
    CliImplicitFlag,
    CliPositionalArg,
    CliSubCommand,
    SettingsConfigDict,
    get_subcommand,
)

from criticrm_model.manifest import DEFAULT_CRITIQUE_INSTRUCTION, DEFAULT_NAME

from .evaluation.cli import PAIRS

if TYPE_CHECKING:
    from .critiques.critics import Critic
    from .data import PreferencePair


class FitHead(BaseSettings):
    """Fit a reward row on the frozen hidden states of any causal LM, and write a Critic-RM checkpoint.

    The model's own greedy critique is written for each response; the row is fitted with Bradley-Terry before and
    after it. Takes minutes on a GPU, an hour or more on a CPU; a second run with the same inputs goes on where
    the first stopped.
    """

    model_config = SettingsConfigDict(env_prefix="CRITICRM_FIT_", frozen=True, cli_kebab_case=True)

    data: CliPositionalArg[str] = Field(description=PAIRS)
    out: Path = Field(description="Folder for the checkpoint (or for the row alone, with --head-only).")
    base: str = Field(
        DEFAULT_NAME,
        description="Folder or hub name of an instruction-tuned causal LM; 'default' is SmolLM2-135M-Instruct.",
    )
    heldout: str | None = Field(None, description="Pairs for reporting only; never fitted on.")
    instruction: str = Field(DEFAULT_CRITIQUE_INSTRUCTION, description="What asks the model for a critique.")
    max_critique_tokens: PositiveInt = Field(
        64, description="Longest critique, in tokens; becomes the service's default for this checkpoint."
    )
    critique_pairs: int = Field(
        0,
        ge=0,
        description="Write critiques for only so many pairs of each set (0: all); the rest only fit the direct score.",
    )
    folds: int = Field(
        10,
        ge=2,
        description="Splits of the questions, for choosing the ridge and for the accuracy on unseen questions.",
    )
    batch_size: PositiveInt = Field(32, description="Responses in one batch.")
    max_model_len: PositiveInt = Field(2048, description="Longer prompts are truncated, in tokens.")
    dtype: Literal["float32", "bfloat16", "float16"] = Field("bfloat16", description="Precision of the frozen body.")
    work_dir: Path | None = Field(
        None, description="Where finished batches are kept for a resume; OUT/features unless given."
    )
    head_only: CliImplicitFlag[bool] = Field(
        False, description="Write reward.safetensors and reward.json, not the model."
    )

    def run(self) -> int:
        from .fit_head import fit

        logging.basicConfig(level=logging.INFO, format="%(message)s")
        fit(self)
        return 0


class Train(BaseSettings):
    """Train a Critic-RM on preference pairs and their critiques.

    CONFIG is a YAML file; `criticrm_training/configs/smollm2-135m.yaml` is one to start from. A second run with the
    same arguments goes on where the first stopped.
    """

    model_config = SettingsConfigDict(env_prefix="CRITICRM_TRAIN_", frozen=True, cli_kebab_case=True)

    config: CliPositionalArg[Path] = Field(description="YAML file that describes the run.")
    out: Path = Field(
        description="Folder for the checkpoint; its subfolder `trainer` is what a second run goes on from."
    )
    scalar: CliImplicitFlag[bool] = Field(
        False,
        description="Train the matched scalar baseline: the same examples and steps, without their critiques.",
    )

    def run(self) -> int:
        from .config import TrainConfig
        from .train import train

        logging.basicConfig(level=logging.INFO, format="%(message)s")
        train(TrainConfig.read(self.config), self.out, self.scalar)
        return 0


class Report(BaseSettings):
    """Draw one HTML page from finished evaluations and training runs."""

    model_config = SettingsConfigDict(env_prefix="CRITICRM_REPORT_", frozen=True, cli_kebab_case=True)

    out: CliPositionalArg[Path] = Field(description="The HTML file to write.")
    evaluations: dict[str, Path] = Field(
        default_factory=dict,
        description="Folders of `criticrm evaluate` and `judge`, by name: --evaluations critic=FOLDER, may be given "
        "several times. Those that are named SERIES@ANYTHING are drawn as one line against their training pairs.",
    )
    runs: dict[str, Path] = Field(
        default_factory=dict, description="Folders of `criticrm train`: --runs critic=FOLDER."
    )
    best_of_n: dict[str, Path] = Field(
        default_factory=dict, description="Folders of `criticrm best-of-n`: --best-of-n critic=FOLDER."
    )
    probes: dict[str, Path] = Field(
        default_factory=dict, description="Folders of `criticrm probe`: --probes critic=FOLDER."
    )

    def run(self) -> int:
        from .reporting.report import write_report

        logging.basicConfig(level=logging.INFO, format="%(message)s")
        write_report(self.out, self.evaluations, self.runs, self.best_of_n, self.probes)
        logging.getLogger(__name__).info("wrote %s", self.out)
        return 0


class _Writing(BaseModel):
    """Who writes."""

    model: str = Field(
        DEFAULT_NAME, description="The model that writes: 'default', a folder or a hub name; with --endpoint, its name."
    )
    endpoint: str | None = Field(
        None, description="OpenAI-style address up to /v1, instead of vLLM in this process: a bigger model can write."
    )
    key: SecretStr | None = Field(None, description="Key for the endpoint.")
    concurrency: PositiveInt = Field(32, description="Requests to the endpoint at a time.")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field("auto", description="Precision of the model.")
    max_model_len: PositiveInt = Field(2048, description="Longest prompt with its critique, in tokens; others are cut.")
    out: Path = Field(description="Folder for the Parquet parts; a second run goes on where the first stopped.")
    limit: NonNegativeInt = Field(0, description="Only so many pairs, drawn by the hash of their question (0: all).")

    def critic(self) -> Critic:
        from .critiques.critics import open_writer

        return open_writer(
            self.model,
            endpoint=self.endpoint,
            key=self.key.get_secret_value() if self.key else None,
            concurrency=self.concurrency,
            max_model_len=self.max_model_len,
            dtype=self.dtype,
        )

    def run_on(self, pairs: Sequence[PreferencePair]) -> dict[str, Any]:
        """What the run depends on, of these settings; an endpoint has its own precision and length."""
        from .data import pairs_sha256

        here = {} if self.endpoint else {"dtype": self.dtype, "max_model_len": self.max_model_len}
        return here | {"pairs": pairs_sha256(pairs)}

    def pairs(self, data: str) -> list[PreferencePair]:
        from .data import in_question_order, read_pairs

        pairs = in_question_order(read_pairs(data))
        return pairs[: self.limit] if self.limit else pairs


class Sample(_Writing):
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
        from .critiques.critics import Sampling
        from .critiques.records import read_critiques
        from .critiques.sample import sample, summary
        from .tables import as_rows

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
        from .critiques.filter import Quality, filter_critiques, summary
        from .critiques.records import SCHEMA, SIDES, read_critiques
        from .data import pairs_sha256, read_pairs
        from .parts import read_run, run_digest, write_in_parts
        from .tables import as_rows

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


class Refine(_Writing):
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
        from .critiques.records import read_critiques
        from .critiques.refine import refine, summary
        from .parts import run_digest
        from .tables import as_rows

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
