"""What a critique of a solution says by a rule: its own final answer, and whether the reply's is the same."""

from __future__ import annotations

import re

from ..answers import equal, final_answer

_MINE = re.compile(r"\bMine: (.+?)\.? Reply:")


def own_answer(text: str) -> str | None:
    """What the critique gives as its own answer; None where it gives none.

    >>> own_answer("Three and four are 7. Mine: 7. Reply: 8. They differ.")
    '7'
    """
    found = _MINE.findall(text)
    return found[-1] if found else None


def verdict(text: str, response: str) -> bool | None:
    """Whether the critique's own answer is the response's; None where either has none."""
    mine, reply = final_answer(own_answer(text) or ""), final_answer(response)
    return equal(mine, reply) if mine and reply else None
