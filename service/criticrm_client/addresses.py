"""What reaches a server: its URL, the key, and the proxy between. Checked once, and never printed with a secret."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_address, ip_network
from urllib.request import getproxies, proxy_bypass

import httpx


def parse_url(url: str) -> tuple[str, httpx.BasicAuth | None]:
    """A server's URL without the user and password in it, and these.

    Raises:
        ValueError: it is not `http(s)://host[:port][/path]`.
    """
    fault = ValueError(f"{masked(url)!r} is no server's address; one looks like http://host:8000")
    try:
        parsed = httpx.URL(url.strip())
        if ":" not in parsed.host:  # else an IPv6 address
            parsed.raw_host.decode("ascii").encode("idna")  # labels of 1 to 63 characters
    except (httpx.InvalidURL, ValueError):
        raise fault from None  # their messages may quote the password
    port = 80 if parsed.port is None else parsed.port
    if parsed.scheme not in ("http", "https") or not parsed.host or not 0 < port < 2**16:
        raise fault
    if parsed.query or parsed.fragment or "%" in parsed.netloc.decode("ascii"):
        raise fault
    auth = httpx.BasicAuth(parsed.username, parsed.password) if parsed.userinfo else None
    return str(parsed.copy_with(userinfo=b"")).rstrip("/"), auth


def parse_key(key: str | None) -> str | None:
    """The key without the white space around it, such as a mounted file's last newline; None if nothing is left.

    Raises:
        ValueError: it holds what no header can carry. The message does not quote it.
    """
    stripped = (key or "").strip()
    if not stripped.isprintable():
        raise ValueError("the key holds a control character or half a character, which no HTTP header can carry")
    return stripped or None


def masked(url: str) -> str:
    """For messages: without what stands before an @."""
    before, at, host = url.rpartition("@")
    if not at:
        return url
    scheme, slashes, _ = before.partition("//")
    return f"{scheme}{slashes}***@{host}" if slashes else f"***@{host}"


def proxies_of(urls: Iterable[str]) -> dict[str, httpx.Proxy]:
    """The proxy that the environment names for each URL: HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, but for NO_PROXY.

    httpx reads these variables itself, but refuses to start where NO_PROXY holds a network such as fd00::/8.

    Raises:
        ValueError: a proxy's address is none.
    """
    named = getproxies()
    found = {}
    for url in urls:
        parsed = httpx.URL(url)
        proxy = named.get(parsed.scheme) or named.get("all")
        if not proxy or _is_direct(parsed, named.get("no", "")):
            continue
        try:
            found[url] = httpx.Proxy(proxy if "://" in proxy else f"http://{proxy}")
            httpx.AsyncHTTPTransport(proxy=found[url])  # a SOCKS proxy needs a package
        except (httpx.InvalidURL, ValueError, ImportError) as error:
            fault = str(error) if isinstance(error, ImportError) else "no proxy's address"
            raise ValueError(f"{parsed.scheme.upper()}_PROXY or ALL_PROXY, {masked(proxy)!r}: {fault}") from None
    return found


def _is_direct(url: httpx.URL, no_proxy: str) -> bool:
    if proxy_bypass(url.netloc.decode("ascii")) or proxy_bypass(url.host):
        return True
    try:
        address = ip_address(url.host)
    except ValueError:
        return False
    for entry in no_proxy.split(","):
        try:
            if address in ip_network(entry.strip(), strict=False):
                return True
        except ValueError:  # a name
            continue
    return False
