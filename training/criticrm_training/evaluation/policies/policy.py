"""The policy: answers in parts. Its engine is gone, and its memory free, before the service starts its own."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa

from criticrm_model.children import end_with_parent
from criticrm_model.reward import Dtype

from ...critiques.open_writer import open_writer
from ...critiques.writers import (
    Conversation,
    Draft,
    Request,
    Sampling,
    Writer,
    WriterError,
    drafts_in_order,
)
from ...parts import in_chunks, read_parts, stream_in_parts

SCHEMA = pa.schema(
    [
        ("id", pa.string()),  # of the question
        ("responses", pa.list_(pa.string())),
        ("ended", pa.list_(pa.bool_())),  # each response, by itself
    ]
)
_CONVERSATIONS_PER_PART = 32

T = TypeVar("T")
Asked = tuple[str, Conversation]


@dataclass(frozen=True, slots=True)
class PolicySettings:
    """Who answers: `model` at an `endpoint` (up to `/v1`), or without one in vLLM. `max_model_len` in tokens."""

    model: str
    endpoint: str | None = None
    key: str | None = None
    concurrency: int = 32
    max_model_len: int = 4096
    dtype: Dtype = "auto"

    def start(self) -> Writer:
        return open_writer(
            self.model,
            endpoint=self.endpoint,
            key=self.key,
            concurrency=self.concurrency,
            max_model_len=self.max_model_len,
            dtype=self.dtype,
        )


def answer(
    policy: PolicySettings, asked: Sequence[Asked], sampling: Sampling, *, out: Path, run: dict[str, Any], label: str
) -> list[dict[str, Any]]:
    """The rows of `SCHEMA`, one for each conversation, in order; those that `out` holds are not made again.

    Args:
        asked: question ids with what is asked.
        run: what identifies this run besides the policy and the sampling.

    Raises:
        WriterError, EndpointError, PartsError
    """
    described = run | {
        "policy": policy.model,
        "n": sampling.n,
        "temperature": sampling.temperature,
        "max_tokens": sampling.max_tokens,
    }
    arguments = (policy, asked, sampling, out, described, label)
    if policy.endpoint:
        _answer(*arguments)
    else:
        run_in_child(_answer, *arguments)
    return read_parts(out)


def run_in_child(function: Callable[..., T], *arguments: Any) -> T:
    """Call in a process that ends with it, and takes an engine's memory along.

    Raises:
        WriterError: the process died. Whatever `function` raises.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=end_with_parent) as child:
        try:
            return child.submit(function, *arguments).result()
        except BrokenProcessPool as error:
            raise WriterError("the policy's process died; was there too little memory?") from error


def rows_sha256(rows: Sequence[dict[str, Any]]) -> str:
    """The digest of the rows' content: a later step reports if its rows have changed."""
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def _answer(
    policy: PolicySettings, asked: Sequence[Asked], sampling: Sampling, out: Path, run: dict[str, Any], label: str
) -> None:
    def requests(chunk: Sequence[Asked]) -> list[Request]:
        return [Request(conversation, sampling) for _, conversation in chunk]

    def rows(chunk: Sequence[Asked], written: Sequence[Sequence[Draft]]) -> list[dict[str, Any]]:
        return [
            {"id": id, "responses": [d.text for d in drafts], "ended": [d.finish_reason == "stop" for d in drafts]}
            for (id, _), drafts in zip(chunk, written, strict=True)
        ]

    def work(chunks: Sequence[Sequence[Asked]]) -> Iterator[list[dict[str, Any]]]:
        if not chunks:  # no engine where there is nothing left to do
            return
        with closing(policy.start()) as writer:
            yield from map(rows, chunks, drafts_in_order(writer, map(requests, chunks)))

    stream_in_parts(out, run, in_chunks(asked, _CONVERSATIONS_PER_PART), work, SCHEMA, label)
