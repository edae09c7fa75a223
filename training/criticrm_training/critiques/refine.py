"""`criticrm critiques refine`: one merged critique a response (Summ), or the best ones (Rank); arXiv 2411.16646."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from ..data.pairs import PreferencePair
from ..parts import in_chunks, stream_in_parts
from .filter import NO_BOUNDS, QualityBounds, cut_sentences
from .records import SCHEMA, SIDES, Critique, SideName, by_response
from .sample import task_seed
from .scores import LEAST_SCORE, greatest_score, split_score
from .writers import Critic, Draft, Request, Sampling, WritingTask, drafts_in_order

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

Groups = Mapping[tuple[str, SideName], Sequence[Critique]]
Responses = Sequence[tuple[PreferencePair, SideName]]


def refine(
    pairs: Sequence[PreferencePair],
    critiques: Sequence[Critique],
    critic: Critic,
    *,
    method: Method,
    top_k: int,
    max_tokens: int,
    rate_by: RateBy = "written",
    quality: QualityBounds = NO_BOUNDS,
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
    refinement = _Summ(groups, max_tokens, quality) if method == "summ" else _Rank(groups, top_k, rate_by)

    def responses(chunk: Sequence[PreferencePair]) -> Responses:
        return [(pair, side) for pair in chunk for side in SIDES if (pair.id, side) in groups]

    def requests(chunk: Sequence[PreferencePair]) -> list[Request]:
        return refinement.requests(responses(chunk))

    def rows(chunk: Sequence[PreferencePair], drafts: Sequence[Sequence[Draft]]) -> list[dict[str, Any]]:
        written = [draft for (draft,) in drafts]
        prompts.update(draft.truncated for draft in written)
        return [c.row() for c in refinement.read_drafts(responses(chunk), iter(written))]

    def work(chunks: Sequence[Sequence[PreferencePair]]) -> Iterator[list[dict[str, Any]]]:
        return map(rows, chunks, drafts_in_order(critic, map(requests, chunks)))

    described = run | {"model": critic.name, "method": method, "top_k": top_k, "max_tokens": max_tokens}
    described |= asdict(quality) if method == "summ" else {}
    if rate_by != "written":
        described["rate_by"] = rate_by
    stream_in_parts(out, described, in_chunks(members, _PAIRS_PER_PART), work, SCHEMA, f"refine ({method})")
    return prompts


@dataclass(frozen=True, slots=True)
class _Summ:
    """One request for each response with several critiques: to merge them."""

    groups: Groups
    max_tokens: int
    quality: QualityBounds

    def requests(self, responses: Responses) -> list[Request]:
        sampling = Sampling(n=1, temperature=0.0, max_tokens=self.max_tokens)
        return [
            Request(
                WritingTask(
                    pair.prompt,
                    pair.response(side),
                    SUMM + "\n".join(f"{i}. {c.text}" for i, c in enumerate(self.groups[pair.id, side], start=1)),
                    task_seed("summ", pair.id, side),
                    label=f"pair {pair.id!r}, {side}",
                ),
                sampling,
            )
            for pair, side in responses
            if len(self.groups[pair.id, side]) > 1
        ]

    def read_drafts(self, responses: Responses, drafts: Iterator[Draft]) -> Iterator[Critique]:
        """Args: drafts: of `requests`, in order."""
        for pair, side in responses:
            group = self.groups[pair.id, side]
            if len(group) == 1:  # it has passed the filter already, by another measure perhaps
                yield group[0]
                continue
            draft = next(drafts)
            text, finish = draft.text.strip(), draft.finish_reason
            merged = Critique(pair.id, side, 0, text, None, finish, draft.tokens, truncated=draft.truncated)
            merged = cut_sentences(merged, self.quality.most_sentences)
            if not self.quality.fault(merged):
                yield merged


@dataclass(frozen=True, slots=True)
class _Rank:
    """One request for each critique of the responses with more than `top_k`: to rate it."""

    groups: Groups
    top_k: int
    rate_by: RateBy

    def requests(self, responses: Responses) -> list[Request]:
        request = RANK.format(least=LEAST_SCORE, greatest=greatest_score(self.rate_by))
        sampling = Sampling(n=1, temperature=0.0, max_tokens=16, score_by=self.rate_by)
        return [
            Request(
                WritingTask(
                    pair.prompt,
                    pair.response(side),
                    request + c.text,
                    task_seed("rank", pair.id, side, c.sample),
                    label=f"pair {pair.id!r}, {side}, critique {c.sample}",
                ),
                sampling,
            )
            for pair, side in responses
            if len(self.groups[pair.id, side]) > self.top_k
            for c in self.groups[pair.id, side]
        ]

    def read_drafts(self, responses: Responses, drafts: Iterator[Draft]) -> Iterator[Critique]:
        """Args: drafts: of `requests`, in order."""
        for pair, side in responses:
            group = self.groups[pair.id, side]
            if len(group) > self.top_k:  # where no rating can be read, none is kept, which the summary counts
                rated = [(rating, c) for c in group if (rating := self._rating(next(drafts))) is not None]
                group = [c for _, c in sorted(rated, key=lambda pair: -pair[0])[: self.top_k]]
            yield from group

    def _rating(self, draft: Draft) -> float | None:
        return split_score(draft.text)[1] if self.rate_by == "written" else draft.score


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
