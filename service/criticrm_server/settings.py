"""The one settings object. Built only in the CLI; every field is a flag and a `CRITICRM_` variable."""

from __future__ import annotations

import json
from ipaddress import ip_address
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    SecretStr,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_settings import BaseSettings, CliImplicitFlag, CliPositionalArg, NoDecode, SettingsConfigDict

from criticrm_model import Dtype
from criticrm_model.manifest import DEFAULT_NAME

_VLLM_ONLY = (
    "head_float32",
    "max_num_seqs",
    "prefix_caching",
    "gpu_memory_utilization",
    "kv_cache_gib",
    "tensor_parallel_size",
    "pipeline_parallel_size",
    "data_parallel_size",
    "enforce_eager",
)
_REMOTE_ONLY = ("remote_urls", "remote_api_key", "remote_wait_s")


class Settings(BaseSettings):
    """What the service can be told, with its defaults."""

    model_config = SettingsConfigDict(env_prefix="CRITICRM_", frozen=True, cli_kebab_case=True)

    model: CliPositionalArg[str] = Field(
        DEFAULT_NAME,
        description="The checkpoint: 'default' (embedded), a folder, or a hub name (owner/name).",
    )
    served_model_name: str | None = Field(None, description="Name in answers; the model argument unless given.")

    # --- listening
    host: str = Field("127.0.0.1", description="Address to listen on. Anything but loopback needs an API key.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 picks a free one.")
    api_keys: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        (),
        description="Keys, with commas between; a caller sends one as 'Authorization: Bearer KEY'. Better given in "
        "the environment: other users of the machine can read a command line.",
    )
    allow_unauthenticated: CliImplicitFlag[bool] = Field(
        False, description="Listen on a public address without keys, where something else guards the service."
    )
    max_body_bytes: PositiveInt = Field(16 * 2**20, description="Larger request bodies are refused with 413.")

    # --- engine
    engine: Literal["vllm", "remote", "transformers", "fake"] = Field(
        "vllm",
        description="'vllm' batches; 'remote' is a gateway to stock vLLM servers (remote_urls); 'transformers' is the "
        "slow reference, for machines without vLLM; 'fake' answers at once with made-up rewards, for tests of clients.",
    )
    dtype: Dtype = Field(
        "auto", description="Precision of the body; 'auto' is the checkpoint's, but bfloat16 for float32 ones on vLLM."
    )
    head_float32: bool | None = Field(
        None,
        description="Compute the LM head, and so the reward, in float32. On by default on a GPU; costs much on a CPU.",
    )
    max_model_len: PositiveInt | None = Field(
        None,
        description="Longest prompt with its critique, in tokens; else the model's own limit, on a CPU 4096 at most.",
    )
    max_num_seqs: PositiveInt = Field(128, description="Sequences in one engine step.")
    prefix_caching: bool = Field(True, description="Share the prefill of responses to one prompt.")
    gpu_memory_utilization: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Share of a GPU's memory vLLM may take; its own default unless given. Unused on a CPU.",
    )
    kv_cache_gib: PositiveFloat = Field(2.0, description="Memory for the KV cache on a CPU, in GiB. Unused on a GPU.")
    tensor_parallel_size: PositiveInt = Field(1, description="GPUs that share each layer.")
    pipeline_parallel_size: PositiveInt = Field(1, description="Groups of such GPUs, each with a part of the layers.")
    data_parallel_size: PositiveInt = Field(
        1, description="Copies of the model, each on GPUs of its own (tensor times pipeline of them)."
    )
    enforce_eager: bool | None = Field(
        None, description="Skip compilation: starts a minute sooner, runs slower on a GPU. On by default on a CPU."
    )
    trust_remote_code: CliImplicitFlag[bool] = Field(
        False,
        description="Run Python code that comes with the checkpoint. Only for checkpoints whose code you have read.",
    )

    # --- gateway
    remote_urls: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="vLLM servers that engine remote sends its work to, with commas between: http://a:8001,..."
    )
    remote_api_key: SecretStr | None = Field(
        None, description="Their --api-key, the same for all. Better given in the environment."
    )
    remote_wait_s: NonNegativeFloat = Field(
        600.0, description="At the start, how long to wait for the first of them, in seconds."
    )

    # --- limits of a request
    max_items: PositiveInt = Field(256, description="Items in one request.")
    max_responses: PositiveInt = Field(256, description="Responses to one prompt.")
    max_critiques: PositiveInt = Field(16, description="Sampled critiques a response.")
    max_critique_tokens: PositiveInt = Field(1024, description="Longest critique a caller may ask for, in tokens.")
    critique_tokens: PositiveInt | None = Field(
        None,
        description="Longest critique where the caller names none, in tokens; the checkpoint's own limit unless given.",
    )

    # --- load
    max_sequences: PositiveInt = Field(
        2048, description="Sequences (responses times critiques) in the house; more wait, then get 503."
    )
    max_waiting: int = Field(1024, ge=0, description="Requests that may wait for room; the next one gets 503 at once.")
    queue_timeout_s: NonNegativeFloat = Field(
        20.0, description="How long a request waits for room before its 503, in seconds."
    )
    deadline_s: PositiveFloat = Field(
        300.0, description="A request that takes longer is cancelled and gets 504, in seconds."
    )
    drain_delay_s: NonNegativeFloat = Field(
        0.0,
        description="After SIGTERM, how long new requests are still taken while /health/ready already answers 503, in "
        "seconds: longer than a balancer takes to notice. The SDK needs none.",
    )
    drain_timeout_s: NonNegativeFloat = Field(
        60.0, description="After SIGTERM, how long accepted requests may take, in seconds."
    )
    engine_death_grace_s: NonNegativeFloat = Field(
        3.0, description="After the engine died, how long 503 is answered before the process exits, in seconds."
    )

    # --- words
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least level that is logged.")
    log_format: Literal["auto", "json", "text"] = Field("auto", description="'auto' is text on a terminal, else JSON.")

    @field_validator("api_keys", "remote_urls", mode="before")
    @classmethod
    def _several(cls, value: Any, info: ValidationInfo) -> Any:
        """`a,b`, or a JSON list; nothing at all is none."""
        if not isinstance(value, str):
            return value
        if not value.strip():
            return ()
        if not value.lstrip().startswith("["):
            return value.split(",")
        try:
            return json.loads(value)
        except json.JSONDecodeError as error:
            what = "keys" if info.field_name == "api_keys" else "URLs"
            raise ValueError(f"neither {what} with commas between nor a JSON list of them: {error}") from error

    @field_validator("remote_urls")
    @classmethod
    def _urls(cls, urls: tuple[str, ...]) -> tuple[str, ...]:
        for url in urls:
            parts = urlsplit(url)
            if parts.scheme not in ("http", "https") or not parts.netloc or "@" in parts.netloc or parts.query:
                raise ValueError(f"{url!r} is no server's address; one looks like http://host:8001")
        urls = tuple(url.rstrip("/") for url in urls)
        if len(set(urls)) < len(urls):
            raise ValueError("the same server is named twice")
        return urls

    @model_validator(mode="after")
    def _compatible(self) -> Self:
        """Refuse values that don't go together, all of them at once."""
        faults = []
        if not self.api_keys and not self.allow_unauthenticated and not is_loopback(self.host):
            faults.append(
                f"host {self.host} can be reached by others, but no key is asked for: set CRITICRM_API_KEYS, "
                "or --allow-unauthenticated if something else guards the service"
            )
        if any(not key.get_secret_value() for key in self.api_keys):
            faults.append("api_keys holds an empty key")
        if self.critique_tokens and self.critique_tokens > self.max_critique_tokens:
            faults.append(
                f"critique_tokens {self.critique_tokens} exceeds max_critique_tokens {self.max_critique_tokens}"
            )
        if self.engine != "vllm":
            faults += [
                f"{name} {getattr(self, name)} needs engine vllm, not {self.engine}" for name in self._given(_VLLM_ONLY)
            ]
        if self.engine != "remote":
            faults += [f"{name} needs engine remote, not {self.engine}" for name in self._given(_REMOTE_ONLY)]
        else:
            if not self.remote_urls:
                faults.append("engine remote needs remote_urls, the vLLM servers to send work to")
            if self._given(("dtype",)):
                faults.append(f"dtype {self.dtype} is the servers' to choose: give it to them as --dtype")
        if self.max_critiques > self.max_sequences:
            faults.append(
                f"max_critiques {self.max_critiques} exceeds max_sequences {self.max_sequences}: "
                "lower one or raise the other"
            )
        if faults:
            raise ValueError("\n  ".join(faults))
        return self

    def _given(self, names: tuple[str, ...]) -> list[str]:
        return [name for name in names if name in self.model_fields_set]


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
