"""Files and functions stay short, and nothing is written twice in client and server."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import criticrm_client
import criticrm_model
import criticrm_server
import criticrm_training

CLIENT, MODEL, SERVER, TRAINING = (
    Path(p.__path__[0]) for p in (criticrm_client, criticrm_model, criticrm_server, criticrm_training)
)
FILES = [path for folder in (CLIENT, MODEL, SERVER, TRAINING) for path in sorted(folder.rglob("*.py"))]
MAX_FILE_LINES = 300
MAX_FUNCTION_LINES = 60
SAME_LINES = 6
REASON = f"Longer than {MAX_FILE_LINES} lines because"  # what a long file says in its first lines, and why


def test_no_file_is_long_without_a_reason_at_its_top() -> None:
    for path in FILES:
        lines = path.read_text(encoding="utf-8").splitlines()
        assert len(lines) <= MAX_FILE_LINES or REASON in "\n".join(lines[:20]), path


def test_no_function_is_long() -> None:
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                assert node.end_lineno is not None
                documented = ast.get_docstring(node) is not None and path.is_relative_to(TRAINING)  # with its protocol
                first = node.body[min(documented, len(node.body) - 1)] if documented else node
                assert node.end_lineno - first.lineno < MAX_FUNCTION_LINES, f"{path}: {node.name}"


def test_no_pattern_has_a_possessive_group() -> None:
    """Python 3.11.0 to 3.11.4, Debian 12's among them, matches those wrong, without an error (CPython gh-106052)."""
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert not re.search(r"\)(?:[*+?]|\{[\d,]+\})\+|\(\?>", node.value), f"{path}:{node.lineno}"


def runs(folder: Path) -> Iterator[tuple[tuple[str, ...], str]]:
    """Every run of lines that follow each other, without blank ones and imports, and where it begins."""
    for path in folder.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        imports = {
            line
            for node in ast.walk(ast.parse(text))
            if isinstance(node, ast.Import | ast.ImportFrom)
            for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
        }
        lines = [
            (number, line.strip())
            for number, line in enumerate(text.splitlines(), start=1)
            if line.strip() and number not in imports
        ]
        for i in range(len(lines) - SAME_LINES + 1):
            yield tuple(line for _, line in lines[i : i + SAME_LINES]), f"{path}:{lines[i][0]}"


def test_client_and_server_have_no_lines_in_common() -> None:
    ours = dict(runs(CLIENT))
    assert [(ours[run], place) for run, place in runs(SERVER) if run in ours] == []
