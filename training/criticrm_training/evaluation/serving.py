"""The service that is asked: one that runs already, or `criticrm serve` from the first request on, if there is one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx

from criticrm_model import CriticRMError, Manifest
from criticrm_model.children import end_with_parent, exit_on_sigterm
from criticrm_model.default import resolve

from ..endpoint import Endpoint, EndpointError

_READY = re.compile(r"4/4 ready: POST (\S+)/score")


class ServingError(CriticRMError):
    """The service did not start."""


@contextmanager
def scoring_service(
    model: str, url: str | None, *, key: str | None, concurrency: int
) -> Iterator[tuple[Endpoint, dict[str, Any]]]:
    """A service, and what it says of its model (`/v1/model`).

    Args:
        model: served from the first request to the end of the context, unless `url` names a service that runs.

    Raises:
        CheckpointError: `model` is none.
        ServingError: at the first request.
        EndpointError: what runs at `url` is no such service, or refuses the key.
    """
    if url:
        service = Endpoint(url, key=key, concurrency=concurrency)
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        try:
            about = httpx.get(f"{service.url}/v1/model", headers=headers, timeout=60).raise_for_status().json()
        except (httpx.HTTPError, ValueError) as error:
            raise EndpointError(f"{service.url}/v1/model is not a Critic-RM service's, or refuses: {error}") from error
        yield service, about
        return
    folder = resolve(model)
    manifest = Manifest.load(folder)
    with ExitStack() as held:
        about = {"model": model, "model_version": manifest.version, "manifest": manifest.model_dump(mode="json")}
        yield _OnDemand(folder, held, concurrency), about


class _OnDemand(Endpoint):
    """A server of our own: where all scores are there already, nobody waits for its engine."""

    def __init__(self, folder: Path, held: ExitStack, concurrency: int) -> None:
        super().__init__("", concurrency=concurrency)
        self._folder = folder
        self._held = held

    def post_each(self, path: str, bodies: Iterable[Any]) -> Generator[Any, None, None]:
        self.url = self.url or self._held.enter_context(start_service(str(self._folder)))
        yield from super().post_each(path, bodies)


@contextmanager
def start_service(model: str, options: Sequence[str] = (), start_timeout_s: float = 600) -> Iterator[str]:
    """The URL of a server of `model` that lives as long as the context, on a free port of loopback.

    Args:
        options: of `criticrm serve`.

    Raises:
        ServingError: it ended, or was not ready in time; the end of its log is in the message.
    """
    exit_on_sigterm()
    with tempfile.TemporaryDirectory(prefix="criticrm-serve-") as scratch:
        log = Path(scratch) / "serve.log"
        with log.open("wb") as sink:
            server = subprocess.Popen(
                [sys.executable, "-m", "criticrm_server", "serve", model, "--port", "0", *options],
                stdout=sink,
                stderr=subprocess.STDOUT,
                env=os.environ | {"CRITICRM_LOG_FORMAT": "text", "CRITICRM_HOST": "127.0.0.1", "CRITICRM_API_KEYS": ""},
                preexec_fn=end_with_parent,
            )
        try:
            yield _wait_until_ready(server, log, start_timeout_s)
        finally:
            server.terminate()  # it drains, and takes its engine with it
            server.wait()


def _wait_until_ready(server: subprocess.Popen[bytes], log: Path, timeout_s: float) -> str:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and server.poll() is None:
        if found := _READY.search(log.read_text(encoding="utf-8", errors="replace")):
            return found[1]
        time.sleep(0.5)
    tail = log.read_text(encoding="utf-8", errors="replace")[-2000:]
    raise ServingError(f"`criticrm serve` did not get ready:\n{tail}")
