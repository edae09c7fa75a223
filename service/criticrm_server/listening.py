"""How the server is reached, and by whom: settings of its address, keys, TLS, proxies and browsers."""

from __future__ import annotations

import json
import os
import ssl
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import Field, PositiveInt, SecretStr, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, CliImplicitFlag, NoDecode

from criticrm_client.addresses import parse_key
from criticrm_model import CriticRMError

from .api_keys import read_keys


class Listening(BaseSettings):
    """Settings of how the server is reached, and by whom."""

    host: str = Field("127.0.0.1", description="Address to listen on. Any address but loopback needs an API key.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 picks a free one.")
    api_keys: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        (),
        description="Accepted API keys, separated by commas. A caller sends one as 'Authorization: Bearer KEY'. Set "
        "them in the environment: other users of the machine can read a command line.",
    )
    api_keys_file: Path | None = Field(
        None,
        description="File with further API keys, one a line. SIGHUP reads it again, without a restart.",
    )
    admin_key: SecretStr | None = Field(
        None,
        description="Key for /admin/reload, /admin/sleep and /admin/wake, which are disabled without one. Set it in "
        "the environment, not on the command line.",
    )
    allow_unauthenticated: CliImplicitFlag[bool] = Field(
        False,
        description="Listen on a public address without API keys, behind something that authenticates callers.",
    )
    keep_alive_s: PositiveInt = Field(
        75,
        description="Seconds that an idle connection stays open. Set it longer than callers keep theirs, or their "
        "requests may meet a connection that is being closed.",
    )

    uds: Path | None = Field(
        None,
        description="Listen on a unix socket at this path instead of an address. The permissions of its folder "
        "decide who can open it and send requests.",
    )
    ssl_certfile: Path | None = Field(
        None, description="Serve HTTPS with this certificate (PEM, with its chain; with its key unless ssl_keyfile)."
    )
    ssl_keyfile: Path | None = Field(None, description="Private key of the certificate (PEM).")
    ssl_keyfile_password: SecretStr | None = Field(
        None, description="Password of the private key. Set it in the environment."
    )
    root_path: str = Field(
        "",
        description="Path under which a proxy shows the service, such as /critic: the documentation pages and the "
        "OpenAPI document refer to it. The proxy may strip it or not.",
    )
    trusted_proxies: Annotated[tuple[str, ...] | None, NoDecode] = Field(
        None,
        description="Addresses and networks of trusted proxies, separated by commas. X-Forwarded-For and "
        "X-Forwarded-Proto of others are ignored. '*' trusts all; a unix socket needs it. Default: 127.0.0.1.",
    )
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="Origins whose web pages may call the service, with commas between: https://app.example.org; "
        "'*' is all.",
    )
    docs: CliImplicitFlag[bool] = Field(
        True, description="Serve the documentation pages: /docs, /redoc and /openapi.json."
    )
    playground: CliImplicitFlag[bool] = Field(
        True, description="Serve the playground, a page at / that scores responses in a browser."
    )

    @field_validator("api_keys", "cors_origins", "trusted_proxies", mode="before")
    @classmethod
    def _several(cls, value: Any, info: ValidationInfo) -> Any:
        return parse_list(value, "keys" if info.field_name == "api_keys" else "values")

    @field_validator("api_keys")
    @classmethod
    def _keys(cls, keys: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        """Strip the white space around each: a mounted file ends with a newline, which no header can carry."""
        return tuple(SecretStr(parse_key(key.get_secret_value()) or "") for key in keys)

    @field_validator("api_keys_file")
    @classmethod
    def _key_file(cls, file: Path | None) -> Path | None:
        if file is not None:
            read_keys(file)  # raises ValueError; the app reads it again, and keeps the keys
        return file

    @field_validator("root_path")
    @classmethod
    def _path(cls, path: str) -> str:
        path = path.rstrip("/")
        if path and (not path.startswith("/") or any(character in path for character in "?# ")):
            raise ValueError("a path begins with a slash, such as /critic")
        return path

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, proxies: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for proxy in proxies or ():
            if proxy != "*":
                ip_network(proxy)  # raises ValueError
        return proxies

    @field_validator("cors_origins")
    @classmethod
    def _origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            parts = urlsplit(origin)
            if origin != "*" and (
                parts.scheme not in ("http", "https") or origin != f"{parts.scheme}://{parts.netloc}"
            ):
                raise ValueError(f"{origin!r} is no origin; one looks like https://app.example.org, without a path")
        return origins

    def listening_faults(self) -> list[str]:
        """Which of these settings do not go together."""
        faults = []
        has_keys = self.api_keys or self.api_keys_file
        if not has_keys and not self.allow_unauthenticated and not self.uds and not is_loopback(self.host):
            faults.append(
                f"host {self.host} can be reached from other machines, but there are no API keys: set "
                "CRITICRM_API_KEYS, or --allow-unauthenticated if something else authenticates callers"
            )
        if any(not key.get_secret_value() for key in self.api_keys):
            faults.append("api_keys holds an empty key")
        if self.ssl_keyfile and not self.ssl_certfile:
            faults.append("ssl_keyfile needs ssl_certfile, the certificate of this key")
        if self.ssl_keyfile_password and not self.ssl_certfile:
            faults.append("ssl_keyfile_password needs ssl_certfile")
        return faults

    def check_certificate(self) -> None:
        """Raises CriticRMError if certificate and key can't be used."""
        if self.ssl_certfile is None:
            return
        # Without a password OpenSSL would ask for one at the terminal.
        password = self.ssl_keyfile_password.get_secret_value() if self.ssl_keyfile_password else ""
        for name, path in (("ssl_certfile", self.ssl_certfile), ("ssl_keyfile", self.ssl_keyfile)):
            if path is not None and not os.access(path, os.R_OK):
                raise CriticRMError(f"{name} {path} can't be read")
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self.ssl_certfile, self.ssl_keyfile, password)
        except (ssl.SSLError, OSError, ValueError) as error:
            raise CriticRMError(
                f"ssl_certfile {self.ssl_certfile} and its key can't be used (is the password right?): {error}"
            ) from error


def parse_list(value: Any, what: str) -> Any:
    """`a, b`, or a JSON list; nothing at all is none. What is no text is left as it is.

    Args:
        what: what they are, for the message.
    """
    if not isinstance(value, str):
        return value
    if not value.strip():
        return ()
    if not value.lstrip().startswith("["):
        return [part.strip() for part in value.split(",")]
    try:
        return json.loads(value)
    except json.JSONDecodeError as error:
        raise ValueError(f"neither {what} with commas between nor a JSON list of them: {error}") from None


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
