"""What vLLM takes is passed on; what the readout needs, and what has an option of its own, is refused by name."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from criticrm_server.engines.vllm_options import parse_vllm_args
from criticrm_server.settings import Settings


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("", {}),
        ("block_size=32, kv_cache_dtype=fp8", {"block_size": 32, "kv_cache_dtype": "fp8"}),
        ('a={"x": 1, "y": [2, "}"]}, b=true,c="1,2"', {"a": {"x": 1, "y": [2, "}"]}, "b": True, "c": "1,2"}),
        ('{"a": {"x": 1}, "b": null}', {"a": {"x": 1}, "b": None}),
        ("a=True,b=None,c=", {"a": True, "b": None, "c": ""}),
    ],
)
def test_how_they_are_written(text: str, arguments: dict[str, Any]) -> None:
    assert parse_vllm_args(text) == arguments


@pytest.mark.parametrize("text", ["a", "a=1,b", "a={x", "a=[1] b=2", "=1", '{"a"', "[1]"])
def test_what_is_neither(text: str) -> None:
    with pytest.raises(ValueError, match=r"JSON|comma"):
        parse_vllm_args(text)


def test_flags_may_be_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(_cli_parse_args=["--vllm-args", "block-size=32", "--vllm-args", 'compilation_config={"a": 1}'])
    assert settings.vllm_args == {"block_size": 32, "compilation_config": {"a": 1}}
    monkeypatch.setenv("CRITICRM_VLLM_ARGS", '{"block_size": 16}')
    assert Settings().vllm_args == {"block_size": 16}


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("speculative_config={}", "speculative decoding returns no reward logit"),
        ("spec_method=ngram", "speculative decoding returns no reward logit"),
        ("logprobs_mode=raw_logprobs", "raw logit"),
        ("generation-config=auto", "changes which critiques are written"),
        ("tokenizer=x", "comes with the checkpoint"),
        ("model=x", "the first argument of the command"),
        ("tensor_parallel_size=2", "--tensor-parallel-size"),
        ("hf_overrides={}", "--head-float32"),
        ("revision=x", "--revision"),
        ("quantization=gguf", "quantises the LM head"),
        ('quantization_config={"quant_method": "gptq", "lm_head": true}', "quantises the LM head"),
    ],
)
def test_what_the_readout_needs_is_refused_by_name(arguments: str, named: str) -> None:
    name = arguments.partition("=")[0].replace("-", "_")
    with pytest.raises(ValidationError, match=f"vllm_args {name}.*{named}"):
        Settings(vllm_args=arguments)


def test_they_are_of_vllm_alone() -> None:
    with pytest.raises(ValidationError, match=r"vllm_args .* needs engine vllm, not fake"):
        Settings(engine="fake", vllm_args="block_size=32")


# vLLM changes the process that imports it, so it is asked in one of its own.
_ASK = """
import json, sys
from dataclasses import fields
from pathlib import Path
from criticrm_model import CriticRMError
from criticrm_model.checkpoint import Checkpoint
from criticrm_server.engines import vllm_arguments, vllm_options
from criticrm_server.settings import Settings

vllm_arguments.current_platform.is_cpu = lambda: True
checkpoint = Checkpoint.open(Path(sys.argv[1]))
answers = []
for vllm_args in json.loads(sys.argv[2]):
    try:
        arguments = vllm_arguments.engine_arguments(checkpoint, Settings(vllm_args=vllm_args))
        answers.append({name: arguments[name] for name in vllm_args})
    except CriticRMError as error:
        answers.append(str(error))
known = {field.name for field in fields(vllm_arguments.AsyncEngineArgs)}
answers.append(sorted(set(vllm_options._REFUSED) - known))
print(json.dumps(answers))
"""


@pytest.mark.slow
def test_they_reach_vllm_or_are_refused(tiny_checkpoint: Path) -> None:
    cases: list[tuple[dict[str, Any], Any]] = [
        ({"block_size": 64, "max_num_batched_tokens": 9000}, {"block_size": 64, "max_num_batched_tokens": 9000}),
        (
            {"blok_size": 1, "enable_chunked_prefill": True, "kv_cache_memory_bytes": 1},
            (
                "vllm_args blok_size: this version of vLLM has no such argument (did you mean block_size?)",
                "vllm_args enable_chunked_prefill: a chunked prompt with a seed",
                "vllm_args kv_cache_memory_bytes: it has an option of its own: --kv-cache-gib",
            ),
        ),
        ({"compilation_config": {"levl": 3}}, ("vLLM does not take vllm_args", "levl")),
    ]
    asked = subprocess.run(
        [sys.executable, "-c", _ASK, str(tiny_checkpoint), json.dumps([arguments for arguments, _ in cases])],
        capture_output=True,
        text=True,
    )
    assert asked.returncode == 0, asked.stderr
    *answers, refused_but_unknown = json.loads(asked.stdout.splitlines()[-1])
    for (_, expected), answer in zip(cases, answers, strict=True):
        if isinstance(expected, dict):
            assert answer == expected
        else:
            assert all(line in answer for line in expected), answer
    assert refused_but_unknown == []  # names that vLLM no longer has
