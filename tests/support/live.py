"""A `criticrm serve` process under test: started on a free loopback port, watched, and ended."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx
import psutil

CRITICRM = Path(sys.executable).with_name("criticrm")
# The model in the scheduler's process, as vLLM has it on one GPU: a process less to start. On a CPU it starts another
# so that it can bind threads to cores, which is off where engines run side by side (Makefile).
IN_ONE_PROCESS = {"distributed_executor_backend": "vllm.v1.executor.uniproc_executor.UniProcExecutor"}
_READY = re.compile(r"4/4 ready: POST (https?://[^/\s]+)/score")


class Server:
    """Runs until its context is left; nothing of it is left behind even where a test fails.

    Args:
        arguments: of `criticrm serve`, the checkpoint first.
        command: `serve`, or another that serves.
        log: file for what it writes to the screen.
        port: 0 picks a free one.
        log_format: as of `criticrm serve`.
    """

    def __init__(
        self,
        *arguments: str,
        log: Path,
        command: str = "serve",
        start_timeout_s: float = 240,
        port: int = 0,
        log_format: str = "text",
    ) -> None:
        self.log = log
        with log.open("wb") as sink:
            self.process = subprocess.Popen(
                [CRITICRM, command, *arguments, "--port", str(port), "--log-format", log_format],
                stdout=sink,
                stderr=subprocess.STDOUT,
            )
        self.family: list[psutil.Process] = []
        try:
            wait_until(lambda: self._url() or self.process.poll() is not None, start_timeout_s, self.screen)
            self.url = self._url()
            assert self.url, f"the server exited with {self.process.poll()}:\n{self.screen()}"
            self.family = psutil.Process(self.process.pid).children(recursive=True)
        except BaseException:
            self.kill()
            raise

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def screen(self) -> str:
        """All that it wrote so far."""
        return self.log.read_text(encoding="utf-8", errors="replace")

    def client(self, timeout_s: float = 120) -> httpx.AsyncClient:
        """One without a limit on connections."""
        return httpx.AsyncClient(base_url=self.url, timeout=timeout_s, limits=httpx.Limits(max_connections=None))

    def get(self, path: str) -> httpx.Response:
        return httpx.get(self.url + path, timeout=30)

    def score(self, **body: Any) -> httpx.Response:
        return httpx.post(f"{self.url}/score", json=body, timeout=120)

    def metric(self, name: str) -> float:
        """The sum over a metric's labels."""
        lines = re.findall(rf"^{re.escape(name)}(?:\{{.*\}})? (\S+)$", self.get("/metrics").text, re.MULTILINE)
        assert lines, f"no metric {name}"
        return sum(map(float, lines))

    def resident_mib(self) -> float:
        return psutil.Process(self.process.pid).memory_info().rss / 2**20

    def engine_core(self) -> psutil.Process:
        engine = engine_of(psutil.Process(self.process.pid))
        assert engine
        return engine

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def exit_code(self, timeout_s: float) -> int:
        return self.process.wait(timeout_s)

    def left_behind(self, patience_s: float = 10) -> list[psutil.Process]:
        """Children that outlive the server."""
        return psutil.wait_procs(self.family, timeout=patience_s)[1]

    def kill(self) -> None:
        if self.process.poll() is None:
            self.family = psutil.Process(self.process.pid).children(recursive=True)
            self.process.kill()
            self.process.wait()
        for child in self.family:
            if child.is_running():  # psutil compares start times: never another process under the same id
                child.kill()

    def _url(self) -> str:
        found = _READY.search(self.screen())
        return found[1] if found else ""


def engine_of(process: psutil.Process) -> psutil.Process | None:
    """The process in which vLLM schedules; None before it is started.

    By its place, since its title is not always set: beside it there is only the one that tracks shared memory.
    """
    with suppress(psutil.Error):
        children = process.children()
        return next((child for child in children if "resource_tracker" not in " ".join(child.cmdline())), None)
    return None


def wait_until(condition: Callable[[], Any], timeout_s: float, explain: Callable[[], str] = str) -> None:
    """Poll until true; fail with what `explain` returns."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {explain()}"
        time.sleep(0.1)
