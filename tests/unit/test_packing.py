"""Several critiques of a response in one row: the same losses and gradients as in rows of their own."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedModel

from criticrm_training.training.collator import Example, PairCollator
from criticrm_training.training.losses import bradley_terry_loss, losses, margins
from criticrm_training.training.model import JointModel
from criticrm_training.training.packing import block_mask, why_not_packed
from support.joint import EXAMPLES, VOCABULARY, make_joint, with_more_critiques
from support.tiny import fill

MANY = [with_more_critiques(example, seed) for seed, example in enumerate(EXAMPLES[:3])]


def tiny_model(model_type: str, attention: str = "sdpa", **options: Any) -> PreTrainedModel:
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = CONFIG_MAPPING[model_type](
        **sizes, num_key_value_heads=1, vocab_size=VOCABULARY, pad_token_id=0, **options
    )
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    fill(model)
    return model.eval()


def outcome(model: JointModel, examples: list[Example], packed: bool) -> tuple[dict[str, Any], list[torch.Tensor]]:
    """Rewards, losses and gradients."""
    batch = PairCollator(pad_id=0, packed=packed)(examples)
    assert ("segments" in batch) == packed
    model.zero_grad()
    output = model(**batch)
    found = losses(output, batch, batch["counts"])
    (found.critique + found.reward + 0.3 * found.direct).backward()
    values = {
        "scores": output.scores.detach(),
        "direct": output.direct_scores.detach(),
        "critique_loss": found.critique.detach(),
        "reward_loss": found.reward.detach(),
    }
    return values, [p.grad.clone() for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize(
    ("model_type", "attention"),
    [
        ("llama", "sdpa"),
        ("llama", "eager"),
        ("qwen2", "sdpa"),
        ("gpt_neox", "eager"),
        ("phi3", "sdpa"),
        ("gemma", "eager"),
    ],
)
def test_critiques_that_share_a_prompt_train_like_critiques_in_rows_of_their_own(
    model_type: str, attention: str
) -> None:
    model = JointModel(tiny_model(model_type, attention))
    assert why_not_packed(model.lm) is None
    model.reward.weight.data.normal_(generator=torch.Generator().manual_seed(1))
    together, gradients = outcome(model, MANY, packed=True)
    apart, expected = outcome(model, MANY, packed=False)
    for name, value in apart.items():
        torch.testing.assert_close(together[name], value, atol=1e-5, rtol=1e-5)
    assert len(gradients) == len(expected)
    scale = max(gradient.abs().max().item() for gradient in expected)
    assert scale > 0
    for ours, theirs in zip(gradients, expected, strict=True):
        assert (ours - theirs).abs().max() < 1e-5 * scale


def test_the_prompt_is_computed_once() -> None:
    packed, apart = (PairCollator(pad_id=0, packed=packed)(MANY) for packed in (True, False))
    assert len(packed["input_ids"]) == 2 * len(MANY)
    assert len(apart["input_ids"]) == 4 * 2 * len(MANY)
    prompts = sum(len(e[side]["prompt_ids"]) for e in MANY for side in ("chosen", "rejected"))
    assert apart["counts"][3] - packed["counts"][3] == 3 * prompts


def test_a_single_critique_needs_no_mask() -> None:
    batch = PairCollator(pad_id=0)(EXAMPLES[:4])
    assert batch.keys().isdisjoint({"segments", "position_ids"})


def test_k_critiques_give_k_squared_pairs() -> None:
    model = make_joint()
    model.reward.weight.data.normal_(generator=torch.Generator().manual_seed(1))
    batch = PairCollator(pad_id=0)(MANY)
    output = model(**batch)
    scores = iter(output.scores)
    expected, mean_margins = torch.zeros(()), []
    for example in MANY:
        sides = [
            [next(scores) for critique in example[side]["critiques"] if critique["reward"]]
            for side in ("chosen", "rejected")
        ]
        assert [len(side) for side in sides] == [3, 3]
        all_margins = torch.stack([chosen - rejected for chosen, rejected in product(*sides)])
        expected = expected + bradley_terry_loss(all_margins).mean() / len(MANY)
        mean_margins.append(all_margins.mean())
    torch.testing.assert_close(losses(output, batch, batch["counts"]).reward, expected)
    torch.testing.assert_close(margins(output, batch)[0], torch.stack(mean_margins))


def test_each_critique_is_in_its_own_losses() -> None:
    """No gradient comes from a critique but those of its roles; a pair without critiques trains the direct reward."""
    example = EXAMPLES[0]
    bare: Example = {
        **EXAMPLES[1],
        "chosen": {**EXAMPLES[1]["chosen"], "critiques": []},
        "rejected": {
            **EXAMPLES[1]["rejected"],
            "critiques": [{"token_ids": [5, 6, 7], "learn": True, "reward": False}],
        },
    }
    batch = PairCollator(pad_id=0)([example, bare])
    learned = sum(len(example[side]["critiques"][0]["token_ids"]) for side in ("chosen", "rejected")) + 3
    tokens = int(batch["counts"][3])
    assert batch["counts"].tolist() == [learned, 1, 2, tokens]
    assert batch["targets"].tolist()[-3:] == [5, 6, 7]
    model = make_joint()
    output = model(**batch)
    assert output.scores.shape == (2,)
    after, before = margins(output, batch)
    assert after.isnan().tolist() == [False, True]
    assert not before.isnan().any()


def test_a_token_sees_its_prompt_and_its_own_critique() -> None:
    mask = block_mask(torch.tensor([[0, 0, 1, 1, 2, -1]]))[0, 0].int().tolist()
    assert mask == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 1, 1, 0, 0],
        [1, 1, 0, 0, 1, 0],
        [1, 1, 0, 0, 0, 1],
    ]
    additive = block_mask(torch.tensor([[0, 1]]), torch.float32)
    assert additive.tolist() == [[[[0.0, torch.finfo(torch.float32).min], [0.0, 0.0]]]]


@pytest.mark.parametrize(
    ("model_type", "options", "reason"),
    [
        ("mistral", {"sliding_window": 16}, "layers of limited attention"),
        ("gemma3_text", {"head_dim": 16}, "layers of limited attention (sliding_attention)"),
        ("mamba", {}, "is no transformer"),
    ],
)
def test_what_a_mask_cannot_keep_apart_is_not_packed(model_type: str, options: dict[str, Any], reason: str) -> None:
    assert reason in str(why_not_packed(tiny_model(model_type, "eager", **options)))


def test_an_attention_without_masks_is_not_packed() -> None:
    lm = make_joint().lm
    lm.config._attn_implementation = "flash_attention_2"
    assert why_not_packed(lm) == "the attention flash_attention_2 takes no mask (sdpa and eager do)"
