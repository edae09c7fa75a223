"""Pairs as token ids, and what becomes of those that are longer than the model."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from criticrm_model import ConversationError, PromptTooLong

from .judged_by import judged_by
from .sources import DataError

if TYPE_CHECKING:  # commands read the options' type from here, without transformers
    from criticrm_model.prompt import Renderer

    from .pairs import PreferencePair

logger = logging.getLogger(__name__)

Overlong = Literal["drop", "truncate", "error"]
OVERLONG = (
    "What becomes of a pair of which a prompt with its response and the longest critique exceeds max_model_len: 'drop' "
    "leaves the pair out; 'truncate' cuts both prompts as the service does on on_overflow=truncate (the oldest of the "
    "conversation, the middle of its last user turn, then the end of the response) and leaves out pairs whose "
    "responses are the same after it; 'error' ends the run. All of them are counted in the log."
)


@dataclass(frozen=True, slots=True)
class RenderedPairs:
    """Pairs that fit the model, with the token ids that their critiques are written after.

    Attributes:
        pairs: those that are kept, in their original order.
        prompts: of each of `pairs`, of the chosen and of the rejected response: `[prompt_len]` each.
        truncated: how many of `pairs` were cut.
        dropped: how many were left out because they were too long.
        equal: how many were left out because both prompts came out the same, by cutting or because the chat template
            strips the part in which the responses differ.
    """

    pairs: list[PreferencePair]
    prompts: list[tuple[list[int], list[int]]]
    truncated: int
    dropped: int
    equal: int


def render_pairs(
    pairs: Sequence[PreferencePair],
    renderer: Renderer,
    *,
    max_model_len: int,
    max_critique_tokens: int,
    overlong: Overlong,
    name: str = "pairs",
) -> RenderedPairs:
    """Render both responses of every pair; count those that do not fit, and say so in one line of the log.

    Args:
        max_model_len: of prompt, response and critique, in tokens.
        max_critique_tokens: room kept for each critique, in tokens.
        name: of the set, for the log and for errors.

    Raises:
        DataError: the chat template refuses a conversation; a pair is too long and `overlong` is "error"; or there
            were pairs and none is left.
    """
    if "criteria" not in renderer.slots.trained and (unread := sum(pair.criteria is not None for pair in pairs)):
        logger.warning("%s: %d have criteria, which are not read (slots: {trained: [criteria]})", name, unread)
    kept: list[PreferencePair] = []
    prompts: list[tuple[list[int], list[int]]] = []
    too_long: list[PreferencePair] = []
    longest = truncated = equal = 0
    for pair in pairs:
        prompts_of_pair, needed = _render(pair, renderer, max_model_len, max_critique_tokens, overlong == "truncate")
        if needed > max_model_len:
            longest = max(longest, needed)
            too_long.append(pair)
        if prompts_of_pair is None:
            continue
        if prompts_of_pair[0] == prompts_of_pair[1]:
            equal += 1
            continue
        truncated += needed > max_model_len
        kept.append(pair)
        prompts.append(prompts_of_pair)

    found = RenderedPairs(kept, prompts, truncated, len(too_long) if overlong == "drop" else 0, equal)
    if too_long:
        description = _describe(too_long, pairs, longest, max_model_len, max_critique_tokens, name)
        if overlong == "error":
            raise DataError(f"{description}. The first is pair {too_long[0].id!r}")
        treatment = "dropped" if overlong == "drop" else "truncated"
        logger.warning("%s; they are %s (overlong: %s)", description, treatment, overlong)
    if equal:
        logger.warning("%s: %d of %d are left out: both responses come out as the same tokens", name, equal, len(pairs))
    if pairs and not kept:
        raise DataError(
            f"{name}: none of {len(pairs)} is left: {found.dropped} are too long for max_model_len {max_model_len}, of "
            f"{equal} both responses come out as the same tokens. Raise max_model_len"
            + (f" (the longest pair needs {longest})" if longest else "")
        )
    return found


def log_truncated(truncated: int, total: int, *, max_model_len: int, unit: str = "prompts") -> None:
    """For work that can't leave prompts out: one line that says how many were cut, if any.

    Args:
        max_model_len: what they were cut to, critique included, in tokens.
    """
    if truncated:
        logger.warning(
            "%d of %d %s (%.1f %%) were truncated to fit max_model_len %d: the oldest of the conversation, the middle "
            "of its last user turn, then the end of the response",
            truncated,
            total,
            unit,
            100 * truncated / total,
            max_model_len,
        )


def _render(
    pair: PreferencePair, renderer: Renderer, max_model_len: int, max_critique_tokens: int, truncate: bool
) -> tuple[tuple[list[int], list[int]] | None, int]:
    """Both prompts, or None where one does not fit and nothing is to be cut; and the tokens of the longer one.

    Its tokens are those that it needs uncut, with its critique.
    """
    prompts: list[list[int]] = []
    needed = 0
    try:
        opened = renderer.with_criteria(*judged_by(pair, renderer.slots)).open(pair.prompt)
    except ConversationError as error:
        raise DataError(f"pair {pair.id!r}: prompt: {error}") from error
    for response in (pair.chosen, pair.rejected):

        def render(truncate: bool, response: str = response) -> list[int]:
            return opened.render(
                response, max_model_len=max_model_len, max_critique_tokens=max_critique_tokens, truncate=truncate
            ).token_ids

        try:
            prompts.append(render(truncate=False))
            needed = max(needed, len(prompts[-1]) + max_critique_tokens)
        except PromptTooLong as error:
            needed = max(needed, error.prompt_tokens + max_critique_tokens)
            if truncate:
                try:
                    prompts.append(render(truncate=True))
                except PromptTooLong as error:
                    raise DataError(
                        f"max_model_len {max_model_len} is too small for pair {pair.id!r}: the chat template, the "
                        f"critique instruction and a critique of {max_critique_tokens} tokens do not fit by themselves"
                    ) from error
    return (prompts[0], prompts[1]) if len(prompts) == 2 else None, needed


def _describe(
    too_long: Sequence[PreferencePair],
    pairs: Sequence[PreferencePair],
    longest: int,
    max_model_len: int,
    max_critique_tokens: int,
    name: str,
) -> str:
    total = Counter(pair.category for pair in pairs)
    shares = {category: n / total[category] for category, n in Counter(p.category for p in too_long).items()}
    by_category = ", ".join(
        f"{category} {100 * share:.1f} %" for category, share in sorted(shares.items(), key=lambda s: (-s[1], s[0]))[:5]
    )
    return (
        f"{name}: {len(too_long)} of {len(pairs)} ({100 * len(too_long) / len(pairs):.1f} %"
        + (f": {by_category}" if len(total) > 1 else "")
        + f") need more than max_model_len {max_model_len}, critiques of {max_critique_tokens} tokens included; "
        f"{longest} would fit all"
    )
