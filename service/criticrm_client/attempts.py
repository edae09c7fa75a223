"""One attempt of a request: an answer with status 200, or what its failure means for the next attempt."""

from __future__ import annotations

import asyncio
import ssl
from dataclasses import dataclass

import httpx

from .errors import (
    RETRIED,
    APIConnectionError,
    APIError,
    APIResponseError,
    APIStatusError,
    APITimeoutError,
    checkpoint_changed,
    status_error,
)
from .retries import Server, retry_after_s

# Before the request was sent; after these, no server has it.
_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError)
# Refused before an engine had it.
_NOT_TAKEN = ("overloaded", "draining", "no_engine_server")
# The precondition on the checkpoint failed; every other 409 may pass.
_OTHER_VERSION = "model_version_mismatch"


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt failed, and what that means for the next.

    Attributes:
        error: what the caller gets if no attempt follows.
        is_final: another attempt would fail in the same way.
        blames_request: the server may have failed for what the request holds.
        retry_after_s: the wait that the server requested (`Retry-After`).
    """

    error: APIError
    is_final: bool = False
    blames_request: bool = False
    retry_after_s: float | None = None


async def attempt(
    http: httpx.AsyncClient, server: Server, request: httpx.Request, timeout_s: float, request_id: str
) -> httpx.Response | Failure:
    """Send it. Whatever goes wrong in the libraries below is a Failure: a caller has no other exception to expect."""
    try:
        async with asyncio.timeout(timeout_s):  # httpx's own is of each read: a body may come byte by byte
            answer = await http.send(request, auth=server.auth or httpx.USE_CLIENT_DEFAULT)
    except TimeoutError:
        late = APITimeoutError(f"{server.url}: no whole answer within timeout_s={timeout_s:g}", request_id)
        return Failure(late, blames_request=True)
    except Exception as broken:
        return _of_exception(broken, server.url, request_id)
    if answer.status_code == 200:
        return answer
    error = status_error(answer, request_id)
    if error.code == _OTHER_VERSION:
        fault = error.details[0] if error.details else {}
        served, expected = fault.get("expected", "another"), fault.get("actual", "not that one")
        return Failure(checkpoint_changed(served, expected, request_id, answer), is_final=True)
    return _of_status(error, retry_after_s(answer))


def _of_status(error: APIStatusError, wait_s: float | None) -> Failure:
    if error.status_code < 500:
        return Failure(error, is_final=error.status_code not in RETRIED, retry_after_s=wait_s)
    return Failure(error, blames_request=error.code not in _NOT_TAKEN, retry_after_s=wait_s)


def _of_exception(broken: Exception, url: str, request_id: str) -> Failure:
    message = f"{url}: {type(broken).__name__}{f': {broken}' if str(broken) else ''}"
    error: APIError
    if isinstance(broken, httpx.DecodingError):
        error = APIResponseError(f"{message}; is it a Critic-RM service?", request_id)
    elif isinstance(broken, httpx.TimeoutException):
        error = APITimeoutError(message, request_id)
    else:
        error = APIConnectionError(message, request_id)
    error.__cause__ = broken
    passes = isinstance(broken, httpx.TransportError | OSError) and not isinstance(
        broken, httpx.UnsupportedProtocol | httpx.LocalProtocolError
    )
    return Failure(
        error,
        is_final=not passes or _is_untrusted(broken),
        blames_request=not isinstance(broken, _NOT_SENT),
    )


def _is_untrusted(error: BaseException | None) -> bool:
    """Whether it began with a certificate that is not trusted."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return True
        error = error.__cause__ or error.__context__
    return False
