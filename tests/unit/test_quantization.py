"""Checkpoints whose LM head is quantised are refused with the reason; those of a quantised body are not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from criticrm_model import UnsupportedModel
from criticrm_model.checkpoint import Checkpoint
from criticrm_model.quantization import why_head_is_quantized

_GROUPS = {"group_0": {"targets": ["Linear"], "weights": {"num_bits": 4}}}
QUANTIZED: list[dict[str, Any]] = [
    {"quant_method": "gptq", "bits": 4, "lm_head": True},
    {"quant_method": "gguf"},
    {"quant_method": "torchao", "include_input_output_embeddings": True},
    {"quant_method": "auto-round", "bits": 4, "extra_config": {"lm_head": {"bits": 8}}},
    {"quant_method": "compressed-tensors", "config_groups": _GROUPS, "ignore": []},
    {"quant_method": "compressed-tensors", "config_groups": {"a": {"targets": ["re:.*lm_head"]}}},
    {"quant_method": "modelopt", "quantization": {"quant_algo": "FP8", "exclude_modules": ["vision*"]}},
    {"quant_method": "quark", "exclude": []},
]
BODY: list[dict[str, Any]] = [
    {"quant_method": "gptq", "bits": 4, "lm_head": False},
    {"quant_method": "awq", "modules_to_not_convert": None},
    {"quant_method": "fp8", "activation_scheme": "dynamic"},
    {"quant_method": "bitsandbytes", "load_in_4bit": True},
    {"quant_method": "auto-round", "bits": 4, "extra_config": {"lm_head": {"bits": 16}}},
    {"quant_method": "compressed-tensors", "config_groups": _GROUPS, "ignore": ["lm_head"]},
    {"quant_method": "compressed-tensors", "config_groups": _GROUPS, "ignore": ["re:.*lm_head.*"]},
    {"quant_method": "compressed-tensors", "config_groups": {"a": {"targets": ["re:.*mlp.*"]}}},
    {"quant_method": "modelopt", "quantization": {"quant_algo": "FP8", "exclude_modules": ["lm_head*"]}},
    {"quant_method": "modelopt", "ignore": ["model.lm_head"]},
    {"quant_method": "quark", "exclude": ["lm_head"]},
]


@pytest.mark.parametrize("config", QUANTIZED, ids=str)
def test_a_quantised_head(config: dict[str, Any]) -> None:
    assert "quantises the LM head, and with it the reward row" in str(why_head_is_quantized(config))


@pytest.mark.parametrize("config", BODY, ids=str)
def test_a_quantised_body(config: dict[str, Any]) -> None:
    assert why_head_is_quantized(config) is None


def test_a_checkpoint_with_a_quantised_head_is_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_checkpoint, tmp_path / "quantised")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"quantization_config": QUANTIZED[0]}))
    with pytest.raises(UnsupportedModel, match="gptq quantises the LM head"):
        Checkpoint.open(folder)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "hf_quant_config.json").write_text(json.dumps({"quantization": {"exclude_modules": []}}))
    with pytest.raises(UnsupportedModel, match="modelopt quantises the LM head"):
        Checkpoint.open(folder)
