"""A model by hub name at a revision, from a hub cache as a download leaves it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import Running
from criticrm_model import CheckpointError
from criticrm_model.default import resolve
from support.live import Server

COMMITS = {"main": "a" * 40, "v1": "b" * 40}


@pytest.fixture
def hub(tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache that holds two commits of owner/critic, and no network."""
    repository = tmp_path / "hub" / "models--owner--critic"
    (repository / "refs").mkdir(parents=True)
    for name, commit in COMMITS.items():
        (repository / "refs" / name).write_text(commit)
        shutil.copytree(tiny_checkpoint, repository / "snapshots" / commit)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


# A process of its own: huggingface_hub reads its variables when it is imported.
_RESOLVE = """
import sys
from criticrm_model.checkpoint import Checkpoint
from criticrm_model.default import resolve

for revision in (None, *sys.argv[1:]):
    print(Checkpoint.open(resolve("owner/critic", revision)).revision)
"""


@pytest.mark.usefixtures("hub")
def test_it_is_found_by_branch_tag_or_commit() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _RESOLVE, "v1", COMMITS["v1"]], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [COMMITS["main"], COMMITS["v1"], COMMITS["v1"]]


@pytest.mark.usefixtures("hub")
def test_the_commit_is_shown(tmp_path: Path) -> None:
    with Server("owner/critic", "--engine", "fake", "--revision", "v1", log=tmp_path / "log") as server:
        assert server.get("/v1/model").json()["revision"] == COMMITS["v1"]


async def test_a_folder_has_none(running: Running, tiny_checkpoint: Path) -> None:
    with pytest.raises(CheckpointError, match="has no revision v1"):
        resolve(str(tiny_checkpoint), "v1")
    with pytest.raises(CheckpointError, match="has no revision v1"):
        resolve("default", "v1")
    assert (await running.client.get("/v1/model")).json()["revision"] is None
