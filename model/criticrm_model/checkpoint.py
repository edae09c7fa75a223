"""A Critic-RM checkpoint: an ordinary causal LM with one extra token, whose LM-head row is the reward vector.

`assemble` makes one from a base model and a reward vector; `Checkpoint.open` verifies one before it is served.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from transformers import (
    AddedToken,
    AutoConfig,
    AutoTokenizer,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from .errors import CheckpointError, UnsupportedModel
from .manifest import MANIFEST_NAME, REWARD_TOKEN, Manifest, RewardCard
from .prompt import Renderer

_SINGLE = "model.safetensors"
_INDEX = "model.safetensors.index.json"
# How architectures name the LM head, and the input embeddings where the head is tied to them.
_HEAD_NAMES = ("lm_head.weight", "embed_out.weight")
_INPUT_NAMES = ("embed_tokens.weight", "embed_in.weight", "wte.weight", "word_embeddings.weight")
# How architectures name their longest sequence, in tokens: most, Bloom, MPT, GPT-2.
_LENGTH_NAMES = ("max_position_embeddings", "seq_length", "max_seq_len", "n_positions")


def assemble(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    reward: torch.Tensor,
    card: RewardCard,
    out: Path,
) -> Manifest:
    """Turn a base model, in place, into a Critic-RM and save it to `out`.

    Args:
        reward: `[d_model]`, float32. The reward of a hidden state `h` (the LM head's input) is `reward · h`.
        card: what the manifest says of the reward.

    Raises:
        UnsupportedModel: the architecture or the tokenizer can't carry the readout.
        CheckpointError: the reward vector is not `[d_model]`, or not finite.
    """
    token_id = add_reward_token(model, tokenizer)
    fold_reward(model, token_id, reward)
    Renderer(tokenizer, card.critique_instruction)  # refuses a tokenizer that can't be served
    out.mkdir(parents=True, exist_ok=True)
    (out / MANIFEST_NAME).unlink(missing_ok=True)  # written last: a folder that has one is complete
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)
    stored = _stored_row(out, token_id, model.config.get_text_config().tie_word_embeddings)
    saved = Manifest(reward_token_id=token_id, reward_row_sha256=_sha256(stored), **dict(card))
    # safetensors writes files for the owner alone; a server often runs as somebody else.
    for path in out.glob("*.safetensors"):
        path.chmod(path.stat().st_mode | 0o044)
    saved.save(out)
    return saved


def add_reward_token(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """Add `<|reward|>` to the vocabulary with zero rows, and return its id.

    Where the embedding matrix is already larger than the vocabulary (Qwen pads it), a spare row is used.

    Raises:
        UnsupportedModel: see `check_head`.
    """
    check_head(model)
    tokenizer.add_tokens([AddedToken(REWARD_TOKEN, special=True, normalized=False)], special_tokens=True)
    token_id = tokenizer.convert_tokens_to_ids(REWARD_TOKEN)
    assert isinstance(token_id, int)
    if token_id >= _head(model).out_features:
        model.resize_token_embeddings(token_id + 1, mean_resizing=False)
    with torch.no_grad():
        inputs = model.get_input_embeddings().weight
        assert isinstance(inputs, torch.Tensor)
        inputs[token_id] = 0
        head = _head(model)
        head.weight[token_id] = 0
        if head.bias is not None:
            head.bias[token_id] = 0
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
    head = _head(model)
    d_model = head.weight.shape[1]
    if reward.shape != (d_model,):
        raise CheckpointError(f"the reward vector is {tuple(reward.shape)}, the model needs ({d_model},)")
    if not torch.isfinite(reward).all():
        raise CheckpointError("the reward vector holds NaN or infinity")
    scale = measure_logit_scale(model, token_id)
    with torch.no_grad():
        head.weight[token_id] = (reward.to(head.weight.device) / scale).to(head.weight.dtype)


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
    head = model.get_output_embeddings()
    if type(head) is not torch.nn.Linear or not head.weight.is_floating_point():
        raise UnsupportedModel(
            f"the LM head is a {type(head).__name__}, not a plain floating-point linear layer (quantised?); "
            "its reward row would be quantised with it. Keep the head unquantised; the body may be quantised."
        )


def _head(model: PreTrainedModel) -> torch.nn.Linear:
    """The LM head, which `check_head` has found to be a plain linear layer. `[vocab, d_model]`."""
    head = model.get_output_embeddings()
    assert isinstance(head, torch.nn.Linear)
    return head


@torch.no_grad()
def measure_logit_scale(model: PreTrainedModel, token_id: int) -> float:
    """The factor between `row · h` and the token's logit; 1.0 for most models."""
    head = _head(model)
    captured: list[torch.Tensor] = []
    hook = head.register_forward_pre_hook(lambda _, args: captured.append(args[0]))
    kept = head.weight[token_id].clone()
    factors = []
    try:
        for amplitude in (1.0, 64.0):  # a capped logit does not grow with its row
            captured.clear()
            ids = torch.arange(8, device=model.device)[None]  # [1, seq]
            # The row along h itself: a large, positive logit for certain.
            model(ids, use_cache=False)
            h = captured[0][0, -1].float()  # [d_model]
            row = (amplitude * h / h.norm()).to(head.weight.dtype)
            head.weight[token_id] = row
            captured.clear()
            logit = model(ids, use_cache=False).logits[0, -1, token_id].float()
            # A model over several devices gives its logits on another than its head's.
            factors.append((logit.cpu() / (row.float() @ captured[0][0, -1].float()).cpu()).item())
    finally:
        hook.remove()
        head.weight[token_id] = kept
    low, high = sorted(factors)
    tolerance = 0.02 if head.weight.dtype in (torch.bfloat16, torch.float16) else 1e-3
    if not low > 0 or high / low > 1 + tolerance:
        raise UnsupportedModel(
            f"{model.config.model_type} does not return the LM head's output as it is (factors {factors}): "
            "its logits are capped or bent, so they can't carry a reward"
        )
    scale = factors[-1]
    return 1.0 if abs(scale - 1) < tolerance else scale


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
        checkpoint = cls(folder, manifest, trust_remote_code)
        tokenizer = checkpoint.tokenizer
        actual_id = tokenizer.convert_tokens_to_ids(manifest.reward_token)
        if actual_id != manifest.reward_token_id:
            raise CheckpointError(
                f"{folder}: the manifest gives {manifest.reward_token!r} the id {manifest.reward_token_id}, "
                f"the tokenizer {actual_id}"
            )
        row = _stored_row(folder, manifest.reward_token_id, checkpoint.config.tie_word_embeddings)
        if (digest := _sha256(row)) != manifest.reward_row_sha256:
            raise CheckpointError(
                f"{folder}: the reward row's sha256 is {digest}, the manifest says {manifest.reward_row_sha256}. "
                "The weights were changed after the manifest was written."
            )
        if not torch.isfinite(row).all() or not row.any():
            raise CheckpointError(f"{folder}: the reward row is zero or not finite: this reward was never fitted")
        if cap := getattr(checkpoint.config, "final_logit_softcapping", None):
            raise UnsupportedModel(f"{folder}: {checkpoint.config.model_type} soft-caps its logits at {cap}")
        return checkpoint

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        with _readable(self.folder, "tokenizer"):
            return AutoTokenizer.from_pretrained(self.folder, trust_remote_code=self.trust_remote_code)

    @cached_property
    def config(self) -> PretrainedConfig:
        """Of the language model, where the base has others beside it."""
        with _readable(self.folder, "config"):
            config: PretrainedConfig = AutoConfig.from_pretrained(
                self.folder, trust_remote_code=self.trust_remote_code
            ).get_text_config()
            return config

    @cached_property
    def renderer(self) -> Renderer:
        return Renderer(self.tokenizer, self.manifest.critique_instruction)

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


def longest_sequence(config: PretrainedConfig) -> int | None:
    """What a language model was made for, in tokens; None where its config does not say."""
    return next((int(length) for name in _LENGTH_NAMES if (length := getattr(config, name, None))), None)


@contextmanager
def _readable(folder: Path, what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # tokenizers raises Exception itself, transformers whatever a bad file leads to
        raise CheckpointError(f"{folder}: the {what} can't be read: {error}") from error


def _stored_row(folder: Path, token_id: int, tied: bool) -> torch.Tensor:
    """The reward row as stored, `[d_model]` float32, without reading the rest of the weights."""
    try:
        index = folder / _INDEX
        if index.is_file():
            files: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        else:
            with safe_open(folder / _SINGLE, framework="pt") as weights:
                files = dict.fromkeys(weights.keys(), _SINGLE)
        names = _INPUT_NAMES if tied else _HEAD_NAMES
        name = next((key for key in files if key.endswith(names)), None)
        if name is None:
            raise UnsupportedModel(
                f"{folder} stores no LM head (a weight ending in one of {', '.join(names)}); was it quantised?"
            )
        with safe_open(folder / files[name], framework="pt") as weights:
            head = weights.get_slice(name)
            rows = head.get_shape()[0]
            if token_id >= rows:
                raise CheckpointError(f"{folder}: the LM head has {rows} rows, the reward token is {token_id}")
            row: torch.Tensor = head[token_id : token_id + 1][0]
            return row.float()
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise CheckpointError(f"{folder}: the weights can't be read: {error}") from error


def _sha256(row: torch.Tensor) -> str:
    return hashlib.sha256(row.float().contiguous().numpy().astype("<f4").tobytes()).hexdigest()
