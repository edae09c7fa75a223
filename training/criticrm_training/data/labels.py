"""What a row says of its label: by how much chosen is better, how sure that is, and a correct solution."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

_LABELS = {"chosen": 1.0, "rejected": 0.0, "tie": 0.5}
_ANNOTATORS = 3  # how many vote in the public sets that give a number of votes (PandaLM)


def read_margin(value: Any) -> float:
    """A finite number from 0; 0 where the row has none. Raises ValueError, naming the field."""
    if value is None:
        return 0.0
    try:
        finite = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # of an integer that no float holds
        finite = False
    if not finite:
        raise ValueError(f"margin: {value!r:.40} is not a finite number")
    if value < 0:
        raise ValueError(f"margin: {value} is negative, but chosen is the better response: swap the two")
    return float(value)


def read_agreement(value: Any) -> float:
    """The probability that the label is right, 0.5 to 1; 1 where the row has none.

    A number with a decimal point is the probability, text is votes as "2/3", and 2 and 3 are how many of three
    annotators agree. The integer 1 may mean either, so it is refused.

    Raises:
        ValueError: naming the field.
    """
    if value is None:
        return 1.0
    if isinstance(value, str):
        try:
            probability = float(Fraction(value.replace(" of ", "/")))
        except (ValueError, ZeroDivisionError, OverflowError) as error:
            raise ValueError(f"agreement: {value!r} is neither a probability nor votes as '2/3'") from error
    elif isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"agreement: {value!r} is not a number")
    elif value in (2, _ANNOTATORS):
        probability = value / _ANNOTATORS
    elif isinstance(value, int):
        raise ValueError(
            f"agreement: the integer {value} is not 2 or 3 of three annotators; write a probability as {value}.0, or "
            f"votes as '{max(value, 3)}/5'"
        )
    else:
        probability = value
    if not 0.5 <= probability <= 1:  # also true of NaN
        hint = ": the label is more often wrong than right, swap chosen and rejected" if 0 <= probability < 0.5 else ""
        raise ValueError(f"agreement: {value} is not a probability from 0.5 to 1{hint}")
    return probability


def read_label(value: Any, name: str) -> float | None:
    """The probability that the chosen response is the better one by the reward of this name; None where none is known.

    "chosen", "rejected" and "tie" are 1, 0 and 0.5.

    Raises:
        ValueError: naming the field.
    """
    if value is None:
        return None
    if isinstance(value, str):
        if value not in _LABELS:
            raise ValueError(f"{name}: {value!r} is none of {', '.join(_LABELS)}, and no probability")
        return _LABELS[value]
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ValueError(f"{name}: {value!r} is no probability that the chosen response is the better one, 0 to 1")
    return float(value)


def read_text(value: Any, name: str) -> str | None:
    """A reference or criteria; None where the row has none, or blank ones. Raises ValueError, naming the field."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise ValueError(f"{name}: {value!r} is not text")
    return value if value.strip() else None
