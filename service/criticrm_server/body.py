"""A request's body: read within its limit, bounded in what it holds, parsed as strict JSON, validated."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import pydantic_core
from fastapi import Request
from fastapi.exceptions import RequestValidationError
from pydantic import TypeAdapter, ValidationError

from .decompression import decoded
from .errors import BodyTooLarge, LimitExceeded, Overloaded, UnsupportedMediaType

T = TypeVar("T")
# A parser holds the interpreter until it is done: 16 MiB of `[],[],...` take seconds. Texts cost nothing in comparison.
_MAX_VALUES = 2_000_000  # commas outside of strings; some 0.1 s
_MAX_OBJECTS = 100_000  # objects, lists and fields; some 0.1 s
_COUNTED_FROM = 256 * 1024  # bytes; a smaller body is parsed sooner than that whatever it holds
_SLICE = 64 * 1024


class HeldBytes:
    """Counts the request bodies that the server holds, whether they are read, wait or are in work, in bytes."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0

    @contextmanager
    def holding(self) -> Iterator[Callable[[int], None]]:
        """A context for one request. Yields a function to call with the size of each part that is received.

        All are subtracted when the context is left.

        Raises:
            Overloaded: by the call.
        """
        mine = 0

        def hold(count: int) -> None:
            nonlocal mine
            if self.held + count > self.limit:
                raise Overloaded(f"requests in flight and waiting hold {self.held} bytes; try again")
            mine += count
            self.held += count

        try:
            yield hold
        finally:
            self.held -= mine


def check_media_type(request: Request) -> None:
    """Raises UnsupportedMediaType."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media_type != "application/json":
        raise UnsupportedMediaType(f"send the body with 'Content-Type: application/json', not {media_type or 'none'!r}")


async def read_json(request: Request, limit: int, hold: Callable[[int], None]) -> Any:
    """The body's value; of its bytes nothing is kept, for a request may wait long.

    Raises:
        What `read_body`, `check_structure` and `parse_json` raise.
    """
    body = await read_body(request, limit, hold)
    await check_structure(body)
    return parse_json(body)


async def read_body(request: Request, limit: int, hold: Callable[[int], None]) -> bytes:
    """The body.

    Args:
        hold: called with the size of each part; see `HeldBytes.holding`.

    Raises:
        BodyTooLarge: without reading what a header already declares too large.
        UnsupportedMediaType, InvalidField: see `decoded`.
        Overloaded
    """
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit:  # "²" is a digit to Python, and no number
        raise BodyTooLarge(limit)
    chunks: list[bytes] = []
    received = 0
    async for chunk in decoded(request.stream(), request.headers.get("content-encoding", ""), limit):
        received += len(chunk)
        if received > limit:
            raise BodyTooLarge(limit)
        hold(len(chunk))
        chunks.append(chunk)
    return b"".join(chunks)


async def check_structure(body: bytes) -> None:
    """Refuse JSON that takes long to parse, by what stands outside of its strings. Other requests run meanwhile.

    Raises:
        LimitExceeded
    """
    if len(body) <= _COUNTED_FROM:
        return
    values = objects = 0
    in_string, rest = False, b""
    for start in range(0, len(body), _SLICE):
        text = (rest + body[start : start + _SLICE]).replace(b"\\\\", b"")
        rest = b"\\" if text.endswith(b"\\") else b""
        parts = text.replace(b'\\"', b"").split(b'"')
        outside = b"".join(parts[in_string::2])
        in_string ^= len(parts) % 2 == 0
        values += outside.count(b",")
        objects += outside.count(b"{") + outside.count(b"[") + outside.count(b":")
        if values > _MAX_VALUES:
            raise LimitExceeded("body", values, _MAX_VALUES, "values and more")
        if objects > _MAX_OBJECTS:
            raise LimitExceeded("body", objects, _MAX_OBJECTS, "objects, lists and fields and more")
        await asyncio.sleep(0)


def parse_json(body: bytes) -> Any:
    """Strict: `json.loads` takes NaN, broken UTF-8 and lone surrogates, each of which would surface as a 500.

    Raises:
        RequestValidationError
    """
    try:
        return pydantic_core.from_json(body, allow_inf_nan=False, cache_strings="keys")
    except ValueError as error:
        fault = {"type": "json_invalid", "loc": ("body",), "ctx": {"error": str(error)}}
        raise RequestValidationError([fault]) from error


def validate(adapter: TypeAdapter[T], value: Any, where: str) -> T:
    """`value` as the adapter's type.

    Args:
        where: "body" or "query", the root of the faults' locations.

    Raises:
        RequestValidationError
    """
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_input=False)
        raise RequestValidationError([{**fault, "loc": (where, *fault["loc"])} for fault in faults]) from None
