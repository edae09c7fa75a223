"""The documents' `criticrm` commands are ones that the command line takes, and nothing in them is left to fill in."""

from __future__ import annotations

import re
import shlex
from importlib.metadata import entry_points
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted(ROOT.glob("docs/**/*.md"))]


def commands() -> list[str]:
    """Each line of a shell block that calls `criticrm`, continued lines joined."""
    blocks = [b for d in DOCUMENTS for b in re.findall(r"```bash\n(.*?)```", d.read_text("utf-8"), re.DOTALL)]
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return sorted({line for line in lines if re.match(r"\S*criticrm ", line)})


@pytest.mark.parametrize("line", commands())
def test_a_command_is_taken(line: str) -> None:
    _, name, *arguments = shlex.split(line.partition(" > ")[0], comments=True)
    (point,) = [p for p in entry_points(group="criticrm.commands") if p.name == name]
    assert point.load()(_cli_parse_args=arguments)


def test_there_are_commands() -> None:
    assert len(commands()) >= 4


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_nothing_is_left_to_fill_in(document: Path) -> None:
    assert not re.search(r"@@|TODO|TBD|XXX", document.read_text("utf-8"))
