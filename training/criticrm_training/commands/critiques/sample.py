"""`criticrm critiques sample`."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveInt
from pydantic_settings import CliImplicitFlag, CliPositionalArg

from criticrm_model.instruction import InstructionSlots

from ..options import PAIRS, WriterOptions

if TYPE_CHECKING:
    from ...data.pairs import PreferencePair

TASK = (
    "The critique task: 'general', 'reasoning' (solve the problem first, then compare the answers), or the path of "
    "your own .yaml file. CATEGORY=TASK sets it for the pairs of one category, 'default' for all others; repeat the "
    "option for several: --task reasoning=reasoning --task default=general."
)


class Sample(WriterOptions):
    """Write several critiques of every response, each with a score or a verdict."""

    data: CliPositionalArg[str] = Field(description=PAIRS)
    task: list[str] = Field(["general"], description=TASK)
    n: PositiveInt = Field(10, description="Critiques of each response; with --blind, derivations of each prompt.")
    temperature: NonNegativeFloat = Field(0.7, description="Sampling temperature; 0 is greedy.")
    max_tokens: PositiveInt | None = Field(
        None, description="Longest critique, in tokens, including its score line. Default: the task's."
    )
    score: Literal["written", "expected", "reward", "verdict"] | None = Field(
        None,
        description="How a critique is scored. written: the number at its end. expected: the mean of the number that "
        "the model would write there, for models that write none or always the same. reward: the reward of a "
        "Critic-RM. verdict: 1 or 0 by its verdict, parsed by the task's rule. Default: verdict where the task has a "
        "rule, else written.",
    )
    blind: CliImplicitFlag[bool] = Field(
        False,
        description="Derive each prompt's answer without its responses, once for all of them, then compare it with "
        "each: a small model that sees a response copies it. Needs a task with a derivation, such as reasoning.",
    )
    explain: NonNegativeInt = Field(
        0,
        description="With --blind: where the answers differ, show the model the response and let it name the first "
        "wrong step, in at most this many tokens (0: no).",
    )
    fold: str | None = Field(
        None,
        description="Only the pairs of fold K of N, such as 0/2: all pairs of a question are in one fold. To filter by "
        "a critic's own scores, train it without a fold (folds: {n: 2, exclude: 0} in its configuration) and sample "
        "that fold with it.",
    )
    skip_fold: str | None = Field(None, description="Only the pairs outside fold K of N.")
    in_sample: CliImplicitFlag[bool] = Field(
        False,
        description="Score pairs by the reward of a critic that was trained on them, which is an error otherwise: such "
        "scores agree with the labels because they were learnt.",
    )
    instruction: str | None = Field(None, description="Instruction for a critique, instead of the task's.")
    slots: InstructionSlots = Field(
        InstructionSlots(),
        description="Columns that the writer reads behind the instruction, as in the training's configuration: "
        '\'{"trained": ["criteria"]}\'.',
    )
    seed: int = Field(0, description="Seed of the sampling; each response draws from its own.")

    def run(self) -> int:
        from ...critiques.blind import read_derivations, sample_blind
        from ...critiques.critique_task import TaskError, load_tasks
        from ...critiques.records import read_critiques
        from ...critiques.sample import SampleSettings, sample
        from ...critiques.summary import blind_summary, sample_summary, truncated_responses
        from ...data.overlong import log_truncated
        from ...data.trained_questions import refuse_in_sample, trained_pairs
        from ...tables import as_rows

        if self.explain and not self.blind:
            raise TaskError("--explain needs --blind: other critiques explain as their instruction asks")
        pairs, tasks = self.pairs(self.data), load_tasks(self.task)
        if self.instruction is not None:
            tasks = tasks.with_instruction(self.instruction)
        settings = SampleSettings(self.n, self.temperature, self.max_tokens, self.score, self.seed, self.slots)
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
        from ...data.folds import Fold
        from ...data.pairs import read_pairs
        from ...data.splits import in_question_order

        pairs = in_question_order(read_pairs(data))
        if self.fold:
            pairs = Fold.parse(self.fold).inside(pairs)
        if self.skip_fold:
            pairs = Fold.parse(self.skip_fold).outside(pairs)
        return pairs[: self.limit] if self.limit else pairs
