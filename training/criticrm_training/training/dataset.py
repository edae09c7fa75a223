"""Pairs and their critiques, rendered to what the trainer eats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from criticrm_model.prompt import Renderer

from ..critiques.records import SIDES, Critique, SideName
from ..data.pairs import PreferencePair
from .collator import Example, Side

Critiques = Mapping[tuple[str, SideName], Sequence[Critique]]  # by pair id and side


def make_examples(
    pairs: Sequence[PreferencePair],
    critiques: Critiques | None,
    renderer: Renderer,
    *,
    max_model_len: int,
    max_critique_tokens: int,
) -> list[Example]:
    """One example for each couple of critiques of a pair: its first of the chosen response with its first of the
    rejected one, and so on; the longer list goes round the shorter one.

    Args:
        critiques: of every pair; None for the scalar baseline, which reads the reward before any critique.
        max_model_len: of prompt and critique, in tokens; longer prompts are truncated as the service does.
        max_critique_tokens: of each critique, with the token that ends it; a longer one is cut, and has no end.
    """
    examples: list[Example] = []
    for pair in pairs:
        opened = renderer.open(pair.prompt)
        prompts = [
            opened.render(
                response, max_model_len=max_model_len, max_critique_tokens=max_critique_tokens, truncate=True
            ).token_ids
            for response in (pair.chosen, pair.rejected)
        ]
        if critiques is None:
            chosen, rejected = (Side(prompt_ids=ids, critique_ids=[]) for ids in prompts)
            examples.append(Example(chosen=chosen, rejected=rejected))
            continue
        texts = [[c.text for c in critiques[pair.id, side]] for side in SIDES]
        for i in range(max(map(len, texts))):
            chosen, rejected = (
                Side(
                    prompt_ids=ids,
                    critique_ids=renderer.tokenize_critique(group[i % len(group)])[:max_critique_tokens],
                )
                for ids, group in zip(prompts, texts, strict=True)
            )
            examples.append(Example(chosen=chosen, rejected=rejected))
    return examples
