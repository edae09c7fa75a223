"""A base model in files of limited size, for a GPU machine that can't download it.

    python examples/gsm8k/parts.py split qwen2.5-coder-1.5b-instruct-q4_k_m.gguf parts       # here
    python examples/gsm8k/parts.py join parts base                                           # there

The parts hold the tensors as they are quantised in the GGUF file, without the embeddings, which the published models
tie to the LM head. `join` dequantises them to bfloat16 and needs gguf, torch and safetensors alone. Qwen2 only.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

_PART = "part{:02}.bin"
_INDEX = "index.json"
_EMBEDDINGS = "token_embd.weight"
_NAMES = {  # GGUF's names of Qwen2's layers
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def split(file: Path, out: Path, most_bytes: int) -> None:
    """Write the tensors to parts of at most `most_bytes`, an index, the tokenizer and the configuration to `out`."""
    from gguf import GGUFReader
    from transformers import AutoConfig, AutoTokenizer

    out.mkdir(parents=True, exist_ok=True)
    number, filled = 0, most_bytes
    index: list[dict[str, Any]] = []
    for tensor in GGUFReader(file).tensors:
        if tensor.name == _EMBEDDINGS:
            continue
        rows = tensor.data.reshape(-1, tensor.data.shape[-1])
        room = max(1, most_bytes // rows[0].nbytes)
        for start in range(0, len(rows), room):  # the LM head alone is larger than a part
            data = rows[start : start + room].tobytes()
            if filled + len(data) > most_bytes:
                number, filled = number + 1, 0
            with (out / _PART.format(number)).open("ab" if filled else "wb") as part:
                part.write(data)
            index.append(
                {
                    "name": tensor.name,
                    "type": int(tensor.tensor_type),
                    "shape": [int(n) for n in reversed(tensor.shape)],
                    "dtype": str(rows.dtype),
                    "columns": int(rows.shape[1]),
                    "part": number,
                    "offset": filled,
                    "bytes": len(data),
                }
            )
            filled += len(data)
    (out / _INDEX).write_text(json.dumps(index), encoding="utf-8")
    AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(out)
    config = AutoConfig.from_pretrained(file.parent, gguf_file=file.name)
    config.update({"tie_word_embeddings": True, "dtype": "bfloat16", "architectures": ["Qwen2ForCausalLM"]})
    config.save_pretrained(out)
    print(f"{number} parts in {out}")


def join(parts: Path, out: Path) -> None:
    """Write a Hugging Face folder in bfloat16 to `out`."""
    import torch
    from gguf import GGMLQuantizationType, dequantize
    from safetensors.torch import save_file

    pieces: dict[str, list[np.ndarray[Any, Any]]] = {}
    entries = {}
    for entry in json.loads((parts / _INDEX).read_text(encoding="utf-8")):
        with (parts / _PART.format(entry["part"])).open("rb") as part:
            part.seek(entry["offset"])
            rows = np.frombuffer(part.read(entry["bytes"]), dtype=entry["dtype"]).reshape(-1, entry["columns"])
        pieces.setdefault(entry["name"], []).append(dequantize(rows, GGMLQuantizationType(entry["type"])))
        entries[entry["name"]] = entry
    weights = {
        _published_name(name): torch.from_numpy(np.concatenate(several).reshape(entries[name]["shape"])).bfloat16()
        for name, several in pieces.items()
    }
    out.mkdir(parents=True, exist_ok=True)
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    for path in parts.iterdir():
        if path.suffix in (".json", ".jinja", ".txt") and path.name != _INDEX:
            (out / path.name).write_bytes(path.read_bytes())
    print(f"{len(weights)} tensors in {out}")


def _published_name(name: str) -> str:
    if name == "output.weight":  # also the embeddings
        return "model.embed_tokens.weight"
    if name == "output_norm.weight":
        return "model.norm.weight"
    _, layer, kind, what = name.split(".")
    return f"model.layers.{layer}.{_NAMES[kind]}.{what}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    splitting = commands.add_parser("split", help="a GGUF file into parts")
    splitting.add_argument("file", type=Path)
    splitting.add_argument("out", type=Path)
    splitting.add_argument("--most-mib", type=int, default=50, help="of a part (50)")
    joining = commands.add_parser("join", help="parts into a Hugging Face folder")
    joining.add_argument("parts", type=Path)
    joining.add_argument("out", type=Path)
    arguments = parser.parse_args()
    if arguments.command == "split":
        split(arguments.file, arguments.out, arguments.most_mib * 2**20)
    else:
        join(arguments.parts, arguments.out)


if __name__ == "__main__":
    main()
