"""The connections of each event loop: a connection belongs to the loop that opened it."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import httpx

from .addresses import proxies_of
from .errors import ClientClosedError
from .request_headers import request_headers
from .retries import Servers

HTTPClient: TypeAlias = httpx.AsyncClient | Callable[[], httpx.AsyncClient]

_CONNECT_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Session:
    """The connections of one event loop. `keeper` closes the connections when the loop ends."""

    http: httpx.AsyncClient
    servers: Servers
    keeper: AsyncGenerator[None]


class Sessions:
    """A session for each event loop that asks for one. Loops in several threads may.

    Attributes:
        headers: of every request.
        timeout: of every request, also where the caller's own HTTP client has another.

    Raises:
        ValueError: a URL, the key, a header or a proxy that can't be, or both a transport and an HTTP client.
        TypeError: `http_client` is neither a client nor a function.
    """

    def __init__(
        self,
        urls: Sequence[str],
        key: str | None,
        timeout_s: float,
        transport: httpx.AsyncBaseTransport | None,
        headers: Mapping[str, str] | None,
        http_client: HTTPClient | None,
    ) -> None:
        if transport is not None and http_client is not None:
            raise ValueError("transport and http_client: give one of them; an HTTP client has its own transport")
        if not (http_client is None or isinstance(http_client, httpx.AsyncClient) or callable(http_client)):
            raise TypeError("http_client: an httpx.AsyncClient or a function that makes one, also for `CriticRM`")
        self.is_closed = False
        self.headers = request_headers(key, headers)
        self.timeout = httpx.Timeout(timeout_s, connect=min(_CONNECT_TIMEOUT_S, timeout_s))
        self._urls = urls
        self._transport = transport
        self._http_client = http_client
        self._is_client_used = False  # by a loop, where `http_client` is a client and not a function
        servers = Servers(urls).all
        self._proxies = {} if transport or http_client else proxies_of(server.url for server in servers)
        self._tls = None if http_client else _tls_context()
        self._of: dict[asyncio.AbstractEventLoop, Session] = {}

    async def current(self) -> Session:
        """That of the running loop. Raises ClientClosedError; ValueError if the HTTP client is another loop's."""
        if self.is_closed:
            raise ClientClosedError
        loop = asyncio.get_running_loop()
        if loop not in self._of:
            for other in [other for other in list(self._of) if other.is_closed()]:
                self._of.pop(other, None)
            http = self._http()
            session = self._of[loop] = Session(http, Servers(self._urls), self._keep(loop, http))
            await anext(session.keeper)
        return self._of[loop]

    async def close(self) -> None:
        """Close this loop's connections; other loops close theirs."""
        self.is_closed = True
        session = self._of.pop(asyncio.get_running_loop(), None)
        self._of.clear()
        if session is not None:
            await session.keeper.aclose()

    def forget(self) -> object:
        """After a fork: begin anew. What is returned is the parent's, and must not be collected."""
        forgotten, self._of = self._of, {}
        return forgotten

    async def _keep(self, loop: asyncio.AbstractEventLoop, http: httpx.AsyncClient) -> AsyncGenerator[None]:
        """A loop that ends in order, as in `asyncio.run`, closes its generators, and so these connections."""
        try:
            yield
        finally:
            self._of.pop(loop, None)
            await http.aclose()

    def _http(self) -> httpx.AsyncClient:
        if isinstance(self._http_client, httpx.AsyncClient):
            if self._is_client_used:
                raise ValueError(
                    "http_client: an httpx.AsyncClient serves one event loop of one process; give a function that "
                    "makes one for each"
                )
            self._is_client_used = True
            return self._http_client
        if self._http_client is not None:
            return self._http_client()
        assert self._tls is not None
        # Callers bound what is in flight; a pool that is smaller would make requests wait unseen.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=256)
        return httpx.AsyncClient(
            limits=limits,
            verify=self._tls,
            transport=self._transport,
            mounts={
                url: httpx.AsyncHTTPTransport(verify=self._tls, limits=limits, proxy=proxy)
                for url, proxy in self._proxies.items()
            },
            trust_env=False,  # `_proxies` and `_tls` have read it
        )


def _tls_context() -> ssl.SSLContext:
    try:
        return httpx.create_ssl_context()
    except OSError as error:  # ssl.SSLError is one
        raise ValueError(f"SSL_CERT_FILE or SSL_CERT_DIR: {error}") from error
