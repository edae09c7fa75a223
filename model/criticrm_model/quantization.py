"""Whether a quantisation covers the LM head, whose reward row would be quantised with it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from .errors import UnsupportedModel

_HEADS = ("lm_head", "embed_out")
# Methods that quantise every linear layer which their config does not exclude, and where they list those.
_EXCLUDED = {"modelopt": ("exclude_modules", "ignore"), "quark": ("exclude",), "compressed-tensors": ("ignore",)}


def check_head_is_not_quantized(folder: Path) -> None:
    """Raises UnsupportedModel if the checkpoint's own configuration quantises its LM head."""
    for name, key in (("config.json", "quantization_config"), ("hf_quant_config.json", "")):
        try:
            found = json.loads((folder / name).read_text(encoding="utf-8"))
            config = found.get(key) if key else {"quant_method": "modelopt", **found}
        except (OSError, ValueError, AttributeError):
            continue  # whoever needs the file says what is wrong with it
        if isinstance(config, Mapping) and (why := why_head_is_quantized(config)):
            raise UnsupportedModel(f"{folder}: {why}. Keep the head unquantised; the body may be quantised.")


def why_head_is_quantized(config: Mapping[str, Any]) -> str | None:
    """How a `quantization_config`, as of Hugging Face or vLLM, quantises the LM head; None if it does not."""
    method = str(config.get("quant_method", "quantisation"))
    because = f"{method} quantises the LM head, and with it the reward row"
    if method == "gguf":
        return because
    if config.get("lm_head") is True or config.get("include_input_output_embeddings") is True:
        return because
    layers = config.get("extra_config") or {}
    if any(_names_head(name) and settings.get("bits", 16) < 16 for name, settings in layers.items()):
        return because
    if method.startswith("modelopt"):
        inner = config.get("quantization") or config
        return None if _is_excluded(inner, "modelopt") else because
    if method == "quark":
        return None if _is_excluded(config, method) else because
    if method == "compressed-tensors":
        groups = (config.get("config_groups") or {}).values()
        targets = [target for group in groups for target in group.get("targets") or ()]
        covered = any(target in ("Linear", "ParallelLMHead") or _matches_head(target) for target in targets)
        return because if covered and not _is_excluded(config, method) else None
    return None


def _is_excluded(config: Mapping[str, Any], method: str) -> bool:
    return any(_matches_head(pattern) for key in _EXCLUDED[method] for pattern in _strings(config.get(key)))


def _strings(value: Any) -> Iterable[str]:
    return [value] if isinstance(value, str) else value or ()


def _matches_head(pattern: str) -> bool:
    if pattern.startswith("re:"):
        return any(re.match(pattern[3:], head) for head in _HEADS)
    return _names_head(pattern) or any(fnmatchcase(head, pattern) for head in _HEADS)


def _names_head(name: str) -> bool:
    return name.rpartition(".")[2] in _HEADS
