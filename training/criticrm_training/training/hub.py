"""A finished checkpoint and its adapter on the Hugging Face hub."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import HfApi

_NOT_PUSHED = ["trainer/*", "calibration/*", "adapter/*", "run.json", "*.partial"]  # of a run's folder


def create(repo_id: str, *, token: str | None, private: bool | None) -> str:
    """The repository for a checkpoint, unless it is there already. Returns its full name."""
    return str(HfApi(token=token).create_repo(repo_id, private=private, exist_ok=True).repo_id)


def push(
    folder: Path, repo_id: str, *, token: str | None, private: bool | None, message: str, revision: str | None = None
) -> list[str]:
    """Upload what `criticrm serve` takes to `repo_id` and, if there is one, the adapter to `repo_id`-adapter.

    Args:
        folder: of a finished run.

    Returns the addresses of the commits.
    """
    api = HfApi(token=token)
    commits = [
        api.upload_folder(
            repo_id=repo_id,
            folder_path=folder,
            ignore_patterns=_NOT_PUSHED,
            commit_message=message,
            revision=revision,
        )
    ]
    if (folder / "adapter").is_dir():
        adapter = create(f"{repo_id}-adapter", token=token, private=private)
        commits.append(
            api.upload_folder(
                repo_id=adapter, folder_path=folder / "adapter", commit_message=message, revision=revision
            )
        )
    return [str(commit) for commit in commits]
