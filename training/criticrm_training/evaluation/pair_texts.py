"""The pairs of an evaluation with what was written about them, kept for the report's readers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from criticrm_model.files import whole

from ..critiques.records import SIDES
from ..data.pairs import PreferencePair

TEXTS = "pairs.parquet"
_ABOUT = ("score", "direct_score", "critique")  # of each side; None where there is none


def write_texts(out: Path, pairs: Sequence[PreferencePair], written: Mapping[str, Sequence[Any]]) -> None:
    """Write `out/pairs.parquet`.

    Args:
        written: columns of `about_sides`.
    """
    columns = {
        "pair_id": [pair.id for pair in pairs],
        "prompt": [json.dumps(list(pair.prompt)) for pair in pairs],
        "chosen": [pair.chosen for pair in pairs],
        "rejected": [pair.rejected for pair in pairs],
    }
    with whole(out / TEXTS) as unfinished:
        pq.write_table(pa.table(columns | dict(written)), unfinished)


def about_sides(sides: Sequence[Sequence[Mapping[str, Any]]]) -> dict[str, list[Any]]:
    """Columns of what is known of both responses of each pair: `chosen_score`, `rejected_critique` and so on.

    Args:
        sides: `[pairs][2]`; of each response `score`, `direct_score` and `critique`, or some of them.
    """
    return {f"{side}_{name}": [both[k].get(name) for both in sides] for k, side in enumerate(SIDES) for name in _ABOUT}


def read_texts(folder: Path) -> dict[str, list[Any]] | None:
    """Columns of `pairs.parquet`; None where an evaluation of an earlier version has none."""
    path = folder / TEXTS
    if not path.is_file():
        return None
    columns: dict[str, list[Any]] = pq.read_table(path).to_pydict()
    columns["prompt"] = [json.loads(prompt) for prompt in columns["prompt"]]
    return columns
