"""Opening a checkpoint: what is verified, and how each fault is named."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BloomConfig, GPT2Config, LlamaConfig, MptConfig, PretrainedConfig

from criticrm_model import CheckpointError, Manifest, UnsupportedModel
from criticrm_model.checkpoint import Checkpoint
from support.tiny import make_checkpoint


@pytest.fixture
def copy(tiny_checkpoint: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_checkpoint, tmp_path / "copy"))


def edit(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_changed_weights_are_found_out(copy: Path) -> None:
    weights = load_file(copy / "model.safetensors")
    name = next(name for name in weights if name.endswith("embed_tokens.weight"))
    weights[name][-1, 0] += 1
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="sha256"):
        Checkpoint.open(copy)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"rewards": [{"token_id": 5, "sha256": "0" * 64}]}, "the id 5, the tokenizer"),
        ({"format_version": 3}, "format_version"),
        ({"rewards": []}, "rewards"),
        ({"critique_instruction": ""}, "critique_instruction"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_a_manifest_that_does_not_fit(copy: Path, changes: dict[str, object], words: str) -> None:
    edit(copy / "critic_rm.json", **changes)
    with pytest.raises(CheckpointError, match=words):
        Checkpoint.open(copy)


@pytest.mark.parametrize(
    ("file", "words"), [("critic_rm.json", "not a Critic-RM checkpoint"), ("model.safetensors", "can't be read")]
)
def test_a_missing_file(copy: Path, file: str, words: str) -> None:
    (copy / file).unlink()
    with pytest.raises(CheckpointError, match=words):
        Checkpoint.open(copy)


def test_a_broken_file(copy: Path) -> None:
    (copy / "model.safetensors").write_bytes(b"\x00" * 100)
    with pytest.raises(CheckpointError, match="can't be read"):
        Checkpoint.open(copy)


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.json", None),
        ("config.json", "{"),
        ("tokenizer.json", None),
        ("tokenizer.json", "{"),
        ("tokenizer_config.json", "{"),
    ],
)
def test_what_transformers_can_not_read_is_told_in_our_words(copy: Path, file: str, content: str | None) -> None:
    (copy / file).unlink()
    if content is not None:
        (copy / file).write_text(content)
    with pytest.raises(CheckpointError, match=str(copy)):
        Checkpoint.open(copy)


def shard(folder: Path) -> Path:
    """The same weights in two files with an index, as large models come."""
    weights = load_file(folder / "model.safetensors")
    names = sorted(weights)
    files = {"one.safetensors": names[::2], "two.safetensors": names[1::2]}
    for file, part in files.items():
        save_file({name: weights[name] for name in part}, folder / file, metadata={"format": "pt"})
    (folder / "model.safetensors").unlink()
    weight_map = {name: file for file, part in files.items() for name in part}
    index = {"metadata": {"total_size": 0}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


@pytest.mark.parametrize("tied", [True, False])
def test_weights_in_several_files(tmp_path: Path, tied: bool) -> None:
    folder = shard(make_checkpoint(tmp_path / "sharded", tied=tied))
    assert Checkpoint.open(folder).manifest == Manifest.load(folder)


def test_a_file_of_several_that_is_missing(copy: Path) -> None:
    for path in shard(copy).glob("*.safetensors"):
        path.unlink()
    with pytest.raises(CheckpointError, match="can't be read"):
        Checkpoint.open(copy)


def test_weights_without_a_head(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path / "headless", tied=False)
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.qweight"] = weights.pop("lm_head.weight")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UnsupportedModel, match=r"stores no LM head.*quantised\?"):
        Checkpoint.open(folder)


def test_a_head_without_the_reward_row(copy: Path) -> None:
    """As when somebody saves the base's weights over it."""
    weights = load_file(copy / "model.safetensors")
    name = next(name for name in weights if name.endswith("embed_tokens.weight"))
    rows = len(weights[name])
    weights[name] = weights[name][:-1].clone()
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=rf"has {rows - 1} rows, the reward token is {rows - 1}"):
        Checkpoint.open(copy)


def test_a_config_that_caps_the_logits(copy: Path) -> None:
    edit(copy / "config.json", final_logit_softcapping=30.0)
    with pytest.raises(UnsupportedModel, match=r"soft-caps its logits at 30\.0"):
        Checkpoint.open(copy)


def test_a_row_that_is_not_finite(copy: Path) -> None:
    weights = load_file(copy / "model.safetensors")
    name = next(name for name in weights if name.endswith("embed_tokens.weight"))
    weights[name][-1] = torch.nan
    save_file(weights, copy / "model.safetensors", metadata={"format": "pt"})
    digest = hashlib.sha256(weights[name][-1].numpy().astype("<f4").tobytes()).hexdigest()
    (reward,) = json.loads((copy / "critic_rm.json").read_text())["rewards"]
    edit(copy / "critic_rm.json", rewards=[reward | {"sha256": digest}])
    with pytest.raises(CheckpointError, match="not finite"):
        Checkpoint.open(copy)


@pytest.mark.parametrize(
    "config",
    [
        BloomConfig(seq_length=77),
        MptConfig(max_seq_len=77),
        GPT2Config(n_positions=77),
        LlamaConfig(max_position_embeddings=77),
    ],
)
def test_the_longest_sequence_goes_by_several_names(copy: Path, config: PretrainedConfig) -> None:
    config.save_pretrained(copy)
    assert Checkpoint(copy, Manifest.load(copy)).max_model_len == 77


def test_a_config_without_a_longest_sequence(copy: Path) -> None:
    BloomConfig().save_pretrained(copy)
    with pytest.raises(UnsupportedModel, match=r"config\.json gives no longest sequence \(none of max_position_emb"):
        _ = Checkpoint(copy, Manifest.load(copy)).max_model_len
