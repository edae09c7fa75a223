"""A public scalar reward model as a checkpoint of this project: its head becomes the reward token's row."""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from ..checkpoint import Checkpoint, add_reward_token, check_head, write_checkpoint
from ..default import resolve
from ..errors import CheckpointError, UnsupportedModel
from ..files import write_json
from ..logits import logit_scale
from ..manifest import MANIFEST_NAME, Manifest, Origin, Readout, Reward
from ..plain import wanted_bos
from ..prompt import Renderer
from ..references import FLOAT32_PARAMETERS, fixed_conversations
from .body import load_body, read_config
from .original import Original, appended_cls
from .recognise import Head, recognise
from .weights import StoredWeights

_EXACT = 1e-4  # reward units, in float32
_ROUNDED = 0.03  # of the largest reward, where both are computed in bfloat16 or float16
_NOT_STORED = "0" * 64  # the digest of a row before it is written

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Source:
    """What is imported.

    Attributes:
        name: a folder, or a hub name.
        revision: on the hub: a branch, a tag or a commit.
        tokenizer: folder or hub name of another one's, where its own is missing or needs code of its own.
        chat_template: file of a Jinja template, where the tokenizer has none.
        lm_head: folder or hub name of the model that it was trained from, for a classifier that has no LM head.
        reward_token_id: of the token whose logit is the reward, where it is a causal LM.
    """

    name: str
    revision: str | None = None
    tokenizer: str | None = None
    chat_template: Path | None = None
    lm_head: str | None = None
    reward_token_id: int | None = None


@dataclass(frozen=True, slots=True)
class Imported:
    """What an import wrote, and how exact it is.

    Attributes:
        manifest: as written.
        largest: difference to the original's rewards of the fixed conversations, in reward units.
    """

    manifest: Manifest
    largest: float


def import_model(source: Source, out: Path) -> Imported:
    """Write the checkpoint to `out`, and compare its rewards with the original's.

    Raises:
        UnsupportedModel: it can't be imported exactly, and why.
        CheckpointError: a file is missing or malformed, or the rewards differ.
    """
    folder = resolve(source.name, source.revision)
    if (folder / "adapter_config.json").is_file():
        raise UnsupportedModel(f"{source.name} is an adapter: merge it into its base first (peft's merge_and_unload)")
    weights = StoredWeights(folder)
    try:
        head = recognise(read_config(folder), weights, source.reward_token_id)
        tokenizer = load_tokenizer(source, folder)
        readout = _readout(folder, head, tokenizer)
        Renderer(tokenizer, None, readout)  # refuses one that can't be rendered for, before the work
    except UnsupportedModel as error:
        raise UnsupportedModel(f"{source.name} can't be imported: {error}") from error
    dtype = torch.float32 if weights.count <= FLOAT32_PARAMETERS else torch.bfloat16
    logger.info("the original's rewards of %d conversations", len(fixed_conversations()))
    rewards = _original_rewards(folder, tokenizer, source.reward_token_id, dtype)
    base = resolve(source.lm_head) if source.lm_head else None
    body = load_body(folder, head, weights, lm_head_from=base)
    check_head(body.model)
    stored_dtype = str(body.model.dtype).removeprefix("torch.")
    token_id, offset = _put_reward(body.model, tokenizer, head, weights)
    token = tokenizer.convert_ids_to_tokens(token_id)
    manifest = Manifest(
        critique_instruction=None,
        max_critique_tokens=1,
        base_model=source.name,
        rewards=(Reward(token=str(token), token_id=token_id, offset=offset, sha256=_NOT_STORED),),
        readout=readout,
        origin=Origin(name=source.name, revision=source.revision),
        lm_head=body.lm_head,
    )
    manifest = write_checkpoint(body.model, tokenizer, manifest, out)
    _keep_dtype(out, stored_dtype)
    Checkpoint.open(out)
    assert manifest.references is not None
    scores = [score + offset for score in manifest.references.direct_scores]
    return Imported(manifest, _compare(source.name, out, scores, rewards, dtype))


def load_tokenizer(source: Source, folder: Path) -> PreTrainedTokenizerBase:
    """Raises CheckpointError, UnsupportedModel: it can't be read, or there is no chat template."""
    place = resolve(source.tokenizer) if source.tokenizer else folder
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(place, trust_remote_code=False)
        if source.chat_template is not None:
            tokenizer.chat_template = source.chat_template.read_text(encoding="utf-8")
    except Exception as error:  # tokenizers raises Exception itself
        reason = str(error).partition("\n")[0]
        raise CheckpointError(f"{place}: the tokenizer can't be read: {reason}. Give another: --tokenizer") from error
    if not tokenizer.chat_template:
        raise UnsupportedModel(
            "its tokenizer has no chat template: give the one that it was trained with, --chat-template"
        )
    return tokenizer


def _readout(folder: Path, head: Head, tokenizer: PreTrainedTokenizerBase) -> Readout:
    if (cls := appended_cls(head, tokenizer)) is not None:
        bos = wanted_bos(tokenizer)  # which is there twice: see `Original.tokenize`
        return Readout(render="conversation", before=() if bos is None else (bos,), after=(cls,))
    after = () if head.appended_id is None else (head.appended_id,)
    unread = None
    if head.kind == "classifier":
        config = read_config(folder)
        unread = (config.get("text_config") or config).get("pad_token_id")
    return Readout(render="conversation", after=after, unread=unread)


def _original_rewards(
    folder: Path, tokenizer: PreTrainedTokenizerBase, token_id: int | None, dtype: torch.dtype
) -> list[float]:
    """The original's memory is free again when this returns."""
    original = Original(folder, tokenizer, reward_token_id=token_id, dtype=dtype)
    return [original.reward(messages, response) for messages, response in fixed_conversations()]


def _put_reward(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, head: Head, weights: StoredWeights
) -> tuple[int, float]:
    """The id of the token whose logit is the reward then, and what is added to it."""
    if head.token_id is not None:
        return head.token_id, 0.0
    assert head.weight is not None
    row = weights.read(head.weight).flatten().float() / logit_scale(model)  # [d_model]
    token_id = add_reward_token(model, tokenizer)
    linear = model.get_output_embeddings()
    assert isinstance(linear, torch.nn.Linear)
    if not torch.equal(row.to(linear.weight.dtype).float(), row):
        linear.weight.data = linear.weight.data.float()  # the row is more precise than the body
    with torch.no_grad():
        linear.weight[token_id] = row.to(linear.weight.dtype)
    return token_id, weights.read(head.bias).float().item() if head.bias else 0.0


def _keep_dtype(out: Path, dtype: str) -> None:
    """The body's, where a more precise head comes first and would stand for all."""
    config = json.loads((out / "config.json").read_text(encoding="utf-8"))
    write_json(out / "config.json", config | {"dtype": dtype})


def _compare(name: str, out: Path, scores: list[float], rewards: list[float], dtype: torch.dtype) -> float:
    largest = max(abs(a - b) for a, b in zip(scores, rewards, strict=True))
    limit = _EXACT if dtype == torch.float32 else _ROUNDED * max(1.0, *map(abs, rewards))
    if largest > limit:
        (out / MANIFEST_NAME).unlink()  # nobody shall serve it
        raise CheckpointError(
            f"{out}: its rewards differ from those of {name} by up to {largest:.3g}, and {limit:.3g} is the limit: "
            "it is not exact"
        )
    return largest
