"""What an architecture does to its LM head's output: nothing, a factor, or what no reward survives."""

from __future__ import annotations

import copy

import torch
from transformers import PreTrainedModel

from .errors import UnsupportedModel


@torch.no_grad()
def measure_logit_scale(model: PreTrainedModel, token_id: int) -> float:
    """The factor between `row · h` and the token's logit; 1.0 for most models."""
    lm_head = model.get_output_embeddings()
    assert isinstance(lm_head, torch.nn.Linear)
    captured: list[torch.Tensor] = []
    hook = lm_head.register_forward_pre_hook(lambda _, args: captured.append(args[0]))
    kept = lm_head.weight[token_id].clone()
    factors = []
    try:
        for amplitude in (1.0, 64.0):  # a capped logit does not grow with its row
            captured.clear()
            ids = torch.arange(8, device=model.device)[None]  # [1, seq]
            # The row along h itself: a large, positive logit for certain.
            model(ids, use_cache=False)
            h = captured[0][0, -1].float()  # [d_model]
            row = (amplitude * h / h.norm()).to(lm_head.weight.dtype)
            lm_head.weight[token_id] = row
            captured.clear()
            logit = model(ids, use_cache=False).logits[0, -1, token_id].float()
            # A model over several devices gives its logits on another than its head's.
            factors.append((logit.cpu() / (row.float() @ captured[0][0, -1].float()).cpu()).item())
    finally:
        hook.remove()
        lm_head.weight[token_id] = kept
    low, high = sorted(factors)
    tolerance = 0.02 if lm_head.weight.dtype in (torch.bfloat16, torch.float16) else 1e-3
    if not low > 0 or high / low > 1 + tolerance:
        raise UnsupportedModel(
            f"{model.config.model_type} does not return the LM head's output as it is (factors {factors}): "
            "its logits are capped or bent, so they can't carry a reward"
        )
    scale = factors[-1]
    return 1.0 if abs(scale - 1) < tolerance else scale


def logit_scale(model: PreTrainedModel) -> float:
    """What the architecture multiplies its logits with (Granite, Cohere), else 1.

    Measured in float32 on a model of the same architecture without layers: the weights of `model` may be of another
    precision, or on other processes.
    """
    config = copy.deepcopy(model.config)
    text = config.get_text_config()
    text.vocab_size, text.num_hidden_layers = 64, 0
    if getattr(text, "layer_types", None):
        text.layer_types = []
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):  # outside that vocabulary
        setattr(config, name, None)
        setattr(text, name, None)
    return measure_logit_scale(type(model)(config), token_id=0)
