"""Pages of one HTML file that hold their pictures: nothing is fetched by a reader."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .files import write_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #1c2330; }
table { border-collapse: collapse; margin: 1rem 0; } th, td { padding: .25rem .8rem; text-align: right; }
th:first-child, td:first-child { text-align: left; } thead { border-bottom: 2px solid #1c2330; }
tbody tr:nth-child(odd) { background: #f3f5f8; } .interval { color: #6a7486; font-size: .85em; }
img { max-width: 100%; } figcaption { color: #4a5466; } h2 { margin-top: 2.5rem; }
.notice { border-left: 4px solid #b3261e; padding-left: .8rem; }
"""


def figure(draw: Callable[[Axes], None], caption: str, height: float = 3.6) -> str:
    """`<figure>` with what `draw` draws, as SVG in it, and its caption; `height` in inches."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(8.5, height), layout="constrained")
    draw(drawn.add_subplot())
    picture = io.BytesIO()
    with rc_context({"svg.hashsalt": "critic-rm"}):  # else its names are random: one input, one page
        drawn.savefig(picture, format="svg", metadata={"Date": None})
    data = base64.b64encode(picture.getvalue()).decode()
    image = f'<img alt="{html.escape(caption)}" src="data:image/svg+xml;base64,{data}">'
    return f"<figure>{image}<figcaption>{caption}</figcaption></figure>"


def write_page(out: Path, title: str, parts: Sequence[str]) -> None:
    """Write a page whose body is `parts`, HTML."""
    out.parent.mkdir(parents=True, exist_ok=True)
    head = f"<!doctype html><meta charset=utf-8><title>{html.escape(title)}</title><style>{_STYLE}</style>"
    write_text(out, head + "".join(parts))
