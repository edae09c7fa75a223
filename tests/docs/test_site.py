"""The documentation as a site: it builds without a warning, its links lead somewhere, and its examples are right."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest
import yaml

from criticrm_server.command_groups import EXIT_CODES, GROUPS
from criticrm_training.rounds.config import RoundsConfig

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted(ROOT.glob("docs/**/*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text("utf-8"), re.DOTALL)


def anchors(page: Path) -> set[str]:
    """As Python-Markdown names headings, and hosts of repositories do for the ones that are linked here."""
    headings = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE)
    plain = [re.sub(r"[^\w\- ]", "", heading.replace("`", "")).strip().lower() for heading in headings]
    return {re.sub(r"[\s-]+", "-", heading) for heading in plain}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(out)]
    variables = os.environ | {"NO_MKDOCS_2_WARNING": "1"}  # the theme's own, of its successor
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "WARNING" not in done.stderr
    return out


@pytest.mark.slow
def test_it_needs_no_other_host(site: Path) -> None:
    """Not to show a page: what a reader clicks on may be anywhere."""
    for page in site.rglob("*.html"):
        fetched = re.findall(r"<(?:script|img|iframe)[^>]+src=\"?(https?:[^\" >]+)", page.read_text("utf-8"))
        fetched += re.findall(r"<link[^>]+rel=\"?stylesheet\"?[^>]+href=\"?(https?:[^\" >]+)", page.read_text("utf-8"))
        assert not fetched, page


@pytest.mark.slow
def test_the_references_are_filled_in(site: Path) -> None:
    client = (site / "reference" / "client" / "index.html").read_text("utf-8")
    for name in ("score_many", "best_of", "CritiqueOptions", "CheckpointChangedError"):
        assert name in client
    http = (site / "reference" / "http" / "index.html").read_text("utf-8")
    for path in ("/score", "/v1/render", "/get_reward", "/admin/reload"):
        assert path in http


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_within_the_repository_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
        if re.match(r"(https?|mailto):", link):
            continue
        path, _, anchor = link.partition("#")
        target = page if not path else (page.parent / path).resolve()
        assert target.exists(), f"{link}: there is no {path}"
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target), f"{link}: {target.name} has no such heading"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_code_is_written_right(page: Path) -> None:
    for block in blocks(page, "python"):
        compile(block.replace(", ...)", ")"), page.name, "exec")
    for block in blocks(page, "json"):
        json.loads(block)
    for block in blocks(page, "yaml"):
        yaml.safe_load(block)
    for block in blocks(page, "bash"):
        assert subprocess.run(["bash", "-n"], input=block, text=True).returncode == 0, block


def test_the_first_critics_configuration_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)  # its task is a path
    (block,) = blocks(ROOT / "docs" / "guides" / "first-critic.md", "yaml")
    (tmp_path / "my-rounds.yaml").write_text(block)
    assert RoundsConfig.read(tmp_path / "my-rounds.yaml").rounds == 1


def test_the_page_of_commands_names_them_all() -> None:
    text = (ROOT / "docs" / "reference" / "commands.md").read_text("utf-8")
    for point in entry_points(group="criticrm.commands"):
        assert f"`{point.name}`" in text
    for group, (example, _) in GROUPS.items():
        assert f"| {group} |" in text
        assert example in text
    for code in re.findall(r"\d+", EXIT_CODES):
        assert f"| {code} |" in text


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 120
