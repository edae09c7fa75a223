"""A critic that is trained from an imported reward model: from its body and its reward."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from criticrm_model import CheckpointError
from criticrm_model.checkpoint import Checkpoint
from criticrm_model.importing.importer import Source, import_model
from criticrm_training import CriticTrainer
from support.critics import ROWS, settings
from support.scalars import make_classifier, make_with_head

pytestmark = pytest.mark.slow


def trainer_from(folder: Path, tmp_path: Path) -> CriticTrainer:
    return CriticTrainer(str(folder), settings(tmp_path / "run"), train_dataset=ROWS)


@pytest.mark.parametrize("kind", ["tied", "own head"])
def test_it_starts_from_body_and_row(kind: str, tmp_path: Path) -> None:
    if kind == "tied":
        source = make_classifier(tmp_path / "source", "qwen2", tied=True)
    else:
        source = make_with_head(tmp_path / "source", "v_head", bias=2.0)
    manifest = import_model(Source(str(source)), tmp_path / "imported").manifest
    trainer = trainer_from(tmp_path / "imported", tmp_path)
    lm = AutoModelForCausalLM.from_pretrained(tmp_path / "imported", dtype=torch.float32)
    row = lm.get_output_embeddings().weight[manifest.reward_token_id]
    model = trainer.accelerator.unwrap_model(trainer.model)
    assert torch.equal(model.reward.weight, row)
    assert not model.lm.get_output_embeddings().weight[manifest.reward_token_id].any()
    trainer.train()
    trainer.save_model(str(tmp_path / "critic"))
    critic = Checkpoint.open(tmp_path / "critic")
    assert critic.manifest.writes_critiques
    assert critic.manifest.origin is None
    assert critic.manifest.base_model == str(source)
    assert critic.manifest.reward_token_id == manifest.reward_token_id
    sizes = [len(AutoTokenizer.from_pretrained(tmp_path / name)) for name in ("critic", "imported")]
    assert sizes[0] == sizes[1]


def test_one_without_an_lm_head_is_refused_with_what_is_missing(tmp_path: Path) -> None:
    source = make_classifier(tmp_path / "source", "qwen2")
    import_model(Source(str(source)), tmp_path / "imported")
    with pytest.raises(CheckpointError, match=r"without an LM head.*--lm-head"):
        trainer_from(tmp_path / "imported", tmp_path)
