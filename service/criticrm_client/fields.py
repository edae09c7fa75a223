"""How the place of a field is written in messages, of the client and of the server."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

_LONGEST = 100  # characters of an unknown field's name: a caller chooses it


def field_name(location: tuple[str | int, ...]) -> str:
    """`("body", "<many>", "items", 3, "responses")` -> `items[3].responses`. Union tags (`<...>`) are left out."""
    name = ""
    for part in location:
        if isinstance(part, int):
            name += f"[{part}]"
        elif part != "body" and not part.startswith("<"):
            part = part if len(part) <= _LONGEST else part[:_LONGEST] + "..."
            name += f".{part}" if name else part
    return name or "body"


def nearest(name: str, known: Iterable[str]) -> str:
    """` (did you mean X?)`, or nothing if no known name is near."""
    found = get_close_matches(name, list(known), n=1)
    return f" (did you mean {found[0]}?)" if found else ""
