"""The frameworks' own client code against a Critic-RM service, their rewards beside those of `/score`.

Installs each framework into a folder without its dependencies (gigabytes that its client part does not import) but
for the few small ones that `framework_clients.py` names, and runs each in a process of its own. What does not install
is reported in the table. `try_trl.py` does the same with a training.

examples:
  python scripts/try_frameworks.py            # starts `criticrm serve default --dtype float32` for the time of the run
  python scripts/try_frameworks.py --url http://127.0.0.1:8000     # a service that runs, with --dtype float32 too:
                                # in bfloat16, one conversation's reward varies with the other requests of its batch
  CRITICRM_KEY=KEY python scripts/try_frameworks.py --url http://127.0.0.1:8000 --packages folder openrlhf verl
"""

from __future__ import annotations

import argparse
import json
import math
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import httpx
from framework_clients import CRITIQUE, FRAMEWORKS, MESSAGES, RESPONSES

from criticrm_client import CriticRM
from criticrm_client.rewards import environment

TOLERANCE = 1e-3
SERVED = ("default", "--dtype", "float32")
START_TIMEOUT_S = 900.0


@contextmanager
def serving(arguments: Sequence[str]) -> Iterator[str]:
    """The URL of a service that runs until the context is left. Raises RuntimeError: it did not start."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "criticrm_server", "serve", *arguments, "--port", str(port)]
    process = subprocess.Popen(command, stdout=sys.stderr)  # the table alone is on the standard output
    try:
        end = time.monotonic() + START_TIMEOUT_S
        while not _is_ready(url):
            if process.poll() is not None or time.monotonic() > end:
                raise RuntimeError("the service did not start")
            time.sleep(1)
        yield url
    finally:
        process.terminate()
        process.wait(120)


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health/ready", timeout=10).status_code == 200
    except httpx.TransportError:
        return False


def expected(url: str) -> list[float]:
    with CriticRM(url, key=environment.key()) as client:
        return list(client.score(MESSAGES, RESPONSES, critique=CRITIQUE).rewards)


def main() -> None:
    name, _, examples = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        description=name, epilog=examples, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--url",
        help="URL of the service; the API key is read from CRITICRM_KEY. Default: start "
        f"`criticrm serve {' '.join(SERVED)}`",
    )
    parser.add_argument(
        "--packages", type=Path, help="folder to install into, which is kept (default: a temporary one)"
    )
    parser.add_argument("--way", help=argparse.SUPPRESS)  # of a child: print the rewards of this way
    parser.add_argument("frameworks", nargs="*", help=f"some of {', '.join(FRAMEWORKS)}. Default: all.")
    told = parser.parse_args()
    if told.way:
        (framework,) = told.frameworks
        chosen = FRAMEWORKS[framework]
        print(json.dumps([chosen.ask(told.url, told.way), version(chosen.packages.partition("==")[0])]))
        return
    wrong = set(told.frameworks) - set(FRAMEWORKS)
    if wrong:
        parser.error(f"unknown: {', '.join(sorted(wrong))}; there are {', '.join(FRAMEWORKS)}")
    names = told.frameworks or list(FRAMEWORKS)
    with tempfile.TemporaryDirectory() as folder:
        packages = told.packages or Path(folder)
        if told.url:
            sys.exit(try_all(told.url, packages, names))
        with serving(SERVED) as url:
            failed = try_all(url, packages, names)
    sys.exit(failed)


def try_all(url: str, folder: Path, names: list[str]) -> bool:
    """Whether a framework got anything but the rewards of `/score`."""
    wanted = expected(url)
    _print_row("/score", "", _shown(wanted))
    failed = False
    for name in names:
        packages = folder / name
        if not packages.exists() and (reason := _install(FRAMEWORKS[name].packages, packages)):
            _print_row(name, "not installed", reason)
            continue
        for way in FRAMEWORKS[name].ways:
            failed |= not _try_one(url, packages, name, way, wanted)
    return failed


def _install(packages: str, folder: Path) -> str:
    """Why it failed; empty if it did not."""
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder)]
    done = subprocess.run([*install, *packages.split()], capture_output=True, text=True)
    return (done.stderr.strip().splitlines() or ["pip failed"])[-1] if done.returncode else ""


def _try_one(url: str, packages: Path, name: str, way: str, wanted: list[float]) -> bool:
    variables = {
        "PYTHONPATH": os.pathsep.join([str(packages), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "FRAMEWORK_PACKAGES": str(packages),
        "CRITICRM_URL": url,
        "CRITICRM_REWARD_OPTIONS": json.dumps({"critique": CRITIQUE}),
    }
    command = [sys.executable, "-W", "ignore", __file__, "--url", url, "--way", way, name]
    done = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True)
    if done.returncode:
        _print_row(f"{name} {way}", "failed", f"\n{done.stderr[-2000:]}")
        return False
    rewards, installed = json.loads(done.stdout.splitlines()[-1])
    same = all(math.isclose(a, b, abs_tol=TOLERANCE) for a, b in zip(rewards, wanted, strict=True))
    _print_row(f"{name} {installed} {way}", "same" if same else "OTHER", _shown(rewards))
    return same


def _print_row(name: str, verdict: str, rest: str) -> None:
    print(f"{name:<42}{verdict:<14}{rest}", flush=True)


def _shown(rewards: list[float]) -> str:
    return "  ".join(f"{reward:+.4f}" for reward in rewards)


if __name__ == "__main__":
    main()
