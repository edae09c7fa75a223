"""Preference pairs in every format they come in, with every fault named by its row."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from criticrm_model.prompt import Message

from .labels import read_agreement, read_label, read_margin, read_text
from .rows import read_row
from .sources import DataError, parsed, source_name
from .splits import merged_groups, question_group

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PreferencePair:
    """One prompt with a preferred and a dispreferred response.

    Attributes:
        group: equal for pairs of one question, whose conversations begin with the same user turn or with nearly the
            same: what a split must keep together (see `splits`).
        margin: by how much the chosen response is better, in reward; the loss asks for at least that difference.
        agreement: probability that the label is right, from 0.5 to 1.
        reference: a correct solution of the prompt.
        criteria: what the label judges by.
        labels: by the name of each of several rewards, the probability that the chosen response is the better one; None
            where it is not known.
    """

    id: str
    prompt: tuple[Message, ...]
    chosen: str
    rejected: str
    category: str
    group: str
    margin: float = 0.0
    agreement: float = 1.0
    reference: str | None = None
    criteria: str | None = None
    labels: tuple[tuple[str, float | None], ...] = ()

    def response(self, side: Literal["chosen", "rejected"]) -> str:
        """The chosen or the rejected response."""
        return self.chosen if side == "chosen" else self.rejected

    @property
    def content(self) -> tuple[Any, ...]:
        """What the pair says: all but its names (id, category and group). Equal for exact duplicates."""
        turns = tuple((m["role"], m["content"]) for m in self.prompt)
        said: tuple[Any, ...] = (turns, self.chosen, self.rejected, self.margin, self.agreement, self.reference)
        if self.criteria is not None:
            said = (*said, self.criteria)
        return (*said, self.labels) if self.labels else said


def read_pairs(source: Path | str, rewards: Collection[str] = ()) -> list[PreferencePair]:
    """Preference pairs of a file or a dataset (`sources.rows`), in the formats that TRL's reward trainer takes.

    See `rows.read_row` for what a row may hold. Exact duplicates are dropped and counted.

    Args:
        rewards: names of columns with labels (`labels.read_label`), of a model with several rewards.

    Raises:
        DataError: the source is missing, empty or broken, a row is malformed, or two different rows share an id.
    """
    pairs: dict[tuple[Any, ...], PreferencePair] = {}
    seen: dict[str, tuple[int, tuple[Any, ...]]] = {}  # by id: row and content
    repeating = duplicates = 0
    votes: set[Any] = set()  # in columns of floats, as pandas makes them of integers and nulls

    def parse(number: int, row: Any) -> tuple[PreferencePair, bool]:
        pair = _pair(row, str(number), rewards)
        if isinstance(agreement := row.get("agreement"), float) and agreement in (1, 2, 3):
            votes.add(agreement)
        return pair

    for number, (pair, repeats) in parsed(source, parse):
        content = pair.content
        first, other = seen.setdefault(pair.id, (number, content))
        if other != content:
            raise DataError(f"{source}, row {number}: the id {pair.id!r} is that of row {first}, which is another pair")
        duplicates += content in pairs
        repeating += repeats
        pairs.setdefault(content, pair)
    if not pairs:
        raise DataError(f"{source} holds no preference pairs")
    if 1 in votes and len(votes) > 1:
        raise DataError(
            f"{source}: the column agreement holds 1.0 beside {max(votes)}: one vote, or a probability? Write votes as "
            "text ('2/3'), and probabilities up to 1.0"
        )
    groups = merged_groups(pair.group for pair in pairs.values())
    name = source_name(source)
    logger.info(
        "%s: %d pairs of %d questions; %d exact duplicates were dropped",
        name,
        len(pairs),
        len(set(groups.values())),
        duplicates,
    )
    if repeating:
        logger.info("%s: in %d rows both responses repeat the prompt; it was taken off them", name, repeating)
    return [replace(pair, group=groups[pair.group]) for pair in pairs.values()]


def parse_pair(row: Any, default_id: str, rewards: Collection[str] = ()) -> PreferencePair:
    """One row, as `read_pairs` takes it. Raises KeyError and ValueError: the field, and what is wrong with it."""
    return _pair(row, default_id, rewards)[0]


def pair_row(pair: PreferencePair) -> dict[str, Any]:
    """The pair as a row that `read_pairs` reads back."""
    return {
        "id": pair.id,
        "prompt": list(pair.prompt),
        "chosen": pair.chosen,
        "rejected": pair.rejected,
        "category": pair.category,
        "reference": pair.reference,
        **({} if pair.criteria is None else {"criteria": pair.criteria}),
        **(dict(pair.labels) if pair.labels else {"margin": pair.margin, "agreement": pair.agreement}),
    }


def pairs_sha256(pairs: Sequence[PreferencePair]) -> str:
    """The digest of the pairs' texts, ids and order: all that a run which writes about them depends on."""
    said = [[p.id, p.content] for p in pairs]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()


def content_sha256(pairs: Iterable[PreferencePair]) -> str:
    """The digest of the pairs' texts, in any order and from any kind of file."""
    digests = sorted(hashlib.sha256(json.dumps(p.content).encode()).hexdigest() for p in pairs)
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def _pair(row: Any, default_id: str, rewards: Collection[str]) -> tuple[PreferencePair, bool]:
    parts = read_row(row)
    labels = tuple((name, read_label(row.get(name), name)) for name in rewards)
    if labels and all(label is None for _, label in labels):
        raise ValueError(f"{', '.join(rewards)}: there is a label in none of these columns")
    if labels and (said := next((name for name in ("margin", "agreement") if row.get(name) is not None), None)):
        raise ValueError(f"{said}: is of one reward; of several, a probability in each column says how sure it is")
    return (
        PreferencePair(
            id=_name(row, "id", default_id),
            prompt=parts.prompt,
            chosen=parts.chosen,
            rejected=parts.rejected,
            category=_name(row, "category", "all"),
            group=question_group(parts.prompt),
            margin=read_margin(row.get("margin")),
            agreement=read_agreement(row.get("agreement")),
            reference=read_text(row.get("reference"), "reference"),
            criteria=read_text(row.get("criteria"), "criteria"),
            labels=labels,
        ),
        parts.repeated_prompt,
    )


def _name(row: dict[str, Any], field: str, default: str) -> str:
    """Parquet gives None where a row lacks a field that others have. Raises ValueError, naming the field."""
    value = row.get(field)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise ValueError(f"{field}: {value!r} is neither text nor an integer")
    return str(value)
