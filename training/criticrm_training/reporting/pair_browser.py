"""The report's pairs: each with its texts and with what every model wrote about it, to filter and to read."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pyarrow.parquet as pq

from ..critiques.records import SIDES
from ..evaluation.arms import ABOUT_PAIRS, MARGINS, Arm
from ..evaluation.pair_texts import read_texts

MOST_PAIRS = 2000  # with their texts in one page, some megabytes a model

_FILTERS = """
<form id=pair-filters>
<label>Of <select name=method></select></label>
<label>beside <select name=other></select></label>
<label>category <select name=category></select></label>
<label>outcome <select name=outcome><option value="">all<option value=right>right<option value=wrong>wrong
<option value=tie>tie<option value=differ>the two differ</select></label>
<label>longer <select name=longer><option value="">either<option value=chosen>the chosen
<option value=rejected>the rejected</select></label>
<label>margin from <input name=from type=number min=0 step=any></label>
<label>to <input name=to type=number min=0 step=any></label>
<label>words <input name=words type=search></label>
</form>
<p id=pair-count role=status></p>
<div class=pairs><table><thead><tr><th>prompt</th><th>category</th><th>characters longer</th><th>margin</th>
<th>of the other</th></tr></thead><tbody id=pair-list></tbody></table></div>
<div id=pair-detail tabindex=-1></div>
"""
_STYLE = """
#pair-filters { display: flex; flex-wrap: wrap; gap: .5rem 1rem; } #pair-filters input { width: 7rem; }
.pairs { max-height: 24rem; overflow: auto; } .right { color: #1b7a3d; } .wrong { color: #b3261e; }
.pairs button { border: 0; background: none; color: #1a56b0; font: inherit; text-align: left; cursor: pointer; }
.sides { display: grid; grid-template-columns: repeat(auto-fit, minmax(18rem, 1fr)); gap: 1rem; }
#pair-detail pre { white-space: pre-wrap; overflow-wrap: anywhere; background: #f3f5f8; padding: .6rem; }
#pair-detail pre.critique { background: #fdf6e6; } #pair-detail h4, #pair-detail h5 { margin: .6rem 0 .2rem; }
"""


def link(arm: int, method: str, **filters: str) -> str:
    """The address of the pairs behind a number, within the page.

    Args:
        arm: its place among those of `browser_parts`.
        filters: as the form names them.
    """
    return html.escape("#pairs?" + urlencode({"method": f"{arm}:{method}", **filters}))


def shown_arms(arms: Sequence[Arm], folders: Mapping[str, Sequence[Path]]) -> list[Arm]:
    """The evaluations of the same pairs as the first one that kept texts."""
    first = next((arm for arm in arms if read_texts(folders[arm.name][0]) is not None), None)
    return [] if first is None else [arm for arm in arms if arm.pairs == first.pairs]


def browser_parts(arms: Sequence[Arm], folders: Mapping[str, Sequence[Path]]) -> list[str]:
    """HTML: the pairs of `shown_arms`. Of an arm with several runs the first is shown."""
    shown = shown_arms(arms, folders)
    if not shown:
        return []
    texts = {arm.name: read_texts(folders[arm.name][0]) for arm in shown}
    first = next(arm for arm in shown if texts[arm.name] is not None)
    about = pq.read_table(folders[first.name][0] / MARGINS).to_pydict()
    kept = _most_telling(shown, len(about["pair_id"]))
    words = texts[first.name] or {}
    pairs = [
        {
            "id": about["pair_id"][i],
            "category": about["category"][i],
            "longer": about["characters_longer"][i],
            "prompt": words["prompt"][i],
            "chosen": words["chosen"][i],
            "rejected": words["rejected"][i],
        }
        for i in kept
    ]
    data = {"pairs": pairs, "arms": [_arm(arm, folders[arm.name][0], texts[arm.name], kept) for arm in shown]}
    script = Path(__file__).with_name("pair_browser.js").read_text(encoding="utf-8")
    left_out = len(about["pair_id"]) - len(kept)
    notes = [f"<p>{left_out} pairs that all models prefer rightly are left out of this page.</p>"] if left_out else []
    if others := [arm.name for arm in arms if arm not in shown]:
        notes.append(f"<p>Evaluated on other pairs, not shown here: {html.escape(', '.join(others))}.</p>")
    return [
        "<h2 id=pairs>The pairs</h2>",
        "<p>The most wrong first; a pair opens with its texts and critiques. A number above that is a link shows the "
        "pairs behind it.</p>",
        *notes,
        f"<style>{_STYLE}</style>{_FILTERS}",
        f'<script type="application/json" id=pair-data>{_safe_json(data)}</script>',
        f"<script>{script}</script>",
    ]


def _most_telling(arms: Sequence[Arm], count: int) -> list[int]:
    """Numbers of at most `MOST_PAIRS` pairs, in order: rather those that a model gets wrong."""
    if count <= MOST_PAIRS:
        return list(range(count))
    right = [min(_least(arm, i) for arm in arms) for i in range(count)]
    return sorted(sorted(range(count), key=right.__getitem__)[:MOST_PAIRS])


def _least(arm: Arm, pair: int) -> float:
    outcome = float(arm.outcomes[arm.headline][0, pair])
    return 1.0 if math.isnan(outcome) else outcome


def _arm(arm: Arm, folder: Path, texts: Mapping[str, Sequence[Any]] | None, kept: Sequence[int]) -> dict[str, Any]:
    table = pq.read_table(folder / MARGINS).to_pydict()
    methods = [arm.headline, *(method for method in table if method not in (*ABOUT_PAIRS, arm.headline))]
    margins = {method: [_number(table[method][i]) for i in kept] for method in methods}
    found: dict[str, Any] = {"name": arm.name, "margins": margins}
    if texts is not None and f"{SIDES[0]}_score" in texts:
        found["sides"] = {
            side: {
                name: [_number(texts[f"{side}_{name}"][i]) for i in kept]
                for name in ("score", "direct_score", "critique")
            }
            for side in SIDES
        }
    return found


def _number(value: Any) -> Any:
    """JSON has no NaN."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _safe_json(data: Any) -> str:
    """JSON within HTML: no text of it can end the element that holds it."""
    return json.dumps(data, allow_nan=False).replace("<", "\\u003c").replace("\u2028", "\\u2028")
