"""The page of `criticrm verify --report`: what was compared, and each reward by both drawn as a point."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from criticrm_model.pages import figure, write_page

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from criticrm_model.checkpoint import Checkpoint

    from .agreement import Rewards
    from .engines.base import Facts


def write_report(
    out: Path, checkpoint: Checkpoint, facts: Facts, compared: Mapping[str, Rewards], lines: Sequence[str]
) -> None:
    """Write the page to `out`.

    Args:
        compared: rewards by both, by what they are.
        lines: the table as it was printed, and what failed.
    """
    manifest = checkpoint.manifest
    described = ", ".join(f"{name} {value}" for name, value in facts.described.items())
    parts = [
        "<h1>Rewards by vLLM and by transformers</h1>",
        f"<p>{html.escape(checkpoint.folder.name)}, version {manifest.version}, base {html.escape(manifest.base_model)}"
        f"<br>{html.escape(described)}</p>",
        f"<pre>{html.escape(chr(10).join(lines))}</pre>",
        figure(partial(_scatter, compared=compared), "Each reward by both. On the line they are the same.", 5.0),
        figure(partial(_differences, compared=compared), "vLLM less transformers, over the reward by transformers."),
    ]
    write_page(out, "Critic-RM: verify", parts)


def _scatter(axes: Axes, compared: Mapping[str, Rewards]) -> None:
    for name, rewards in compared.items():
        axes.scatter(rewards.reference, rewards.served, s=14, alpha=0.7, label=name)
    every = [reward for rewards in compared.values() for reward in (*rewards.reference, *rewards.served)]
    axes.plot([min(every), max(every)], [min(every), max(every)], color="#9aa3b0", linewidth=1, zorder=0)
    axes.set(xlabel="reward by transformers", ylabel="reward by vLLM")
    axes.legend(frameon=False)


def _differences(axes: Axes, compared: Mapping[str, Rewards]) -> None:
    for name, rewards in compared.items():
        differences = [a - b for a, b in zip(rewards.served, rewards.reference, strict=True)]
        axes.scatter(rewards.reference, differences, s=14, alpha=0.7, label=name)
    axes.axhline(0, color="#9aa3b0", linewidth=1, zorder=0)
    axes.set(xlabel="reward by transformers", ylabel="difference")
