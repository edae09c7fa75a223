"""`criticrm decontaminate`: the clean file, the report, and the tables."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import pyarrow.parquet

from criticrm_model.files import whole, write_json

from .contamination import Contamination, Reason, SourceRow, find_contamination, read_rows
from .sources import DataError, source_name

logger = logging.getLogger(__name__)

_EXAMPLES = 3
_EXAMPLE_LENGTH = 160  # characters


def decontaminate(
    data: str,
    against: Sequence[str],
    out: Path | None,
    *,
    near: bool,
    ngram: int,
    common: int,
    dry_run: bool = False,
) -> dict[str, Any]:
    """Log what of `data` the files of `against` hold too, and write the rest to `out`; returns the report.

    Args:
        near, ngram, common: see `find_contamination`.

    Raises:
        DataError: a file can't be read, no row is left, or `out` can't be written.
    """
    if not dry_run:
        _check_out(data, against, out)
    rows = read_rows(data)
    names = [source_name(source) for source in against]
    names = names if len(set(names)) == len(names) else list(against)  # files of one name in different folders
    evaluation = [row for source, name in zip(against, names, strict=True) for row in read_rows(source, name)]
    found = find_contamination(rows, evaluation, near=near, ngram=ngram, common=common)
    removed = {contamination.row.number for contamination in found}
    report: dict[str, Any] = {
        "data": rows[0].source,
        "against": dict(Counter(row.source for row in evaluation)),
        "settings": {"near": near, "ngram": ngram, "common": common},
        "rows": len(rows),
        "kept": len(rows) - len(removed),
        "by_evaluation_file": _counts(found, [c.evaluation.source for c in found]),
        "by_source": _counts(found, [_source_of(c.row) for c in found]),
        "removed": [_described(contamination) for contamination in found],
    }
    total = Counter(map(_source_of, rows))
    for title, key in (("evaluation file", "by_evaluation_file"), ("source", "by_source")):
        logger.info("\n%s", _table(title, report[key], total if key == "by_source" else None))
    for contamination in _examples(found):
        logger.info("\n%s", _example(contamination))
    logger.info("\n%d of %d rows are kept", report["kept"], len(rows))
    if not report["kept"]:
        raise DataError(f"{data}: every row occurs in {', '.join(against)}; is it the same file?")
    if not dry_run and out is not None:
        _write(data, [row for row in rows if row.number not in removed], out)
        write_json(report_path(out), report)
        logger.info("wrote %s and %s", out, report_path(out))
    return report


def report_path(out: Path) -> Path:
    """Where the report of a clean file is."""
    return out.with_suffix(".report.json")


def _check_out(data: str, against: Sequence[str], out: Path | None) -> None:
    if out is None:
        raise DataError("give --out for the rows that are kept, or --dry-run")
    if out.suffix != ".jsonl" and not (out.suffix == ".parquet" and data.endswith(".parquet")):
        raise DataError(f"--out {out}: a .jsonl file, or a .parquet file if the data is one")
    if out.exists() and any(Path(source).exists() and out.samefile(source) for source in (data, *against)):
        raise DataError(f"--out {out} is one of the files that are read")
    out.parent.mkdir(parents=True, exist_ok=True)


def _write(data: str, kept: Sequence[SourceRow], out: Path) -> None:
    with whole(out) as unfinished:
        if out.suffix == ".parquet":
            table = pyarrow.parquet.read_table(data)
            pyarrow.parquet.write_table(table.take([row.number - 1 for row in kept]), unfinished)
            return
        with unfinished.open("w", encoding="utf-8") as file:
            for row in kept:
                try:
                    file.write(json.dumps(row.values, ensure_ascii=False) + "\n")
                except TypeError as error:
                    raise DataError(f"{data}, row {row.number}: JSON can't hold it ({error})") from error


def _source_of(row: SourceRow) -> str:
    return str(row.values.get("source") or row.values.get("category") or "all")


def _counts(found: Sequence[Contamination], names: Sequence[str]) -> dict[str, dict[str, int]]:
    counts = Counter(zip(names, (contamination.reason for contamination in found), strict=True))
    return {name: {reason: counts[name, reason] for reason in get_args(Reason)} for name in sorted(set(names))}


def _table(title: str, counts: dict[str, dict[str, int]], total: Counter[str] | None) -> str:
    """Rows removed, a line a name; with `total`, also of how many."""
    reasons = get_args(Reason)
    header = [title, *reasons, "removed", *(["of"] if total else [])]
    lines = [
        [
            name,
            *(str(row[reason]) for reason in reasons),
            str(sum(row.values())),
            *([str(total[name])] if total else []),
        ]
        for name, row in counts.items()
    ]
    widths = [max(len(line[i]) for line in [header, *lines]) for i in range(len(header))]
    return "\n".join(
        f"{line[0]:<{widths[0]}}  " + "  ".join(f"{cell:>{w}}" for cell, w in zip(line[1:], widths[1:], strict=True))
        for line in [header, *lines]
    )


def _examples(found: Sequence[Contamination]) -> list[Contamination]:
    """One of each reason first."""
    first = {contamination.reason: contamination for contamination in reversed(found)}
    rest = (contamination for contamination in found if contamination not in first.values())
    return [*sorted(first.values(), key=lambda c: get_args(Reason).index(c.reason)), *rest][:_EXAMPLES]


def _example(contamination: Contamination) -> str:
    row, other = contamination.row, contamination.evaluation
    return (
        f"row {row.number} ({contamination.reason}; {other.source}, row {other.number})\n"
        f"  {_shortened(row.question)}\n  {_shortened(contamination.shared)}"
    )


def _shortened(text: str) -> str:
    return text if len(text) <= _EXAMPLE_LENGTH else f"{text[: _EXAMPLE_LENGTH - 3]}..."


def _described(contamination: Contamination) -> dict[str, Any]:
    row, other = contamination.row, contamination.evaluation
    return {
        "row": row.number,
        "id": row.values.get("id"),
        "reason": contamination.reason,
        "evaluation_file": other.source,
        "evaluation_row": other.number,
        "evaluation_id": other.values.get("id"),
        "shared": _shortened(contamination.shared),
    }
