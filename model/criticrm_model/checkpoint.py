"""A Critic-RM checkpoint: an ordinary causal LM with one extra token, whose LM-head row is the reward vector.

`assemble` makes one from a base model and a reward vector; `Checkpoint.open` verifies one before it is served.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AddedToken,
    AutoConfig,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from .errors import CheckpointError, UnsupportedModel
from .logits import measure_logit_scale
from .manifest import MANIFEST_NAME, REWARD_TOKEN, Manifest, Reward, RewardCard, reward_token
from .prompt import Renderer
from .quantization import check_head_is_not_quantized
from .references import measure_references
from .stored_head import row_sha256, stored_rows

NOT_STORED = "0" * 64  # the digest of a row before it is written
# How architectures name their longest sequence, in tokens: most, Bloom, MPT, GPT-2.
_LENGTH_NAMES = ("max_position_embeddings", "seq_length", "max_seq_len", "n_positions")


@dataclass(frozen=True, slots=True)
class WeightedReward:
    """One of several rewards: `helpfulness`, and what it weighs in the score."""

    name: str
    weight: float = 1.0


def assemble(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    reward: torch.Tensor,
    card: RewardCard,
    out: Path,
    several: Sequence[WeightedReward] = (),
) -> Manifest:
    """Turn a base model, in place, into a Critic-RM and save it to `out`; it is in float32 then, unless it is large.

    Args:
        reward: `[d_model]`, float32; of several rewards `[rewards, d_model]`. The reward of a hidden state `h` (the LM
            head's input) is `reward · h`.
        card: what the manifest says of the reward.
        several: names and weights, where there are several rewards.

    Raises:
        UnsupportedModel: the architecture or the tokenizer can't carry the readout.
        CheckpointError: a reward vector is not `[d_model]`, or not finite, or two have the same name.
    """
    if len({one.name for one in several}) < len(several):
        raise CheckpointError("two rewards have the same name")
    rewards = add_reward_tokens(model, tokenizer, several)
    vectors = reward if several else reward[None]
    if len(vectors) != len(rewards):
        raise CheckpointError(f"{len(several)} rewards have {len(vectors)} reward vectors")
    for one, vector in zip(rewards, vectors, strict=True):
        fold_reward(model, one.token_id, vector)
    manifest = Manifest(rewards=tuple(rewards), **dict(card))
    return write_checkpoint(model, tokenizer, manifest, out)


def write_checkpoint(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, manifest: Manifest, out: Path
) -> Manifest:
    """Save a model with its reward rows in it; it is in float32 then, unless it is large.

    Args:
        manifest: but for the digests of its rows and the references, which are taken here.

    Raises:
        UnsupportedModel: the tokenizer can't be rendered for.
    """
    renderer = Renderer(tokenizer, manifest.critique_instruction, manifest.readout, manifest.slots)
    out.mkdir(parents=True, exist_ok=True)
    (out / MANIFEST_NAME).unlink(missing_ok=True)  # written last: a folder that has one is complete
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    rows = stored_rows(out, manifest.reward_tokens.ids, model.config.get_text_config().tie_word_embeddings)
    saved = manifest.model_copy(
        update={
            "rewards": tuple(
                reward.model_copy(update={"sha256": row_sha256(row)})
                for reward, row in zip(manifest.rewards, rows, strict=True)
            ),
            "references": measure_references(model, renderer, manifest.reward_tokens),
        }
    )
    # safetensors writes files for the owner alone; a server often runs as somebody else.
    for path in out.glob("*.safetensors"):
        path.chmod(path.stat().st_mode | 0o044)
    saved.save(out)
    return saved


def add_reward_token(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """As `add_reward_tokens`, for one reward: its id."""
    return add_reward_tokens(model, tokenizer)[0].token_id


def add_reward_tokens(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, several: Sequence[WeightedReward] = ()
) -> list[Reward]:
    """Add `<|reward|>`, or a token for each of several rewards, to the vocabulary with zero rows.

    Where the embedding matrix is already larger than the vocabulary (Qwen pads it), spare rows are used.

    Raises:
        UnsupportedModel: see `check_head`.
    """
    check_head(model)
    named: dict[str, Any] = {reward_token(o.name): {"name": o.name, "weight": o.weight} for o in several}
    named = named or {REWARD_TOKEN: {}}
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in named], special_tokens=True)
    rewards = [
        Reward(token=token, token_id=_token_id(tokenizer, token), sha256=NOT_STORED, **known)
        for token, known in named.items()
    ]
    ids = [reward.token_id for reward in rewards]
    if max(ids) >= _lm_head(model).out_features:
        model.resize_token_embeddings(max(ids) + 1, mean_resizing=False)
    with torch.no_grad():
        inputs = model.get_input_embeddings().weight
        assert isinstance(inputs, torch.Tensor)
        inputs[ids] = 0
        lm_head = _lm_head(model)
        lm_head.weight[ids] = 0
        if lm_head.bias is not None:
            lm_head.bias[ids] = 0
    return rewards


def _token_id(tokenizer: PreTrainedTokenizerBase, token: str) -> int:
    token_id = tokenizer.convert_tokens_to_ids(token)
    assert isinstance(token_id, int)
    return token_id


def fold_reward(model: PreTrainedModel, token_id: int, reward: torch.Tensor) -> None:
    """Write the reward vector into the LM head so that the token's logit is `reward · h`.

    Models that scale their logits (Granite, Cohere) get a row divided by that scale, which is measured, not
    looked up: the token's logit is compared with `row · h` on real hidden states.

    Args:
        reward: `[d_model]`.

    Raises:
        UnsupportedModel: the logit is no linear function of the row (soft-capping, as in Gemma 2).
        CheckpointError: the vector is not `[d_model]`, or not finite.
    """
    lm_head = _lm_head(model)
    d_model = lm_head.weight.shape[1]
    if reward.shape != (d_model,):
        raise CheckpointError(f"the reward vector is {tuple(reward.shape)}, the model needs ({d_model},)")
    if not torch.isfinite(reward).all():
        raise CheckpointError("the reward vector holds NaN or infinity")
    scale = measure_logit_scale(model, token_id)
    with torch.no_grad():
        lm_head.weight[token_id] = (reward.to(lm_head.weight.device) / scale).to(lm_head.weight.dtype)


def check_head(model: PreTrainedModel) -> None:
    """Raises UnsupportedModel unless the LM head is a plain linear layer over the whole vocabulary."""
    if getattr(model.config, "is_encoder_decoder", False):
        raise UnsupportedModel(f"{model.config.model_type} is an encoder-decoder; a Critic-RM is a causal LM")
    cap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
    if cap:
        raise UnsupportedModel(
            f"{model.config.model_type} soft-caps its logits (final_logit_softcapping={cap}), which would "
            "squash the reward; use a base without it"
        )
    lm_head = model.get_output_embeddings()
    if type(lm_head) is not torch.nn.Linear or not lm_head.weight.is_floating_point():
        raise UnsupportedModel(
            f"the LM head is a {type(lm_head).__name__}, not a plain floating-point linear layer (quantised?); "
            "its reward row would be quantised with it. Keep the head unquantised; the body may be quantised."
        )


def _lm_head(model: PreTrainedModel) -> torch.nn.Linear:
    """The LM head, which `check_head` has found to be a plain linear layer. `[vocab, d_model]`."""
    lm_head = model.get_output_embeddings()
    assert isinstance(lm_head, torch.nn.Linear)
    return lm_head


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint folder."""

    folder: Path
    manifest: Manifest
    trust_remote_code: bool = False

    @classmethod
    def open(cls, folder: Path, *, trust_remote_code: bool = False) -> Checkpoint:
        """Verify and open a checkpoint; cheap, no weights but the reward row are read.

        Args:
            trust_remote_code: run the Python code that comes with it, if any.

        Raises:
            CheckpointError: what is wrong, and with which file.
            UnsupportedModel: it can't carry the readout.
        """
        manifest = Manifest.load(folder)
        check_head_is_not_quantized(folder)
        checkpoint = cls(folder, manifest, trust_remote_code)
        tokenizer = checkpoint.tokenizer
        for reward in manifest.rewards:
            if (actual_id := tokenizer.convert_tokens_to_ids(reward.token)) != reward.token_id:
                raise CheckpointError(
                    f"{folder}: the manifest gives {reward.token!r} the id {reward.token_id}, the tokenizer {actual_id}"
                )
        rows = stored_rows(folder, manifest.reward_tokens.ids, checkpoint.config.tie_word_embeddings)
        for reward, row in zip(manifest.rewards, rows, strict=True):
            _check_row(folder, reward, row)
        if cap := getattr(checkpoint.config, "final_logit_softcapping", None):
            raise UnsupportedModel(f"{folder}: {checkpoint.config.model_type} soft-caps its logits at {cap}")
        return checkpoint

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        with _readable(self.folder, "tokenizer"):
            return AutoTokenizer.from_pretrained(self.folder, trust_remote_code=self.trust_remote_code)

    @cached_property
    def config(self) -> PretrainedConfig:
        """The configuration of the language model, where the base has other parts beside it."""
        with _readable(self.folder, "config"):
            config: PretrainedConfig = AutoConfig.from_pretrained(
                self.folder, trust_remote_code=self.trust_remote_code
            ).get_text_config()
            return config

    @cached_property
    def renderer(self) -> Renderer:
        return Renderer(self.tokenizer, self.manifest.critique_instruction, self.manifest.readout, self.manifest.slots)

    @property
    def revision(self) -> str | None:
        """The commit on the Hugging Face hub that it was downloaded from; None for any other folder."""
        return self.folder.name if self.folder.parent.name == "snapshots" else None

    @cached_property
    def max_model_len(self) -> int:
        """The longest sequence the base was made for, in tokens.

        Raises:
            UnsupportedModel: the config does not say.
        """
        if length := longest_sequence(self.config):
            return length
        raise UnsupportedModel(
            f"{self.folder}: config.json gives no longest sequence (none of {', '.join(_LENGTH_NAMES)}); add one"
        )


def _check_row(folder: Path, reward: Reward, row: torch.Tensor) -> None:
    if (digest := row_sha256(row)) != reward.sha256:
        raise CheckpointError(
            f"{folder}: the reward row's sha256 is {digest}, the manifest says {reward.sha256} ({reward.name}). "
            "The weights were changed after the manifest was written."
        )
    if not torch.isfinite(row).all() or not row.any():
        raise CheckpointError(
            f"{folder}: the reward row is zero or not finite: this reward was never fitted ({reward.name})"
        )


def longest_sequence(config: PretrainedConfig) -> int | None:
    """What a language model was made for, in tokens; None where its config does not say."""
    return next((int(length) for name in _LENGTH_NAMES if (length := getattr(config, name, None))), None)


@contextmanager
def _readable(folder: Path, what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # tokenizers raises Exception itself, transformers whatever a bad file leads to
        raise CheckpointError(f"{folder}: the {what} can't be read: {error}") from error
