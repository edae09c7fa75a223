"""For each shell command of the documents: a test that runs it or one like it, or why there is none."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from test_guides import ONLY_LOOK, PAGES

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]
_BY_GUIDES = re.compile(r"criticrm (?!serve|verify)|python examples/")
ELSEWHERE = {  # begins with: a test of that command, with models and files of its own
    "curl ": "docs/test_readme.py",
    "make serve": "docs/test_readme.py",
    "criticrm serve ": "docs/test_serve_lines.py",
    "criticrm import ": "docs/test_guides.py",
    "criticrm score ": "integration/test_score_command.py",
    "criticrm evaluate ": "docs/test_guides.py",
    "criticrm report ": "docs/test_guides.py",
    "criticrm rounds ": "docs/test_guides.py",
    "criticrm doctor ": "docs/test_guides.py",
    "criticrm verify ": "integration/test_verify_command.py",
    "python -m vllm.entrypoints": "integration/test_gateway.py",
    "serve run criticrm_server.ray_serve:app": "integration/test_ray_serve.py",
    "python benchmarks/gateway.py": "integration/test_benchmarks_on_vllm.py",
    "python benchmarks/sampling.py": "integration/test_benchmarks_on_vllm.py",
    "python benchmarks/supplied.py": "integration/test_benchmarks_on_vllm.py",
}
NOT_RUN = {  # begins with: why
    "make test": "it runs this",
    "make demo": "half an hour; its steps on a tiny model are unit/test_arithmetic_example.py",
    "python benchmarks/client.py": "needs wrk; docs/test_benchmark_programs.py starts it",
    "python benchmarks/training.py": "needs TRL; docs/test_benchmark_programs.py starts it",
    "docker compose ": "needs Docker; deploy/test_compose.py where there is one",
    "trl grpo ": "needs TRL, which needs other versions",
    "swift rlhf ": "needs ms-swift",
    "python scripts/try_": "needs the frameworks, each in an environment of its own",
    "pip install 'critic-rm": "from a package index; the Makefile installs this folder",
    "export ": "variables of the next line",
}


def commands(document: Path) -> list[str]:
    """The lines of its shell blocks, without variables before them and comments."""
    blocks = re.findall(r"```bash\n(.*?)```", document.read_text("utf-8"), re.DOTALL)
    joined = [re.sub(r"\\\n|'\{\n.*?\n\}'", " ", block, flags=re.DOTALL) for block in blocks]
    lines = [line.strip() for block in joined for line in block.splitlines()]
    return [re.sub(r"^([A-Z_]+=\S+ )+", "", line) for line in lines if line and not line.startswith("#")]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_each_command_is_run_or_it_is_said_why_not(document: Path) -> None:
    by_guides = str(document.relative_to(ROOT / "docs")) in [*PAGES, *ONLY_LOOK] if document.parent != ROOT else False
    known = (*ELSEWHERE, *NOT_RUN)
    left = [line for line in commands(document) if not (by_guides and _BY_GUIDES.match(line))]
    assert [line for line in left if not line.startswith(known)] == []


@pytest.mark.parametrize("path", sorted(set(ELSEWHERE.values())))
def test_the_tests_are_there(path: str) -> None:
    assert (ROOT / "tests" / path).is_file()
