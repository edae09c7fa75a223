"""Imports point one way (docs/adr/0002), and light modules stay light."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

OURS = {"criticrm_model", "criticrm_server", "criticrm_training", "criticrm_client"}
MAY_IMPORT = {
    "criticrm_client": set(),
    "criticrm_model": set(),
    "criticrm_server": {"criticrm_client", "criticrm_model"},
    "criticrm_training": {"criticrm_model"},
}

# Of the server, besides its routes: the files that may reach fastapi or starlette.
FACES_HTTP = {
    "app",
    "body",
    "commands.score",
    "commands.serve",
    "disconnect",
    "commands.quickstart",
    "error_handlers",
    "in_process",
    "middleware",
    "openapi",
    "ray_serve",
    "serve",
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


def test_names_of_the_training_package_are_imported_from_where_they_are_defined() -> None:
    folder = Path(str(importlib.util.find_spec("criticrm_training").submodule_search_locations[0]))  # type: ignore
    trees = {path: ast.parse(path.read_text(encoding="utf-8")) for path in folder.rglob("*.py")}
    elsewhere = {
        path: {
            alias.asname or alias.name for node in tree.body if isinstance(node, ast.ImportFrom) for alias in node.names
        }
        for path, tree in trees.items()
    }
    for path, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.level and node.module:
                module = path.parents[node.level - 1].joinpath(*node.module.split(".")).with_suffix(".py")
                passed_on = {alias.name for alias in node.names} & elsewhere.get(module, set())
                assert not passed_on, f"{path.relative_to(folder)}: {passed_on} of {module.relative_to(folder)}"


def files_of(package: str) -> dict[str, Path]:
    """The package's modules by name."""
    spec = importlib.util.find_spec(package)
    assert spec
    assert spec.submodule_search_locations
    folder = Path(spec.submodule_search_locations[0])
    return {
        ".".join((package, *path.relative_to(folder).with_suffix("").parts)).removesuffix(".__init__"): path
        for path in folder.rglob("*.py")
    }


def imports_of(module: str, files: dict[str, Path], *, for_types: bool) -> set[str]:
    """Names of the modules that one imports, in functions too.

    Args:
        for_types: those under TYPE_CHECKING count.
    """
    tree = ast.parse(files[module].read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test) and not for_types:
            node.body = []
    inside = module if files[module].name == "__init__.py" else module.rpartition(".")[0]
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            source = importlib.util.resolve_name("." * node.level + (node.module or ""), inside)
            inner = {f"{source}.{alias.name}" for alias in node.names} & files.keys()
            names.update(inner if len(inner) == len(node.names) else {*inner, source})
    return names


def test_only_what_faces_http_reaches_fastapi_or_starlette() -> None:
    """By any chain of imports: what scores, admits or runs an engine must work, and be tested, without them."""
    files = files_of("criticrm_server")
    imports = {module: imports_of(module, files, for_types=False) for module in files}
    facing = {m for m, names in imports.items() if {n.partition(".")[0] for n in names} & {"fastapi", "starlette"}}
    while more := {m for m, names in imports.items() if names & facing} - facing:
        facing |= more
    routes = {m for m in files if m.startswith("criticrm_server.routes.")}
    assert {m.removeprefix("criticrm_server.") for m in facing - routes} == FACES_HTTP


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_no_modules_import_each_other(package: str) -> None:
    """Also not by way of others, nor for types alone. Raises CycleError, which names them."""
    files = files_of(package)
    found = {module: (imports_of(module, files, for_types=True) & files.keys()) - {module} for module in files}
    TopologicalSorter(found).prepare()


@pytest.mark.parametrize("package", sorted(OURS))
def test_no_module_is_named_as_one_of_the_standard_library(package: str) -> None:
    assert not {name.rpartition(".")[2] for name in files_of(package)} & set(sys.stdlib_module_names)


@pytest.mark.parametrize("package", ["criticrm_client", "criticrm_model", "criticrm_training"])
def test_only_the_server_serves(package: str) -> None:
    for file, names in imported(package).items():
        assert not names & {"fastapi", "starlette", "uvicorn"}, file


def test_the_client_is_httpx_and_pydantic() -> None:
    """And what these bring; tqdm and pyarrow only where they are there."""
    for file, names in imported("criticrm_client").items():
        brought = {"httpx", "pydantic", "pydantic_core", "typing_extensions", "criticrm_client"}
        optional = {"tqdm"} if file == "progress.py" else {"pyarrow"} if file in ("tables.py", "outputs.py") else set()
        assert names - sys.stdlib_module_names <= brought | optional, file
    program = "import sys, criticrm_client; print([m for m in ('tqdm', 'pyarrow') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_model_knows_no_engine() -> None:
    for file, names in imported("criticrm_model").items():
        assert "vllm" not in names, file


@pytest.mark.slow
@pytest.mark.parametrize(
    "module",
    [
        "criticrm_client",
        "criticrm_model",
        "criticrm_client.schemas",
        "criticrm_server.schemas",
        "criticrm_server.routes.score",
        "criticrm_server.app",
        "criticrm_server.commands.export",
        "criticrm_server.commands.import_",
        "criticrm_server.commands.score",
        "criticrm_server.commands.serve",
        "criticrm_server.commands.verify",
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
