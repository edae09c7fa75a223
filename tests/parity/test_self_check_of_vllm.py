"""The self-check on real vLLM: it passes as it is, and each wrong readout keeps it from serving."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from criticrm_model.checkpoint import Checkpoint, assemble
from support.sabotage import MODES, SABOTAGES
from support.tiny import card, make_model, make_tokenizer, reward_vector

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def faults(opened_checkpoint: Checkpoint, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    other = tmp_path_factory.mktemp("other")
    tokenizer = make_tokenizer()
    assemble(make_model(len(tokenizer)), tokenizer, -reward_vector(), card(), other)
    script = Path(__file__).with_name("self_check_runs.py")
    done = subprocess.run(
        [sys.executable, script, opened_checkpoint.folder, other], capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, list[str]] = json.loads(done.stdout)
    return found


def test_vllm_as_it_is_passes(faults: dict[str, list[str]]) -> None:
    assert faults["none"] == []


def test_other_weights_than_the_manifest_s_are_refused(faults: dict[str, list[str]]) -> None:
    assert [fault.partition(":")[0] for fault in faults["of another checkpoint"]] == ["references"]


@pytest.mark.parametrize("name", list(SABOTAGES))
def test_a_wrong_readout_is_refused_by_name(faults: dict[str, list[str]], name: str) -> None:
    assert any(fault.startswith(f"{SABOTAGES[name][1]}: ") for fault in faults[name])


@pytest.mark.parametrize("mode", MODES)
def test_another_logprobs_mode_is_refused(faults: dict[str, list[str]], mode: str) -> None:
    assert faults[mode]
    assert ("the ban of -10000 is in it" in faults[mode][-1]) == mode.startswith("processed")
