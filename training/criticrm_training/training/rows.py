"""Preference rows with their critiques, as `CriticTrainer` takes them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..critiques.records import SIDES, Critique, SideName, by_response
from ..data.pairs import PreferencePair, parse_pair
from ..data.sources import DataError, must_be_unicode
from .dataset import Critiques


@dataclass(frozen=True, slots=True)
class CritiquedPairs:
    """Preference pairs, and critiques of their responses.

    Attributes:
        learned: those that the model learns to write; None where there are none.
        judged: those that the reward is read after; None where there are none.
    """

    pairs: Sequence[PreferencePair]
    learned: Critiques | None = None
    judged: Critiques | None = None


def read_rows(
    rows: Iterable[Mapping[str, Any]], name: str = "train_dataset", rewards: Collection[str] = ()
) -> CritiquedPairs:
    """A `datasets.Dataset`, or a list of dicts, with the columns below.

    - `prompt`, `chosen`, `rejected` as for `criticrm train` (texts or messages); optional `id`, `category`, `margin`,
      `agreement`;
    - `chosen_critiques`, `rejected_critiques`: lists of the critiques that the model learns to write, each a text or
      `{"text": ..., "finish_reason": "stop" or "length"}`. Those kept by label belong here;
    - `chosen_reward_critiques`, `rejected_reward_critiques`: lists of critiques that the reward is read after: fresh
      ones of the model that is trained, from which nothing was dropped. Without these columns the reward is read after
      the others.
    - a column for each name of `rewards`, with its label (`labels.read_label`).

    Raises:
        DataError: names the row and the field.
    """
    pairs: list[PreferencePair] = []
    learned: list[Critique] = []
    judged: list[Critique] = []
    has_judged = False
    for number, row in enumerate(rows):
        must_be_unicode(row, name, number)
        try:
            pair = parse_pair(row, str(number), rewards)
            pairs.append(pair)
            for side in SIDES:
                learned += _critiques(row, f"{side}_critiques", pair.id, side)
                judged += _critiques(row, f"{side}_reward_critiques", pair.id, side)
                has_judged |= f"{side}_reward_critiques" in row
        except KeyError as error:
            raise DataError(f"{name}, row {number}: there is no {error.args[0]}") from error
        except ValueError as error:
            raise DataError(f"{name}, row {number}: {error}") from error
    if not pairs:
        raise DataError(f"{name} holds no preference pairs")
    if len({pair.id for pair in pairs}) < len(pairs):
        raise DataError(f"{name}: two rows have the same id")
    of_reward = judged if has_judged else learned
    return CritiquedPairs(pairs, by_response(learned) or None, by_response(of_reward) or None)


def _critiques(row: Mapping[str, Any], field: str, pair_id: str, side: SideName) -> list[Critique]:
    critiques, given = [], row.get(field)
    if given is not None and (isinstance(given, str) or not isinstance(given, Sequence)):
        raise ValueError(f"{field}: {type(given).__name__} is not a list of critiques")
    for number, value in enumerate(given or ()):
        if isinstance(value, str):
            value = {"text": value}
        if not isinstance(value, Mapping) or not isinstance(value.get("text"), str):
            raise ValueError(f"{field}[{number}]: a critique is a text, or a mapping with one under 'text'")
        reason = value.get("finish_reason") or "stop"
        critiques.append(Critique(pair_id, side, number, value["text"], None, reason, 0))
    return critiques
