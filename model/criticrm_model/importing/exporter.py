"""The way back: a checkpoint's direct score as a standard sequence classifier."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedTokenizerBase,
)

from ..checkpoint import Checkpoint
from ..errors import CheckpointError, UnsupportedModel
from ..logits import logit_scale
from ..plain import TEMPLATE_DATE
from ..prompt import Message
from ..reference import ReferenceModel
from ..references import FLOAT32_PARAMETERS, fixed_conversations, fixed_prompts
from ..stored_head import stored_rows
from .weights import StoredWeights

_EXACT = 1e-5  # reward units, in float32
_ROUNDED = 0.03  # of the reward, where both are computed in bfloat16 or float16


def export_classifier(checkpoint: Checkpoint, out: Path, *, drop_offset: bool = False) -> float:
    """Write `...ForSequenceClassification` with one label, and compare its rewards with the checkpoint's.

    Args:
        drop_offset: of an imported reward with a bias, which transformers' classifiers have not.

    Returns:
        The largest difference over the fixed conversations, in reward units.

    Raises:
        UnsupportedModel: a classifier can't give these rewards, or its chat template these tokens.
        CheckpointError: the rewards differ.
    """
    manifest = checkpoint.manifest
    if manifest.offset and not drop_offset:
        raise UnsupportedModel(
            f"the reward has an offset of {manifest.offset:g}, and a classifier of transformers has no bias; "
            "--drop-offset leaves it out, which changes all rewards by this constant"
        )
    tokenizer = AutoTokenizer.from_pretrained(checkpoint.folder)
    tokenizer.chat_template = chat_template(checkpoint)
    _check_template(checkpoint, tokenizer)
    expected = _rewards(checkpoint)
    model = _classifier(checkpoint, tokenizer)
    out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(out)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(model.config.get_text_config().pad_token_id)
    tokenizer.save_pretrained(out)
    return _compare(out, tokenizer, expected)


def chat_template(checkpoint: Checkpoint) -> str:
    """A template that renders what the checkpoint reads, from a conversation that ends with the response."""
    manifest, tokenizer = checkpoint.manifest, checkpoint.tokenizer
    template = str(tokenizer.chat_template)
    lines = []
    if manifest.critique_instruction is not None and manifest.readout.render == "critique":
        instruction = _literal(manifest.critique_instruction)
        lines += [
            f"{{%- set messages = messages + [{{'role': 'user', 'content': {instruction}}}] -%}}",
            "{%- set add_generation_prompt = true -%}",
            "{%- set enable_thinking = false -%}",
        ]
    if formats := dict.fromkeys(re.findall(r"strftime_now\(\s*['\"]([^'\"]*)['\"]", template)):
        # The day that the rewards were trained with: today's would change them overnight.
        days = "".join(
            f"{{%- if format == {_literal(one)} -%}}{TEMPLATE_DATE.strftime(one)}{{%- endif -%}}" for one in formats
        )
        lines.append(f"{{%- macro strftime_now(format) -%}}{days}{{%- endmacro -%}}")
    before, after = (_token_texts(tokenizer, ids) for ids in (manifest.readout.before, manifest.readout.after))
    return "".join(lines) + before + template + after


def _literal(text: str) -> str:
    """As a string of Jinja."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n").replace("\t", "\\t")
    return f"'{escaped}'"


def _token_texts(tokenizer: PreTrainedTokenizerBase, token_ids: tuple[int, ...]) -> str:
    return "".join(f"{{{{ {_literal(str(tokenizer.convert_ids_to_tokens(i)))} }}}}" for i in token_ids)


def render(tokenizer: PreTrainedTokenizerBase, messages: list[Message], response: str) -> list[int]:
    """Token ids as transformers makes them of a conversation."""
    conversation: list[Any] = [dict(m) for m in (*messages, Message(role="assistant", content=response))]
    text = tokenizer.apply_chat_template(conversation, tokenize=False)
    return list(tokenizer(str(text), add_special_tokens=False).input_ids)


def _check_template(checkpoint: Checkpoint, tokenizer: PreTrainedTokenizerBase) -> None:
    unread = checkpoint.manifest.readout.unread
    for messages, response in fixed_conversations():
        ours = checkpoint.renderer.open(messages).render(response, max_model_len=10**6, max_critique_tokens=1).token_ids
        theirs = render(tokenizer, messages, response)
        while theirs and theirs[-1] == unread:
            theirs.pop()
        if ours != theirs:
            raise UnsupportedModel(
                f"{checkpoint.folder}: no chat template gives the tokens that this checkpoint reads: its own joins "
                f"contents with the text around them ({tokenizer.decode(theirs)!r} is tokenised in another way)"
            )


def _dtype(checkpoint: Checkpoint) -> torch.dtype:
    count = StoredWeights(checkpoint.folder).count
    return torch.float32 if count <= FLOAT32_PARAMETERS else torch.bfloat16


def _rewards(checkpoint: Checkpoint) -> list[float]:
    """The rewards by the checkpoint itself, without its offset. Its memory is free again when this returns."""
    name: Any = str(_dtype(checkpoint)).removeprefix("torch.")
    manifest, renderer = checkpoint.manifest, checkpoint.renderer
    model = ReferenceModel.load(checkpoint.folder, manifest.reward_tokens, renderer.stop_token_ids, dtype=name)
    prompts = [
        renderer.open(messages).render(response, max_model_len=10**6, max_critique_tokens=1).token_ids
        for messages, response in fixed_conversations()
    ]
    return [model.score(prompt, prompt[:1])[0] for prompt in prompts]


def _classifier(checkpoint: Checkpoint, tokenizer: PreTrainedTokenizerBase) -> Any:
    manifest = checkpoint.manifest
    with torch.device("meta"):
        without_weights = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(checkpoint.folder))
    scale = logit_scale(without_weights)
    tokens = manifest.reward_tokens
    rows = stored_rows(checkpoint.folder, tokens.ids, checkpoint.config.tie_word_embeddings)  # [rewards, d_model]
    row = (torch.tensor(tokens.weights)[:, None] * rows).sum(0) * scale
    try:
        model = AutoModelForSequenceClassification.from_pretrained(checkpoint.folder, num_labels=1, dtype="auto")
    except ValueError as error:
        reason = str(error).partition("\n")[0]
        raise UnsupportedModel(f"transformers has no sequence classifier of this architecture: {reason}") from error
    if not hasattr(model, "score"):
        raise UnsupportedModel(f"{type(model).__name__} has no head `score` on the last token")
    if not torch.equal(row.to(model.score.weight.dtype).float(), row):
        model.score.weight.data = model.score.weight.data.float()
    with torch.no_grad():
        model.score.weight.copy_(row[None])
    model.config.get_text_config().pad_token_id = _pad_token_id(checkpoint, tokenizer)
    return model


def _pad_token_id(checkpoint: Checkpoint, tokenizer: PreTrainedTokenizerBase) -> int:
    """One that no prompt ends with: transformers reads the reward before it."""
    if (unread := checkpoint.manifest.readout.unread) is not None:
        return unread
    last = fixed_prompts(checkpoint.renderer)[0][-1]
    candidates = [tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id]
    candidates.append(tokenizer.convert_tokens_to_ids(checkpoint.manifest.rewards[0].token))
    return next(int(i) for i in candidates if i is not None and i != last)


def _compare(out: Path, tokenizer: PreTrainedTokenizerBase, expected: list[float]) -> float:
    dtype = torch.float32 if StoredWeights(out).count <= FLOAT32_PARAMETERS else torch.bfloat16
    model: Any = AutoModelForSequenceClassification.from_pretrained(out, dtype=dtype).eval()
    differences: list[float] = []
    with torch.inference_mode():
        for (messages, response), reward in zip(fixed_conversations(), expected, strict=True):
            ids = torch.tensor([render(tokenizer, messages, response)])
            difference: float = abs(model(ids, use_cache=False).logits[0, 0].float().item() - reward)
            limit = _EXACT * max(1.0, abs(reward)) if dtype == torch.float32 else _ROUNDED * max(1.0, abs(reward))
            if difference > limit:
                raise CheckpointError(f"{out}: a reward differs from the checkpoint's by {difference:.3g}")
            differences.append(difference)
    return max(differences)
