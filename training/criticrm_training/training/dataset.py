"""Pairs and their critiques, rendered to what the trainer learns from."""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Mapping, Sequence

from datasets import Dataset, Features, List, Value

from criticrm_model.prompt import Renderer

from ..critiques.records import SIDES, Critique, SideName, critique_tokens
from ..data.overlong import RenderedPairs
from ..data.pairs import PreferencePair
from .collator import CritiqueTokens, Example, Side, count_tokens
from .packing import shared_length
from .train_config import Cut

logger = logging.getLogger(__name__)

Critiques = Mapping[tuple[str, SideName], Sequence[Critique]]  # by pair id and side

_TOKENS = List(Value("int32"))
_CRITIQUE = {"token_ids": _TOKENS, "learn": Value("bool"), "reward": Value("bool")}
_SIDE = {"prompt_ids": _TOKENS, "critiques": List(_CRITIQUE)}
_FEATURES = Features(
    chosen=_SIDE,
    rejected=_SIDE,
    margin=Value("float32"),
    agreement=Value("float32"),
    labels=List(Value("float32")),
    index=Value("int32"),
    length=Value("int32"),
)

# Where the scalar baseline reads the reward: after an empty critique, which is before any.
NO_CRITIQUE = CritiqueTokens(token_ids=[], learn=False, reward=True)


def make_examples(
    rendered: RenderedPairs,
    renderer: Renderer,
    *,
    learned: Critiques | None = None,
    judged: Critiques | None = None,
    scalar: bool = False,
    max_critique_tokens: int,
    cut: Cut = "none",
) -> list[Example]:
    """One example for each pair, with all critiques of both responses.

    Args:
        renderer: that rendered the pairs.
        learned: critiques that the model learns to write; of any responses. Those kept by label belong here.
        judged: critiques that the reward is read after; of any responses. Fresh ones that nothing was dropped from
            belong here: the reward reads the label off critiques that were kept by it. A response that has a critique
            in both gets it once, in both roles.
        scalar: no critiques: the reward loss reads the reward before any.
        max_critique_tokens: of each critique, with the token that ends it; a longer one is cut, and has no end.
        cut: as `config.CUT`; the same critiques are cut at the same tokens in each run.
    """
    lengths: list[int] = []

    def tokens(critique: Critique) -> list[int]:
        ids = critique_tokens(renderer, critique)
        lengths.append(len(ids))
        return ids[:max_critique_tokens]

    def side(pair: PreferencePair, name: SideName, prompt_ids: list[int]) -> Side:
        if scalar:
            return Side(prompt_ids=prompt_ids, critiques=[NO_CRITIQUE])
        to_learn, to_judge = (
            [*map(tokens, (critiques or {}).get((pair.id, name), ()))] for critiques in (learned, judged)
        )
        if cut == "random":
            draw = random.Random(f"{pair.id}\0{name}")
            to_judge = [_cut_at_random(ids, draw) for ids in to_judge]
        return Side(prompt_ids=prompt_ids, critiques=_in_both_roles(to_learn, to_judge))

    examples = [
        Example(
            chosen=side(pair, "chosen", chosen),
            rejected=side(pair, "rejected", rejected),
            margin=pair.margin,
            agreement=pair.agreement,
            index=index,
            labels=[math.nan if label is None else label for _, label in pair.labels],
        )
        for index, (pair, (chosen, rejected)) in enumerate(zip(rendered.pairs, rendered.prompts, strict=True))
    ]
    if too_long := sum(length > max_critique_tokens for length in lengths):
        logger.warning(
            "%d of %d critiques are longer than max_critique_tokens %d: they are cut, have no end to learn, and their "
            "reward is read at the cut; %d tokens would hold all",
            too_long,
            len(lengths),
            max_critique_tokens,
            max(lengths),
        )
    return examples


def _cut_at_random(token_ids: list[int], draw: random.Random) -> list[int]:
    """One of two stays whole; of the other so many tokens are left as `draw` says, at least one."""
    whole, kept = draw.random() < 0.5, draw.randint(1, len(token_ids))
    return token_ids if whole else token_ids[:kept]


def without_critiques(example: Example) -> Example:
    chosen, rejected = (Side(prompt_ids=example[side]["prompt_ids"], critiques=[]) for side in SIDES)
    return {**example, "chosen": chosen, "rejected": rejected}


def as_dataset(examples: Sequence[Example]) -> Dataset:
    """In Arrow, token ids in 32 bits: a tenth of what lists of Python's integers take.

    `length` is of both sides of a pair together, in tokens; what their prompts begin with alike counts once.
    """
    rows = [{"labels": [], **example, "length": _length(example)} for example in examples]
    return Dataset.from_list(rows, features=_FEATURES)


def _length(example: Example) -> int:
    chosen, rejected = example["chosen"], example["rejected"]
    shared = shared_length(chosen["prompt_ids"], rejected["prompt_ids"])
    return count_tokens(chosen) + count_tokens(rejected) - shared


def _in_both_roles(learned: list[list[int]], judged: list[list[int]]) -> list[CritiqueTokens]:
    """One entry for what is in both."""
    critiques = [CritiqueTokens(token_ids=tokens, learn=True, reward=False) for tokens in learned]
    for tokens in judged:
        same = next((c for c in critiques if not c["reward"] and c["token_ids"] == tokens), None)
        if same is None:
            critiques.append(CritiqueTokens(token_ids=tokens, learn=False, reward=True))
        else:
            same["reward"] = True
    return critiques
