"""Imports point one way (docs/adr/0002), and light modules stay light."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

OURS = {"criticrm_model", "criticrm_server", "criticrm_training", "criticrm_client"}
MAY_IMPORT = {
    "criticrm_client": set(),
    "criticrm_model": set(),
    "criticrm_server": {"criticrm_client", "criticrm_model"},
    "criticrm_training": {"criticrm_model"},
}


def imported(package: str) -> dict[str, set[str]]:
    """The top-level packages that each of the package's files imports."""
    spec = importlib.util.find_spec(package)
    assert spec
    assert spec.submodule_search_locations
    folder = Path(spec.submodule_search_locations[0])
    found: dict[str, set[str]] = {}
    for path in folder.rglob("*.py"):
        names: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names.update(alias.name.partition(".")[0] for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                names.add(node.module.partition(".")[0])
        found[path.relative_to(folder).as_posix()] = names
    assert found
    return found


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_imports_point_one_way(package: str) -> None:
    for file, names in imported(package).items():
        assert names & OURS <= MAY_IMPORT[package] | {package}, file


@pytest.mark.parametrize("package", ["criticrm_client", "criticrm_model", "criticrm_training"])
def test_only_the_server_serves(package: str) -> None:
    for file, names in imported(package).items():
        assert not names & {"fastapi", "starlette", "uvicorn"}, file


def test_the_client_is_httpx_and_pydantic() -> None:
    """And what these bring; tqdm and pyarrow only where they are there."""
    for file, names in imported("criticrm_client").items():
        brought = {"httpx", "pydantic", "pydantic_core", "typing_extensions", "criticrm_client"}
        optional = {"tqdm"} if file == "progress.py" else {"pyarrow"} if file == "tables.py" else set()
        assert names - sys.stdlib_module_names <= brought | optional, file
    program = "import sys, criticrm_client; print([m for m in ('tqdm', 'pyarrow') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_model_knows_no_engine() -> None:
    for file, names in imported("criticrm_model").items():
        assert "vllm" not in names, file


@pytest.mark.parametrize(
    "module",
    [
        "criticrm_client",
        "criticrm_model",
        "criticrm_server.schemas",
        "criticrm_server.routes.score",
        "criticrm_server.app",
        "criticrm_server.score_command",
        "criticrm_server.serve",
        "criticrm_server.verify",
        "criticrm_training.commands.best_of_n",
        "criticrm_training.commands.critiques",
        "criticrm_training.commands.evaluate",
        "criticrm_training.commands.fit_head",
        "criticrm_training.commands.train",
    ],
)
def test_no_torch_where_none_is_needed(module: str) -> None:
    program = f"import sys, {module}; print([m for m in ('torch', 'transformers', 'vllm') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
