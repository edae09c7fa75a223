"""What users and operators read is in the field's terms: the words of `FORBIDDEN` have better ones beside them.

Read here: the documents, what a dashboard and alerts show, and every string of the programs that has a space: metrics'
help, log messages, help of commands and options, error messages.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
    *sorted(ROOT.glob("docs/**/*.md")),
    ROOT / "docs" / "openapi.json",
    *sorted(ROOT.glob("docker/**/*.md")),
    *sorted(ROOT.glob("docker/monitoring/**/*.yaml")),
    *sorted(ROOT.glob("docker/monitoring/**/*.json")),
]
PACKAGES = [path for folder in ("model", "service", "training") for path in sorted((ROOT / folder).rglob("*.py"))]
PROGRAMS = [path for folder in ("benchmarks", "scripts") for path in sorted((ROOT / folder).rglob("*.py"))]

FORBIDDEN = re.compile(
    r"""\b(
    in\ the\ house | let(s|ting)?\ in | enter(s|ed|ing)?        # admitted, in flight, sent
    | leaving | (go(es|ing)?|went)\ away                        # draining, shutting down
    | told | said | asked | given | found                       # reported, returned, requested, provided, parsed
    | set(s|ting)?\ (\w+\ ){0,4}aside | aside | apart           # unhealthy, excluded; separate
    | (a|the|one|each|every|next|last|first)\ look              # probe, health check
    | (its|these|error's|exact)\ words                          # message
    | stood\ behind                                             # the next waiting requests
    )\b""",
    re.IGNORECASE | re.VERBOSE,
)
FUNCTION_NAMES = re.compile(r"_?(how|list|say|tell|ask|what|why)")  # no verb with an object
ALLOWED: dict[str, str] = {}  # an exact phrase that no better term exists for, and why; fewer than ten


def forbidden(text: str) -> list[str]:
    for phrase in ALLOWED:
        text = text.replace(phrase, "")
    return [match[0] for match in FORBIDDEN.finditer(" ".join(text.split()))]


def shown(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Every text of a module that may be shown, and its line.

    A class's docstring is a command's help or a schema's description; those of modules and functions are for readers of
    the code.
    """
    private = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.Constant) or not isinstance(node.value, str) or id(node) in private:
            continue
        if " " in node.value:  # else a key or a name
            yield node.lineno, node.value


def faults(tree: ast.AST) -> list[str]:
    return [f"{line}: {', '.join(words)}: {text}" for line, text in shown(tree) if (words := forbidden(text))]


def read(path: Path) -> ast.AST:
    return ast.parse(path.read_text(encoding="utf-8"))


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("document", DOCUMENTS, ids=relative)
def test_a_document(document: Path) -> None:
    lines = document.read_text(encoding="utf-8").splitlines()
    assert [f"{number}: {words}" for number, line in enumerate(lines, 1) if (words := forbidden(line))] == []


def test_what_programs_show() -> None:
    assert [f"{relative(path)}:{fault}" for path in PACKAGES + PROGRAMS for fault in faults(read(path))] == []


def test_a_function_is_named_by_a_verb_and_its_object() -> None:
    functions = [
        (relative(path), node.name)
        for path in PACKAGES
        for node in ast.walk(read(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    assert [pair for pair in functions if FUNCTION_NAMES.fullmatch(pair[1])] == []


def test_there_is_something_to_read() -> None:
    assert len(DOCUMENTS) > 20
    assert sum(bool(text) for path in PACKAGES for _, text in shown(read(path))) > 500


@pytest.mark.parametrize(
    "source",
    [
        "logger.warning('%s was set aside', url)",
        "raise ValueError(f'no row {i} was found')",
        "Counter('admitted', 'Requests let in.', registry=registry)",
        "Gauge('in_house', f'{n} in the house')",
        "size: int = Field(1, description='As the file said.')",
        "class Serve:\n    '''Serves until it is told to stop.'''",
        "parser.add_argument('--n', help='how many, unless given')",
    ],
)
def test_an_example_is_noticed(source: str) -> None:
    assert len(faults(ast.parse(source))) == 1
    assert forbidden(source)


@pytest.mark.parametrize("text", ["Told so.", "It goes\naway", "sets a dead one aside", "in its words", "a look"])
def test_each_kind_of_word_is_noticed(text: str) -> None:
    assert forbidden(text)


def test_whole_words_alone_count() -> None:
    assert forbidden("The foundation of an apartment, its centered entertainment and giveness") == []


def test_the_allow_list_is_short_and_used() -> None:
    texts = " ".join(path.read_text(encoding="utf-8") for path in DOCUMENTS + PACKAGES + PROGRAMS)
    assert len(ALLOWED) < 10
    assert [phrase for phrase in ALLOWED if phrase not in texts] == []
