"""How a field is named in a message. Light: the command line needs it where no extra is installed."""

from __future__ import annotations


def field_name(location: tuple[str | int, ...]) -> str:
    """`("body", "<many>", "items", 3, "responses")` -> `items[3].responses`. Union tags (`<...>`) are left out."""
    name = ""
    for part in location:
        if isinstance(part, int):
            name += f"[{part}]"
        elif part != "body" and not part.startswith("<"):
            name += f".{part}" if name else part
    return name or "body"
