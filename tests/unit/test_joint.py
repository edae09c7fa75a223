"""The joint objective: its values by hand, whose gradients go where, and that batching does not matter."""

from __future__ import annotations

import doctest
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from criticrm_training.training import collator
from criticrm_training.training import trainer as trainer_module
from criticrm_training.training.collator import Example, PairCollator
from criticrm_training.training.losses import bradley_terry_loss, losses
from criticrm_training.training.model import JointModel, JointOutput
from criticrm_training.training.objective import Objective
from criticrm_training.training.trainer import JointTrainer
from support.joint import EXAMPLES, fit, make_joint, weights

pytestmark = pytest.mark.slow


def test_the_collator_does_what_its_example_says() -> None:
    assert doctest.testmod(collator).failed == 0


def test_losses_by_hand() -> None:
    """One pair, written out: the reward at its positions, the cross entropy of the critique's tokens."""
    model = make_joint()
    model.reward.weight.data.normal_(generator=torch.Generator().manual_seed(1))
    example = EXAMPLES[0]
    output = model(**PairCollator(pad_id=0)([example]))
    expected_loss = 0.0
    for row, side in enumerate((example["chosen"], example["rejected"])):
        prompt, critique = side["prompt_ids"], side["critiques"][0]["token_ids"]
        found = model.lm(torch.tensor([prompt + critique]), output_hidden_states=True)
        hidden = found.hidden_states[-1][0].float()
        assert output.direct_scores[row].item() == pytest.approx(
            (hidden[len(prompt) - 1] @ model.reward.weight).item(), abs=1e-4
        )
        last = len(prompt) + len(critique) - 2
        assert output.scores[row].item() == pytest.approx((hidden[last] @ model.reward.weight).item(), abs=1e-4)
        logs = found.logits[0].log_softmax(-1)
        expected_loss -= sum(logs[len(prompt) - 1 + i, token].item() for i, token in enumerate(critique))
    assert output.critique_loss.item() == pytest.approx(expected_loss, rel=1e-5)


def test_bradley_terry_by_hand() -> None:
    margins = torch.tensor([1.0, -2.0])
    right, wrong = ([math.log(1 + math.exp(sign * m)) for m in (1, -2)] for sign in (-1, 1))
    assert bradley_terry_loss(margins).tolist() == pytest.approx(right)
    soft = [p * a + (1 - p) * b for p, a, b in zip((0.8, 0.5), right, wrong, strict=True)]
    assert bradley_terry_loss(margins, torch.tensor([0.8, 0.5])).tolist() == pytest.approx(soft)


def test_margins_and_the_centering_of_rewards_by_hand() -> None:
    """As TRL's RewardTrainer has them."""
    example: Example = {**EXAMPLES[0], "margin": 0.5, "agreement": 0.75}
    batch = PairCollator(pad_id=0)([example])
    rewards = torch.tensor([1.0, -0.25])
    output = JointOutput(torch.tensor(0.0), rewards, 2 * rewards)
    found = losses(output, batch, batch["counts"], center=0.1)
    for loss, margin, total in ((found.direct, 1.25 - 0.5, 0.75), (found.reward, 2.5 - 0.5, 1.5)):
        right, wrong = math.log(1 + math.exp(-margin)), math.log(1 + math.exp(margin))
        assert loss.item() == pytest.approx(0.75 * right + 0.25 * wrong + 0.1 * total**2)


@pytest.mark.parametrize(
    ("epoch", "critique", "reward"),
    [(0.0, 1.0, 0.0), (1.0, 1.0, 0.0), (2.0, 1.0, 0.0), (2.5, 0.55, 0.45), (3.0, 0.1, 0.9), (3.2, 0.1, 0.9)],
)
def test_the_papers_schedule_at_its_corners(epoch: float, critique: float, reward: float) -> None:
    assert Objective(beta=0.9).weights(epoch / 3, 3) == pytest.approx((critique, reward))


@pytest.mark.parametrize("epochs", [1, 0.2])
def test_the_papers_schedule_over_an_epoch_or_less(epochs: float) -> None:
    assert Objective(beta=0.9).weights(0, epochs) == (1, 0)
    assert Objective(beta=0.9).weights(0.5, epochs) == pytest.approx((0.55, 0.45))
    assert Objective(beta=0.9).weights(1, epochs) == pytest.approx((0.1, 0.9))


def test_the_other_schedules_are_constant() -> None:
    for done in (0.0, 0.6, 1.0):
        assert Objective(schedule="constant", weight=0.25).weights(done, 3) == (0.25, 0.75)
        assert Objective(schedule="additive", weight=1.25).weights(done, 3) == (1.25, 1.0)
        assert Objective(schedule="critique").weights(done, 3) == (1.0, 0.0)


def test_the_weight_of_the_reward_is_never_negative() -> None:
    with pytest.raises(ValueError, match=r"weight 1.5: with 'constant' the reward loss has 1 - weight"):
        Objective(schedule="constant", weight=1.5)


def test_the_loss_of_a_step_by_hand(tmp_path: Path) -> None:
    """Every term at its weight."""
    direct = torch.tensor([0.0, 1.0], requires_grad=True)
    after = torch.tensor([0.5, -2.0], requires_grad=True)
    trainer = fit(tmp_path, max_steps=1, critique_weight=0.5, direct_weight=3.0)
    trainer._objective = trainer._objective.model_copy(update={"distill_weight": 4.0})
    trainer._teacher = torch.tensor([[0.0, 1.0]])
    model = Answers(JointOutput(torch.tensor(6.0), direct, after))
    batch = PairCollator(pad_id=0)(EXAMPLES[:1])
    loss = trainer.compute_loss(model, batch, num_items_in_batch=torch.tensor([3, 1, 1, 9]))
    distance = (0.5 * 0.5**2 + (3 - 0.5)) / 2  # squared up to 1, then linear; before the critique there is none
    bradley_terry, direct_bradley_terry = math.log(1 + math.exp(-2.5)), math.log(1 + math.exp(1))
    assert loss.item() == pytest.approx(0.5 * 6 / 3 + bradley_terry + 3 * direct_bradley_terry + 4 * distance)
    loss.backward()
    assert after.grad is not None
    slope = -1 / (1 + math.exp(2.5))  # of the Bradley-Terry loss
    assert after.grad.tolist() == pytest.approx([slope + 4 * 0.5 / 2, -slope - 4 / 2])


class Answers(torch.nn.Module):
    def __init__(self, output: JointOutput) -> None:
        super().__init__()
        self._output = output

    def forward(self, **_: torch.Tensor) -> JointOutput:
        return self._output


def test_the_teacher_is_the_frozen_base() -> None:
    """Before the critique, by the reward that training started from, whatever adapters and reward have become."""
    model = make_joint(lora=True)
    batch = PairCollator(pad_id=0)(EXAMPLES[:2])
    model.reward.weight.data.normal_(generator=torch.Generator().manual_seed(1))
    model.teacher.copy_(model.reward.weight)
    start = model(**batch).direct_scores
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1
    assert not torch.allclose(model(**batch).direct_scores, start, atol=1e-2)
    torch.testing.assert_close(model.teacher_scores(**batch), start, atol=1e-4, rtol=0)


def test_the_teacher_is_asked_once_for_each_response(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it gives in batches of the loader is what it gives alone, whatever adapters have become."""
    asked: list[int] = []
    ask = JointModel.teacher_scores

    def noting(self: JointModel, **batch: torch.Tensor) -> torch.Tensor:
        asked.extend(batch["index"].tolist())
        return ask(self, **batch)

    monkeypatch.setattr(JointModel, "teacher_scores", noting)
    teach = trainer_module.teacher_scores

    def from_a_fitted_reward(trainer: JointTrainer) -> torch.Tensor:
        trainer.model.teacher.fill_(0.1)
        return teach(trainer)

    monkeypatch.setattr(trainer_module, "teacher_scores", from_a_fitted_reward)
    trainer = fit(tmp_path, lora=True, num_train_epochs=2, distill_weight=1.0, learning_rate=0.1)
    assert sorted(asked) == list(range(64))
    assert trainer._teacher is not None
    fresh = make_joint(lora=True)
    fresh.teacher.fill_(0.1)
    collate = PairCollator(pad_id=0)
    expected = torch.cat([ask(fresh, **collate([example])) for example in EXAMPLES[:5]]).view(-1, 2)
    torch.testing.assert_close(trainer._teacher[:5], expected, atol=1e-4, rtol=0)
    distances = [log["distance"] for log in trainer.state.log_history if "distance" in log]
    assert len(distances) == 16
    assert min(distances) > 0


def test_the_scalar_computes_nothing_before_the_rewards_phase(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[int] = []
    forward = JointModel.forward

    def noting(self: JointModel, *arguments: Any, **batch: torch.Tensor) -> JointOutput:
        steps.append(1)
        return forward(self, *arguments, **batch)

    monkeypatch.setattr(JointModel, "forward", noting)
    before = torch.cat([p.detach().flatten() for p in make_joint().parameters()])
    trainer = fit(tmp_path, schedule="paper", scalar=True, num_train_epochs=2, optim="adamw_torch", weight_decay=0.1)
    assert len(steps) == 7  # of 16: the first of the second epoch has no weight yet
    assert not torch.equal(weights(trainer), before)
    assert 0 < trainer.tokens < PairCollator(pad_id=0)(EXAMPLES)["counts"][3]  # of one epoch


def test_the_critique_loss_comes_from_predicting_critique_tokens_alone() -> None:
    """The gradient at a hidden state is nothing but where the next token is one of a critique."""
    model = make_joint()
    batch = PairCollator(pad_id=0)(EXAMPLES[:3])
    kept: list[torch.Tensor] = []

    def keep(_: object, __: object, output: torch.Tensor) -> None:
        output.retain_grad()
        kept.append(output)

    hook = model.lm.get_decoder().norm.register_forward_hook(keep)
    model(**batch).critique_loss.backward()
    hook.remove()
    gradient = kept[0].grad
    assert gradient is not None
    touched = gradient.abs().sum(-1) > 0  # [rows, seq]
    predicts = torch.zeros_like(touched)
    predicts.view(-1)[batch["predicts_at"]] = True
    assert torch.equal(touched, predicts)


def test_padding_changes_nothing() -> None:
    model = make_joint()
    model.reward.weight.data.normal_(generator=torch.Generator().manual_seed(1))
    collate = PairCollator(pad_id=0)
    alone = [model(**collate([example])) for example in EXAMPLES[:6]]
    together = model(**collate(EXAMPLES[:6]))
    for name in ("scores", "direct_scores"):
        difference = getattr(together, name) - torch.cat([getattr(one, name) for one in alone])
        assert difference.abs().max() < 1e-4
        assert abs(difference.mean().item()) < 1e-5
    loss = sum(one.critique_loss.item() for one in alone)
    assert together.critique_loss.item() == pytest.approx(loss, rel=1e-5)


def test_accumulation_does_not_matter(tmp_path: Path) -> None:
    """8 x 1, 1 x 8 and 4 x 2 give the same trajectory, though batches hold different numbers of critique tokens."""
    at_once = fit(tmp_path)
    for size, steps in ((1, 8), (4, 2)):
        other = fit(tmp_path, per_device_train_batch_size=size, gradient_accumulation_steps=steps)
        difference = weights(other) - weights(at_once)
        moved = (weights(at_once) - torch.cat([p.detach().flatten() for p in make_joint().parameters()])).abs().max()
        assert difference.abs().max() < 1e-3 * moved
        assert abs(difference.mean().item()) < 1e-6 * moved
        for key in ("critique_loss", "reward_loss", "accuracy"):
            ours, theirs = ([log[key] for log in t.state.log_history if key in log] for t in (at_once, other))
            assert theirs == pytest.approx(ours, rel=1e-3)


def test_it_learns(tmp_path: Path) -> None:
    trainer = fit(
        tmp_path, num_train_epochs=6, optim="adamw_torch", learning_rate=3e-3, fresh_critique_pairs=0
    )  # the critiques of the examples
    metrics = trainer.evaluate()
    assert metrics["eval_accuracy"] >= 0.95
    assert metrics["eval_direct_accuracy"] >= 0.95
    history = [log["critique_loss"] for log in trainer.state.log_history if "critique_loss" in log]
    assert history[-1] < history[0]


def test_only_what_is_trained_is_saved_and_comes_back(tmp_path: Path) -> None:
    trainer = fit(tmp_path, lora=True, save_strategy="epoch")
    (saved,) = tmp_path.glob("checkpoint-*")
    assert (saved / "model.safetensors").stat().st_size < 200_000
    fresh = make_joint(lora=True)
    trainer._load_from_checkpoint(str(saved), fresh)
    assert trainer.model is not None
    for (name, ours), theirs in zip(trainer.model.named_parameters(), fresh.parameters(), strict=True):
        assert torch.equal(ours, theirs), name


def test_processes_do_not_matter(tmp_path: Path) -> None:
    """Two processes with batches of four train like one with batches of eight."""
    one = weights(fit(tmp_path, per_device_train_batch_size=8))
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [sys.executable, *launch, "-m", "support.joint", str(tmp_path / "two"), "4"]
    done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    two = torch.load(tmp_path / "two")
    moved = (one - torch.cat([p.detach().flatten() for p in make_joint().parameters()])).abs().max()
    assert (two - one).abs().max() < 1e-3 * moved
    assert abs((two - one).mean().item()) < 1e-6 * moved
