"""The one settings object. Built only in the CLI; every field is a flag and a `CRITICRM_` variable."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import (
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    SecretStr,
    field_validator,
    model_validator,
)
from pydantic_settings import (
    BaseSettings,
    CliImplicitFlag,
    CliPositionalArg,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from criticrm_client.addresses import masked, parse_key
from criticrm_model import Dtype
from criticrm_model.manifest import DEFAULT_NAME

from .engines.vllm_options import parse_vllm_args, refused_vllm_args
from .listening import Listening, parse_list
from .setting_sources import ConfigFile

_VLLM_ONLY = (
    "max_num_seqs",
    "prefix_caching",
    "gpu_memory_utilization",
    "kv_cache_gib",
    "tensor_parallel_size",
    "pipeline_parallel_size",
    "data_parallel_size",
    "enforce_eager",
    "sleep_mode",
    "batch_invariant",
    "vllm_args",
)
_REMOTE_ONLY = ("remote_urls", "remote_api_key", "remote_wait_s")


class Settings(Listening):
    """Settings of the service, with their defaults."""

    model_config = SettingsConfigDict(
        env_prefix="CRITICRM_",
        frozen=True,
        cli_kebab_case=True,
        hide_input_in_errors=True,  # keys are among it
    )

    model: CliPositionalArg[str] = Field(
        DEFAULT_NAME,
        description="The checkpoint: 'default' (embedded), a folder, or a hub name (owner/name).",
    )
    served_model_name: str | None = Field(None, description="Model name in responses. Default: the model argument.")
    revision: str | None = Field(
        None, description="Branch, tag or commit of a model by hub name. Default: the hub's default branch."
    )
    config: Path | None = Field(
        None,
        description="File of settings (.yaml, .yml, .toml), with the names of the flags as keys. Flags and variables "
        "override it.",
    )

    # --- engine
    engine: Literal["vllm", "remote", "transformers", "fake"] = Field(
        "vllm",
        description="'vllm' runs the model in this process's vLLM. 'remote' is a gateway to vLLM servers "
        "(remote_urls). 'transformers' is a slow reference, for machines without vLLM. 'fake' returns made-up rewards "
        "at once, for tests of clients.",
    )
    dtype: Dtype = Field(
        "auto",
        description="Precision of the weights. 'auto': the checkpoint's own, but bfloat16 for a float32 one on vLLM.",
    )
    head_float32: bool | None = Field(
        None,
        description="Compute the LM head, and so the reward, in float32. Default: true on a GPU, false on a CPU, where "
        "it is slow. With engine 'remote': true refuses servers that do not; by default they only cause a warning.",
    )
    max_model_len: PositiveInt | None = Field(
        None,
        description="Longest prompt plus critique, in tokens. Default: the model's limit, on a CPU at most 4096.",
    )
    max_num_seqs: PositiveInt | None = Field(
        None, description="Most sequences in one engine step. Default: vLLM's own on a GPU, 128 on a CPU."
    )
    prefix_caching: bool = Field(
        True, description="Reuse the prefill of a shared prefix, such as several responses to one prompt."
    )
    gpu_memory_utilization: float | None = Field(
        None,
        gt=0,
        le=1,
        description="Share of a GPU's memory that vLLM may use. Default: vLLM's own. Unused on a CPU.",
    )
    kv_cache_gib: PositiveFloat = Field(2.0, description="Memory for the KV cache on a CPU, in GiB. Unused on a GPU.")
    tensor_parallel_size: PositiveInt = Field(1, description="Number of GPUs that each layer is split over.")
    pipeline_parallel_size: PositiveInt = Field(
        1, description="Number of groups of such GPUs; each group holds a part of the layers."
    )
    data_parallel_size: PositiveInt = Field(
        1, description="Number of copies of the model, each on its own tensor times pipeline GPUs."
    )
    enforce_eager: bool | None = Field(
        None, description="Skip compilation: starts a minute sooner, runs slower on a GPU. Default: true on a CPU."
    )
    skip_self_check: CliImplicitFlag[bool] = Field(
        False,
        description="Serve without the check that the engine returns correct rewards. Only for debugging a check that "
        "failed.",
    )
    sleep_mode: CliImplicitFlag[bool] = Field(
        False, description="Allow /admin/sleep, which frees the GPU's memory until /admin/wake. Needs a GPU."
    )
    batch_invariant: CliImplicitFlag[bool] = Field(
        False,
        description="Use vLLM's batch-invariant kernels, so that a reward does not depend on other requests in the "
        "batch. Slower; needs a GPU.",
    )
    vllm_args: Annotated[dict[str, Any], NoDecode] = Field(
        {},
        description="Further arguments of vLLM's engine: a JSON object, or name=value, which may be repeated: "
        "--vllm-args kv_cache_dtype=fp8. What the readout of the reward needs is refused.",
    )
    trust_remote_code: CliImplicitFlag[bool] = Field(
        False,
        description="Run the Python code of the checkpoint. Only for checkpoints whose code you have read.",
    )

    # --- gateway
    remote_urls: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="With engine 'remote': URLs of the vLLM servers, separated by commas (http://a:8001,...)."
    )
    remote_api_key: SecretStr | None = Field(
        None,
        description="The vLLM servers' --api-key, one for all. Set it in the environment, not on the command line.",
    )
    remote_wait_s: NonNegativeFloat = Field(
        600.0, description="Seconds to wait at start-up for the first vLLM server to answer."
    )

    # --- limits of a request
    max_body_bytes: PositiveInt = Field(
        16 * 2**20, description="Largest request body, in bytes; a larger one is refused with 413."
    )
    max_items: PositiveInt = Field(256, description="Most items in one request.")
    max_responses: PositiveInt = Field(256, description="Most responses to one prompt.")
    max_messages: PositiveInt = Field(8192, description="Most messages in one request, over all its conversations.")
    max_critiques: PositiveInt = Field(16, description="Most sampled critiques of one response.")
    max_criteria: PositiveInt = Field(16, description="Most criteria of one prompt.")
    max_criteria_tokens: PositiveInt = Field(1024, description="Longest criterion, and longest reference, in tokens.")
    max_critique_tokens: PositiveInt = Field(1024, description="Longest critique that a caller may request, in tokens.")
    critique_tokens: PositiveInt | None = Field(
        None,
        description="Longest critique, in tokens, where the request sets no limit. Default: the checkpoint's limit.",
    )

    # --- results
    greedy_results_mib: NonNegativeFloat = Field(
        64.0,
        description="Cache for results of greedy requests, in MiB. An identical request gets the cached result, and "
        "identical requests in flight are computed once. 0 disables it.",
    )

    # --- load
    max_sequences: PositiveInt = Field(
        2048, description="Most sequences (responses times critiques) in flight; further requests wait, then get 503."
    )
    max_waiting: int = Field(
        1024, ge=0, description="Most requests that wait for admission; a further one gets 503 at once."
    )
    max_held_bytes: PositiveInt = Field(
        512 * 2**20,
        description="Most bytes of request bodies held at a time: being read, waiting or in flight. A further request "
        "gets 503 at once. A text can take four times as much memory.",
    )
    queue_timeout_s: NonNegativeFloat = Field(
        20.0, description="Seconds that a request waits for admission before it gets 503."
    )
    deadline_s: PositiveFloat = Field(
        300.0, description="Longest time of one request, in seconds; a longer one is cancelled and gets 504."
    )
    drain_delay_s: NonNegativeFloat = Field(
        0.0,
        description="Seconds after SIGTERM in which new requests are still accepted while /health/ready answers 503. "
        "Set it longer than a load balancer takes to notice. The SDK needs none.",
    )
    drain_timeout_s: NonNegativeFloat = Field(
        60.0, description="Seconds that requests in flight may take to finish after SIGTERM."
    )
    engine_death_grace_s: NonNegativeFloat = Field(
        3.0, description="Seconds that requests get 503 after the engine died, before the process exits."
    )

    # --- logs
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Lowest level that is logged.")
    log_format: Literal["auto", "json", "text"] = Field("auto", description="'auto' is text on a terminal, else JSON.")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - pydantic-settings' signature
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The command line comes before these."""
        return init_settings, env_settings, ConfigFile(settings_cls)

    @field_validator("remote_urls", mode="before")
    @classmethod
    def _several_urls(cls, value: Any) -> Any:
        return parse_list(value, "URLs")

    @field_validator("remote_api_key")
    @classmethod
    def _key(cls, value: SecretStr | None) -> SecretStr | None:
        key = parse_key(value.get_secret_value()) if value else None
        return SecretStr(key) if key else None

    @field_validator("vllm_args", mode="before")
    @classmethod
    def _vllm_arguments(cls, value: Any) -> Any:
        arguments = parse_vllm_args(value) if isinstance(value, str) else value
        return {str(name).replace("-", "_"): one for name, one in arguments.items()}

    @field_validator("remote_urls")
    @classmethod
    def _urls(cls, urls: tuple[str, ...]) -> tuple[str, ...]:
        for url in urls:
            parts = urlsplit(url)
            if parts.scheme not in ("http", "https") or not parts.netloc or "@" in parts.netloc or parts.query:
                raise ValueError(f"{masked(url)!r} is no server's address; one looks like http://host:8001")
        urls = tuple(url.rstrip("/") for url in urls)
        if len(set(urls)) < len(urls):
            raise ValueError("the same server is named twice")
        return urls

    @model_validator(mode="after")
    def _compatible(self) -> Self:
        """Refuse values that don't go together, all of them at once."""
        faults = self.listening_faults() + refused_vllm_args(self.vllm_args)
        if self.critique_tokens and self.critique_tokens > self.max_critique_tokens:
            faults.append(
                f"critique_tokens {self.critique_tokens} exceeds max_critique_tokens {self.max_critique_tokens}"
            )
        if self.engine != "vllm":
            faults += [
                f"{name} {getattr(self, name)} needs engine vllm, not {self.engine}" for name in self._given(_VLLM_ONLY)
            ]
        if self.engine not in ("vllm", "remote"):
            faults += [
                f"{name} needs engine vllm or remote, not {self.engine}" for name in self._given(("head_float32",))
            ]
        if self.engine != "remote":
            faults += [f"{name} needs engine remote, not {self.engine}" for name in self._given(_REMOTE_ONLY)]
        else:
            if not self.remote_urls:
                faults.append("engine remote needs remote_urls, the vLLM servers to send work to")
            if self._given(("dtype",)):
                faults.append(f"dtype {self.dtype} has no effect in a gateway: start the vLLM servers with --dtype")
        if self.max_critiques > self.max_sequences:
            faults.append(
                f"max_critiques {self.max_critiques} exceeds max_sequences {self.max_sequences}: "
                "lower one or raise the other"
            )
        if self.max_body_bytes > self.max_held_bytes:
            faults.append(
                f"max_body_bytes {self.max_body_bytes} exceeds max_held_bytes {self.max_held_bytes}: "
                "lower one or raise the other"
            )
        if faults:
            raise ValueError("\n  ".join(faults))
        return self

    @property
    def model_name(self) -> str:
        """The name in answers and in the engine's metrics."""
        return self.served_model_name or self.model

    def _given(self, names: tuple[str, ...]) -> list[str]:
        return [name for name in names if name in self.model_fields_set]
