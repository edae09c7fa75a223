"""`criticrm critiques refine`: one merged critique a response (Summ), or the best ones (Rank); arXiv 2411.16646."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from ..data.pairs import PreferencePair
from ..parts import in_chunks, write_in_parts
from .filter import ANY_QUALITY, Quality, whole
from .records import SCHEMA, SIDES, Critique, SideName, by_response
from .sample import task_seed
from .scores import LEAST_SCORE, greatest_score, split_score
from .writers import Critic, Sampling, Task

Method = Literal["summ", "rank"]
RateBy = Literal["written", "expected"]

SUMM = (
    "Several reviews of the assistant's last reply follow. Merge them into one review that keeps what they agree on "
    "and every fault that is real, in no more than three sentences. Write the review only.\n\n"
)
RANK = (
    "A review of the assistant's last reply follows. How good is the review: is it right, specific and useful? "
    "Answer with a line that reads 'Score: ' and an integer from {least} (useless) to {greatest} (excellent)."
    "\n\nReview: "
)
_PAIRS_PER_PART = 64


def refine(
    pairs: Sequence[PreferencePair],
    critiques: Sequence[Critique],
    critic: Critic,
    *,
    method: Method,
    top_k: int,
    max_tokens: int,
    rate_by: RateBy = "written",
    quality: Quality = ANY_QUALITY,
    out: Path,
    run: dict[str, Any],
) -> Counter[bool | None]:
    """Write the refined critiques of the pairs that have any to `out`, in parts.

    A response that has no more critiques than are wanted keeps them as they are: there is nothing to choose or merge.

    Args:
        top_k: critiques a response that `rank` keeps.
        max_tokens: of a merged critique.
        rate_by: how `rank` reads a rating: the number that is written, or the one that the model expects to write.
        quality: that a merged critique must have, as those had that it was merged from; else its response has none.
        run: what identifies this run besides the arguments given here.

    Returns how many prompts were truncated for the critic, and how many were not, of those that were written about now.
    """
    prompts: Counter[bool | None] = Counter()
    groups = by_response(critiques)
    members = [pair for pair in pairs if any((pair.id, side) in groups for side in SIDES)]

    def work(chunk: Sequence[PreferencePair]) -> list[dict[str, Any]]:
        responses = [(pair, side) for pair in chunk for side in SIDES if (pair.id, side) in groups]
        if method == "summ":
            return [c.row() for c in _summ(responses, groups, critic, max_tokens, quality, prompts)]
        return [c.row() for c in _rank(responses, groups, critic, top_k, rate_by, prompts)]

    described = run | {"model": critic.name, "method": method, "top_k": top_k, "max_tokens": max_tokens}
    described |= asdict(quality) if method == "summ" else {}
    if rate_by != "written":
        described["rate_by"] = rate_by
    write_in_parts(out, described, in_chunks(members, _PAIRS_PER_PART), work, SCHEMA, f"refine ({method})")
    return prompts


Groups = dict[tuple[str, SideName], list[Critique]]
Responses = Sequence[tuple[PreferencePair, SideName]]


def _summ(
    responses: Responses,
    groups: Groups,
    critic: Critic,
    max_tokens: int,
    quality: Quality,
    prompts: Counter[bool | None],
) -> list[Critique]:
    several = [(pair, side) for pair, side in responses if len(groups[pair.id, side]) > 1]
    tasks = [
        Task(
            pair.prompt,
            pair.response(side),
            SUMM + "\n".join(f"{i}. {c.text}" for i, c in enumerate(groups[pair.id, side], start=1)),
            task_seed("summ", pair.id, side),
            label=f"pair {pair.id!r}, {side}",
        )
        for pair, side in several
    ]
    drafts = critic.write(tasks, Sampling(n=1, temperature=0.0, max_tokens=max_tokens))
    prompts.update(draft.truncated for (draft,) in drafts)
    merged = {
        (pair.id, side): Critique(
            pair.id, side, 0, draft.text.strip(), None, draft.finish_reason, draft.tokens, truncated=draft.truncated
        )
        for (pair, side), (draft,) in zip(several, drafts, strict=True)
    }
    found = [
        whole(merged[pair.id, side], quality.most_sentences) if (pair.id, side) in merged else groups[pair.id, side][0]
        for pair, side in responses
    ]
    # Those that weren't merged have passed already, by another measure perhaps.
    return [c for c in found if (c.pair_id, c.side) not in merged or not quality.fault(c)]


def _rank(
    responses: Responses,
    groups: Groups,
    critic: Critic,
    top_k: int,
    rate_by: RateBy,
    prompts: Counter[bool | None],
) -> list[Critique]:
    contested = [
        (pair, critique)
        for pair, side in responses
        if len(groups[pair.id, side]) > top_k
        for critique in groups[pair.id, side]
    ]
    request = RANK.format(least=LEAST_SCORE, greatest=greatest_score(rate_by))
    tasks = [
        Task(
            pair.prompt,
            pair.response(c.side),
            request + c.text,
            task_seed("rank", pair.id, c.side, c.sample),
            label=f"pair {pair.id!r}, {c.side}, critique {c.sample}",
        )
        for pair, c in contested
    ]
    drafts = critic.write(tasks, Sampling(n=1, temperature=0.0, max_tokens=16, score_by=rate_by))
    prompts.update(draft.truncated for (draft,) in drafts)
    ratings = {
        (c.pair_id, c.side, c.sample): split_score(draft.text)[1] if rate_by == "written" else draft.score
        for (_, c), (draft,) in zip(contested, drafts, strict=True)
    }
    kept: list[Critique] = []
    for pair, side in responses:
        group = groups[pair.id, side]
        if len(group) > top_k:  # where no rating can be read, none is kept, which the summary counts
            rated = [(rating, c) for c in group if (rating := ratings[c.pair_id, c.side, c.sample]) is not None]
            group = [c for _, c in sorted(rated, key=lambda pair: -pair[0])[:top_k]]
        kept += group
    return kept


def summary(before: Sequence[Critique], after: Sequence[Critique]) -> list[tuple[str, str]]:
    """Rows of a table."""
    responses = by_response(before).keys()
    dropped = len(responses - by_response(after).keys())
    ended = sum(c.finish_reason == "stop" for c in after)
    return [
        ("responses", f"{len(responses) - dropped} ({dropped} dropped: no rating that can be read, or merged unfit)"),
        ("critiques", f"{len(after)} of {len(before)}"),
        ("ended by themselves", f"{ended} ({ended / max(1, len(after)):.1%})"),
    ]
