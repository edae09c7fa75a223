"""Which reward a model has, by its config and the names and shapes of its weights; what can't be exact is refused."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from ..checkpoint import WeightedReward
from ..errors import UnsupportedModel
from .weights import StoredWeights

# Of a linear head on a decoder: transformers' classifiers; InternLM2, Athene, Starling; TRL and LLaMA-Factory; UltraRM,
# Eurus; OpenRLHF; others' own; OASST-pythia.
_HEADS = (
    "score",
    "v_head",
    "v_head.summary",
    "regression_head",
    "value_head",
    "rm_head",
    "reward_head",
    "regression_layer",
    "out_proj",
)
_PREFIXES = ("", "pretrained_model.", "module.")
_ENCODER_HEADS = ("classifier.", "classification_head.", "logits_proj.", "pooler.")
_MLP = re.compile(r"(score|v_head|v_head\.summary|value_head|regression_head|reward_head|rm_head)\.\d+\.weight$")
_DENSE = re.compile(r"(\D*)dense\.weight$")  # in no layer, which has a number


@dataclass(frozen=True, slots=True)
class OriginalHead:
    """Where a reward model has its reward.

    Attributes:
        kind: "classifier" is transformers' `...ForSequenceClassification`; "linear" another linear head; "token" the
            logit of a token of the vocabulary.
        weight: name of the head's weight, `[rewards, d_model]`; None for "token".
        bias: name of its bias, `[rewards]`, if it has one.
        token_id: for "token".
        appended_id: of a token that is appended to the conversation, where the reward is read.
        objectives: names of several rewards and what each weighs in the score, in the order of the rows.
    """

    kind: Literal["classifier", "linear", "token"]
    weight: str | None = None
    bias: str | None = None
    token_id: int | None = None
    appended_id: int | None = None
    objectives: tuple[WeightedReward, ...] = ()


def recognise(
    config: Mapping[str, Any],
    weights: StoredWeights,
    reward_token_id: int | None = None,
    objectives: Mapping[str, float] | None = None,
) -> OriginalHead:
    """The head of a reward model.

    Args:
        config: what its config.json says.
        reward_token_id: of the token whose logit is the reward, where it is a causal LM.
        objectives: what each of several rewards weighs in the score, by name; in the order of the rows, unless
            config.json names them.

    Raises:
        UnsupportedModel: the reward can't be imported exactly, and why.
    """
    _refuse_architecture(config)
    _refuse_heads(weights, weighed=bool(objectives))
    found = [
        f"{prefix}{head}" for prefix in _PREFIXES for head in _HEADS if f"{prefix}{head}.weight" in set(weights.names)
    ]
    if reward_token_id is not None:
        if found:
            raise UnsupportedModel(f"it has a reward head ({found[0]}): leave out the reward token's id")
        return OriginalHead("token", token_id=reward_token_id)
    if not found:
        raise UnsupportedModel(
            "it has no reward head (none of "
            + ", ".join(f"{head}.weight" for head in _HEADS)
            + "). If its reward is the logit of a token, give that token's id (--reward-token-id 0 for "
            "Llama-3.1-Nemotron-70B-Reward-HF)"
        )
    if len(found) > 1:
        raise UnsupportedModel(f"it has several heads: {', '.join(found)}")
    (head,) = found
    named = _objectives(config, head, weights.shape(f"{head}.weight"), objectives or {})
    bias = f"{head}.bias" if f"{head}.bias" in set(weights.names) else None
    classifier = head == "score" and bias is None and config.get("model_type") != "internlm2"
    return OriginalHead(
        "classifier" if classifier else "linear",
        weight=f"{head}.weight",
        bias=bias,
        appended_id=config.get("reward_token_id"),
        objectives=named,
    )


def _refuse_architecture(config: Mapping[str, Any]) -> None:
    kind = str(config.get("model_type"))
    text = config.get("text_config") or config
    if config.get("is_encoder_decoder"):
        raise UnsupportedModel(f"{kind} is an encoder-decoder: the reward must be read on a causal decoder")
    if config.get("quantization_config"):
        raise UnsupportedModel("its weights are quantised, and so is what the reward is read from: import the original")
    if cap := text.get("final_logit_softcapping", 30.0 if kind == "gemma2" else None):
        raise UnsupportedModel(
            f"{kind} soft-caps its logits (final_logit_softcapping={cap}), the reward's too, and without the cap it "
            "would be another language model"
        )
    if config.get("pooling", "last") != "last":
        raise UnsupportedModel(f"its reward is read from a pooling ({config['pooling']}) of all positions, not of one")


def _refuse_heads(weights: StoredWeights, *, weighed: bool) -> None:
    names = set(weights.names)
    if (gates := sorted(filter(is_gate, names))) and not weighed:
        raise UnsupportedModel(
            f"its score weighs several objectives by a learned gate ({gates[0]}), which is not linear (as in ArmoRM). "
            "The objectives can be imported without it: say what each weighs in the score (--weights)"
        )
    if encoders := sorted(name for name in names if name.startswith(_ENCODER_HEADS)):
        raise UnsupportedModel(f"it is an encoder with a classifier ({encoders[0]}), and the reward needs a decoder")
    layers = sorted(name for name in names if _MLP.search(name))
    layers += sorted(name for name in names if (found := _DENSE.match(name)) and f"{found[1]}out_proj.weight" in names)
    if layers:
        raise UnsupportedModel(
            f"its head is an MLP ({layers[0]}): what is behind an activation is no row of an LM head (as in CLoud, "
            "Qwen2.5-Math-RM, INF-ORM, GRM)"
        )


def is_gate(name: str) -> bool:
    """Whether this is a weight of a learned gate over objectives, which no single objective depends on."""
    return re.search(r"(^|\.)(gating|gate_network|prompt_head)\.|^reward_transform_matrix$", name) is not None


def _objectives(
    config: Mapping[str, Any], head: str, shape: tuple[int, ...], weights: Mapping[str, float]
) -> tuple[WeightedReward, ...]:
    """The name of each row's objective; empty if there is only one row."""
    rows = shape[0] if len(shape) > 1 else 1
    if rows == 2:
        raise UnsupportedModel(f"num_labels is 2 ({head}.weight has 2 rows): it is a classifier of two classes")
    labels = config.get("id2label") or {}
    names = [str(labels.get(str(row), labels.get(row, f"LABEL_{row}"))) for row in range(rows)]
    if any(name.startswith("LABEL_") for name in names):
        names = list(weights)
    if rows == 1:
        if weights:
            raise UnsupportedModel("it has one reward: leave out --weights")
        return ()
    if len(names) != rows or set(names) != set(weights):
        known = ", ".join(names) if names and set(names) != set(weights) else "in the order of its rows"
        raise UnsupportedModel(
            f"{head}.weight has {rows} rows, one an objective: say what each weighs in the score ({known}), as in "
            "--weights helpfulness=0.7 --weights correctness=0.3; 0 for one that is only to be reported"
        )
    return tuple(WeightedReward(name, weights[name]) for name in names)
