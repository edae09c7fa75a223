"""The socket that the server listens on: bound before anything is loaded, listening when the engine is up."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from criticrm_model import CriticRMError


def bind(host: str, port: int) -> socket.socket:
    """A bound socket that does not listen yet: callers are refused, not left waiting, until the engine is up."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
        except BaseException:
            listener.close()
            raise
    except OSError as error:
        another = "--port" if error.errno in (errno.EADDRINUSE, errno.EACCES) else "--host"
        raise CriticRMError(
            f"can't listen on {host} port {port}: {error.strerror or error}; choose another with {another}"
        ) from error
    return listener


@contextmanager
def unix_socket(path: Path) -> Iterator[socket.socket]:
    """A socket bound to a path, that does not listen yet; the path is removed at the end, unless another took it over.

    One that a server left behind is replaced. Raises CriticRMError where a server listens, or the path can't be bound.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        try:
            if path.is_socket() and not _is_answered(path):
                path.unlink()
            listener.bind(str(path))
            path.chmod(0o666)  # as uvicorn does: the folder's permissions say who may connect
        except OSError as error:
            why = error.strerror or error
            raise CriticRMError(f"can't listen on {path}: {why}; choose another path with --uds") from error
        bound = path.stat().st_ino
        try:
            yield listener
        finally:
            with suppress(OSError):
                if path.stat().st_ino == bound:
                    path.unlink()


def _is_answered(path: Path) -> bool:
    """Whether a server listens there. One that is still starting refuses, as a socket that was left behind does."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
    return True


def url_of(listener: socket.socket, scheme: str = "http") -> str:
    """Where it listens, as a URL; a unix socket answers to any host."""
    if listener.family == socket.AF_UNIX:
        return f"{scheme}://localhost"
    host, port = listener.getsockname()[:2]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def stop_listening(listener: socket.socket) -> list[socket.socket]:
    """Connections that wait to be accepted; further ones are refused."""
    waiting = []
    with suppress(BlockingIOError):
        while True:
            waiting.append(listener.accept()[0])
    listener.shutdown(socket.SHUT_RDWR)  # now: closing it takes effect later, and resets who came meanwhile
    return waiting
