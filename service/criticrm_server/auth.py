"""API keys, compared in constant time."""

from __future__ import annotations

import binascii
import hmac
from base64 import b64decode
from collections.abc import Sequence

from pydantic import SecretStr

from .errors import Unauthorized


def check_key(authorization: str, keys: Sequence[SecretStr], *, basic: bool = False) -> SecretStr | None:
    """The key that the `Authorization` header carries, one of `keys`; None if no keys are set.

    Args:
        basic: also take the password of HTTP Basic, which is how a key in a URL arrives; the user name is free.

    Raises:
        Unauthorized
    """
    if not keys:
        return None
    scheme, _, given = authorization.partition(" ")
    # Header bytes reach us as Latin-1, whatever they were: back to bytes, and those are the key's in UTF-8.
    key = given.strip().encode("latin-1")
    if basic and scheme.lower() == "basic":
        key = _password(key)
    elif scheme.lower() != "bearer":
        key = b""
    if not key:
        in_url = ", or put it into the URL: http://key:KEY@host" if basic else ""
        raise Unauthorized(f"this server requires an API key: send the header 'Authorization: Bearer KEY'{in_url}")
    # Every key is compared, so the time tells neither which one matched nor how far.
    matches = [one for one in keys if hmac.compare_digest(key, one.get_secret_value().encode())]
    if not matches:
        raise Unauthorized("this API key is not accepted by this server")
    return matches[0]


def check_administration_key(authorization: str, key: SecretStr | None) -> None:
    """Pass if the header carries the administration key; without one nobody passes, also on loopback.

    Raises:
        Unauthorized
    """
    if key is None:
        raise Unauthorized("this server has no administration key: start it with CRITICRM_ADMIN_KEY set")
    check_key(authorization, [key])


def _password(credentials: bytes) -> bytes:
    try:
        return b64decode(credentials, validate=True).partition(b":")[2].strip()
    except binascii.Error:
        return b""
