"""`criticrm score` against real vLLM: killed, its server restarted, and with the engine in process."""

from __future__ import annotations

import json
import random
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from live import CRITICRM, Server

pytestmark = pytest.mark.integration
ROWS = 2000
ENGINE = ("--dtype", "float32", "--max-model-len", "512", "--critique-tokens", "8")
# One sequence a step: with others beside it, a sum may be added up in another order and its last bit differ.
ALONE = ("--max-num-seqs", "1")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rows") / "in.jsonl"
    rows = [{"id": i, "prompt": f"What is {i} plus {i}?", "response": f"It is {2 * i}."} for i in range(ROWS)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


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


@pytest.mark.timeout(1800)  # reached 600 s once, beside other work, on two cores without AVX-512
def test_killed_twenty_times_and_its_server_restarted_twice(
    tiny_checkpoint: Path, source: Path, tmp_path: Path
) -> None:
    whole, out = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    moments = random.Random(4)
    for lifetime, kills in enumerate((7, 7, 6)):
        log = tmp_path / f"server-{lifetime}.log"
        with Server(str(tiny_checkpoint), *ENGINE, *ALONE, log=log) as server:
            if not whole.exists():
                subprocess.run(command(source, whole, "--url", server.url), check=True)
            for _ in range(kills):
                run = subprocess.Popen(command(source, out, "--url", server.url, "--concurrency", "2", "--pack", "4"))
                wanted = answered(server) + moments.randint(5, 60)
                while run.poll() is None and answered(server) < wanted:
                    time.sleep(0.01)
                assert run.poll() is None, "it ended before it was killed"
                run.kill()
                run.wait()
            # The server dies under a run, which the next lifetime's first run goes on from.
            wanted = answered(server) + 10
            last = subprocess.Popen(command(source, out, "--url", server.url, "--attempts", "2"))
            while lifetime < 2 and last.poll() is None and answered(server) < wanted:
                time.sleep(0.01)
            if lifetime < 2:
                server.kill()
            last.wait(120)
    assert last.returncode == 0
    assert out.read_bytes() == whole.read_bytes()
    assert [row["id"] for row in read(out)] == list(range(ROWS))
    assert sorted(path.name for path in tmp_path.glob("out*")) == ["out.jsonl", "out.jsonl.run.json"]


def test_offline_gives_what_a_server_gives(
    tiny_checkpoint: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    some = tmp_path / "some.jsonl"
    some.write_text("".join(source.read_text("utf-8").splitlines(keepends=True)[:40]), encoding="utf-8")
    with Server(str(tiny_checkpoint), *ENGINE, log=tmp_path / "server.log") as server:
        subprocess.run(command(some, tmp_path / "served.jsonl", "--url", server.url), check=True)
    for name, value in zip(ENGINE[::2], ENGINE[1::2], strict=True):
        monkeypatch.setenv("CRITICRM_" + name.strip("-").replace("-", "_").upper(), value)
    done = subprocess.run(
        command(some, tmp_path / "offline.jsonl", "--offline", str(tiny_checkpoint)),
        check=True,
        capture_output=True,
        text=True,
    )
    served, offline = read(tmp_path / "served.jsonl"), read(tmp_path / "offline.jsonl")
    assert texts(offline) == texts(served)
    assert scores(offline) == pytest.approx(scores(served), abs=1e-5)
    assert "scored" in done.stderr
