"""A reverse proxy under test: shows a server under a path prefix, and says who called."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx

CALLER = "203.0.113.9"


@contextmanager
def reverse_proxy(target: str, prefix: str) -> Iterator[str]:
    """The URL below which `target` is seen.

    The prefix is taken off before a request is passed on, as nginx does with `proxy_pass http://target/;`.
    """

    class Handler(BaseHTTPRequestHandler):
        def _forward(self) -> None:
            if not self.path.startswith(prefix + "/"):
                self.send_error(404, "outside of the prefix")
                return
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {"X-Forwarded-For": CALLER, "X-Forwarded-Proto": "https"}
            if "Content-Type" in self.headers:
                headers["Content-Type"] = self.headers["Content-Type"]
            answer = httpx.request(
                self.command, target + self.path.removeprefix(prefix), content=body, headers=headers, timeout=60
            )
            self.send_response(answer.status_code)
            self.send_header("Content-Type", answer.headers.get("content-type", "text/plain"))
            self.send_header("Content-Length", str(len(answer.content)))
            self.end_headers()
            self.wfile.write(answer.content)

        do_GET = do_POST = _forward

        def log_message(self, *_: object) -> None: ...

    proxy = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=proxy.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{proxy.server_address[1]}{prefix}"
    finally:
        proxy.shutdown()
        thread.join()
        proxy.server_close()
