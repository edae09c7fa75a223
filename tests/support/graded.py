"""A policy and a Critic-RM service in one server of this process, for the commands that grade answers."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Messages = list[dict[str, str]]


class Fakes:
    """What they say, and what they were asked.

    Attributes:
        say: the policy's answer number k to these messages, k from 0.
        reward: the service's direct score, score and critique of a response.
    """

    def __init__(self, say: Callable[[Messages, int], str], reward: Callable[[str], tuple[float, float, str]]) -> None:
        self.say = say
        self.reward = reward
        self.asked: list[dict[str, Any]] = []
        self.scored: list[dict[str, Any]] = []
        self.url = ""

    def chat(self, body: dict[str, Any]) -> dict[str, Any]:
        self.asked.append(body)
        return {
            "choices": [
                {"message": {"content": self.say(body["messages"], k)}, "finish_reason": "stop"}
                for k in range(body["n"])
            ]
        }

    def score(self, body: dict[str, Any]) -> dict[str, Any]:
        self.scored.append(body)
        asked = body["critique"]
        n = 0 if asked is True else asked["n"]
        return {"results": [self._result(index, n, *self.reward(r)) for index, r in enumerate(body["responses"])]}

    def _result(self, index: int, n: int, direct: float, score: float, critique: str) -> dict[str, Any]:
        """A greedy critique for n = 0, else n sampled ones, whose scores are the greedy one's times minus one."""
        written = {"text": critique, "score": score, "finish_reason": "stop", "tokens": 3}
        sampled = [written | {"text": f"{critique} ({k})", "score": -score} for k in range(n)]
        return {
            "index": index,
            "status": "ok",
            "direct_score": direct,
            "score": score,
            "critiques": sampled or [written],
            "warnings": [],
            "error": None,
        }

    def policy(self) -> list[str]:
        return ["--policy", "small", "--policy-endpoint", f"{self.url}/v1"]


@contextmanager
def serving(fakes: Fakes) -> Iterator[Fakes]:
    """`fakes.url`, as long as the context."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            assert self.path == "/v1/model"
            self._send({"model": "fake", "model_version": "v1"})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self._send({"/v1/chat/completions": fakes.chat, "/score": fakes.score}[self.path](body))

        def _send(self, answer: dict[str, Any]) -> None:
            raw = json.dumps(answer).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, *_: Any) -> None: ...

    class Server(ThreadingHTTPServer):
        request_queue_size = 128  # of the default five, the others wait a second before they try again

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    fakes.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield fakes
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
