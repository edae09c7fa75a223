"""A tiny joint model, pairs it can tell apart, and a run of the trainer; as a program, one of several processes."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model

from criticrm_training.training.collator import CritiqueTokens, Example, Side
from criticrm_training.training.critic_config import CriticConfig
from criticrm_training.training.model import JointModel
from criticrm_training.training.trainer import JointTrainer
from support.tiny import make_model

VOCABULARY = 300


def make_example(seed: int) -> Example:
    """Four sequences of random lengths; separable: chosen prompts end in token 7, rejected ones in 9."""
    generator = torch.Generator().manual_seed(seed)

    def side(last: int) -> Side:
        prompt, critique = torch.randint(3, 12, (2,), generator=generator).tolist()
        ids = torch.randint(20, VOCABULARY, (prompt + critique,), generator=generator).tolist()
        return Side(prompt_ids=[*ids[:prompt], last], critiques=[both_roles(ids[prompt:])])

    return Example(chosen=side(7), rejected=side(9), margin=0.0, agreement=1.0, index=seed)


def both_roles(token_ids: list[int]) -> CritiqueTokens:
    return CritiqueTokens(token_ids=token_ids, learn=True, reward=True)


def with_more_critiques(example: Example, seed: int) -> Example:
    """Each response has a critique for each loss, one for both, and what `example` has."""
    generator = torch.Generator().manual_seed(seed)

    def more(side: Side) -> Side:
        lengths = torch.randint(1, 9, (3,), generator=generator).tolist()
        texts = [torch.randint(20, VOCABULARY, (length,), generator=generator).tolist() for length in lengths]
        roles = ((True, False), (False, True), (True, True))
        extra = [
            CritiqueTokens(token_ids=ids, learn=learn, reward=reward)
            for ids, (learn, reward) in zip(texts, roles, strict=True)
        ]
        return Side(prompt_ids=side["prompt_ids"], critiques=[*side["critiques"], *extra])

    return {**example, "chosen": more(example["chosen"]), "rejected": more(example["rejected"])}


EXAMPLES = [make_example(seed) for seed in range(64)]


def make_joint(lora: bool = False) -> JointModel:
    torch.manual_seed(0)
    lm = make_model(VOCABULARY)
    return JointModel(get_peft_model(lm, LoraConfig(r=4, target_modules="all-linear")) if lora else lm)


def fit(out: Path, *, lora: bool = False, resume: str | None = None, **arguments: object) -> JointTrainer:
    model = make_joint(lora)
    settings = {
        "output_dir": str(out),
        "num_train_epochs": 1,
        "per_device_train_batch_size": 8,
        "learning_rate": 1e-3,
        "lr_scheduler_type": "constant",
        "max_grad_norm": 1e9,
        "report_to": [],
        "logging_steps": 1,
        "save_strategy": "no",
        "eval_strategy": "no",
        "schedule": "additive",
        "critique_weight": 0.5,
        "max_critique_tokens": 8,
        "use_cpu": True,
        "disable_tqdm": True,
        "optim": "sgd",
        **arguments,
    }
    trainer = JointTrainer(
        model,
        CriticConfig(**settings),
        stop_token_ids=[0],
        train_dataset=EXAMPLES,
        eval_dataset=EXAMPLES[:16],
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def weights(trainer: JointTrainer) -> torch.Tensor:
    assert trainer.model is not None
    return torch.cat([p.detach().flatten() for p in trainer.model.parameters()])


def main() -> None:
    """`python -m support.joint FILE BATCH`, as one of several processes: train, and write the weights to a file."""
    torch.set_num_threads(1)
    out, batch = Path(sys.argv[1]), int(sys.argv[2])
    trainer = fit(out.parent, per_device_train_batch_size=batch, ddp_backend="gloo")
    if trainer.is_world_process_zero():
        torch.save(weights(trainer), out)
    trainer.accelerator.wait_for_everyone()
    os._exit(0)  # gloo aborts or hangs now and then while its processes are taken down; the weights are written


if __name__ == "__main__":
    main()
