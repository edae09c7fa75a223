"""The line that asks a model for a score: read at one token, where every number is one digit."""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase

from .scores import GREATEST_EXPECTED, LEAST_SCORE
from .writers import WriterError

SCORE_LINE_TOKENS = 16  # room for the line after the longest critique


def score_line(tokenizer: PreTrainedTokenizerBase, name: str) -> tuple[list[int], list[int]]:
    """The tokens before the number of a score line, and the token of each number from 1 to 9.

    Args:
        name: of the model, for the error.

    Raises:
        WriterError: the tokenizer has no token for a digit alone.
    """

    def tokens(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False).input_ids)

    lead = tokens("\nScore: ")
    lines = [tokens(f"\nScore: {number}") for number in range(LEAST_SCORE, GREATEST_EXPECTED + 1)]
    if any(line[:-1] != lead for line in lines):
        raise WriterError(f"{name}'s tokenizer has no token for a digit alone: use scores that are written")
    return lead, [line[-1] for line in lines]
