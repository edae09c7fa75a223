"""Weights that are split over processes train to the model of one process; the configs that ask for it are taken."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import FullyShardedDataParallelPlugin
from safetensors.torch import load_file

import criticrm_training
from criticrm_model import CheckpointError
from criticrm_model.checkpoint import Checkpoint
from criticrm_model.logits import logit_scale
from criticrm_training.base import load_base
from criticrm_training.training import run as train_module
from criticrm_training.training.model import JointModel
from criticrm_training.training.run import train
from criticrm_training.training.sharded import load_trained, trained_weights
from criticrm_training.training.train_config import TrainConfig
from support import sharded
from support.joint import make_joint
from support.runs import write_config
from support.tiny import make_model

pytestmark = pytest.mark.slow

CONFIGS = Path(criticrm_training.__file__).parent / "configs"
LORA = {"r": 4, "target_modules": "all-linear"}
HAS_DEEPSPEED = find_spec("deepspeed") is not None
needs_deepspeed = pytest.mark.skipif(not HAS_DEEPSPEED, reason="deepspeed is not installed")


def shipped(name: str) -> TrainConfig:
    return TrainConfig.read(CONFIGS / f"{name}.yaml")


def plan(name: str) -> dict[str, Any]:
    """How a config that is shipped splits the weights."""
    trainer = shipped(name).trainer
    return {
        key: trainer[key] for key in ("fsdp", "fsdp_config", "deepspeed", "gradient_checkpointing") if key in trainer
    }


@pytest.mark.parametrize(
    ("lora", "split"),
    [
        pytest.param(None, plan("llama3-8b-fsdp"), id="fsdp-full"),
        pytest.param(LORA, plan("llama3-8b-fsdp"), id="fsdp-lora"),
        pytest.param(LORA, plan("llama3-70b-deepspeed") | {"use_cpu": False}, id="deepspeed", marks=needs_deepspeed),
    ],
)
def test_two_processes_with_parts_export_what_one_with_all_does(
    base: Path, data: Path, tmp_path: Path, lora: dict[str, Any] | None, split: dict[str, Any]
) -> None:
    common = {
        "num_train_epochs": 2,
        "optim": "sgd",  # its steps are as exact as its gradients
        "learning_rate": 0.1,
        "logging_steps": 1,
        "dataloader_drop_last": True,  # else processes pad the last batch with examples of the first
        "use_cpu": True,
        "fresh_critique_pairs": 0,  # which two processes can't write
    }
    one = write_config(tmp_path / "one.yaml", base, data, lora=lora, trainer=common)
    halves = {"per_device_train_batch_size": 4, "ddp_backend": "gloo"}
    write_config(tmp_path / "two.yaml", base, data, lora=lora, trainer=common | halves | split)
    train(one, tmp_path / "one")
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    program = [sharded.__file__, str(tmp_path / "two.yaml"), str(tmp_path / "two")]
    done = subprocess.run([sys.executable, *launch, *program], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]

    before = load_file(base / "model.safetensors")
    ours, theirs = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    assert ours.keys() == theirs.keys()
    moved = max((ours[name][: len(old)] - old).abs().max().item() for name, old in before.items())
    assert moved > 1e-3
    for name in ours:
        assert (theirs[name] - ours[name]).abs().max() < 1e-3 * moved, name
    histories = [json.loads((tmp_path / name / "history.json").read_text()) for name in ("one", "two")]
    for key in ("loss", "critique_loss", "reward_loss", "eval_loss"):
        one_process, two_processes = ([log[key] for log in history if key in log] for history in histories)
        assert two_processes == pytest.approx(one_process, rel=1e-4)
    cards = [Checkpoint.open(tmp_path / name).manifest for name in ("one", "two")]
    means = [card.calibration.score.mean for card in cards if card.calibration]
    assert means[1] == pytest.approx(means[0], rel=1e-3)
    assert (tmp_path / "two" / "adapter").is_dir() == (lora is not None)


@pytest.mark.parametrize("name", sorted(p.stem for p in CONFIGS.glob("*.yaml") if not p.stem.startswith("rounds-")))
def test_a_config_that_is_shipped_is_taken(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As far as that goes without GPUs: transformers and accelerate know every option in it."""
    monkeypatch.setenv("FSDP_CPU_RAM_EFFICIENT_LOADING", "false")  # set by the plugin; put back at the end
    config = shipped(name)
    if config.lora is not None:
        assert train_module.lora_config(config.lora).r == config.lora["r"]
    if not HAS_DEEPSPEED:
        config.trainer.pop("deepspeed", None)
    arguments = train_module.training_arguments(config, tmp_path, scalar=False)
    assert arguments.load_best_model_at_end == (name != "embedded-default")  # the validation pairs judge nothing there
    assert arguments.bf16
    if arguments.fsdp:
        plugin = FullyShardedDataParallelPlugin(**arguments.fsdp_plugin_args)
        wanted = config.trainer["fsdp_config"]
        assert plugin.fsdp_version == wanted.pop("version")
        assert plugin.state_dict_type.name == wanted.pop("state_dict_type")
        for option, value in wanted.items():
            assert getattr(plugin, option) == value, option


@needs_deepspeed
def test_the_deepspeed_plan_that_is_shipped_is_taken() -> None:
    from deepspeed.runtime.config import DeepSpeedConfig
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    wanted = shipped("llama3-70b-deepspeed").trainer["deepspeed"]
    wanted |= {name: 1 for name, value in wanted.items() if value == "auto"} | {"bf16": {"enabled": True}}
    found: DeepSpeedZeroConfig = DeepSpeedConfig(wanted).zero_config
    assert found.stage == 3
    assert found.prefetch_bucket_size == found.max_live_parameters == 10**9


def test_weights_of_another_model_are_refused() -> None:
    model = make_joint(lora=True)
    weights = trained_weights(model)
    load_trained(model, weights)
    missing = dict(weights)
    missing.pop("reward.weight")
    wider = weights | {"reward.weight": torch.zeros(65)}
    for wrong in (missing, wider):
        with pytest.raises(CheckpointError, match=r"does not fit its model: reward\.weight"):
            load_trained(model, wrong)


def test_only_one_process_keeps_the_whole_weights() -> None:
    assert trained_weights(make_joint(lora=True), keep=False) == {}


@pytest.mark.parametrize(("type_", "options", "scale"), [("granite", {"logits_scaling": 8.0}, 1 / 8), ("llama", {}, 1)])
def test_the_logit_scale_needs_no_weights(type_: str, options: dict[str, float], scale: float) -> None:
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    sizes = dict.fromkeys(("hidden_size", "intermediate_size", "vocab_size"), 32)
    config = CONFIG_MAPPING[type_](
        num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, **sizes, **options
    )
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert logit_scale(model) == pytest.approx(scale, rel=1e-3)


def test_a_base_that_is_spread_is_the_same_base(base: Path) -> None:
    """Where there is one device, it is spread over that one."""
    alone, _ = load_base(str(base), torch.float32)
    spread, _ = load_base(str(base), torch.float32, "auto")
    for (name, ours), theirs in zip(alone.named_parameters(), spread.parameters(), strict=True):
        assert torch.equal(ours, theirs), name


def test_layers_are_what_weights_are_split_by() -> None:
    model = JointModel(make_model(300))
    assert set(model._no_split_modules) == {"LlamaDecoderLayer"}
