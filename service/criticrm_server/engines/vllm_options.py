"""`--vllm-args`: how they are written, and which are refused. Knows no vLLM: settings are checked without it."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from typing import Any

from criticrm_client.fields import nearest
from criticrm_model.quantization import why_head_is_quantized

_LOGIT = "the reward is the reward token's raw logit at each step, which this would change or hide"
_WRITING = "it changes which critiques are written, and so the rewards after them; requests choose the sampling"
_CHECKPOINT = "it comes with the checkpoint, whose rewards hold for it alone"
_SPECULATIVE = "speculative decoding returns no reward logit for the tokens that it drafts"
_COPIES = "this server sends jobs to its copies of the model itself: use --data-parallel-size"
_NO_CHUNKS = "a chunked prompt with a seed ends vLLM's CPU worker, so prompts are never chunked on a CPU"
_OPTION = "it has an option of its own"

_REFUSED: Mapping[str, str] = {
    "model": f"{_OPTION}: the model is the first argument of the command",
    **{
        name: f"{_OPTION}: --{option}"
        for name, option in {
            "served_model_name": "served-model-name",
            "revision": "revision",
            "dtype": "dtype",
            "max_model_len": "max-model-len",
            "max_num_seqs": "max-num-seqs",
            "tensor_parallel_size": "tensor-parallel-size",
            "pipeline_parallel_size": "pipeline-parallel-size",
            "data_parallel_size": "data-parallel-size",
            "enable_prefix_caching": "prefix-caching",
            "gpu_memory_utilization": "gpu-memory-utilization",
            "enforce_eager": "enforce-eager",
            "trust_remote_code": "trust-remote-code",
            "enable_sleep_mode": "sleep-mode",
            "hf_overrides": "head-float32 sets the LM head's precision; other parts of the configuration are fixed, "
            "for rewards hold for the checkpoint as it is",
        }.items()
    },
    **dict.fromkeys(("logprobs_mode", "max_logprobs"), _LOGIT),
    **dict.fromkeys(
        ("generation_config", "override_generation_config", "logits_processors", "watermark_config"), _WRITING
    ),
    **dict.fromkeys(
        (
            "model_weights",
            "tokenizer",
            "tokenizer_mode",
            "tokenizer_revision",
            "code_revision",
            "skip_tokenizer_init",
            "hf_config_path",
            "config_format",
            "model_class_overrides",
        ),
        _CHECKPOINT,
    ),
    **dict.fromkeys(("runner", "convert", "pooler_config", "diffusion_config"), "only a model that generates serves"),
    **dict.fromkeys(("speculative_config", "spec_method", "spec_model", "spec_tokens"), _SPECULATIVE),
    **dict.fromkeys(
        (
            "data_parallel_rank",
            "data_parallel_start_rank",
            "data_parallel_hybrid_lb",
            "data_parallel_external_lb",
            "data_parallel_multi_port_external_lb",
        ),
        _COPIES,
    ),
    "disable_log_stats": "the times in /metrics and the engine's own metrics come from these statistics",
}
_REFUSED_ON_CPU: Mapping[str, str] = {
    "enable_chunked_prefill": _NO_CHUNKS,
    "kv_cache_memory_bytes": f"{_OPTION}: --kv-cache-gib",
}
_QUANTIZED_HEADS = ("gguf",)


def parse_vllm_args(text: str) -> dict[str, Any]:
    """A JSON object, or `name=value` with commas between; a value is JSON, or else a string.

    Raises:
        ValueError: it is neither.
    """
    text = text.strip()
    if text.startswith("{"):
        try:
            found: dict[str, Any] = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"not a JSON object: {error}") from None
        return found
    found = {}
    while text:
        name, equals, rest = text.partition("=")
        if not equals or "," in name or not name.strip():
            raise ValueError(f"{text[:64]!r} is neither name=value nor a JSON object")
        if rest.startswith(("{", "[", '"')):
            try:
                value, end = json.JSONDecoder().raw_decode(rest)
            except json.JSONDecodeError as error:
                raise ValueError(f"the value of {name.strip()} is no JSON: {error}") from None
        else:
            end = rest.find(",") if "," in rest else len(rest)
            value = _scalar(rest[:end].strip())
        if rest[end:].lstrip()[:1] not in ("", ","):
            raise ValueError(f"{rest[end : end + 64]!r} after the value of {name.strip()}: put a comma between two")
        found[name.strip()] = value
        text = rest[end:].lstrip().removeprefix(",").lstrip()
    return found


def refused_vllm_args(arguments: Mapping[str, Any]) -> list[str]:
    """Why each of them that is refused on every platform is."""
    faults = [f"vllm_args {name}: {_REFUSED[name]}" for name in arguments if name in _REFUSED]
    if (method := arguments.get("quantization")) in _QUANTIZED_HEADS:
        faults.append(f"vllm_args quantization {method}: it quantises the LM head too, and with it the reward row")
    if isinstance(config := arguments.get("quantization_config"), Mapping) and (why := why_head_is_quantized(config)):
        faults.append(f"vllm_args quantization_config: {why}")
    return faults


def vllm_args_faults(arguments: Mapping[str, Any], known: Collection[str], *, on_cpu: bool) -> list[str]:
    """What this version of vLLM does not know, and what is refused on its platform.

    Args:
        known: the names of its engine's arguments.
    """
    public = [name for name in known if not name.startswith("_")]
    faults = [
        f"vllm_args {name}: this version of vLLM has no such argument{nearest(name, public)}"
        for name in arguments
        if name not in public
    ]
    if on_cpu:
        faults += [f"vllm_args {name}: {_REFUSED_ON_CPU[name]}" for name in arguments if name in _REFUSED_ON_CPU]
    return faults


def _scalar(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return {"True": True, "False": False, "None": None}.get(text, text)
