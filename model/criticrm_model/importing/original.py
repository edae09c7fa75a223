"""The reward of the original model on a conversation, by its own class and its own chat template.

An imported checkpoint is compared with it. Nothing of the renderer, and nothing of the reward token, is used here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    GenerationConfig,
    PreTrainedTokenizerBase,
)

from ..plain import apply_template
from ..prompt import Message
from .body import load_body, read_config
from .internlm2_forward import internlm2_hidden
from .recognise import OriginalHead, recognise
from .weights import StoredWeights

_Score = Callable[[torch.Tensor], list[float]]  # [rewards]


class Original:
    """A reward model as it was published.

    Args:
        tokenizer: with its chat template.
        reward_token_id, objectives: as in `recognise`.
        dtype: of weights and activations.

    Raises:
        UnsupportedModel, CheckpointError
    """

    def __init__(
        self,
        folder: Path,
        tokenizer: PreTrainedTokenizerBase,
        *,
        reward_token_id: int | None = None,
        objectives: Mapping[str, float] | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        weights = StoredWeights(folder)
        self.head = recognise(read_config(folder), weights, reward_token_id, objectives)
        self._tokenizer = tokenizer
        self._score = _scoring(folder, self.head, weights, dtype)

    def reward(self, messages: Sequence[Message], response: str) -> float:
        """The reward of a response to a conversation. Raises ValueError: the model has several rewards."""
        (only,) = self.rewards(messages, response)
        return only

    def rewards(self, messages: Sequence[Message], response: str) -> list[float]:
        """As `reward`, `[rewards]`."""
        ids = self.tokenize([*messages, Message(role="assistant", content=response)])
        return self._score(torch.tensor([ids]))

    def tokenize(self, messages: Sequence[Message]) -> list[int]:
        """As its authors do: the chat template's text as a whole, with a BOS token where the tokenizer adds one."""
        text = apply_template(self._tokenizer, messages)
        if (cls := appended_cls(self.head, self._tokenizer)) is not None:
            # Athene's pipeline, which tokenises the text with special tokens: BOS is there twice.
            ids: list[int] = self._tokenizer(text + str(self._tokenizer.cls_token)).input_ids
            assert ids[-1] == cls
            return ids
        ids = list(self._tokenizer(text, add_special_tokens=False).input_ids)
        bos = self._tokenizer.bos_token_id
        if bos is not None and ids[:1] != [bos] and self._tokenizer("x").input_ids[:1] == [bos]:
            ids.insert(0, bos)
        return [*ids, self.head.appended_id] if self.head.appended_id is not None else ids


def appended_cls(head: OriginalHead, tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Athene reads its `v_head` at its tokenizer's CLS token, which no other decoder's tokenizer has."""
    if head.weight == "v_head.weight" and head.appended_id is None and tokenizer.cls_token_id is not None:
        return int(tokenizer.cls_token_id)
    return None


def _scoring(folder: Path, head: OriginalHead, weights: StoredWeights, dtype: torch.dtype) -> _Score:
    if head.kind == "classifier":
        return _classifier(folder, dtype, max(1, len(head.objectives)))
    if head.kind == "token":
        assert head.token_id is not None
        return _first_step(folder, head.token_id, dtype)
    return _linear(folder, head, weights, dtype)


def _classifier(folder: Path, dtype: torch.dtype, labels: int) -> _Score:
    model: Any = AutoModelForSequenceClassification.from_pretrained(
        folder, num_labels=labels, dtype=dtype, trust_remote_code=False
    ).eval()

    @torch.inference_mode()
    def score(ids: torch.Tensor) -> list[float]:
        logits: list[float] = model(ids, use_cache=False).logits[0].float().tolist()
        return logits

    return score


def _first_step(folder: Path, token_id: int, dtype: torch.dtype) -> _Score:
    """The score of a token at the first step of a generation (Llama-3.1-Nemotron-70B-Reward-HF)."""
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    model.generation_config = GenerationConfig()
    settings = GenerationConfig(
        max_new_tokens=1, do_sample=False, return_dict_in_generate=True, output_scores=True, pad_token_id=0
    )

    @torch.inference_mode()
    def score(ids: torch.Tensor) -> list[float]:
        output = model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=settings)
        return [float(output.scores[0][0][token_id])]

    return score


def _linear(folder: Path, head: OriginalHead, weights: StoredWeights, dtype: torch.dtype) -> _Score:
    """A linear head on the last position's hidden state."""
    config = read_config(folder)
    assert head.weight is not None
    rows = weights.read(head.weight).to(dtype)
    rows = rows.reshape(-1, rows.shape[-1])  # [rewards, d_model]
    bias = weights.read(head.bias).float() if head.bias else torch.zeros(len(rows))
    decoder: Any = None
    if config.get("model_type") != "internlm2":
        decoder = load_body(folder, head, weights, dtype=dtype).model.get_decoder()

    @torch.inference_mode()
    def score(ids: torch.Tensor) -> list[float]:
        if decoder is None:
            hidden = internlm2_hidden(ids[0], weights, config, dtype)
        else:
            hidden = decoder(ids, use_cache=False).last_hidden_state[0, -1]
        rewards: list[float] = ((rows @ hidden).float() + bias.flatten()).tolist()
        return rewards

    return score
