"""`criticrm best-of-n` on real vLLM: the policy's engine first, then, in its place, the service's."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from criticrm_training.commands.best_of_n import BestOfN
from criticrm_training.parts import read_parts

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("logging_as_before")]


@pytest.mark.filterwarnings("ignore:unclosed")
def test_a_policy_and_a_service_of_its_own(base: Path, tiny_checkpoint: Path, tmp_path: Path) -> None:
    data, out = tmp_path / "questions.jsonl", tmp_path / "out"
    rows = [{"id": f"q{i}", "prompt": f"What is {i} + 1?", "reference": f"#### {i + 1}"} for i in range(3)]
    data.write_text("\n".join(map(json.dumps, rows)))
    lengths = ["--max-tokens", "8", "--max-model-len", "256"]
    arguments = [str(data), "--out", str(out), "--policy", str(base), "--model", str(tiny_checkpoint), *lengths]
    assert BestOfN(_cli_parse_args=[*arguments, "-n", "2"]).run() == 0
    answers, scores = read_parts(out / "answers"), read_parts(out / "scores")
    assert (len(answers), len(scores)) == (3, 6)  # a row a question; a row a response
    for row in answers:
        assert len(set(row["responses"])) == 2  # sampled, not the same twice
        assert not any("<|" in response for response in row["responses"])
    assert all(math.isfinite(row["greedy_score"]) and math.isfinite(row["direct_score"]) for row in scores)
    assert json.loads((out / "best_of_n.json").read_text())["questions"] == 3
