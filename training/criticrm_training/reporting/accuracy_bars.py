"""Accuracies as bars of HTML, each a link to the pairs behind it."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

from ..tables import LONGER
from .pair_browser import link

_STYLE = """
.bars { display: grid; grid-template-columns: max-content 1fr max-content; gap: .3rem .8rem; align-items: center; }
.bars a { color: inherit; } .track { position: relative; height: 1.1rem; background: #f3f5f8; display: block; }
.track::before { content: ""; position: absolute; left: 50%; top: 0; bottom: 0; border-left: 1px solid #b8c0cc; }
.axis { display: flex; justify-content: space-between; color: #6a7486; font-size: .85em; }
.range, .dot { position: absolute; top: 50%; transform: translateY(-50%); }
.range { height: 2px; background: currentColor; } .dot { width: .6rem; height: .6rem; margin-left: -.3rem;
border-radius: 50%; background: currentColor; }
.arm0 { color: #1f77b4; } .arm1 { color: #d9680b; } .arm2 { color: #2a8a2a; } .arm3 { color: #c22f30; }
.arm4 { color: #7d5bb0; } .arm5 { color: #7a5148; } .plain { color: #6a7486; }
"""
_COLOURS = 6


def accuracy_bars(results: Mapping[str, Mapping[str, Any]], places: Mapping[str, int]) -> str:
    """HTML: a row for each model and method, from 0 to 1, with its interval.

    Args:
        results: the `evaluation.json` of each evaluation, by its name.
        places: of the arms whose pairs are in the page (`pair_browser.shown_arms`).
    """
    rows: list[str] = []
    longer: list[Mapping[str, float]] = []
    for number, (name, result) in enumerate(results.items()):
        for method, a in result["accuracy"]["overall"].items():
            if method == LONGER:
                if a not in longer:  # the same for all on the same pairs
                    rows.append(_row(LONGER, a, "plain", None))
                longer.append(a)
                continue
            address = link(places[name], method) if name in places else None
            rows.append(_row(f"{name}: {method}", a, f"arm{number % _COLOURS}", address))
    axis = "<span></span><span class=axis><span>0</span><span>0.5</span><span>1</span></span><span></span>"
    return f"<style>{_STYLE}</style><div class=bars>{''.join(rows)}{axis}</div>"


def _row(label: str, a: Mapping[str, float], colour: str, address: str | None) -> str:
    value, low, high = (100 * a[key] for key in ("value", "low", "high"))
    text = f"{a['value']:.3f} <span class=interval>{a['low']:.3f} to {a['high']:.3f}</span>"
    track = (
        f'<span class="track {colour}"><span class=range style="left:{low:.2f}%;width:{high - low:.2f}%"></span>'
        f'<span class=dot style="left:{value:.2f}%"></span></span>'
    )
    label = html.escape(label)
    if address is not None:
        label = f'<a href="{address}">{label}</a>'
        track = f'<a href="{address}" tabindex=-1 aria-hidden=true>{track}</a>'
    return f"<span>{label}</span>{track}<span>{text}</span>"
