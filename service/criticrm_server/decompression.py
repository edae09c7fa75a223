"""The body of a request in pieces, decompressed where it is compressed, never more of it than the limit."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator

from .errors import BodyTooLarge, InvalidField, UnsupportedMediaType

_PIECE = 256 * 2**10  # bytes that are decompressed before others have their turn
_GZIP = 16 + zlib.MAX_WBITS


def decoded(chunks: AsyncIterator[bytes], encoding: str, limit: int) -> AsyncIterator[bytes]:
    """The chunks of a body, as they were before `Content-Encoding: {encoding}`.

    Raises:
        UnsupportedMediaType: the encoding is neither gzip nor none.
        BodyTooLarge: more than `limit` bytes after decompression, found before they are decompressed.
        InvalidField: not gzip, or cut.
    """
    encoding = encoding.strip().lower()
    if encoding in ("", "identity"):
        return chunks
    if encoding not in ("gzip", "x-gzip"):
        raise UnsupportedMediaType(f"send the body as it is or with 'Content-Encoding: gzip', not {encoding[:64]!r}")
    return _unzipped(chunks, limit)


async def _unzipped(chunks: AsyncIterator[bytes], limit: int) -> AsyncIterator[bytes]:
    unzip = zlib.decompressobj(_GZIP)
    received = 0
    began = False
    async for chunk in chunks:
        while chunk:
            if unzip.eof:  # a file of several members
                unzip = zlib.decompressobj(_GZIP)
            began = True
            try:
                piece = unzip.decompress(chunk, _PIECE)
            except zlib.error as error:
                raise InvalidField("body", f"not valid gzip: {error}") from error
            received += len(piece)
            if received > limit:
                raise BodyTooLarge(limit)
            yield piece
            chunk = unzip.unconsumed_tail or unzip.unused_data
            await asyncio.sleep(0)
    if began and not unzip.eof:
        raise InvalidField("body", "not valid gzip: cut before its end")
