"""`criticrm critiques`: sample, filter, refine."""

from __future__ import annotations

import logging
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, Field, NonNegativeFloat, NonNegativeInt, PositiveInt
from pydantic_settings import (
    BaseSettings,
    CliImplicitFlag,
    CliPositionalArg,
    CliSubCommand,
    SettingsConfigDict,
    get_subcommand,
)

from .options import PAIRS, WriterOptions

if TYPE_CHECKING:
    from ..data.pairs import PreferencePair

TASK = (
    "What critiques are asked for: 'general', 'reasoning' (solve it first, then compare the answers), or the path of "
    "your own .yaml file. CATEGORY=TASK for the pairs of one category, CATEGORY 'default' for all others; may be given "
    "several times: --task reasoning=reasoning --task default=general."
)


class Sample(WriterOptions):
    """Write several critiques of every response, each with a score or a verdict."""

    data: CliPositionalArg[str] = Field(description=PAIRS)
    task: list[str] = Field(["general"], description=TASK)
    n: PositiveInt = Field(10, description="Critiques a response; with --blind derivations a prompt.")
    temperature: NonNegativeFloat = Field(0.7, description="Sampling temperature; 0 is greedy.")
    max_tokens: PositiveInt | None = Field(
        None, description="Longest critique, its score line included; as the task says, if not given."
    )
    score: Literal["written", "expected", "reward", "verdict"] | None = Field(
        None,
        description="How a critique is scored: by the number it ends in (written); by the number that the model expects"
        " to write there, for models that write none or always the same (expected); by the reward of a Critic-RM "
        "(reward); 1 or 0 by its verdict, read by the task's rule (verdict). If not given: verdict where the task has "
        "a rule, else written.",
    )
    blind: CliImplicitFlag[bool] = Field(
        False,
        description="Derive each prompt's answer without its responses, once for all of them, then compare it with "
        "each: a small model that sees a response copies it. Needs a task with a derivation, such as reasoning.",
    )
    explain: NonNegativeInt = Field(
        0,
        description="With --blind: where the answers differ, let the model name the first wrong step in sight of the "
        "response, in so many tokens (0: no).",
    )
    fold: str | None = Field(
        None,
        description="Only the pairs of fold K of N, such as 0/2: all pairs of a question are in one fold. To filter by "
        "a critic's own scores, train it without a fold (folds: {n: 2, exclude: 0} in its configuration) and sample "
        "that fold with it.",
    )
    skip_fold: str | None = Field(None, description="Only the pairs that are not of fold K of N.")
    in_sample: CliImplicitFlag[bool] = Field(
        False,
        description="Score pairs by the reward of a critic that was trained on them, which is an error otherwise: such "
        "scores agree with the labels because they were learnt.",
    )
    instruction: str | None = Field(None, description="What asks for a critique, in the place of the task's words.")
    seed: int = Field(0, description="Seed of the sampling; each response draws from its own.")

    def run(self) -> int:
        from ..critiques.blind import read_derivations, sample_blind
        from ..critiques.critique_task import TaskError, load_tasks
        from ..critiques.records import read_critiques
        from ..critiques.sample import SampleSettings, sample
        from ..critiques.summary import blind_summary, sample_summary, truncated_responses
        from ..data.overlong import log_truncated
        from ..data.trained_questions import trained_pairs
        from ..tables import as_rows

        if self.explain and not self.blind:
            raise TaskError("--explain needs --blind: other critiques explain as their instruction asks")
        pairs, tasks = self.pairs(self.data), load_tasks(self.task)
        if self.instruction is not None:
            tasks = tasks.asking(self.instruction)
        settings = SampleSettings(self.n, self.temperature, self.max_tokens, self.score, self.seed)
        score_by = {settings.sampling(tasks.of(pair.category)).score_by for pair in pairs}
        seen = None if self.endpoint else trained_pairs(self.model, pairs)
        refuse_in_sample(seen, len(pairs), by_reward="reward" in score_by and not self.in_sample)
        run = self.run_on(pairs) | {"trained_pairs": seen}
        if self.blind:
            sample_blind(pairs, self.critic(), tasks, settings, explain_tokens=self.explain, out=self.out, run=run)
        else:
            sample(pairs, self.critic(), tasks, settings, out=self.out, run=run)
        critiques = read_critiques(self.out)
        log_truncated(
            truncated_responses(critiques), 2 * len(pairs), max_model_len=self.max_model_len, unit="responses"
        )
        rows = sample_summary(critiques, pairs, tasks)
        if self.blind:
            rows = blind_summary(read_derivations(self.out), pairs) + rows
        logging.getLogger(__name__).info("%s", as_rows(rows))
        return 0

    def pairs(self, data: str) -> list[PreferencePair]:
        from ..data.folds import Fold
        from ..data.pairs import in_question_order, read_pairs

        pairs = in_question_order(read_pairs(data))
        if self.fold:
            pairs = Fold.parse(self.fold).inside(pairs)
        if self.skip_fold:
            pairs = Fold.parse(self.skip_fold).outside(pairs)
        return pairs[: self.limit] if self.limit else pairs


def refuse_in_sample(seen: int | None, n: int, *, by_reward: bool) -> None:
    """Warn where the critic was trained on `seen` of the `n` pairs.

    Raises:
        InSampleError: they are to be scored by its reward.
    """
    from ..data.trained_questions import InSampleError

    if not seen:
        return
    about = f"{seen} of {n} pairs ask a question that this critic was trained on"
    if by_reward:
        raise InSampleError(
            f"{about}: its reward has learnt their labels. Sample a fold that it was trained without (--fold), or give "
            "--in-sample if nothing is filtered by these scores"
        )
    logging.getLogger(__name__).warning("%s: what it says of them is not what it would say of others", about)


class Filter(BaseModel):
    """Keep the pairs and the critiques that agree with the labels, and are fit to learn from."""

    critiques: CliPositionalArg[list[Path]] = Field(description="Finished `critiques sample`s.")
    out: Path = Field(description="Folder for what is kept.")
    by: Literal["score", "verdict"] = Field(
        "score",
        description="What must agree with the labels. score: the mean scores of a pair's responses, then each score "
        "with the other response's mean, as in the paper. verdict: each critique by itself, 'right' of a chosen and "
        "'wrong' of a rejected response.",
    )
    per_side: CliImplicitFlag[bool] = Field(
        False,
        description="Keep a pair's critiques of one response where none of the other is kept: the critique loss needs "
        "no pairs.",
    )
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
        tasks = [task for folder in self.critiques for task in read_run(folder).get("tasks", {}).values()]
        instructions = dict.fromkeys(task["instruction"] for task in tasks)
        for folder in self.critiques:
            if (seen := read_run(folder).get("trained_pairs")) and not self.ignore_labels:
                logging.getLogger(__name__).warning(
                    "%s: %d pairs ask a question that their critic was trained on: it agrees with their labels because"
                    " it has learnt them",
                    folder,
                    seen,
                )
        found = filter_critiques(
            [critique for folder in self.critiques for critique in read_critiques(folder)],
            quality,
            by=self.by,
            per_side=self.per_side,
            ignore_labels=self.ignore_labels,
            responses={(pair.id, side): getattr(pair, side) for pair in pairs for side in SIDES} or None,
            instruction=" ".join(instructions),
        )
        rows = [critique.row() for critique in found.kept]
        run = {
            "critiques": [run_digest(folder) for folder in self.critiques],
            **asdict(quality),
            "by": self.by,
            "per_side": self.per_side,
            "ignore_labels": self.ignore_labels,
            "about": pairs_sha256(pairs) if self.about else None,
        }
        write_in_parts(self.out, run, [rows], list, SCHEMA, "filter")
        logging.getLogger(__name__).info("%s", as_rows(summary(found)))
        return 0


class Refine(WriterOptions):
    """Merge the critiques of each response into one (summ), or keep the best of them (rank).

    A merged critique must have the quality that the filter asked for, or its response has none.
    """

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
        from ..critiques.filter import Quality
        from ..critiques.records import read_critiques
        from ..critiques.refine import refine, summary
        from ..data.overlong import log_truncated
        from ..parts import read_run, run_digest
        from ..tables import as_rows

        before, pairs = read_critiques(self.critiques), self.pairs(self.data)
        filtered = read_run(self.critiques)
        prompts = refine(
            pairs,
            before,
            self.critic(),
            method=self.method,
            top_k=self.top_k,
            max_tokens=self.max_tokens,
            rate_by=self.rate,
            quality=Quality(**{f.name: filtered[f.name] for f in fields(Quality) if f.name in filtered}),
            out=self.out,
            run={"critiques": run_digest(self.critiques)} | self.run_on(pairs),
        )
        log_truncated(prompts[True], prompts.total(), max_model_len=self.max_model_len)
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
