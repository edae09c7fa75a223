"""Settings of a training run: each works, or is refused by its name with the reason."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, TrainingArguments
from transformers.trainer_pt_utils import AcceleratorConfig

from criticrm_training import CriticConfig, CriticTrainer
from criticrm_training.training.critic_config import critic_config
from criticrm_training.training.run import train, training_arguments
from criticrm_training.training.train_config import ConfigError, TrainConfig
from support.joint import fit, make_joint, weights
from support.runs import write_config

pytestmark = pytest.mark.slow

REFUSED = {
    "label_smoothing_factor": 0.1,
    "use_liger_kernel": True,
    "liger_kernel_config": {"rope": True},
    "torch_compile": True,
    "torch_compile_backend": "eager",
    "torch_compile_mode": "default",
    "auto_find_batch_size": True,
    "save_only_model": True,
    "enable_jit_checkpoint": True,
    "average_tokens_across_devices": False,
    "bf16_full_eval": True,
    "fp16_full_eval": True,
    "prediction_loss_only": True,
    "include_for_metrics": ["inputs"],
    "batch_eval_metrics": True,
    "eval_do_concat_batches": False,
    "use_cache": True,
    "remove_unused_columns": True,
    "label_names": ["x"],
    "length_column_name": "x",
    "hub_strategy": "checkpoint",
    "hub_always_push": True,
    "optim_target_modules": "all-linear",
    "resume_from_checkpoint": "x",
    "do_train": True,
    "do_predict": True,
    "debug": "tpu_metrics_debug",
    "dataloader_persistent_workers": True,
    "parallelism_config": {"tp_size": 2},
    "save_strategy": "best",
    "train_sampling_strategy": "batch_rebalance",
    "accelerator_config": {"dispatch_batches": True},
    "group_by_length": True,
    "evaluation_strategy": "no",
    "warmup_ratio": 0.1,
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_field_that_would_fail_or_do_nothing_is_refused_by_name(name: str) -> None:
    with pytest.raises(ConfigError, match=rf"\n  {name}[.\w]*: \w+"):
        critic_config({"output_dir": "out", name: REFUSED[name]})


LIMITS: dict[str, list[Any]] = {
    "learning_rate": [0, -1.0, "abc", "1e-3", None, True, float("nan")],
    "head_learning_rate": [0.0, -1],
    "num_train_epochs": [0, "x"],
    "max_steps": ["abc", 2.5, None],
    "per_device_train_batch_size": [0, "8", 2.5],
    "per_device_eval_batch_size": [0],
    "gradient_accumulation_steps": [0],
    "eval_accumulation_steps": [0, "x"],
    "max_grad_norm": [-1],
    "adam_beta1": [1, 2.0],
    "adam_epsilon": ["x", -1],
    "weight_decay": ["x", -1],
    "head_weight_decay": ["x", -1],
    "warmup_steps": ["abc", -1, None, float("nan")],
    "neftune_noise_alpha": [-5],
    "seed": [-1, 2**40],
    "data_seed": ["x", -1, 2**70],
    "fresh_critique_pairs": [-1],
    "max_critique_tokens": [0],
    "metric_for_best_model": ["f1"],
    "log_level": ["loud"],
    "ddp_backend": ["bad", "fake"],
    "log_level_replica": ["loud"],
    "train_sampling_strategy": ["by_size"],
    "overlong": ["cut"],
    "report_to": ["nobody", 5],
    "bf16": ["false", 1],
    "use_cpu": ["yes"],
    "optim_args": [3],
    "eval_steps": ["x"],
    "logging_steps": ["x", None],
    "save_total_limit": ["x"],
    "eval_delay": ["x"],
    "hub_model_id": [5],
    "dataloader_num_workers": [-1, "2", 1.5],
    "dataloader_prefetch_factor": [0, 2],
    "dataloader_multiprocessing_context": ["spawn", "thread"],
    "lr_scheduler_kwargs": [{"unknown": 1}, {"last_epoch": 3}, "abc", "{bad", '{"unknown": 1}', [1]],
    "gradient_checkpointing_kwargs": [{"foo": 1}, "abc"],
    "accelerator_config": ["missing.json", [1]],
    "fsdp_config": ["missing.json", [1]],
    "debug": ["underflow_overflow"],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in LIMITS.items() for value in values])
def test_a_value_that_no_run_could_go_on_with_is_named(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=rf"\n  {name}: "):
        critic_config({"output_dir": "out", name: value})


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        ("constant", {"num_cycles": 2}, "nothing takes num_cycles; there are none"),
        ("linear", {"num_cycles": 2, "power": 1}, "nothing takes num_cycles, power; there are none"),
        ("cosine", {"power": 2}, "nothing takes power; there are num_cycles"),
        ("polynomial", {"cycles": 2}, "nothing takes cycles; there are lr_end, power"),
        ("reduce_lr_on_plateau", {"pace": 2}, "nothing takes pace; there are cooldown, "),
    ],
)
def test_options_that_a_schedule_does_not_take(kind: str, options: dict[str, Any], words: str) -> None:
    values = {"output_dir": "out", "schedule": "additive", "lr_scheduler_type": kind}
    with pytest.raises(ConfigError, match=f"\n  lr_scheduler_kwargs: {words}"):
        critic_config(values | {"lr_scheduler_kwargs": options})


@pytest.mark.parametrize("kind", ["reduce_lr_on_plateau", "greedy"])
def test_a_rate_that_follows_the_reward_needs_one(kind: str) -> None:
    values = {"output_dir": "out", "lr_scheduler_type": kind}
    with pytest.raises(ConfigError, match="\n  lr_scheduler_type: this objective trains no reward"):
        critic_config(values | {"schedule": "critique"})
    critic_config(values | {"schedule": "constant"})


def test_the_best_by_accuracy_needs_critiques_at_an_evaluation(base: Path, data: Path, tmp_path: Path) -> None:
    """But of a scalar, which has one reward, that is meant: one file is for both."""
    trainer = {"metric_for_best_model": "accuracy", "fresh_critique_pairs": 0, "max_steps": 5, "eval_steps": 5}
    changes = {"validation_critiques": None, "trainer": trainer}
    with pytest.raises(ConfigError, match="metric_for_best_model: accuracy is that after critiques, and evaluations"):
        train(write_config(tmp_path / "c.yaml", base, data, **changes), tmp_path / "out")
    assert not (tmp_path / "out" / "run.json").exists()
    for name, folder in (("without", None), ("with", data / "critiques")):
        changes = {"validation_critiques": folder and str(folder), "trainer": dict(trainer)}
        train(write_config(tmp_path / "d.yaml", base, data, **changes), tmp_path / name, scalar=True)


@pytest.mark.parametrize(
    "values",
    [
        {"dataloader_num_workers": 1, "dataloader_prefetch_factor": 2},
        {"dataloader_num_workers": 1, "dataloader_multiprocessing_context": "fork"},
        {"lr_scheduler_type": "cosine", "lr_scheduler_kwargs": {"num_cycles": 0.4}},
        {"lr_scheduler_type": "cosine", "lr_scheduler_kwargs": '{"num_cycles": 0.4}'},
        {"lr_scheduler_type": "reduce_lr_on_plateau", "lr_scheduler_kwargs": {"factor": 0.5}},
        {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}},
        {"accelerator_config": AcceleratorConfig(even_batches=False)},
        {"output_dir": Path("out"), "num_train_epochs": np.int64(2), "learning_rate": np.float32(1e-3)},
        {"seed": 2**32 - 1, "data_seed": 0, "eval_accumulation_steps": 1, "warmup_steps": 0, "weight_decay": 0},
        {"include_num_input_tokens_seen": "non_padding", "report_to": "none", "log_level_replica": "warning"},
        {"ddp_backend": "gloo"},
    ],
)
def test_what_is_right_is_taken(values: dict[str, Any]) -> None:
    critic_config({"output_dir": "out", "schedule": "additive"} | values)


def test_values_at_their_limits_are_taken() -> None:
    values = {"num_train_epochs": 0, "max_steps": 3, "max_grad_norm": 0, "head_learning_rate": 0.0, "head": "folder"}
    args = critic_config({"output_dir": "out", "metric_for_best_model": "eval_accuracy", "report_to": [], **values})
    assert (args.max_grad_norm, args.head_learning_rate) == (0, 0)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"optim": "lomo"}, "optim: .*lomo"),
        ({"lr_scheduler_type": "cosine_with_min_lr"}, "lr_scheduler_kwargs: .*min_lr"),
        ({"lr_scheduler_type": "cosine", "lr_scheduler_kwargs": {"num_cycles": "x"}}, "lr_scheduler_kwargs: .*'x'"),
        ({"lr_scheduler_type": "inverse_sqrt", "lr_scheduler_kwargs": {"timescale": 0}}, "lr_scheduler_kwargs: .*zero"),
        ({"accelerator_config": {"gradient_accumulation_kwargs": {"foo": 1}}}, "trainer: .*'foo'"),
        ({"fsdp": True}, "trainer: .*fsdp only works in distributed training"),
    ],
)
def test_what_is_known_only_when_it_is_made_is_named_too(
    base: Path, data: Path, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        train(write_config(tmp_path / "c.yaml", base, data, trainer=changes), tmp_path / "out")


@pytest.mark.parametrize(
    ("lora", "words"),
    [
        ({"r": 0}, "`r` should be a positive integer"),
        ({"r": "x"}, "'str' and 'int'"),
        ({"target_modules": ["nope"]}, "Target modules .*nope.* not found"),
        ({"bias": "x"}, "Requested bias: x"),
        ({"lora_dropout": 2}, "dropout probability"),
    ],
)
def test_adapters_that_can_not_be_made(
    base: Path, data: Path, tmp_path: Path, lora: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=f"lora: .*{words}"):
        train(write_config(tmp_path / "c.yaml", base, data, lora=lora), tmp_path / "out")


def test_all_that_is_wrong_is_named_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        critic_config({"output_dir": "out", "beta": 2, "critique_weight": -1, "use_liger_kernel": True})
    for name in ("beta", "critique_weight", "use_liger_kernel"):
        assert f"\n  {name}: " in str(caught.value)
    with pytest.raises(ConfigError, match=r"trainer: .*learning_speed"):
        critic_config({"output_dir": "out", "learning_speed": 1})


def test_fsdp_keeps_parameters_whole() -> None:
    with pytest.raises(ConfigError, match=r"fsdp_config.version: 1: only FSDP2"):
        CriticConfig("out", fsdp=True, fsdp_config={"version": 1})


def test_every_field_is_documented() -> None:
    theirs = {field.name for field in fields(TrainingArguments)}
    documentation = str(CriticConfig.__doc__)
    for field in fields(CriticConfig):
        assert field.metadata.get("help") or field.name in theirs, field.name
        if field.name not in theirs:
            assert field.name in documentation


def test_several_gpus_need_torchrun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TrainingArguments, "n_gpu", property(lambda _: 2))
    with pytest.raises(ConfigError, match=r"2 GPUs are visible to this one process.*torchrun"):
        CriticConfig("out")


@pytest.mark.parametrize("lora", [None, {"r": 2}], ids=["full", "lora"])
def test_half_precision_is_for_a_frozen_base(
    base: Path, data: Path, tmp_path: Path, lora: dict[str, Any] | None
) -> None:
    config = write_config(tmp_path / "c.yaml", base, data, dtype="bfloat16", lora=lora, trainer={"max_steps": 2})
    if lora:
        train(config, tmp_path / "out")
        return
    with pytest.raises(ConfigError, match=r"dtype: .* would be trained in bfloat16"):
        train(config, tmp_path / "out")


def test_numbers_with_an_exponent_are_numbers(tmp_path: Path) -> None:
    """By YAML 1.1 they are text, for they have no dot."""
    text = """
data: 1e3
lora: {r: 4, lora_dropout: 5e-2, lora_alpha: 1e1}
objective: {schedule: additive, weight: 1e-1, center_rewards_coefficient: 1E-2}
trainer: {learning_rate: 1e-3, max_steps: 1e2, eval_delay: -1.5e+1, adam_epsilon: .1e-7, run_name: "1e3"}
"""
    assert yaml.safe_load(text)["trainer"]["learning_rate"] == "1e-3"
    (tmp_path / "c.yaml").write_text(text.replace("data: 1e3", 'data: "1e3"'))
    config = TrainConfig.read(tmp_path / "c.yaml")
    assert config.data == "1e3"
    assert config.objective.weight == 0.1
    assert config.objective.center_rewards_coefficient == 0.01
    assert config.lora == {"r": 4, "lora_dropout": 0.05, "lora_alpha": 10}
    arguments = training_arguments(config, tmp_path, scalar=False)
    assert (arguments.learning_rate, arguments.max_steps, arguments.eval_delay) == (1e-3, 100, -15)
    assert isinstance(arguments.max_steps, int)
    assert arguments.run_name == "1e3"
    assert yaml.safe_load("1e-3") == "1e-3"  # nobody else's YAML is changed


def test_what_is_said_twice_is_refused(base: Path, data: Path, tmp_path: Path) -> None:
    config = write_config(tmp_path / "c.yaml", base, data, trainer={"max_model_len": 9, "output_dir": "x"})
    with pytest.raises(ConfigError, match="trainer: max_model_len, output_dir: set these outside of"):
        train(config, tmp_path / "out")


def test_no_validation_pairs_are_an_error_or_what_was_asked_for(base: Path, data: Path, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"validation_share": 0, "validation_critiques": None}
    with pytest.raises(ConfigError, match=r"validation_share: 0.0 of 48 pairs are no validation pairs"):
        train(write_config(tmp_path / "c.yaml", base, data, **changes), tmp_path / "out")
    without = {"eval_strategy": "no", "num_train_epochs": 1}
    train(write_config(tmp_path / "d.yaml", base, data, **changes, trainer=without), tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "both responses of 6 training pairs of pairs.jsonl" in card


def test_neftune_works(tmp_path: Path) -> None:
    """Noise while training, none in an evaluation."""
    plain, noisy = (
        fit(tmp_path, max_steps=2, neftune_noise_alpha=alpha, fresh_critique_pairs=0) for alpha in (None, 50.0)
    )
    losses = [[log["loss"] for log in trainer.state.log_history if "loss" in log] for trainer in (plain, noisy)]
    assert abs(losses[0][0] - losses[1][0]) > 1e-2
    assert noisy.evaluate()["eval_loss"] == noisy.evaluate()["eval_loss"]


def test_weight_decay_spares_the_head_unless_it_is_asked_for(tmp_path: Path) -> None:
    trainer = fit(tmp_path, max_steps=1, learning_rate=1e-3, weight_decay=0.5, head_learning_rate=1e-2)
    assert trainer.optimizer is not None
    assert trainer.model is not None
    head = trainer.optimizer.param_groups[-1]
    assert [id(p) for p in head["params"]] == [id(trainer.model.reward.weight)]
    assert (head["lr"], head["weight_decay"]) == (1e-2, 0.0)
    others = [p for group in trainer.optimizer.param_groups[:-1] for p in group["params"]]
    assert len(others) == sum(1 for _ in trainer.model.parameters()) - 1
    assert {group["lr"] for group in trainer.optimizer.param_groups[:-1]} == {1e-3}
    asked = fit(tmp_path, max_steps=1, head_weight_decay=0.1)
    assert asked.optimizer is not None
    assert asked.optimizer.param_groups[-1]["weight_decay"] == 0.1


def test_gradients_are_clipped_by_part(tmp_path: Path) -> None:
    """By plain SGD a step is the rate times the gradient: at most the rate times the limit, for each part."""
    before = make_joint()
    trainer = fit(tmp_path, max_steps=1, learning_rate=1.0, max_grad_norm=0.01)
    assert trainer.model is not None
    moved = {name: after - dict(before.named_parameters())[name] for name, after in trainer.model.named_parameters()}
    head = moved.pop("reward.weight").norm().item()
    body = torch.stack([change.norm() for change in moved.values()]).norm().item()
    assert head == pytest.approx(0.01, rel=1e-3)
    assert body == pytest.approx(0.01, rel=1e-2)
    (log,) = [log for log in trainer.state.log_history if "loss" in log]
    assert log["grad_norm_head"] > 0.01
    assert log["grad_norm_body"] > 0.01
    assert log["grad_norm"] == pytest.approx((log["grad_norm_head"] ** 2 + log["grad_norm_body"] ** 2) ** 0.5)
    free = fit(tmp_path, max_steps=1, learning_rate=1.0, max_grad_norm=0)
    (unclipped,) = [log for log in free.state.log_history if "loss" in log]
    assert unclipped["grad_norm_head"] == pytest.approx(log["grad_norm_head"])
    assert (weights(free) - weights(trainer)).abs().max() > 1e-3


def test_the_log_tells_margins_and_the_range_of_rewards(tmp_path: Path) -> None:
    trainer = fit(tmp_path, num_train_epochs=3, optim="adamw_torch", learning_rate=3e-3)
    lines = [log for log in trainer.state.log_history if "loss" in log]
    for log in lines:
        assert log["reward_min"] <= log["reward_max"]
        assert log["margin_std"] >= 0
        assert abs(log["margin"]) <= log["reward_max"] - log["reward_min"] + 1e-6
    assert lines[0]["margin"] == lines[0]["margin_std"] == 0  # the head starts from zero
    assert lines[-1]["margin"] > 0.5


def test_the_trainer_leaves_the_models_configuration_as_it_was(base: Path, data: Path, tmp_path: Path) -> None:
    train(write_config(tmp_path / "c.yaml", base, data, trainer={"max_steps": 2}), tmp_path / "out")
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "out").config.use_cache


def test_the_names_are_there_without_torch() -> None:
    import subprocess
    import sys

    program = "import sys, criticrm_training; assert 'torch' not in sys.modules; criticrm_training.CriticConfig"
    subprocess.run([sys.executable, "-c", program], check=True)
    assert CriticTrainer.__name__ == "CriticTrainer"
