"""A picture inside a page: nothing is fetched by a reader."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure


def figure(draw: Callable[[Axes], None], caption: str, height: float = 3.6) -> str:
    """`<figure>` with what `draw` draws, as SVG in it, and its caption; `height` in inches."""
    drawn = Figure(figsize=(8.5, height), layout="constrained")
    draw(drawn.add_subplot())
    picture = io.BytesIO()
    with rc_context({"svg.hashsalt": "critic-rm"}):  # else its names are random: one input, one page
        drawn.savefig(picture, format="svg", metadata={"Date": None})
    data = base64.b64encode(picture.getvalue()).decode()
    image = f'<img alt="{html.escape(caption)}" src="data:image/svg+xml;base64,{data}">'
    return f"<figure>{image}<figcaption>{caption}</figcaption></figure>"
