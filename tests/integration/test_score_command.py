"""`criticrm score` against real vLLM: with the engine in process, killed, its server restarted.

The tests run in this order.
"""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from support.live import CRITICRM, IN_ONE_PROCESS, Server, engine_of, wait_until

pytestmark = pytest.mark.integration
ROWS = 500  # 125 requests of four: more than are answered before the last kill
ENGINE = (
    *("--dtype", "float32", "--max-model-len", "512", "--critique-tokens", "8"),
    *("--vllm-args", json.dumps(IN_ONE_PROCESS)),
)
# One sequence a step: with others beside it, a sum may be added up in another order and its last bit differ.
ALONE = ("--max-num-seqs", "1")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rows") / "in.jsonl"
    rows = [{"id": i, "prompt": f"What is {i} plus {i}?", "response": f"It is {2 * i}."} for i in range(ROWS)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def server(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    log = tmp_path_factory.mktemp("server") / "screen.log"
    with Server(str(tiny_checkpoint), *ENGINE, *ALONE, log=log) as server:
        yield server


@pytest.fixture(scope="module")
def whole(server: Server, source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run leaves that nothing happened to."""
    out = tmp_path_factory.mktemp("whole") / "whole.jsonl"
    subprocess.run(command(source, out, "--url", server.url), check=True)
    return out


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def scores(rows: list[dict[str, Any]]) -> list[float]:
    return [row["score"] for row in rows]


def texts(rows: list[dict[str, Any]]) -> list[tuple[int, list[str]]]:
    return [(row["id"], [critique["text"] for critique in row["critiques"]]) for row in rows]


def answered(server: Server) -> int:
    return server.screen().count("POST /score 200")


def command(source: Path, out: Path, *options: str) -> list[str]:
    return [str(CRITICRM), "score", str(source), str(out), "--quiet", *options]


def start_after(requests: int, server: Server, source: Path, out: Path, *options: str) -> subprocess.Popen[bytes]:
    """A run that is at work, and has been given the answers to so many requests."""
    wanted = answered(server) + requests
    run = subprocess.Popen(command(source, out, "--url", server.url, "--concurrency", "2", "--pack", "4", *options))
    while run.poll() is None and answered(server) < wanted:
        time.sleep(0.01)
    assert run.poll() is None, "it ended before it was killed"
    return run


def kill_after(requests: int, server: Server, source: Path, out: Path) -> None:
    run = start_after(requests, server, source, out)
    run.kill()
    run.wait()


def test_offline_gives_what_a_server_gives(
    tiny_checkpoint: Path, source: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    some = tmp_path / "some.jsonl"
    some.write_text("".join(source.read_text("utf-8").splitlines(keepends=True)[:40]), encoding="utf-8")
    for name, value in zip(ENGINE[::2], ENGINE[1::2], strict=True):
        monkeypatch.setenv("CRITICRM_" + name.strip("-").replace("-", "_").upper(), value)
    done = subprocess.run(
        command(some, tmp_path / "offline.jsonl", "--offline", str(tiny_checkpoint)),
        check=True,
        capture_output=True,
        text=True,
    )
    served, offline = read(whole)[:40], read(tmp_path / "offline.jsonl")
    assert texts(offline) == texts(served)
    assert scores(offline) == pytest.approx(scores(served), abs=1e-5)
    assert "scored" in done.stderr


def test_a_termination_takes_the_engine_along_while_it_starts(
    tiny_checkpoint: Path, source: Path, tmp_path: Path
) -> None:
    run = subprocess.Popen(command(source, tmp_path / "out.jsonl", "--offline", str(tiny_checkpoint)))
    try:
        wait_until(lambda: run.poll() is not None or engine_of(psutil.Process(run.pid)), 200)
        family = psutil.Process(run.pid).children(recursive=True)
        run.terminate()
        assert run.wait(60) == 128 + signal.SIGTERM
        assert psutil.wait_procs(family, timeout=60)[1] == []
    finally:
        run.kill()
        run.wait()


def test_killed_five_times_and_its_server_once(
    tiny_checkpoint: Path, server: Server, source: Path, whole: Path, tmp_path: Path
) -> None:
    """Before and after its first whole part, and after it took over others. Ends the server: the last test here."""
    out = tmp_path / "out.jsonl"
    for requests in (1, 10, 34):
        kill_after(requests, server, source, out)
    # The server dies under a run, which the next server's first run goes on from.
    dying = start_after(18, server, source, out, "--attempts", "2")
    server.kill()
    assert dying.wait(120)
    with Server(str(tiny_checkpoint), *ENGINE, *ALONE, log=tmp_path / "restarted.log") as restarted:
        for requests in (3, 14):
            kill_after(requests, restarted, source, out)
        subprocess.run(command(source, out, "--url", restarted.url), check=True)
    assert out.read_bytes() == whole.read_bytes()
    assert [row["id"] for row in read(out)] == list(range(ROWS))
    assert sorted(path.name for path in tmp_path.glob("out*")) == ["out.jsonl", "out.jsonl.run.json"]
