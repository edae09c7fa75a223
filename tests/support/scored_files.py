"""Rows in a file, scored by a server without a model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from criticrm_client import CriticRM, Retries
from support.null_server import NullServer

QUICK = Retries(attempts=2, first_wait_s=0.001)


def rows(n: int, start: int = 0) -> list[dict[str, Any]]:
    return [{"id": i, "prompt": "Why?", "response": f"Because {i}."} for i in range(start, start + n)]


def write(path: Path, content: list[Any]) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(content), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in content), encoding="utf-8")
    return path


def read(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        found: list[dict[str, Any]] = pq.read_table(path).to_pylist()
        return found
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def score(server: NullServer, source: Path, out: Path, **options: Any) -> Any:
    with CriticRM(server.url, retries=QUICK) as client:
        return client.score_file(source, out, **options)
