"""A reward folded into an LM head: which models carry it, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
)

from criticrm_model import REWARD_TOKEN, CheckpointError, UnsupportedModel
from criticrm_model.checkpoint import Checkpoint, add_reward_token, assemble, fold_reward
from support.tiny import card, fill, make_checkpoint, make_model, make_tokenizer, reward_vector

SMALL = {
    "vocab_size": 400,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 1,
}


def reward_and_logit(model: PreTrainedModel, token_id: int) -> tuple[torch.Tensor, torch.Tensor]:
    """`reward · h` and the token's logit, each `[seq]`."""
    seen: list[torch.Tensor] = []
    hook = model.get_output_embeddings().register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        logits = model(torch.arange(20, 40)[None]).logits
    hook.remove()
    return seen[0][0] @ reward_vector(), logits[0, :, token_id]


@pytest.mark.parametrize("tied", [True, False])
def test_the_token_is_added_and_its_logit_is_the_reward(tied: bool) -> None:
    tokenizer = make_tokenizer()
    before = len(tokenizer)
    model = make_model(before, tied=tied).eval()
    token_id = add_reward_token(model, tokenizer)
    fold_reward(model, token_id, reward_vector())
    assert token_id == before
    assert tokenizer(REWARD_TOKEN, add_special_tokens=False).input_ids == [token_id]
    reward, logit = reward_and_logit(model, token_id)
    torch.testing.assert_close(logit, reward, atol=1e-5, rtol=1e-5)
    if not tied:
        assert not model.get_input_embeddings().weight[token_id].any()


def test_a_spare_row_is_used_where_there_is_one() -> None:
    """Qwen's embedding matrix is larger than its vocabulary."""
    tokenizer = make_tokenizer()
    model = make_model(512)
    token_id = add_reward_token(model, tokenizer)
    assert token_id < 512
    assert model.get_output_embeddings().weight.shape[0] == 512


def test_the_other_logits_stay() -> None:
    tokenizer = make_tokenizer()
    model = make_model(len(tokenizer)).eval()
    ids = torch.arange(20, 40)[None]
    with torch.no_grad():
        before = model(ids).logits
        token_id = add_reward_token(model, tokenizer)
        fold_reward(model, token_id, reward_vector())
        after = model(ids).logits
    torch.testing.assert_close(after[..., :token_id], before)


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(lambda: GraniteForCausalLM(GraniteConfig(logits_scaling=8.0, **SMALL)), id="granite"),
        pytest.param(lambda: CohereForCausalLM(CohereConfig(logit_scale=0.0625, **SMALL)), id="cohere"),
        pytest.param(lambda: PhiForCausalLM(PhiConfig(**SMALL)), id="phi: a bias on the head"),
    ],
)
def test_scaled_logits_are_folded_in(model: Callable[[], PreTrainedModel]) -> None:
    built = model().eval()
    fill(built)
    token_id = add_reward_token(built, make_tokenizer())
    fold_reward(built, token_id, reward_vector())
    reward, logit = reward_and_logit(built, token_id)
    torch.testing.assert_close(logit, reward, atol=1e-4, rtol=1e-4)


def test_soft_capped_logits_are_refused() -> None:
    model = Gemma2ForCausalLM(Gemma2Config(head_dim=32, **SMALL))
    with pytest.raises(UnsupportedModel, match=r"final_logit_softcapping=30\.0"):
        add_reward_token(model, make_tokenizer())


def test_logits_bent_without_a_word_in_the_config_are_found_out() -> None:
    model = make_model(512).eval()
    forward = model.forward

    def bent(*args: Any, **kwargs: Any) -> Any:
        output = forward(*args, **kwargs)
        output.logits = 20 * torch.tanh(output.logits / 20)
        return output

    model.forward = bent
    token_id = add_reward_token(model, make_tokenizer())
    with pytest.raises(UnsupportedModel, match="capped or bent"):
        fold_reward(model, token_id, reward_vector())


def test_a_head_that_is_no_plain_linear_layer_is_refused() -> None:
    class QuantisedLinear(torch.nn.Linear):
        pass

    model = make_model(512)
    model.lm_head = QuantisedLinear(64, 512, bias=False)
    with pytest.raises(UnsupportedModel, match="QuantisedLinear"):
        add_reward_token(model, make_tokenizer())


def test_an_encoder_decoder_is_refused() -> None:
    model = T5ForConditionalGeneration(
        T5Config(vocab_size=400, d_model=32, d_kv=16, d_ff=32, num_layers=1, num_heads=2)
    )
    with pytest.raises(UnsupportedModel, match="encoder-decoder"):
        add_reward_token(model, make_tokenizer())


@pytest.mark.parametrize(
    ("reward", "words"), [(torch.ones(63), r"\(63,\), the model needs \(64,\)"), (torch.full((64,), torch.nan), "NaN")]
)
def test_an_odd_vector_is_refused(reward: torch.Tensor, words: str) -> None:
    model = make_model(512)
    with pytest.raises(CheckpointError, match=words):
        fold_reward(model, add_reward_token(model, make_tokenizer()), reward)


@pytest.mark.parametrize("tied", [True, False])
def test_saved_and_opened(tmp_path: Path, tied: bool) -> None:
    folder = make_checkpoint(tmp_path / "c", tied=tied)
    opened = Checkpoint.open(folder)
    assert opened.manifest.critique_instruction == card().critique_instruction
    assert opened.manifest.reward_token_id == opened.tokenizer.convert_tokens_to_ids(REWARD_TOKEN)
    assert opened.max_model_len == 2048


def test_the_version_follows_what_changes_scores(tmp_path: Path) -> None:
    one = Checkpoint.open(make_checkpoint(tmp_path / "a")).manifest
    same = Checkpoint.open(make_checkpoint(tmp_path / "b", calibration=None)).manifest
    other = Checkpoint.open(make_checkpoint(tmp_path / "c", critique_instruction="Judge it.")).manifest
    assert one.version == same.version != other.version


def test_a_reward_that_was_never_fitted_is_refused(tmp_path: Path) -> None:
    tokenizer = make_tokenizer()
    assemble(make_model(len(tokenizer)), tokenizer, torch.zeros(64), card(), tmp_path)
    with pytest.raises(CheckpointError, match="never fitted"):
        Checkpoint.open(tmp_path)
