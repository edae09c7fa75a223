"""docs/capacity.md: its tables are what its program prints."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "capacity.md"


def test_the_tables_are_what_the_program_prints() -> None:
    page = PAGE.read_text("utf-8")
    (program,) = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    tables = re.findall(r"^<!-- capacity -->\n```\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(program, str(PAGE), "exec"), {})
    assert printed.getvalue() == "\n".join(tables)
    assert len(tables) == 2
