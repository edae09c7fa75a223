"""A pair, or the critiques of a response, in one row: the same losses and gradients as in rows of their own."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedModel

from criticrm_training.training.collator import Example, PairCollator
from criticrm_training.training.losses import bradley_terry_loss, losses, margins
from criticrm_training.training.model import JointModel
from criticrm_training.training.packing import block_mask, is_worth_sharing, why_not_packed
from support.joint import EXAMPLES, VOCABULARY, make_joint, with_more_critiques
from support.tiny import fill

MANY = [with_more_critiques(example, seed) for seed, example in enumerate(EXAMPLES[:3])]
QUESTION = [11, 12, 13, 14, 15, 16]  # that both responses of a pair are to
D_MODEL = 64  # by which short pairs are cheaper in one row


def tiny_model(model_type: str, attention: str = "sdpa", **options: Any) -> PreTrainedModel:
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = CONFIG_MAPPING[model_type](
        **sizes, num_key_value_heads=1, vocab_size=VOCABULARY, pad_token_id=0, **options
    )
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    fill(model)
    return model.eval()


def with_a_question(example: Example) -> Example:
    chosen, rejected = (
        {**example[side], "prompt_ids": [*QUESTION, *example[side]["prompt_ids"]]} for side in ("chosen", "rejected")
    )
    return {**example, "chosen": chosen, "rejected": rejected}


def outcome(model: JointModel, batch: dict[str, torch.Tensor]) -> tuple[dict[str, Any], list[torch.Tensor]]:
    """Rewards, losses and gradients."""
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
@pytest.mark.parametrize("d_model", [0, D_MODEL], ids=["a row a response", "a row a pair"])
def test_what_shares_a_row_trains_like_rows_of_their_own(model_type: str, attention: str, d_model: int) -> None:
    model = JointModel(tiny_model(model_type, attention))
    assert why_not_packed(model.lm) is None
    model.reward.weight.data.normal_(generator=torch.Generator().manual_seed(1))
    examples = [with_a_question(example) for example in [*MANY, EXAMPLES[4]]]
    shared = PairCollator(pad_id=0, d_model=d_model)(examples)
    assert len(shared["input_ids"]) == (len(examples) if d_model else 2 * len(examples))
    own = PairCollator(pad_id=0, packed=False, d_model=d_model)(examples)
    assert own.keys().isdisjoint({"segments", "position_ids"})
    together, gradients = outcome(model, shared)
    apart, expected = outcome(model, own)
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


def test_what_a_pair_begins_with_is_computed_once() -> None:
    examples = [with_a_question(example) for example in EXAMPLES[:4]]
    together, apart = (PairCollator(pad_id=0, d_model=d_model)(examples) for d_model in (D_MODEL, 0))
    assert apart["counts"][3] - together["counts"][3] == len(QUESTION) * len(examples)
    assert together["counts"].tolist()[:3] == apart["counts"].tolist()[:3]


def test_a_pair_of_long_responses_is_not_cheaper_in_one_row() -> None:
    assert is_worth_sharing(shared=100, chosen=400, rejected=400, d_model=896)
    assert not is_worth_sharing(shared=100, chosen=4000, rejected=4000, d_model=896)
    assert is_worth_sharing(shared=4000, chosen=2000, rejected=2000, d_model=896)  # attention is saved, too
    example = with_a_question(EXAMPLES[0])
    long: Example = {
        **example,
        "chosen": {**example["chosen"], "prompt_ids": [*QUESTION, *[7] * 600]},
        "rejected": {**example["rejected"], "prompt_ids": [*QUESTION, *[9] * 600]},
    }
    assert PairCollator(pad_id=0, d_model=D_MODEL)([long, example])["input_ids"].shape[0] == 3


def test_the_teacher_reads_a_pair_in_one_row_like_in_two() -> None:
    model = make_joint(lora=True)
    model.teacher.normal_(generator=torch.Generator().manual_seed(1))
    examples = [with_a_question(example) for example in EXAMPLES[:4]]
    together, apart = (
        model.teacher_scores(**PairCollator(pad_id=0, d_model=d_model)(examples)) for d_model in (D_MODEL, 0)
    )
    torch.testing.assert_close(together, apart)


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


def test_a_token_sees_what_is_shared_and_what_is_its_own() -> None:
    """A prompt, a response with two critiques, another response, padding."""
    segments = torch.tensor([[[0, 0], [1, 0], [1, 1], [1, 2], [2, 0], [2, 1], [-1, -1]]])
    assert block_mask(segments)[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0],
        [1, 1, 0, 1, 0, 0, 0],
        [1, 0, 0, 0, 1, 0, 0],
        [1, 0, 0, 0, 1, 1, 0],
        [1, 0, 0, 0, 0, 0, 1],
    ]
    additive = block_mask(torch.tensor([[[0, 0], [0, 1]]]), torch.float32)
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
