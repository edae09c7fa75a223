"""Requests of `fuzz.py` that are cheap to send and dear to answer; how long the event loop stands still for them."""

from __future__ import annotations

import http.client
import json
import random
import subprocess
import sys
import time
from functools import cache
from typing import Any
from urllib.parse import urlsplit

REPORTED_S = 0.25
_EVERY_S = 0.02
_ROLES = ("system", "user", "assistant", "tool")


@cache
def list_floods() -> list[tuple[str, bytes]]:
    """Routes and bodies full of faults, or of nothing, of up to some megabytes."""
    good: dict[str, Any] = {"prompt": "why?", "responses": ["ok"]}
    ones, empty, unknown = [1] * 400_000, [{}] * 90_000, {f"f{i}": 1 for i in range(90_000)}
    bodies: list[tuple[str, Any]] = [
        ("/score", good | {"responses": ones}),
        ("/score", good | {"responses": ["ok"] * 400_000}),
        ("/score", good | {"prompt": empty}),
        ("/score", good | {"critique": unknown}),
        ("/score", good | unknown),
        ("/score", {"items": empty}),
        ("/score", {"items": [good | unknown]}),
        ("/score", {"items": [good] * 20_000}),
        ("/get_reward", {"query": ones}),
        ("/slime", {"prompt": empty, "response": "ok"}),
        ("/classify", {"input": ones}),
        ("/v1/score/evaluation", {"messages": ones}),
        ("/verify", {"responses_create_params": {"input": empty}, "response": {"output": empty}}),
    ]
    raw = [
        b"[" + b"[]," * 4_000_000 + b"[]]",
        b"[" + b"1," * 6_000_000 + b"1]",
        b"{" + b",".join(b'"%x":1' % i for i in range(1_000_000)) + b"}",
    ]
    return [(path, json.dumps(body).encode()) for path, body in bodies] + [("/score", body) for body in raw]


def role_list(draw: random.Random) -> list[dict[str, str]]:
    """Hundreds of messages of next to nothing, in an order that no other request has."""
    content = draw.choice(["", "a"])
    return [{"role": draw.choice(_ROLES), "content": content} for _ in range(draw.choice([65, 900, 4000]))]


def huge_body(draw: random.Random) -> tuple[str, bytes]:
    """A route and a body whose text is far longer than any model takes: 1 to 14 MB."""
    unit = draw.choice(["noon after noon ", "\U0001f600", "[", " ", "\n"])
    text = unit * (draw.choice([1, 14]) * 1_000_000 // (len(json.dumps(unit)) - 2))
    overflow = draw.choice(["error", "truncate"])
    bodies: list[tuple[str, Any]] = [
        ("/score", {"prompt": text, "responses": ["ok"], "on_overflow": overflow}),
        ("/score", {"prompt": "why?", "responses": [text], "on_overflow": overflow}),
        ("/classify", {"input": "[INST] " + text + "[/INST] ok", "use_activation": False}),
        ("/slime", {"prompt": "why?", "response": text, "label": None}),
        ("/get_reward", {"query": ["<|im_start|>user\n" + text]}),
    ]
    path, body = draw.choice(bodies)
    return path, json.dumps(body).encode()


class StallWatch:
    """Asks `/health/live` every few milliseconds, in a process of its own, for the time of a `with`.

    Attributes:
        stalls: seconds of each answer that took longer than `REPORTED_S`.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self.stalls: list[float] = []

    def __enter__(self) -> StallWatch:
        command = [sys.executable, __file__, self._url]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        told, _ = self._process.communicate(timeout=60)
        self.stalls = [float(line) for line in told.splitlines()]


def _watch(url: str) -> None:
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=60)
    while True:
        began = time.monotonic()
        try:
            connection.request("GET", "/health/live")
            connection.getresponse().read()
        except (http.client.HTTPException, ConnectionError):  # kept alive for too long
            connection.close()
            continue
        took = time.monotonic() - began
        if took > REPORTED_S:
            sys.stdout.write(f"{took:.3f}\n")
            sys.stdout.flush()
        time.sleep(_EVERY_S)


if __name__ == "__main__":
    _watch(sys.argv[1])
