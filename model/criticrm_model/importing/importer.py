"""A public scalar reward model as a checkpoint of this project: its head becomes the reward token's row."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from ..checkpoint import NOT_STORED, Checkpoint, add_reward_tokens, check_head, write_checkpoint
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
from .recognise import OriginalHead, recognise
from .weights import StoredWeights

_EXACT = 1e-4  # reward units, in float32
_ROUNDED = 0.03  # of the largest reward, where both are computed in bfloat16 or float16

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
        objectives: of several rewards, what each weighs in the score.
    """

    name: str
    revision: str | None = None
    tokenizer: str | None = None
    chat_template: Path | None = None
    lm_head: str | None = None
    reward_token_id: int | None = None
    objectives: Mapping[str, float] | None = None


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
        head = recognise(read_config(folder), weights, source.reward_token_id, source.objectives)
        tokenizer = load_tokenizer(source, folder)
        readout = _readout(folder, head, tokenizer)
        Renderer(tokenizer, None, readout)  # refuses one that can't be rendered for, before the work
    except UnsupportedModel as error:
        raise UnsupportedModel(f"{source.name} can't be imported: {error}") from error
    dtype = torch.float32 if weights.count <= FLOAT32_PARAMETERS else torch.bfloat16
    logger.info("the original's rewards of %d conversations", len(fixed_conversations()))
    expected = _original_rewards(folder, tokenizer, source, dtype)
    base = resolve(source.lm_head) if source.lm_head else None
    body = load_body(folder, head, weights, lm_head_from=base)
    check_head(body.model)
    stored_dtype = str(body.model.dtype).removeprefix("torch.")
    rewards = _put_rewards(body.model, tokenizer, head, weights)
    manifest = Manifest(
        critique_instruction=None,
        max_critique_tokens=1,
        base_model=source.name,
        rewards=tuple(rewards),
        readout=readout,
        origin=Origin(name=source.name, revision=source.revision),
        lm_head=body.lm_head,
    )
    manifest = write_checkpoint(body.model, tokenizer, manifest, out)
    _keep_dtype(out, stored_dtype)
    Checkpoint.open(out)
    assert manifest.references is not None
    references = manifest.references
    read = references.direct_rewards or [(score,) for score in references.direct_scores]
    served = [value + reward.offset for one in read for value, reward in zip(one, manifest.rewards, strict=True)]
    return Imported(manifest, _compare(source.name, out, served, expected, dtype))


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


def _readout(folder: Path, head: OriginalHead, tokenizer: PreTrainedTokenizerBase) -> Readout:
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
    folder: Path, tokenizer: PreTrainedTokenizerBase, source: Source, dtype: torch.dtype
) -> list[float]:
    """The original's rewards of each conversation, several in turn. Its memory is free again when this returns."""
    original = Original(
        folder, tokenizer, reward_token_id=source.reward_token_id, objectives=source.objectives, dtype=dtype
    )
    return [reward for messages, response in fixed_conversations() for reward in original.rewards(messages, response)]


def _put_rewards(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, head: OriginalHead, weights: StoredWeights
) -> list[Reward]:
    """The tokens whose logits are the rewards then, and what is added to them."""
    if head.token_id is not None:
        token = str(tokenizer.convert_ids_to_tokens(head.token_id))
        return [Reward(token=token, token_id=head.token_id, sha256=NOT_STORED)]
    assert head.weight is not None
    rows = weights.read(head.weight).float() / logit_scale(model)
    rows = rows.reshape(-1, rows.shape[-1])  # [rewards, d_model]
    added = add_reward_tokens(model, tokenizer, head.objectives)
    linear = model.get_output_embeddings()
    assert isinstance(linear, torch.nn.Linear)
    if not torch.equal(rows.to(linear.weight.dtype).float(), rows):
        linear.weight.data = linear.weight.data.float()  # the rows are more precise than the body
    with torch.no_grad():
        linear.weight[[reward.token_id for reward in added]] = rows.to(linear.weight.dtype)
    offsets = weights.read(head.bias).float().flatten().tolist() if head.bias else [0.0] * len(added)
    return [reward.model_copy(update={"offset": offset}) for reward, offset in zip(added, offsets, strict=True)]


def _keep_dtype(out: Path, dtype: str) -> None:
    """The body's, where a more precise head comes first and would stand for all."""
    config = json.loads((out / "config.json").read_text(encoding="utf-8"))
    write_json(out / "config.json", config | {"dtype": dtype})


def _compare(name: str, out: Path, served: list[float], rewards: list[float], dtype: torch.dtype) -> float:
    largest = max(abs(a - b) for a, b in zip(served, rewards, strict=True))
    limit = _EXACT if dtype == torch.float32 else _ROUNDED * max(1.0, *map(abs, rewards))
    if largest > limit:
        (out / MANIFEST_NAME).unlink()  # nobody shall serve it
        raise CheckpointError(
            f"{out}: its rewards differ from those of {name} by up to {largest:.3g}, and {limit:.3g} is the limit: "
            "it is not exact"
        )
    return largest
