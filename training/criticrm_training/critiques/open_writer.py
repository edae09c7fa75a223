"""Which writer critiques are asked of; each is imported when it is, for what runs a model is heavy."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Literal

from criticrm_model.children import exit_on_sigterm
from criticrm_model.reward import Dtype

from ..endpoint import Endpoint
from .writers import Writer, WriterError

WriterKind = Literal["vllm", "transformers"]


def open_writer(
    model: str,
    *,
    endpoint: str | None,
    key: str | None,
    concurrency: int,
    max_model_len: int,
    dtype: Dtype = "auto",
    writer: WriterKind | None = None,
) -> Writer:
    """`model` at an endpoint, if one is given, or in this process, which must be a command's. Raises as they do.

    Args:
        writer: what runs the model in this process; None: vLLM where it is installed, else transformers.

    Raises:
        WriterError: both an endpoint and a writer are given.
    """
    if endpoint:
        from .endpoint_writer import EndpointWriter

        if writer:
            raise WriterError(f"--endpoint and --writer {writer} exclude each other: use one of them")
        return EndpointWriter(Endpoint(endpoint, key=key, concurrency=concurrency), model)
    exit_on_sigterm()
    if (writer or ("vllm" if find_spec("vllm") else "transformers")) == "vllm":
        from .vllm_writer import VLLMWriter

        return VLLMWriter(model, max_model_len=max_model_len, dtype=dtype)
    from .transformers_writer import TransformersWriter

    return TransformersWriter(model, max_model_len=max_model_len, dtype=dtype)
