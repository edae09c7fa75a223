"""The headers of every request: the caller's own, the User-Agent, the key."""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping
from importlib.metadata import version

from .addresses import parse_key

USER_AGENT = f"criticrm/{version('critic-rm')} python/{platform.python_version()}"
# What a caller may not set, and how to have the same: a request with two keys, or an answer in another format, would
# fail far from its cause.
_RESERVED = {
    "authorization": "give `key`, a user and a password in the URL, or an `http_client` with `auth`",
    "accept": "answers are read as JSON",
    "connection": "it is the HTTP client's",
    "content-encoding": "bodies are sent as they are",
    "content-length": "it is the HTTP client's",
    "content-type": "bodies are JSON",
    "transfer-encoding": "it is the HTTP client's",
    "x-request-id": "each call has an id of its own, which its errors carry",
}
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, section 5.6.2


def request_headers(key: str | None, extra: Mapping[str, str] | None) -> dict[bytes, bytes]:
    """What every request carries; `extra` may replace the User-Agent.

    Raises:
        ValueError: a name or a value that no header can have, or a name that is this client's own. The message quotes
            no value.
    """
    headers = {b"User-Agent": USER_AGENT.encode()}
    for name, value in (extra or {}).items():
        lowered = str(name).lower()
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise ValueError(f"headers: {name!r:.100} is no header's name")
        if lowered in _RESERVED:
            raise ValueError(f"headers: {name} can't be set here: {_RESERVED[lowered]}")
        if not isinstance(value, str) or not value.isprintable():
            raise ValueError(f"headers: the value of {name} is no text, or holds a control character")
        headers[b"User-Agent" if lowered == "user-agent" else name.encode()] = value.encode()
    if key := parse_key(key):
        headers[b"Authorization"] = f"Bearer {key}".encode()
    return headers
