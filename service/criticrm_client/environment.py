"""The variables that name the service where a caller does not: CRITICRM_URL and CRITICRM_KEY."""

from __future__ import annotations

import os

from .addresses import parse_key, parse_url

URL, KEY = "CRITICRM_URL", "CRITICRM_KEY"
DEFAULT_URL = "http://127.0.0.1:8000"


def urls() -> list[str]:
    """The addresses in CRITICRM_URL, which are separated by commas; empty if there are none.

    Raises:
        ValueError: one is no server's address. The message does not quote its password.
    """
    listed = [url.strip() for url in os.environ.get(URL, "").split(",") if url.strip()]
    for url in listed:
        try:
            parse_url(url)
        except ValueError as error:
            raise ValueError(f"{URL}: {error}") from None
    return listed


def key() -> str | None:
    """CRITICRM_KEY, or None.

    Raises:
        ValueError: it holds what no header can carry. The message does not quote it.
    """
    try:
        return parse_key(os.environ.get(KEY))
    except ValueError as error:
        raise ValueError(f"{KEY}: {error}") from None
