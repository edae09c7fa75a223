"""API keys, compared in constant time."""

from __future__ import annotations

import hmac
from collections.abc import Sequence

from pydantic import SecretStr

from .errors import Unauthorized


def check_key(authorization: str, keys: Sequence[SecretStr]) -> None:
    """Pass if no keys are set, or the `Authorization` header carries one of them.

    Raises:
        Unauthorized
    """
    if not keys:
        return
    scheme, _, given = authorization.partition(" ")
    if scheme.lower() != "bearer" or not given:
        raise Unauthorized("this server asks for a key: send the header 'Authorization: Bearer KEY'")
    # Header bytes reach us as Latin-1, whatever they were: back to bytes, and those are the key's in UTF-8.
    # Every key is compared, so the time tells neither which one matched nor how far.
    matches = [hmac.compare_digest(given.strip().encode("latin-1"), key.get_secret_value().encode()) for key in keys]
    if not any(matches):
        raise Unauthorized("the key is not one of this server's")
